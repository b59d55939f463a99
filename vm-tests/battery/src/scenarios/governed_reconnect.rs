//! The other way round: the socket is led to Weir first, taken back with AF_UNSPEC, and then dials
//! Weir's own listener, whose address it learned, in the hope of a session without an origin.

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, governed},
    sys,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "governed-reconnect",
    "connects to the database twice on one socket, with AF_UNSPEC in between",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    dial::connect(&socket, address)?;
    sys::disconnect(&socket)?;
    Ok(dial::ask(socket, address))
}
