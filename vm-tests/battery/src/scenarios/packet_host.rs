//! A packet socket in the host's network: frames put on `lo` from an address that is nobody's, and
//! the answers heard on their way out by the default route. There is no perimeter inside of a host.

use std::net::Ipv4Addr;

use crate::{
    attack::{
        Outcome, Target,
        link::Packet,
        packet::{self, Flow},
    },
    kernel::Kernel,
    scenario::{Caps, Case, Expect, Place, Scenario, blocked},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "packet-host",
    "puts frames on the host's lo from an address that is nobody's",
    attack,
    &[
        Case::host(with_raw),
        Case::new(Place::Host, Caps::NoRaw, blocked),
    ],
);

fn with_raw(kernel: &Kernel) -> Expect {
    if kernel.lsm {
        Expect::Blocked
    } else {
        Expect::Gap("the host's network with NET_RAW")
    }
}

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let mut way = Packet::new("lo", [0; 6])?;
    let flow = Flow {
        from: Ipv4Addr::new(10, 99, 0, 9).into(),
        to: (*target.v4.ip()).into(),
        from_port: target.fresh_port(),
        to_port: target.v4.port(),
    };
    Ok(packet::ask(&mut way, flow))
}
