//! What a scenario is: an attack, the states in which it is tried, and what must come of it.

use anyhow::Result;

use crate::{
    attack::{Outcome, Target},
    container::Contained,
    kernel::Kernel,
    stage::{Prop, Stage},
};

/// One way around Weir.
pub(crate) struct Scenario {
    /// Its name, in the table and on the command line.
    pub(crate) name: &'static str,
    /// What the attacker does, in one line.
    pub(crate) story: &'static str,
    /// What runs inside the container.
    pub(crate) attack: fn(&Target) -> Result<Outcome>,
    /// Where and as whom it is tried.
    pub(crate) cases: &'static [Case],
    /// How it is shown that the attack works at all.
    pub(crate) control: Control,
    /// What stands outside of the container, and how it is made.
    pub(crate) prop: Option<fn(&Stage) -> Result<Prop>>,
    /// What happens outside once the attacker says that it is ready.
    pub(crate) meanwhile: Option<fn(&Stage, &Contained) -> Result<()>>,
    /// Whether the attacker starts as nobody's agent, and `meanwhile` makes it one.
    pub(crate) starts_outside: bool,
    /// Whether the attack begins with the container's first instruction, however little Weir knows
    /// of it by then.
    pub(crate) at_once: bool,
    /// Whether Weir is beyond repair when the attacker got further than to be governed.
    pub(crate) ruins_stage: bool,
    /// Whether Weir's configuration requires the perimeter.
    pub(crate) perimeter_required: bool,
    /// Whether the container is there for a moment before its program, as runc and crun have it.
    pub(crate) created_first: bool,
}

/// One state in which an attack is tried.
pub(crate) struct Case {
    pub(crate) place: Place,
    pub(crate) caps: Caps,
    /// Whether it sees the host's processes.
    pub(crate) host_pids: bool,
    /// What else it may reach, as the configuration has it; `None` for everything.
    pub(crate) egress: Option<&'static str>,
    pub(crate) expect: fn(&Kernel) -> Expect,
}

/// Which network the attacker's container has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Place {
    /// A veth pair to the host, as `docker run` makes it.
    Bridge,
    /// A macvlan interface: the perimeter finds no host's end to stand at.
    Macvlan,
    /// The host's own network, in which the database listens too.
    Host,
    /// Nothing but `lo`.
    OnlyLo,
}

/// Which capabilities the attacker, always root, has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Caps {
    /// Docker's default.
    Docker,
    /// Docker's default without NET_RAW.
    NoRaw,
    /// Docker's default and these.
    And(&'static [&'static str]),
}

/// What must come of an attack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Expect {
    /// It ends in a session that Weir judges.
    Governed,
    /// It ends in nothing.
    Blocked,
    /// It succeeds, and the README says so under this name.
    Gap(&'static str),
    /// This kernel has no such thing, for anybody.
    Absent,
}

/// How it is known that an attack which ends in nothing isn't just a bad one.
pub(crate) enum Control {
    /// The same attack by somebody whom nothing governs reaches the database.
    ReachesDatabase,
    /// It can't be tried outside; why.
    None(#[expect(dead_code, reason = "for the reader of the scenario")] &'static str),
}

impl Scenario {
    /// An attack with a control, on its own.
    pub(crate) const fn new(
        name: &'static str,
        story: &'static str,
        attack: fn(&Target) -> Result<Outcome>,
        cases: &'static [Case],
    ) -> Self {
        Self {
            name,
            story,
            attack,
            cases,
            control: Control::ReachesDatabase,
            prop: None,
            meanwhile: None,
            starts_outside: false,
            at_once: false,
            ruins_stage: false,
            perimeter_required: false,
            created_first: false,
        }
    }

    /// In a container that is created, and started a moment later.
    pub(crate) const fn created_first(mut self) -> Self {
        self.created_first = true;
        self
    }

    /// With `require = ["perimeter"]`.
    pub(crate) const fn perimeter_required(mut self) -> Self {
        self.perimeter_required = true;
        self
    }

    /// With something outside of the container.
    pub(crate) const fn with(mut self, prop: fn(&Stage) -> Result<Prop>) -> Self {
        self.prop = Some(prop);
        self
    }

    /// With something that happens outside once the attacker is ready.
    pub(crate) const fn meanwhile(mut self, act: fn(&Stage, &Contained) -> Result<()>) -> Self {
        self.meanwhile = Some(act);
        self
    }

    /// The attacker is no agent until `meanwhile` makes it one.
    pub(crate) const fn starts_outside(mut self) -> Self {
        self.starts_outside = true;
        self
    }

    /// From the first instruction on.
    pub(crate) const fn at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    /// The next one gets a new stage, unless all that came of this was a governed session.
    pub(crate) const fn ruins_stage(mut self) -> Self {
        self.ruins_stage = true;
        self
    }

    /// Without a control.
    pub(crate) const fn no_control(mut self, why: &'static str) -> Self {
        self.control = Control::None(why);
        self
    }
}

impl Case {
    /// As a container that `docker run` made.
    pub(crate) const fn bridge(expect: fn(&Kernel) -> Expect) -> Self {
        Self::new(Place::Bridge, Caps::Docker, expect)
    }

    /// As one with `--network host`.
    pub(crate) const fn host(expect: fn(&Kernel) -> Expect) -> Self {
        Self::new(Place::Host, Caps::Docker, expect)
    }

    pub(crate) const fn new(place: Place, caps: Caps, expect: fn(&Kernel) -> Expect) -> Self {
        Self {
            place,
            caps,
            host_pids: false,
            egress: None,
            expect,
        }
    }

    /// As one with `--pid host`.
    pub(crate) const fn with_host_pids(mut self) -> Self {
        self.host_pids = true;
        self
    }

    /// Whether it would end in another way with BPF LSM than without.
    pub(crate) fn depends_on_lsm(&self, kernel: &Kernel) -> bool {
        let [with, without] = [true, false].map(|lsm| Kernel {
            lsm,
            ..kernel.clone()
        });
        (self.expect)(&with) != (self.expect)(&without)
    }

    /// With an egress policy: a word or a list, as the configuration has it.
    pub(crate) const fn with_egress(mut self, egress: &'static str) -> Self {
        self.egress = Some(egress);
        self
    }

    /// The state in a few words, for the table.
    pub(crate) fn state(&self) -> String {
        let place = match self.place {
            Place::Bridge => "bridge",
            Place::Macvlan => "macvlan",
            Place::Host => "host",
            Place::OnlyLo => "lo",
        };
        let egress = match self.egress {
            None => "",
            Some("\"none\"") => ", no egress",
            Some(_) => ", listed egress",
        };
        let pids = if self.host_pids { " pid=host" } else { "" };
        match self.caps {
            Caps::Docker => format!("{place}{pids}{egress}"),
            Caps::NoRaw => format!("{place}-net_raw{pids}{egress}"),
            Caps::And(more) => format!("{place}+{}{pids}{egress}", more.join("+")),
        }
    }
}

impl Caps {
    /// What somebody has who shows that an attack works at all.
    pub(crate) fn of_control(self) -> Self {
        match self {
            Self::NoRaw => Self::Docker,
            other => other,
        }
    }

    /// All of them, as setpriv names them.
    pub(crate) fn names(self) -> Vec<&'static str> {
        const DOCKER: [&str; 14] = [
            "chown",
            "dac_override",
            "fsetid",
            "fowner",
            "mknod",
            "net_raw",
            "setgid",
            "setuid",
            "setfcap",
            "setpcap",
            "net_bind_service",
            "sys_chroot",
            "kill",
            "audit_write",
        ];
        let mut names = DOCKER.to_vec();
        match self {
            Self::Docker => {}
            Self::NoRaw => names.retain(|name| *name != "net_raw"),
            Self::And(more) => names.extend(more),
        }
        names
    }
}

pub(crate) fn governed(_: &Kernel) -> Expect {
    Expect::Governed
}

pub(crate) fn blocked(_: &Kernel) -> Expect {
    Expect::Blocked
}
