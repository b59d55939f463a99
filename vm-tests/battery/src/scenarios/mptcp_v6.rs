//! Multipath TCP over IPv6: a protocol number of its own, and subflows that the kernel dials by itself.
//! Weir refuses to lead it to a database.

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, blocked},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "mptcp-v6",
    "dials by multipath TCP over IPv6",
    attack,
    &[Case::bridge(blocked), Case::host(blocked)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address = target.v6.into();
    Ok(dial::ask(dial::socket(address, dial::MPTCP)?, address))
}
