//! Weir's pins are mounted into the container, and root deletes files that are root's. The daemon that
//! runs holds what it has pinned.

use std::fs;

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, governed},
    scenarios::pinned_maps::{files, pins},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "delete-pins",
    "deletes Weir's pins, mounted into the container, and dials",
    attack,
    &[Case::bridge(governed)],
)
.with(pins)
.no_control("where nothing is governed, the pins make no difference")
.ruins_stage();

fn attack(target: &Target) -> Result<Outcome> {
    for file in files() {
        // Whether it is let shows in what comes next.
        let _ = fs::remove_file(file);
    }
    let address = target.v4.into();
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
