//! Somebody outside of the slice makes a socket in the attacker's own network and hands it in. No hook
//! on the slice's cgroup sees its connect; its packets leave by the veth.

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial, door},
    container::Contained,
    kernel::Kernel,
    props,
    scenario::{Caps, Case, Expect, Place, Scenario, blocked},
    stage::Stage,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "handed-inside",
    "is handed a fresh socket of its own network, made outside of the slice",
    attack,
    &[
        Case::bridge(blocked),
        Case::new(Place::Macvlan, Caps::Docker, gap),
        Case::host(gap),
    ],
)
.meanwhile(hand);

fn gap(_: &Kernel) -> Expect {
    Expect::Gap("a socket handed in from outside")
}

fn hand(stage: &Stage, contained: &Contained) -> Result<()> {
    props::hand(stage, contained, true, None)
}

fn attack(target: &Target) -> Result<Outcome> {
    Ok(dial::ask(door::receive()?, target.v4.into()))
}
