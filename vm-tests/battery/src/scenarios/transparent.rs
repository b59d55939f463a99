//! `IP_TRANSPARENT` takes NET_RAW or NET_ADMIN: a socket that is bound to somebody else's address,
//! and of which the reply would come back to the attacker.

use std::net::{Ipv4Addr, SocketAddr};

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Caps, Case, Place, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "transparent",
    "binds its socket to an address of its own as a transparent proxy would",
    attack,
    &[
        Case::bridge(governed),
        Case::new(Place::Bridge, Caps::And(&["net_admin"]), governed),
    ],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address: SocketAddr = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    socket.set_ip_transparent_v4(true)?;
    let own: Ipv4Addr = target.own_v4();
    socket.bind(&SocketAddr::from((own, 0)).into())?;
    Ok(dial::ask(socket, address))
}
