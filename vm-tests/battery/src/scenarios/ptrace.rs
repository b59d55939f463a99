//! `ptrace` on the daemon: who controls it has its connections. The container has its own process
//! numbers, and the daemon none among them.

use anyhow::Result;
use nix::{sys::ptrace::attach, unistd::Pid};

use crate::{
    attack::{Outcome, Target, variable},
    scenario::{Caps, Case, Place, Scenario, blocked},
    scenarios::steal_descriptor::daemon,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "ptrace",
    "attaches to the daemon with ptrace",
    attack,
    &[
        Case::bridge(blocked),
        Case::new(Place::Bridge, Caps::And(&["sys_ptrace"]), blocked),
        Case::host(blocked),
    ],
)
.with(daemon)
.no_control("it would be done to the daemon");


fn attack(_: &Target) -> Result<Outcome> {
    let pid = Pid::from_raw(variable("BATTERY_WEIR")?.parse()?);
    Ok(match attach(pid) {
        Ok(()) => Outcome::Won("attached to the daemon".to_owned()),
        Err(error) => Outcome::stopped("ptrace", &error),
    })
}
