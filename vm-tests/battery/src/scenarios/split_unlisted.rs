//! The same at an endpoint that isn't listed.

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, blocked},
    scenarios::{
        split_startup::ask_in_pieces,
        unlisted_port::{PORT, published},
    },
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "split-unlisted",
    "sends its start-up packet byte by byte to a port that isn't listed",
    attack,
    &[Case::bridge(blocked), Case::host(blocked)],
)
.with(published);

fn attack(target: &Target) -> Result<Outcome> {
    let address = (*target.v4.ip(), PORT).into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    dial::connect(&socket, address)?;
    ask_in_pieces(dial::stream(socket))
}
