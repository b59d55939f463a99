//! The container's first instruction dials the database, and doesn't stop. Weir doesn't know of the
//! network yet: until it does, each connect is refused, and then one is governed. None passes.

use std::time::Instant;

use crate::{
    attack::{Outcome, Target, dial, patience},
    scenario::{Caps, Case, Place, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "newcomer",
    "dials the database from its first instruction on, until somebody answers",
    attack,
    &[
        Case::bridge(governed),
        Case::new(Place::Macvlan, Caps::Docker, governed),
        Case::new(Place::OnlyLo, Caps::Docker, governed),
    ],
)
.no_control("it is the plain case at another time, and one has no way to the database")
.at_once();

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let (start, address) = (Instant::now(), target.v4.into());
    loop {
        let outcome = dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address);
        let answered = matches!(outcome, Outcome::Reply(_));
        if answered || start.elapsed() > patience() * 4 {
            return Ok(outcome);
        }
    }
}
