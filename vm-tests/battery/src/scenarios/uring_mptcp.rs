//! A multipath socket that io_uring makes and connects.

use crate::{
    attack::{Outcome, Target, dial, pg},
    scenario::{Case, Scenario, blocked},
    sys::uring::Ring,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "uring-mptcp",
    "makes a multipath socket and connects it by io_uring",
    attack,
    &[Case::bridge(blocked)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let mut ring = Ring::new(false)?;
    let socket = ring.socket(libc::AF_INET, libc::SOCK_STREAM, dial::MPTCP)?;
    Ok(match ring.connect(&socket, target.v4.into()) {
        Ok(()) => pg::ask(dial::stream(socket)),
        Err(error) => Outcome::stopped("io_uring's connect", &error),
    })
}
