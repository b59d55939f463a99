//! The same trick on Weir's own redirect (NET_ADMIN): the attacker dials the database, the hook leads
//! it to loopback, and its own rules turn everything that goes to loopback back to the database.

use std::fs;

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Caps, Case, Place, Scenario, blocked},
    scenarios::dnat::nft,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "dnat-of-redirect",
    "turns Weir's redirect to loopback back to the database",
    attack,
    &[
        Case::new(Place::Bridge, Caps::And(&["net_admin"]), blocked),
        Case::new(Place::Macvlan, Caps::And(&["net_admin"]), blocked),
    ],
);

fn attack(target: &Target) -> Result<Outcome> {
    for device in ["all", "eth0", "lo"] {
        fs::write(format!("/proc/sys/net/ipv4/conf/{device}/route_localnet"), "1")?;
    }
    nft(&format!(
        "table ip battery {{ \
         chain out {{ type nat hook output priority -100; \
           ip daddr 127.0.0.1 meta l4proto tcp dnat to {}; }}\n \
         chain post {{ type nat hook postrouting priority 100; oifname eth0 masquerade; }}\n}}",
        target.v4
    ))?;
    let address = target.v4.into();
    Ok(dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address))
}
