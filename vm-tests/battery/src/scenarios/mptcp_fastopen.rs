//! `MSG_FASTOPEN` on a multipath socket.

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, blocked},
    scenarios::msg_fastopen,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "mptcp-fastopen",
    "connects by sendto with MSG_FASTOPEN on a multipath socket",
    attack,
    &[Case::bridge(blocked)],
)
.no_control("6.1's multipath TCP has no Fast Open");

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    Ok(dial::best(target.addresses(), |address| {
        msg_fastopen::one(address, dial::MPTCP)
    }))
}
