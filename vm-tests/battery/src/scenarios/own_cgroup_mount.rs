//! SYS_ADMIN in the container: the attacker mounts cgroups of its own, makes a child cgroup there and
//! moves into it. It is below the slice as much as before.

use std::fs;

use anyhow::Result;
use nix::mount::{MsFlags, mount};

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Caps, Case, Place, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "own-cgroup-mount",
    "mounts cgroups of its own and moves into a child",
    attack,
    &[
        Case::new(Place::Bridge, Caps::And(&["sys_admin"]), governed),
        Case::new(Place::Host, Caps::And(&["sys_admin"]), governed),
    ],
);

fn attack(target: &Target) -> Result<Outcome> {
    let place = "/tmp/cgroups";
    fs::create_dir(place)?;
    mount(Some("cgroup2"), place, Some("cgroup2"), MsFlags::empty(), None::<&str>)?;
    fs::create_dir(format!("{place}/child"))?;
    fs::write(format!("{place}/child/cgroup.procs"), "0")?;
    let address = target.v4.into();
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
