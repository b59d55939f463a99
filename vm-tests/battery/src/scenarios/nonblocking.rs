//! A connect that doesn't wait, and a first byte that follows as soon as it may.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd as _;

use crate::{
    attack::{Outcome, Target, dial, patience, pg},
    scenario::{Case, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "nonblocking",
    "connects without waiting",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            return Ok(Outcome::stopped("connect", &error));
        }
        _ => {}
    }
    let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut fds, PollTimeout::try_from(patience())?)?;
    Ok(pg::ask(dial::stream(socket)))
}
