//! The ground of all scenarios: one world with a database that has a canary, and Weir in front.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use xtask::world::{
    ADDRESS, ADDRESS6, Agent, Network, PORT, Process, Settings, Setup, Weir, World,
};

use crate::{kernel::Kernel, scenario::Place};

/// The word that nobody may see whom Weir doesn't know.
pub(crate) const CANARY: &str = "canary-in-the-coal-mine-live";
/// The same as Weir's mask shows it.
pub(crate) const MASKED: &str = "***live";
/// A role of the database that needs no password.
pub(crate) const INTRUDER: &str = "intruder";
/// Who Weir is in the database.
pub(crate) const WEIR: &str = "weir_agents";
/// An endpoint of the datastore at which no database listens, for things that come from its host.
pub(crate) const SECOND_PORT: u16 = 6000;

/// The address of a host that is neither the attacker's nor the database's. (It is one of the database's
/// host, which nobody tells an agent.)
pub(crate) const THIRD: &str = "10.78.0.2";

const POLICY: &str = include_str!("policy.toml");

/// Something that stands outside of the container while an attack runs. Dropping it removes it.
#[derive(Default)]
pub(crate) struct Prop {
    /// What the attacker knows of it.
    pub(crate) variables: Vec<(&'static str, String)>,
    /// A folder of the host that its container gets.
    pub(crate) mounted: Option<PathBuf>,
    /// Whether it gets /dev/net/tun.
    pub(crate) tun: bool,
    /// What lives as long.
    #[expect(dead_code, reason = "what counts is when it goes")]
    pub(crate) process: Option<Process>,
    /// The daemon, which sees nothing meanwhile.
    #[expect(dead_code, reason = "what counts is when it goes")]
    pub(crate) paused: Option<Paused>,
}

/// A daemon that is stopped in the middle of whatever it does. Dropping it lets it go on.
pub(crate) struct Paused(Pid);

impl Paused {
    pub(crate) fn new(weir: &Weir) -> Result<Self> {
        weir.process().signal(Signal::SIGSTOP)?;
        Ok(Self(Pid::from_raw(weir.process().pid().cast_signed())))
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // Gone, if this fails: then the next case says so.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// A database, Weir, and room for attackers.
pub(crate) struct Stage {
    pub(crate) weir: Weir,
    pub(crate) world: World,
    pub(crate) kernel: Kernel,
    pub(crate) demands: Demands,
}

/// What a stage's Weir is set up to be strict about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Demands {
    /// Whether it requires the perimeter.
    pub(crate) perimeter: bool,
    /// What else agents may reach, as the configuration has it; `None` for everything.
    pub(crate) egress: Option<&'static str>,
}

impl Stage {
    pub(crate) fn new(weir: &Path, kernel: &Kernel, demands: Demands) -> Result<Self> {
        let world = database()?;
        fit_out(&world)?;
        let mut setup = Setup::new(weir, POLICY);
        setup.hosts.push(format!("{ADDRESS}:{SECOND_PORT}"));
        setup.hosts.push(format!("[{ADDRESS6}]:{SECOND_PORT}"));
        if demands.perimeter {
            setup.require.push("perimeter");
        }
        setup.egress = demands.egress.map(str::to_owned);
        let weir = world.weir(setup).context("Weir doesn't start")?;
        Ok(Self {
            weir,
            world,
            kernel: kernel.clone(),
            demands,
        })
    }

    /// The agents' cgroup.
    pub(crate) fn slice(&self) -> PathBuf {
        self.world.slice().to_owned()
    }

    /// The cgroup of those whom nothing governs.
    pub(crate) fn outside(&self) -> PathBuf {
        self.world.strangers().to_owned()
    }

    /// The folder of Weir's pins.
    pub(crate) fn pins(&self) -> PathBuf {
        self.world.pins().to_owned()
    }

    /// A container for an attacker, an agent's or nobody's.
    pub(crate) fn container(&self, place: Place, governed: bool) -> Result<Agent> {
        let network = match place {
            Place::Bridge => Network::Bridge,
            Place::Macvlan => Network::Macvlan,
            Place::Host => Network::Host,
            Place::OnlyLo => Network::OnlyLo,
        };
        if governed {
            self.world.agent("coder", network)
        } else {
            self.world.stranger("stranger", network)
        }
    }
}

/// A world whose database has a canary, and a log of who came.
pub(crate) fn database() -> Result<World> {
    let settings = Settings {
        extra: "log_connections = on\nlog_line_prefix = '%p '".to_owned(),
        hba: format!("local all {INTRUDER} trust\nhost all {INTRUDER} all trust"),
        sockets: vec![format!("@{}", abstract_name())],
        ..Settings::default()
    };
    let world = World::with(&settings)?;
    world.postgres().sql(&format!(
        "CREATE ROLE {INTRUDER} LOGIN; \
         CREATE TABLE canary (id integer, word text); \
         INSERT INTO canary VALUES (1, '{CANARY}'); \
         GRANT SELECT ON canary TO {INTRUDER}, {WEIR};"
    ))?;
    Ok(world)
}

/// The abstract unix socket that the database listens on, unique to this run.
pub(crate) fn abstract_name() -> String {
    format!("weir-battery-{}/.s.PGSQL.{PORT}", std::process::id())
}

/// Makes the host a little more like one, and as helpful to attackers as one can be: a default route,
/// no filter of source addresses, and a part in source routes of both kinds.
fn fit_out(world: &World) -> Result<()> {
    let lines = format!(
        "set -e
        ip link add uplink type veth peer name nowhere
        ip link set nowhere up
        ip link set uplink up arp off
        ip address add {THIRD}/24 dev uplink
        ip route add default dev uplink
        for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $file; done
        echo 1 > /proc/sys/net/ipv4/conf/all/accept_source_route
        echo 1 > /proc/sys/net/ipv4/conf/default/accept_source_route
        for name in all default; do
            file=/proc/sys/net/ipv6/conf/$name/seg6_enabled
            test ! -e $file || echo 1 > $file
        done"
    );
    let output = world.outside("sh").args(["-c", &lines]).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the host: {}", error.trim());
    Ok(())
}

/// Makes the database's template, so that a guest need not.
pub(crate) fn prepare() -> Result<()> {
    drop(World::new()?);
    println!("{}", xtask::cache::target().join("world").display());
    Ok(())
}
