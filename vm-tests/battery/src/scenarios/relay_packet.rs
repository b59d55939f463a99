//! The accomplice on a third host, spoken to over a packet socket: no socket that a policy hangs on sends
//! anything. What there is left to judge by is the namespace that the frames come from, at the host's end
//! of its veth.

use anyhow::Result;

use super::relay;
use crate::{
    attack::{
        Outcome, Target,
        link::{Mute, Packet, ask_station},
        packet::{self, Flow},
    },
    kernel::Kernel,
    props,
    scenario::{Caps, Case, Expect, Place, Scenario, blocked},
    scenarios::packet as packet_socket,
    stage::THIRD,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "relay-packet",
    "speaks TCP itself over a packet socket to an accomplice on a third host, in a cipher",
    attack,
    &[
        Case::bridge(gap),
        Case::bridge(blocked).with_egress(relay::OTHERS),
        Case::bridge(blocked).with_egress("\"none\""),
        Case::new(Place::Macvlan, Caps::Docker, packet_socket::without_perimeter)
            .with_egress("\"none\""),
    ],
)
.with(relay::accomplice)
.created_first();

fn gap(kernel: &Kernel) -> Expect {
    if kernel.lsm {
        Expect::Blocked
    } else {
        relay::gap(kernel)
    }
}

fn attack(target: &Target) -> Result<Outcome> {
    let own = target.own_v4();
    let router = match ask_station("eth0", own, target.router()) {
        Ok(station) => station,
        Err(error) => return Ok(Outcome::stopped("who is the router?", &error)),
    };
    let mut way = Packet::new("eth0", router)?;
    let mute = Mute::new(own.into())?;
    let flow = Flow {
        from: own.into(),
        to: THIRD.parse()?,
        from_port: mute.port,
        to_port: relay::PORT,
    };
    Ok(packet::ask_in(&mut way, flow, props::cipher))
}
