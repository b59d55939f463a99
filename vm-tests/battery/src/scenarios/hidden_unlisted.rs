//! An accomplice elsewhere whom the attacker talks to in a language of their own, as over ssh or an
//! HTTPS tunnel: here, the database's with a byte before it. No look at first bytes helps.

use std::io::Write as _;

use anyhow::Result;
use xtask::world::ADDRESS;

use crate::{
    attack::{Outcome, Target, dial, pg},
    kernel::Kernel,
    props,
    scenario::{Case, Expect, Scenario},
    scenarios::unlisted_port::PORT,
    stage::{Prop, Stage},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "hidden-unlisted",
    "speaks to a relay that isn't listed in words that nobody knows",
    attack,
    &[Case::bridge(gap)],
)
.with(relay);

fn gap(_: &Kernel) -> Expect {
    Expect::Gap("a relay that hides the protocol")
}

fn relay(stage: &Stage) -> Result<Prop> {
    let listen = format!("{ADDRESS}:{PORT}");
    props::one(stage, &["unwrap", &listen])
}

fn attack(target: &Target) -> Result<Outcome> {
    let address = (*target.v4.ip(), PORT).into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    dial::connect(&socket, address)?;
    let mut stream = dial::stream(socket);
    stream.write_all(&[&b"x"[..], &pg::flight()].concat())?;
    Ok(pg::listen(stream))
}
