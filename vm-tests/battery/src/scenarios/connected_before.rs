//! A process is connected to the database already when it becomes an agent. What it sends from then on
//! doesn't arrive.

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial, pg, ready},
    scenario::{Caps, Case, Place, Scenario, blocked},
    scenarios::made_before::{gap, move_in},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "connected-before",
    "connects, is moved into the slice, and asks",
    attack,
    &[
        Case::bridge(blocked),
        Case::new(Place::Macvlan, Caps::Docker, gap),
        Case::host(gap),
    ],
)
.starts_outside()
.meanwhile(move_in);

fn attack(target: &Target) -> Result<Outcome> {
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    dial::connect(&socket, address)?;
    ready()?;
    Ok(pg::ask(dial::stream(socket)))
}
