//! The plain case: the attacker dials the database's IPv4 address, as its driver would. It gets a
//! session, and Weir judges it.

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Caps, Case, Place, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "tcp-v4",
    "dials the database's IPv4 address",
    attack,
    &[
        Case::bridge(governed),
        Case::new(Place::Macvlan, Caps::Docker, governed),
        Case::host(governed),
    ],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address = target.v4.into();
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
