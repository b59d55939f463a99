//! TCP Fast Open by `MSG_FASTOPEN`: the attacker never calls `connect`. `sendto` connects and sends
//! in one system call, which hooks on `connect` alone (the LSM's, for one) never see.

use std::net::SocketAddr;

use socket2::SockAddr;

use crate::{
    attack::{Outcome, Target, dial, patience, pg},
    scenario::{Case, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "msg-fastopen",
    "connects by sendto with MSG_FASTOPEN",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    Ok(dial::best(target.addresses(), |address| {
        one(address, libc::IPPROTO_TCP)
    }))
}

/// Connects and asks in one call.
pub(super) fn one(address: SocketAddr, protocol: i32) -> Outcome {
    let sent = dial::socket(address, protocol).and_then(|socket| {
        socket.set_write_timeout(Some(patience()))?;
        let to = SockAddr::from(address);
        socket.send_to_with_flags(&pg::flight(), &to, libc::MSG_FASTOPEN)?;
        Ok(socket)
    });
    match sent {
        Ok(socket) => pg::listen(dial::stream(socket)),
        Err(error) => Outcome::stopped("sendto", &error),
    }
}
