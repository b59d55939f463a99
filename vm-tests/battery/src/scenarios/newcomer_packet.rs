//! The container's first instruction speaks TCP itself over a packet socket. The perimeter comes when Weir
//! has noticed the network, some milliseconds later; where the attacker is often faster. So that it is
//! each time, Weir is stopped meanwhile, as when the machine has other things to do.

use anyhow::Result;

use crate::{
    kernel::Kernel,
    scenario::{Caps, Case, Expect, Place, Scenario, blocked},
    scenarios::packet,
    stage::{Paused, Prop, Stage},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "newcomer-packet",
    "speaks TCP itself over a packet socket, before Weir has noticed its network",
    packet::attack,
    &[
        Case::bridge(expect),
        Case::new(Place::Bridge, Caps::NoRaw, blocked),
    ],
)
.with(unnoticed)
.at_once();

fn expect(kernel: &Kernel) -> Expect {
    if kernel.lsm {
        Expect::Blocked
    } else {
        Expect::Gap("NET_RAW in a network that Weir hasn't noticed")
    }
}

fn unnoticed(stage: &Stage) -> Result<Prop> {
    Ok(Prop {
        paused: Some(Paused::new(&stage.weir)?),
        ..Prop::default()
    })
}
