//! `connect` by io_uring: a kernel thread that polls the ring makes the call, and the attacker none at all.

use crate::{
    attack::{Outcome, Target, dial, pg},
    scenario::{Case, Scenario, governed},
    sys::uring::Ring,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "uring-sqpoll",
    "connects by io_uring with a polling kernel thread",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let mut ring = Ring::new(true)?;
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    Ok(match ring.connect(&socket, address) {
        Ok(()) => pg::ask(dial::stream(socket)),
        Err(error) => Outcome::stopped("io_uring's connect", &error),
    })
}
