//! The other direction: an accomplice beside the database dials the attacker, from an endpoint of the
//! datastore. The attacker's answers are packets to that endpoint.

use std::{net::SocketAddr, net::TcpListener, os::fd::AsFd as _};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    attack::{Outcome, Target, patience, pg, ready},
    container::Contained,
    props,
    scenario::{Case, Scenario, blocked},
    stage::Stage,
};

const PORT: u16 = 7000;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "inbound",
    "listens, and is dialled from an endpoint of the database",
    attack,
    &[Case::bridge(blocked), Case::host(blocked)],
)
.meanwhile(dial_in);

fn dial_in(stage: &Stage, contained: &Contained) -> Result<()> {
    contained.keep(props::dial_in(stage, contained, PORT)?);
    Ok(())
}

fn attack(target: &Target) -> Result<Outcome> {
    let listener = TcpListener::bind(SocketAddr::new(target.own_v4().into(), PORT))?;
    ready()?;
    let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    if poll(&mut fds, PollTimeout::try_from(patience() * 2)?)? == 0 {
        return Ok(Outcome::Stopped("nobody could connect".to_owned()));
    }
    Ok(pg::ask(listener.accept()?.0))
}
