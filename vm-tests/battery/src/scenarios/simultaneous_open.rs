//! Both sides dial each other at once, and neither listens: the kernel makes one connection of it.

use std::{net::SocketAddr, time::Instant};

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial, patience, pg, ready},
    container::Contained,
    props,
    scenario::{Case, Scenario, blocked},
    stage::Stage,
};

const PORT: u16 = 7001;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "simultaneous-open",
    "dials an endpoint of the database that dials it at the same moment",
    attack,
    &[Case::bridge(blocked)],
)
.meanwhile(dial_in);

fn dial_in(stage: &Stage, contained: &Contained) -> Result<()> {
    contained.keep(props::dial_in(stage, contained, PORT)?);
    Ok(())
}

fn attack(target: &Target) -> Result<Outcome> {
    ready()?;
    let (start, address) = (Instant::now(), target.second.into());
    let mut last = Outcome::Stopped("no try".to_owned());
    // Both have to try within microseconds.
    while start.elapsed() < patience() * 10 {
        let socket = dial::socket(address, libc::IPPROTO_TCP)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(target.own_v4().into(), PORT).into())?;
        match dial::connect(&socket, address) {
            Ok(()) => return Ok(pg::ask(dial::stream(socket))),
            Err(error) => last = Outcome::stopped("connect", &error),
        }
    }
    Ok(last)
}
