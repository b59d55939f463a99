//! `SO_BINDTODEVICE`: the socket leaves by `eth0` only, or not at all. A redirect to loopback can't
//! be followed, and nothing else may be.

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, blocked},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "bind-device",
    "binds its socket to eth0",
    attack,
    &[Case::bridge(blocked)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    socket.bind_device(Some(b"eth0"))?;
    Ok(dial::ask(socket, address))
}
