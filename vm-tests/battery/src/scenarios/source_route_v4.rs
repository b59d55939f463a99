//! A loose source route (RFC 791): the packet's destination is a router, and the database's address
//! stands in an option. The host takes part in it, as an old one might.

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, blocked},
    sys,
};

const LOOSE_SOURCE_ROUTE: u8 = 131;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "source-route-v4",
    "goes by a loose source route over the router",
    attack,
    &[Case::bridge(blocked)],
);

fn attack(target: &Target) -> Result<Outcome> {
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    let mut option = vec![1, LOOSE_SOURCE_ROUTE, 7, 4];
    option.extend(target.router().octets());
    sys::set_option(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &option)?;
    Ok(dial::ask(socket, address))
}
