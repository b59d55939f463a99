//! The host's cgroups are mounted into the container, writable: the attacker moves itself out of the
//! slice and is nobody's agent any more. Its network stays an agent's.

use std::fs;

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial},
    container::MOUNTED,
    kernel::Kernel,
    scenario::{Caps, Case, Expect, Place, Scenario, blocked},
    stage::{Prop, Stage},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "leave-slice",
    "moves itself out of the slice by the host's cgroups, mounted writable",
    attack,
    &[
        Case::bridge(blocked),
        Case::new(Place::Macvlan, Caps::Docker, gap),
        Case::host(gap),
    ],
)
.with(cgroups);

fn gap(_: &Kernel) -> Expect {
    Expect::Gap("the host's cgroups, writable")
}

fn cgroups(stage: &Stage) -> Result<Prop> {
    Ok(Prop {
        mounted: Some(stage.outside()),
        ..Prop::default()
    })
}

fn attack(target: &Target) -> Result<Outcome> {
    let place = format!("{MOUNTED}/escaped");
    fs::create_dir_all(&place)?;
    fs::write(format!("{place}/cgroup.procs"), "0")?;
    let address = target.v4.into();
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
