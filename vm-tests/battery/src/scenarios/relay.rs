//! An accomplice on a third host takes what the attacker sends it to the database, in a cipher: to
//! everybody between it is a connection like any other. What can be done is to let the attacker reach no
//! such host.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr},
};

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial, patience, pg},
    kernel::Kernel,
    props,
    scenario::{Case, Expect, Scenario, blocked},
    stage::{Prop, Stage, THIRD},
};

pub(super) const PORT: u16 = 443;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "relay",
    "talks to an accomplice on a third host, in a cipher",
    attack,
    &[
        Case::bridge(gap),
        Case::host(gap),
        Case::bridge(blocked).with_egress(OTHERS),
        Case::host(blocked).with_egress(OTHERS),
        Case::bridge(blocked).with_egress("\"none\""),
        Case::host(blocked).with_egress("\"none\""),
    ],
)
.with(accomplice);

/// The same host at another port, and another host at the same.
pub(super) const OTHERS: &str = "[\"10.78.0.2:22\", \"10.78.0.3:443\"]";

pub(super) fn gap(_: &Kernel) -> Expect {
    Expect::Gap("a relay on a third host")
}

pub(super) fn accomplice(stage: &Stage) -> Result<Prop> {
    props::one(stage, &["relay", &format!("{THIRD}:{PORT}")])
}

fn attack(_: &Target) -> Result<Outcome> {
    let address: SocketAddr = format!("{THIRD}:{PORT}").parse()?;
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    if let Err(error) = dial::connect(&socket, address) {
        return Ok(Outcome::stopped("connect", &error));
    }
    let mut stream = dial::stream(socket);
    stream.set_read_timeout(Some(patience() * 6))?;
    let mut question = pg::flight();
    props::cipher(&mut question);
    stream.write_all(&question)?;
    stream.shutdown(Shutdown::Write)?;
    let mut reply = Vec::new();
    if let Err(error) = stream.read_to_end(&mut reply) {
        return Ok(Outcome::stopped("read", &error));
    }
    props::cipher(&mut reply);
    Ok(Outcome::Reply(reply))
}
