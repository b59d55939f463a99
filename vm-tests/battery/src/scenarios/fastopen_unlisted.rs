//! The start-up packet in the SYN itself, which TCP Fast Open makes possible, to an endpoint that isn't
//! listed: there is no moment between connecting and speaking.

use std::{net::SocketAddr, process::Output};

use anyhow::{Result, ensure};

use crate::{
    attack::{Outcome, Target, dial, patience, pg},
    scenario::{Case, Scenario, blocked},
    scenarios::unlisted_port::{PORT, published},
    stage::{Prop, Stage},
    sys,
};

/// `TCP_FASTOPEN_NO_COOKIE` of `linux/tcp.h`.
const NO_COOKIE: i32 = 34;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "fastopen-unlisted",
    "puts its start-up packet into the SYN, to a port that isn't listed",
    attack,
    &[Case::bridge(blocked), Case::host(blocked)],
)
.with(fast);

/// A host whose listeners take data with the SYN from anybody.
fn fast(stage: &Stage) -> Result<Prop> {
    let set = "echo 1539 > /proc/sys/net/ipv4/tcp_fastopen";
    let Output { status, stderr, .. } = stage.world.outside("sh").args(["-c", set]).output()?;
    let error = String::from_utf8_lossy(&stderr);
    ensure!(status.success(), "tcp_fastopen: {}", error.trim());
    published(stage)
}

fn attack(target: &Target) -> Result<Outcome> {
    let address = SocketAddr::from((*target.v4.ip(), PORT));
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    sys::set_number(&socket, libc::IPPROTO_TCP, NO_COOKIE, 1)?;
    socket.set_write_timeout(Some(patience()))?;
    let sent = socket.send_to_with_flags(&pg::flight(), &address.into(), libc::MSG_FASTOPEN);
    Ok(match sent {
        Ok(_) => pg::listen(dial::stream(socket)),
        Err(error) => Outcome::stopped("sendto", &error),
    })
}
