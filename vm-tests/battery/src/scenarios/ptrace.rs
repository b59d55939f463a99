//! `ptrace` on the daemon: who controls it has its connections. The container has its own process
//! numbers, and the daemon none among them. Where it has the host's, the kernel wants SYS_PTRACE, as the
//! daemon may more than the attacker.

use anyhow::Result;
use nix::{
    sys::{
        ptrace::{attach, detach},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::{
    attack::{Outcome, Target, variable},
    scenario::{Caps, Case, Place, Scenario, blocked},
    scenarios::steal_descriptor::{daemon, gap},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "ptrace",
    "attaches to the daemon with ptrace",
    attack,
    &[
        Case::bridge(blocked),
        Case::new(Place::Bridge, Caps::And(&["sys_ptrace"]), blocked),
        Case::host(blocked),
        Case::bridge(blocked).with_host_pids(),
        Case::new(Place::Bridge, Caps::And(&["sys_ptrace"]), gap).with_host_pids(),
    ],
)
.with(daemon)
.no_control("it would be done to the daemon");


fn attack(_: &Target) -> Result<Outcome> {
    let pid = Pid::from_raw(variable("BATTERY_WEIR")?.parse()?);
    Ok(match attach(pid) {
        Ok(()) => {
            // Left to end on its own, this program could leave the daemon stopped: a stop that nobody has
            // waited for is carried out.
            waitpid(pid, Some(WaitPidFlag::__WALL))?;
            detach(pid, None)?;
            Outcome::Won("attached to the daemon".to_owned())
        }
        Err(error) => Outcome::stopped("ptrace", &error),
    })
}
