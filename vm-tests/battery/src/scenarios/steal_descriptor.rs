//! `pidfd_getfd` on the daemon: its connection to the database is only a descriptor.

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, variable},
    kernel::Kernel,
    scenario::{Caps, Case, Expect, Place, Scenario, blocked},
    stage::{Prop, Stage},
    sys,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "steal-descriptor",
    "copies the daemon's descriptors with pidfd_getfd",
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

/// Preflight refuses sessions to somebody like that; this takes none.
pub(super) fn gap(_: &Kernel) -> Expect {
    Expect::Gap("the host's processes with SYS_PTRACE")
}

/// As the host counts.
pub(super) fn daemon(stage: &Stage) -> Result<Prop> {
    Ok(Prop {
        variables: vec![("BATTERY_WEIR", stage.weir.process().pid().to_string())],
        ..Prop::default()
    })
}

fn attack(_: &Target) -> Result<Outcome> {
    let pid = variable("BATTERY_WEIR")?.parse()?;
    let process = match sys::pidfd(pid) {
        Ok(process) => process,
        Err(error) => return Ok(Outcome::stopped("pidfd_open", &error)),
    };
    for descriptor in 0..256 {
        if sys::steal(&process, descriptor).is_ok() {
            return Ok(Outcome::Won(format!("has the daemon's descriptor {descriptor}")));
        }
    }
    Ok(Outcome::Stopped("no descriptor can be copied".to_owned()))
}
