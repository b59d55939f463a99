//! The database is on this host, and listens on every address of it. Two of them are listed, one of
//! each family; the attacker dials all others. Each is led to Weir, and means the same database.

use std::net::SocketAddr;

use anyhow::Result;
use xtask::world::PORT;

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "local-addresses",
    "dials the local database by every other address of the host",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> Result<Outcome> {
    let router = target.router().to_string();
    let on_host = [
        "0.0.0.0",
        "127.0.0.1",
        "127.9.9.9",
        "[::]",
        "[::1]",
        "[::ffff:0.0.0.0]",
        "[::ffff:127.0.0.1]",
        "10.78.0.2",
        "[::ffff:10.78.0.2]",
    ];
    let from_outside = [&*router, "10.78.0.2", "[::ffff:10.78.0.2]"];
    let names = if target.on_host { &on_host[..] } else { &from_outside[..] };
    let names = names.iter().map(|name| format!("{name}:{PORT}").parse::<SocketAddr>());
    let addresses = names.collect::<Result<Vec<_>, _>>()?;
    Ok(dial::best(addresses, |address| match dial::socket(address, libc::IPPROTO_TCP) {
        Ok(socket) => dial::ask(socket, address),
        Err(error) => Outcome::stopped("socket", &error),
    }))
}
