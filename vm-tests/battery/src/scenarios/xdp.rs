//! AF_XDP: frames handed to the driver without any of the network stack. Sending takes no XDP
//! program, only NET_RAW.

use nix::net::if_::if_nametoindex;

use crate::{
    attack::{
        Outcome, Target,
        link::{Mute, Packet, Xdp, neighbour, station},
        packet,
    },
    scenario::{Caps, Case, Place, Scenario, blocked},
    scenarios::{packet::without_perimeter, raw_v4},
    sys,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "xdp",
    "sends frames by AF_XDP",
    attack,
    &[
        Case::bridge(blocked),
        Case::new(Place::Macvlan, Caps::Docker, without_perimeter),
    ],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let router = neighbour(target.router())?;
    let mut way = Xdp {
        sender: sys::xdp::Sender::new(if_nametoindex("eth0")?)?,
        ears: Packet::new("eth0", router)?,
        own: station("eth0")?,
        router,
    };
    let mute = Mute::new(target.own_v4().into())?;
    Ok(packet::ask(&mut way, raw_v4::flow(target, &mute)))
}
