//! The attacker has CAP_BPF and NET_ADMIN, and attaches a program of its own to its cgroup, which
//! turns connects to a decoy into connects to the database. A child's program runs first: Weir's has
//! the last word about the address.

use std::{fs::File, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result};

use crate::{
    attack::{Outcome, Target, dial},
    kernel::Kernel,
    scenario::{Caps, Case, Expect, Place, Scenario},
    sys::bpf,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "rewrite-back",
    "attaches a connect program that turns a decoy into the database",
    attack,
    &[
        Case::new(Place::Bridge, Caps::And(&["bpf", "net_admin"]), expect),
        Case::new(Place::Host, Caps::And(&["bpf", "net_admin"]), expect),
    ],
);

fn expect(kernel: &Kernel) -> Expect {
    if kernel.lsm {
        Expect::Blocked
    } else {
        Expect::Governed
    }
}

fn attack(target: &Target) -> Result<Outcome> {
    let program = bpf::rewriting_connect(target.v4).context("loading the program")?;
    let cgroup = File::open("/sys/fs/cgroup")?;
    bpf::attach_connect(cgroup.as_raw_fd(), &program).context("attaching the program")?;
    let decoy = "10.99.1.1:9999".parse()?;
    Ok(dial::ask(dial::socket(decoy, libc::IPPROTO_TCP)?, decoy))
}
