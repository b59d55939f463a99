//! A segment routing header (RFC 8754), the source route that IPv6 still has: the packet's destination
//! is a router, and the database's address the last segment. The host takes part in it.

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, blocked},
    sys,
};

const SEGMENT_ROUTING: u8 = 4;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "source-route-v6",
    "goes by a segment routing header over the router",
    attack,
    &[Case::bridge(blocked)],
);

fn attack(target: &Target) -> Result<Outcome> {
    let address = target.v6.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    // Two segments: the last, which the kernel fills in, and the first.
    let mut header = vec![0, 4, SEGMENT_ROUTING, 1, 1, 0, 0, 0];
    header.extend([0; 16]);
    header.extend(target.router_v6().octets());
    sys::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &header)?;
    Ok(dial::ask(socket, address))
}
