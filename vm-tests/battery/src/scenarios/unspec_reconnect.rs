//! A socket that had an innocent connection first: it connects to a listener of the attacker's own,
//! takes that back with AF_UNSPEC, and connects to the database. What was known about the socket
//! mustn't stay.

use std::net::TcpListener;

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, governed},
    sys,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "unspec-reconnect",
    "connects elsewhere first, takes it back with AF_UNSPEC, connects to the database",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let innocent = TcpListener::bind("127.0.0.1:0")?;
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    dial::connect(&socket, innocent.local_addr()?)?;
    sys::disconnect(&socket)?;
    Ok(dial::ask(socket, address))
}
