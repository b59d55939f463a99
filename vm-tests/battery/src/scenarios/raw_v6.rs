//! The same over IPv6.

use crate::{
    attack::{
        Outcome, Target,
        link::{Mute, RawV6},
        packet::{self, Flow},
    },
    scenario::{Case, Scenario, blocked},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "raw-v6",
    "speaks TCP itself over a raw IPv6 socket",
    attack,
    &[Case::bridge(blocked), Case::host(blocked)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let mut way = RawV6::new()?;
    let mute = Mute::new(target.own_v6().into())?;
    let flow = Flow {
        from: target.own_v6().into(),
        to: (*target.v6.ip()).into(),
        from_port: mute.port,
        to_port: target.v6.port(),
    };
    Ok(packet::ask(&mut way, flow))
}
