//! `TCP_REPAIR` (NET_ADMIN): a socket that says it is connected without a handshake. The attacker
//! takes its governed connection apart and puts it together again at the database's address.

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Caps, Case, Place, Scenario, governed},
    sys,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "repair",
    "connects in repair mode, then leaves it and connects again",
    attack,
    &[Case::new(Place::Bridge, Caps::And(&["net_admin"]), governed)],
);

const REPAIR: i32 = libc::TCP_REPAIR;

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    sys::set_number(&socket, libc::IPPROTO_TCP, REPAIR, 1)?;
    // Established at once, without a packet, to wherever the hooks led it.
    dial::connect(&socket, address)?;
    sys::set_number(&socket, libc::IPPROTO_TCP, REPAIR, 0)?;
    sys::disconnect(&socket)?;
    Ok(dial::ask(socket, address))
}
