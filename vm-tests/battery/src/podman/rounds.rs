//! Attacks in containers of podman's: the same programs, states and expectations as everywhere, but
//! the network, the capabilities and the cgroup are those that podman, crun and systemd make.

use std::{os::unix::fs::MetadataExt as _, time::Instant};

use anyhow::{Context as _, Result};

use super::{
    Verdict,
    container::{Container, Network, Parent, Running},
    host::{AGENTS, Host, OUTSIDE},
};
use crate::{
    attack::Outcome,
    judge::{self, Seen},
    kernel::Kernel,
    scenario::{Caps, Case, Control, Expect, Place, Scenario},
    scenarios,
};

/// Attacks that one container tries one after the other, each with the state whose expectation it has.
/// The container has the capabilities of all of them.
pub(super) struct Round {
    place: Place,
    pub(super) attacks: Vec<(&'static str, Caps)>,
}

const DOCKER: Caps = Caps::Docker;

/// Which attacks in which network. What unshares something, or may detach it, comes last.
const ROUNDS: [(Place, &[(&str, Caps)]); 4] = [
    (
        Place::Bridge,
        &[
            ("tcp-v4", DOCKER),
            ("raw-v4", DOCKER),
            ("raw-v6", DOCKER),
            ("packet", DOCKER),
            ("packet-qdisc", DOCKER),
            ("unix-path", DOCKER),
            ("dial-listener", DOCKER),
            ("steal-descriptor", DOCKER),
            ("ptrace", DOCKER),
            ("detach", DOCKER),
            ("nested-namespaces", DOCKER),
        ],
    ),
    (
        Place::Bridge,
        &[
            ("tun", Caps::And(&["net_admin"])),
            ("dnat", Caps::And(&["net_admin"])),
            ("own-cgroup-mount", Caps::And(&["sys_admin"])),
        ],
    ),
    (
        Place::Host,
        &[
            ("tcp-v4", DOCKER),
            ("raw-v4", DOCKER),
            ("dial-listener", DOCKER),
            ("steal-descriptor", DOCKER),
            ("ptrace", DOCKER),
            ("detach", DOCKER),
            ("nested-namespaces", DOCKER),
        ],
    ),
    (Place::OnlyLo, &[("dial-listener", DOCKER)]),
];

/// The rounds, with what is wanted of each.
pub(super) fn chosen(wanted: &dyn Fn(&str) -> bool) -> Vec<Round> {
    let rounds = ROUNDS.iter().map(|&(place, attacks)| Round {
        place,
        attacks: attacks
            .iter()
            .copied()
            .filter(|(name, _)| wanted(name))
            .collect(),
    });
    rounds.filter(|round| !round.attacks.is_empty()).collect()
}

/// Tries the attacks of one round, by somebody whom nothing governs first.
pub(super) fn run(host: &Host, round: &Round, kernel: &Kernel, tell: &mut dyn FnMut(Verdict)) {
    let mut broken = controls(host, round).err();
    let mut agent = None;
    for &(name, caps) in &round.attacks {
        let start = Instant::now();
        let seen = match broken.take() {
            Some(error) => Err(error),
            None => attack(host, round, name, &mut agent),
        };
        let (state, expect) = expectation(round.place, caps, name, kernel);
        let seen = seen.unwrap_or_else(|error| Seen::Broken(format!("{error:#}")));
        tell(Verdict {
            name: format!("podman: {name} {state}"),
            expect,
            seen,
            time: start.elapsed(),
        });
    }
    if let Some(running) = agent
        && let Err(error) = Running::end(running)
    {
        println!("{error:#}");
    }
}

/// The attack by an agent, in the round's container, which is started for the first.
fn attack(host: &Host, round: &Round, name: &str, agent: &mut Option<Running>) -> Result<Seen> {
    let before = host.world.postgres().log().len();
    let running = match agent {
        Some(running) => {
            running.go_on()?;
            running
        }
        None => {
            let container = container(host, round, true)?;
            let names: Vec<_> = round.attacks.iter().map(|(name, _)| *name).collect();
            agent.insert(container.start(&program(&names))?)
        }
    };
    let outcome = Outcome::parse(&running.line()?).with_context(|| name.to_owned())?;
    let log = judge::settled(host.world.postgres(), before);
    Ok(Seen::of(&outcome, &log))
}

/// Somebody whom nothing governs has to have the word by each attack that has a control.
fn controls(host: &Host, round: &Round) -> Result<()> {
    let shown = |name: &&str| {
        let scenario = scenario(name);
        scenario.is_some_and(|s| matches!(s.control, Control::ReachesDatabase))
    };
    let attacks = round.attacks.iter().map(|(name, _)| *name);
    let attacks: Vec<_> = attacks.filter(shown).collect();
    if attacks.is_empty() {
        return Ok(());
    }
    let mut running = container(host, round, false)?.start(&program(&attacks))?;
    for (number, name) in attacks.iter().enumerate() {
        if number > 0 {
            running.go_on()?;
        }
        let seen = Seen::of(&Outcome::parse(&running.line()?)?, "");
        let (word, detail) = (seen.word(), seen.detail());
        anyhow::ensure!(
            word == "BYPASS",
            "the control of {name} was {word}: {detail}"
        );
    }
    running.end()
}

fn program<'a>(attacks: &[&'a str]) -> Vec<&'a str> {
    [&["battery", "attack-each"], attacks].concat()
}

fn container(host: &Host, round: &Round, governed: bool) -> Result<Container> {
    let (parent, bridge) = if governed {
        (Parent::Tester, AGENTS)
    } else {
        (Parent::Outside, OUTSIDE)
    };
    let network = match round.place {
        Place::Host => Network::Host,
        Place::OnlyLo => Network::None,
        Place::Bridge | Place::Macvlan => Network::Bridge(bridge),
    };
    // Each attack has the system calls that it wants.
    let mut options = vec!["--security-opt=seccomp=unconfined".to_owned()];
    let more = round.attacks.iter().filter_map(|(_, caps)| match caps {
        Caps::And(more) => Some(*more),
        Caps::Docker | Caps::NoRaw => None,
    });
    options.extend(more.flatten().map(|name| format!("--cap-add={name}")));
    let has = |name| round.attacks.iter().any(|(other, _)| *other == name);
    if has("tun") {
        options.push("--device=/dev/net/tun".to_owned());
        options.push("--security-opt=unmask=ALL".to_owned());
    }
    if has("unix-path") {
        let sockets = host.world.dir().join("pg");
        let place = crate::container::MOUNTED;
        options.push(format!("--volume={}:{place}", sockets.display()));
    }
    let slice = std::fs::metadata("/sys/fs/cgroup/weir.slice/weir-agents.slice")?;
    options.push(format!("--env=BATTERY_SLICE={}", slice.ino()));
    options.push(format!("--env=BATTERY_WEIR={}", host.daemon()?));
    if governed {
        options.push("--env=BATTERY_AGENT=1".to_owned());
    }
    Ok(Container::new(parent, network).with(&options))
}

fn scenario(name: &str) -> Option<&'static Scenario> {
    scenarios::ALL.iter().find(|scenario| scenario.name == name)
}

/// What the scenario itself expects of this state.
fn expectation(place: Place, caps: Caps, name: &str, kernel: &Kernel) -> (String, Expect) {
    let case = case(place, caps, name);
    case.map_or_else(
        || ("in no such state".to_owned(), Expect::Absent),
        |case| (case.state(), (case.expect)(kernel)),
    )
}

fn case(place: Place, caps: Caps, name: &str) -> Option<&'static Case> {
    let cases = scenario(name)?.cases;
    cases
        .iter()
        .find(|case| case.place == place && case.caps.names() == caps.names() && !case.host_pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_is_of_scenarios_in_one_of_their_own_states() {
        for (place, attacks) in ROUNDS {
            for &(name, caps) in attacks {
                assert!(
                    case(place, caps, name).is_some(),
                    "{name} {place:?} {caps:?}"
                );
            }
        }
    }
}
