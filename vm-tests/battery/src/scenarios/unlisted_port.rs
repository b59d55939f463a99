//! The database at a port that no datastore lists: another proxy of it, or a port that was published
//! by mistake. The connection is known by its first bytes, and ended.

use anyhow::Result;
use xtask::world::ADDRESS;

use crate::{
    attack::{Outcome, Target, dial},
    props,
    scenario::{Case, Scenario, blocked},
    stage::{Prop, Stage},
};

pub(super) const PORT: u16 = 5999;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "unlisted-port",
    "dials the database at a port that isn't listed",
    attack,
    &[Case::bridge(blocked), Case::host(blocked)],
)
.with(published);

/// The database, led to by somebody at another port.
pub(super) fn published(stage: &Stage) -> Result<Prop> {
    let listen = format!("{ADDRESS}:{PORT}");
    props::one(stage, &["stream", &libc::IPPROTO_TCP.to_string(), &listen])
}

fn attack(target: &Target) -> Result<Outcome> {
    let address = (*target.v4.ip(), PORT).into();
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
