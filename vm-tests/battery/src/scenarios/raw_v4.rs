//! Raw IPv4 sockets, which Docker's default NET_RAW gives: the attacker speaks TCP itself. So that its
//! own kernel doesn't reset the connection that it knows nothing of, a listener with a filter
//! swallows what comes back.

use crate::{
    attack::{
        Outcome, Target,
        link::{Mute, RawV4},
        packet::{self, Flow},
    },
    scenario::{Caps, Case, Place, Scenario, blocked},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "raw-v4",
    "speaks TCP itself over a raw IPv4 socket",
    attack,
    &[
        Case::bridge(blocked),
        Case::new(Place::Bridge, Caps::NoRaw, blocked),
        Case::new(Place::Macvlan, Caps::Docker, blocked),
        Case::host(blocked),
    ],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let mut way = RawV4::new()?;
    let mute = Mute::new(target.own_v4().into())?;
    Ok(packet::ask(&mut way, flow(target, &mute)))
}

/// From the mute listener to the database.
pub(super) fn flow(target: &Target, mute: &Mute) -> Flow {
    Flow {
        from: target.own_v4().into(),
        to: (*target.v4.ip()).into(),
        from_port: mute.port,
        to_port: target.v4.port(),
    }
}
