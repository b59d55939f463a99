//! Weir's listener is in the attacker's own namespace, and its port in /proc/net/tcp. Dialling it by
//! any of loopback's names is refused.

use std::{fs, net::SocketAddr};

use anyhow::{Context as _, Result};

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Caps, Case, Place, Scenario, blocked},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "dial-listener",
    "finds Weir's listener in /proc/net/tcp, and dials it by all of loopback's names",
    attack,
    &[
        Case::bridge(blocked),
        Case::host(blocked),
        Case::new(Place::OnlyLo, Caps::Docker, blocked),
    ],
)
.no_control("there is no listener where nothing is governed");

fn attack(target: &Target) -> Result<Outcome> {
    let port = port(target)?;
    let names = ["127.0.0.1", "0.0.0.0", "127.9.9.9", "[::1]", "[::]", "[::ffff:127.0.0.1]"];
    let names = names.iter().map(|name| format!("{name}:{port}").parse::<SocketAddr>());
    let addresses = names.collect::<Result<Vec<_>, _>>()?;
    Ok(dial::best(addresses, |address| match dial::socket(address, libc::IPPROTO_TCP) {
        Ok(socket) => dial::ask(socket, address),
        Err(error) => Outcome::stopped("socket", &error),
    }))
}

/// The port of Weir's listener: where a connection to the database really went.
pub(super) fn port(target: &Target) -> Result<u16> {
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    dial::connect(&socket, address)?;
    let own = socket.local_addr()?.as_socket().context("an address")?.port();
    // `getpeername` says that it is the database; the table of connections has it right.
    let table = fs::read_to_string("/proc/self/net/tcp")?;
    let row = table.lines().find(|line| line.contains(&format!(":{own:04X} ")));
    let remote = row.and_then(|row| row.split_whitespace().nth(2)).context("it is in the table")?;
    let port = remote.rsplit(':').next().context("an address has a port")?;
    Ok(u16::from_str_radix(port, 16)?)
}
