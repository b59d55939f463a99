//! The database's IPv4 address, named by an IPv6 socket as `::ffff:10.77.0.1`: a gateway that
//! compares addresses as they are written doesn't know it.

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "tcp-mapped",
    "dials the IPv4 address from an IPv6 socket",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address = target.mapped().into();
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
