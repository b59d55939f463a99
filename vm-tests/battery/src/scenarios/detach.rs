//! The attacker looks for Weir's programs on the slice, tries to detach them, and dials. With Docker's
//! capabilities it isn't let. With BPF, NET_ADMIN and SYS_ADMIN, all that Weir itself has, it is;
//! then only BPF LSM is in its way, or the perimeter.

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial, variable},
    kernel::Kernel,
    scenario::{Caps, Case, Expect, Place, Scenario, blocked, governed},
    stage::{Prop, Stage},
    sys::bpf,
};

const ADMIN: Caps = Caps::And(&["bpf", "net_admin", "sys_admin"]);

pub(super) const SCENARIO: Scenario = Scenario::new(
    "detach",
    "detaches Weir's programs from the slice, if it is let, and dials",
    attack,
    &[
        Case::bridge(governed),
        Case::host(governed),
        Case::new(Place::Bridge, ADMIN, as_admin),
        Case::new(Place::Host, ADMIN, as_admin_on_host),
    ],
)
.with(slice)
.no_control("whoever detaches the programs frees the next attacker; with all capabilities it works")
.ruins_stage();

fn as_admin(kernel: &Kernel) -> Expect {
    if kernel.lsm { governed(kernel) } else { blocked(kernel) }
}

fn as_admin_on_host(kernel: &Kernel) -> Expect {
    if kernel.lsm {
        governed(kernel)
    } else {
        Expect::Gap("BPF and SYS_ADMIN without BPF LSM")
    }
}

/// The attacker knows which cgroup is the slice, so that it leaves other people's programs alone.
fn slice(stage: &Stage) -> Result<Prop> {
    use std::os::unix::fs::MetadataExt as _;
    let id = std::fs::metadata(stage.slice())?.ino();
    Ok(Prop {
        variables: vec![("BATTERY_SLICE", id.to_string())],
        ..Prop::default()
    })
}

fn attack(target: &Target) -> Result<Outcome> {
    let slice = variable("BATTERY_SLICE")?.parse()?;
    let address = target.v4.into();
    // By then Weir knows of this network.
    drop(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address));
    // Whether it is let shows in what comes next.
    let _ = bpf::detach_all(slice);
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
