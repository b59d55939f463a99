//! UDP to the database's endpoint, where somebody leads datagrams to the database: connected, and by
//! `sendto` alone, which no connect hook sees.

use std::net::UdpSocket;

use anyhow::Result;
use xtask::world::{ADDRESS, PORT};

use crate::{
    attack::{Outcome, Target, patience, pg},
    props,
    scenario::{Case, Scenario, blocked},
    stage::{Prop, Stage},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "udp",
    "sends datagrams to the database's endpoint, where somebody leads them on",
    attack,
    &[Case::bridge(blocked), Case::host(blocked)],
)
.with(relay);

fn relay(stage: &Stage) -> Result<Prop> {
    let listen = format!("{ADDRESS}:{PORT}");
    props::one(stage, &["datagram", &libc::IPPROTO_UDP.to_string(), &listen])
}

fn attack(target: &Target) -> Result<Outcome> {
    let connected = one(target, true);
    if connected.is_success() {
        return Ok(connected);
    }
    Ok(one(target, false))
}

fn one(target: &Target, connected: bool) -> Outcome {
    let asked = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(patience() * 2))?;
        if connected {
            socket.connect(target.v4)?;
            socket.send(&pg::flight())?;
        } else {
            socket.send_to(&pg::flight(), target.v4)?;
        }
        let mut reply = vec![0; 65536];
        let count = socket.recv(&mut reply)?;
        reply.truncate(count);
        Ok::<_, std::io::Error>(reply)
    };
    match asked() {
        Ok(reply) => Outcome::Reply(reply),
        Err(error) => Outcome::stopped("UDP", &error),
    }
}
