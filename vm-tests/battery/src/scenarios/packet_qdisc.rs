//! A packet socket with PACKET_QDISC_BYPASS, whose frames go from the attacker to the driver without
//! passing a queue: what watches egress with `tc` doesn't see them. The perimeter stands at ingress.

use crate::{
    attack::{
        Outcome, Target,
        link::{Mute, Packet, neighbour},
        packet,
    },

    scenario::{Caps, Case, Place, Scenario, blocked},
    scenarios::{packet::without_perimeter, raw_v4},
    sys,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "packet-qdisc",
    "the same past the queueing disciplines (PACKET_QDISC_BYPASS)",
    attack,
    &[
        Case::bridge(blocked),

        Case::new(Place::Macvlan, Caps::Docker, without_perimeter),
    ],
);



fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let mut way = Packet::new("eth0", neighbour(target.router())?)?;
    sys::bypass_qdisc(way.socket())?;
    let mute = Mute::new(target.own_v4().into())?;
    Ok(packet::ask(&mut way, raw_v4::flow(target, &mute)))
}
