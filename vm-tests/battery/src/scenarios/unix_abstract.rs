//! The database's abstract unix socket: no file to mount, and every process in the same network
//! namespace finds it in /proc/net/unix.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream},
    },
};

use anyhow::{Context as _, Result};

use crate::{
    attack::{Outcome, Target, pg},
    kernel::Kernel,
    scenario::{Case, Expect, Scenario},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "unix-abstract",
    "dials the database's abstract unix socket",
    attack,
    &[Case::host(expect)],
);

fn expect(kernel: &Kernel) -> Expect {
    if kernel.sees_unix_connects() {
        Expect::Blocked
    } else {
        Expect::Gap("a database's abstract unix socket in the host's network")
    }
}

fn attack(_: &Target) -> Result<Outcome> {
    let table = fs::read_to_string("/proc/net/unix")?;
    let mut names = table
        .lines()
        .filter_map(|line| Some(line.split_once(" @")?.1));
    let name = names.find(|name| name.contains(".s.PGSQL."));
    let address = SocketAddr::from_abstract_name(name.context("nobody listens")?)?;
    Ok(match UnixStream::connect_addr(&address) {
        Ok(stream) => pg::ask_on(stream),
        Err(error) => Outcome::stopped("connect", &error),
    })
}
