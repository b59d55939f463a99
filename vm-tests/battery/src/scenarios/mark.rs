//! `SO_MARK`: gateways that exempt their own connections by a firewall mark are passed by anybody
//! who can set one. Weir exempts nobody by a mark.

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Caps, Case, Place, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "mark",
    "sets the firewall marks that proxies exempt themselves by",
    attack,
    &[
        Case::bridge(governed),
        Case::new(Place::Bridge, Caps::And(&["net_admin"]), governed),
    ],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let address = target.v4.into();
    let mut last = Outcome::Stopped("no mark".to_owned());
    // Istio's, Cilium's, Linkerd's, and a few that everybody tries.
    for mark in [1337, 0x200, 0xb00, 1, 255] {
        let socket = dial::socket(address, libc::IPPROTO_TCP)?;
        socket.set_mark(mark)?;
        last = dial::ask(socket, address);
        if !matches!(last, Outcome::Reply(_)) {
            break;
        }
    }
    Ok(last)
}
