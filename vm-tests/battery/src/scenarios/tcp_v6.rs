//! The same over IPv6.

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "tcp-v6",
    "dials the database's IPv6 address",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address = target.v6.into();
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
