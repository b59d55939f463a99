//! The perimeter is required, and an interface leads out of the attacker's network that has no host's end
//! at which it could stand: Weir serves nobody there. One with a veth is served as ever.

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Caps, Case, Place, Scenario, blocked, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "perimeter-required",
    "dials the database where the perimeter is required",
    attack,
    &[
        Case::new(Place::Macvlan, Caps::Docker, blocked),
        Case::bridge(governed),
        Case::new(Place::OnlyLo, Caps::Docker, governed),
    ],
)
.no_control("it is the plain case under another configuration, and one has no way to the database")
.perimeter_required();

fn attack(target: &Target) -> Result<Outcome> {
    let address = target.v4.into();
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
