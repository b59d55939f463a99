//! Multipath TCP to the v4-mapped address: a protocol number of its own, and subflows that the kernel dials by itself.
//! Weir refuses to lead it to a database.

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, blocked},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "mptcp-mapped",
    "dials by multipath TCP to the v4-mapped address",
    attack,
    &[Case::bridge(blocked), Case::host(blocked)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address = target.mapped().into();
    Ok(dial::ask(dial::socket(address, dial::MPTCP)?, address))
}
