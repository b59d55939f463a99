//! The accomplice on a third host, spoken to by packets that a TUN device brings into the namespace and
//! that this forwards: nobody's socket sends them, and BPF LSM has nothing against them.

use anyhow::Result;

use super::{relay, tun};
use crate::{
    attack::{
        Outcome, Target,
        link::Tun,
        packet::{self, Flow},
    },
    props,
    scenario::{Caps, Case, Place, Scenario, blocked},
    stage::{Prop, Stage, THIRD},
};

const NET_ADMIN: Caps = Caps::And(&["net_admin"]);

pub(super) const SCENARIO: Scenario = Scenario::new(
    "relay-tun",
    "injects packets for an accomplice on a third host by a TUN device, in a cipher",
    attack,
    &[
        Case::new(Place::Bridge, NET_ADMIN, relay::gap),
        Case::new(Place::Bridge, NET_ADMIN, blocked).with_egress(relay::OTHERS),
        Case::new(Place::Bridge, NET_ADMIN, blocked).with_egress("\"none\""),
        Case::new(Place::Macvlan, NET_ADMIN, tun::without_perimeter).with_egress("\"none\""),
    ],
)
.with(accomplice);

fn accomplice(stage: &Stage) -> Result<Prop> {
    Ok(Prop {
        tun: true,
        ..relay::accomplice(stage)?
    })
}

fn attack(target: &Target) -> Result<Outcome> {
    let (device, guest) = tun::forwarded(target)?;
    let flow = Flow {
        from: guest.into(),
        to: THIRD.parse()?,
        from_port: target.fresh_port(),
        to_port: relay::PORT,
    };
    Ok(packet::ask_in(&mut Tun(device), flow, props::cipher))
}
