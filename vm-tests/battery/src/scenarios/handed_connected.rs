//! Somebody outside connects to the database and hands the socket in through a unix socket. It belongs
//! to nobody's cgroup and to another network: nothing of Weir's sees it. The README says so.

use anyhow::Result;
use xtask::world::{ADDRESS, PORT};

use crate::{
    attack::{Outcome, Target, dial, door, pg},
    container::Contained,
    kernel::Kernel,
    props,
    scenario::{Case, Expect, Scenario},
    stage::Stage,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "handed-connected",
    "is handed a connected socket by somebody outside",
    attack,
    &[Case::bridge(expect)],
)
.meanwhile(hand);

fn expect(_: &Kernel) -> Expect {
    Expect::Gap("a socket handed in from outside")
}

fn hand(stage: &Stage, contained: &Contained) -> Result<()> {
    let address = format!("{ADDRESS}:{PORT}").parse()?;
    props::hand(stage, contained, false, Some(address))
}

fn attack(_: &Target) -> Result<Outcome> {
    Ok(pg::ask(dial::stream(door::receive()?)))
}
