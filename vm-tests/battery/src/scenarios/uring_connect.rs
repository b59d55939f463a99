//! `connect` by io_uring: the kernel makes the call in the attacker's place.

use crate::{
    attack::{Outcome, Target, dial, pg},
    scenario::{Case, Scenario, governed},
    sys::uring::Ring,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "uring-connect",
    "connects by io_uring",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let mut ring = Ring::new(false)?;
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    Ok(match ring.connect(&socket, address) {
        Ok(()) => pg::ask(dial::stream(socket)),
        Err(error) => Outcome::stopped("io_uring's connect", &error),
    })
}
