//! The socket is bound before it connects: to an address, then to a port
//! alone.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "source-bind",
    "binds its socket to an address and port of its own first",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address: SocketAddr = target.v4.into();
    let sources = [
        (IpAddr::V4(target.own_v4()), 0),
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7777),
    ];
    let mut last = Outcome::Stopped("no source".to_owned());
    for (source, port) in sources {
        let socket = dial::socket(address, libc::IPPROTO_TCP)?;
        socket.bind(&SocketAddr::new(source, port).into())?;
        last = dial::ask(socket, address);
        if matches!(last, Outcome::Reply(_)) {
            return Ok(last);
        }
    }
    Ok(last)
}
