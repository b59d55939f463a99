//! Weir's pins are mounted into the container, and root deletes files that are root's: the programs
//! on the slice go with them. The perimeter stays.

use std::{fs, thread};

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial, patience},
    kernel::Kernel,
    scenario::{Case, Expect, Scenario, blocked},
    scenarios::pinned_maps::{files, pins},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "delete-pins",
    "deletes Weir's pins, mounted into the container, and dials",
    attack,
    &[Case::bridge(blocked), Case::host(gap)],
)
.with(pins)
.no_control("whoever deletes the pins frees the next attacker")
.ruins_stage();

fn gap(_: &Kernel) -> Expect {
    Expect::Gap("Weir's pins, mounted")
}

fn attack(target: &Target) -> Result<Outcome> {
    let address = target.v4.into();
    // By then Weir knows of this network.
    drop(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address));
    for file in files() {
        // Whether it is let shows in what comes next.
        let _ = fs::remove_file(file);
    }
    // The kernel lets go of them a little later.
    thread::sleep(patience());
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
