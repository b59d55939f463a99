//! Weir's pins are mounted into the container. The attacker opens the maps, empties them, and dials.
//! That takes no capability at all: `kernel.unprivileged_bpf_disabled` stops the making of maps and
//! programs, not the use of those that one finds. BPF LSM stops it.

use std::{fs, path::PathBuf};

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial},
    container::MOUNTED,
    kernel::Kernel,
    scenario::{Case, Expect, Scenario},
    stage::{Prop, Stage},
    sys::bpf,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "pinned-maps",
    "empties Weir's pinned maps, mounted into the container, if it is let, and dials",
    attack,
    &[Case::bridge(expect)],
)
.with(pins)
.ruins_stage();

fn expect(kernel: &Kernel) -> Expect {
    if kernel.lsm {
        Expect::Governed
    } else {
        Expect::Gap("Weir's pins, mounted")
    }
}

/// The folder of the pins, in the container.
pub(super) fn pins(stage: &Stage) -> Result<Prop> {
    Ok(Prop {
        mounted: Some(stage.pins()),
        ..Prop::default()
    })
}

/// All files below the mounted folder.
pub(super) fn files() -> Vec<PathBuf> {
    let mut open = vec![PathBuf::from(MOUNTED)];
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files
}

fn attack(target: &Target) -> Result<Outcome> {
    for file in files() {
        // Whether it is let shows in what comes next. Not everything there is a map.
        let _ = bpf::empty_map(&file);
    }
    let address = target.v4.into();
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
