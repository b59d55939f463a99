//! `IPV6_ADDRFORM`: an IPv6 socket with a v4-mapped connection is turned into an IPv4 socket, given
//! back its freedom with AF_UNSPEC, and connects again as what it now is.

use std::net::{SocketAddr, TcpListener};

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, governed},
    sys,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "addrform",
    "turns a connected IPv6 socket into an IPv4 one and connects again",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let innocent = TcpListener::bind("127.0.0.1:0")?;
    let port = innocent.local_addr()?.port();
    let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{port}").parse()?;
    let socket = dial::socket(mapped, libc::IPPROTO_TCP)?;
    dial::connect(&socket, mapped)?;
    sys::set_number(&socket, libc::IPPROTO_IPV6, libc::IPV6_ADDRFORM, libc::AF_INET)?;
    sys::disconnect(&socket)?;
    Ok(dial::ask(socket, target.v4.into()))
}
