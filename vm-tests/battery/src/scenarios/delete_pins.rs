//! Weir's pins are mounted into the container, and root deletes files that are root's. While Weir runs,
//! it holds the programs itself, and pins them again.

use std::{fs, thread};

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial, patience},
    scenario::{Case, Scenario, governed},
    scenarios::pinned_maps::{files, pins},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "delete-pins",
    "deletes Weir's pins, mounted into the container, and dials",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
)
.with(pins)
.no_control("whoever deletes the pins frees the next attacker")
.ruins_stage();

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
