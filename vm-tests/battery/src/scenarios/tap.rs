//! A TAP device (NET_ADMIN), bridged with `eth0`: the attacker is one more machine on the wire.

use std::{fs, net::Ipv4Addr};

use anyhow::Result;

use crate::{
    attack::{
        Outcome, Target,
        link::{Tap, neighbour},
        packet::{self, Flow},
    },
    scenario::{Caps, Case, Place, Scenario, blocked},
    scenarios::tun::{ip, tunnel_device},
    sys,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "tap",
    "becomes one more machine on the wire by a TAP device bridged with eth0",
    attack,
    &[Case::new(Place::Bridge, Caps::And(&["net_admin"]), blocked)],
)
.with(tunnel_device);

fn attack(target: &Target) -> Result<Outcome> {
    let [a, b, c, _] = target.own_v4().octets();
    let guest = Ipv4Addr::new(a, b, c, 67);
    let router = neighbour(target.router())?;
    let file = sys::tunnel("tap0", true)?;
    ip("link add br0 type bridge forward_delay 0")?;
    for device in ["eth0", "tap0"] {
        ip(&format!("link set {device} master br0"))?;
        ip(&format!("link set {device} up"))?;
    }
    ip("link set br0 up")?;
    // A new port of a bridge takes a moment.
    for _ in 0..100 {
        if fs::read_to_string("/sys/class/net/tap0/brport/state").is_ok_and(|s| s.trim() == "3") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut way = Tap {
        file,
        own: [2, 0, 0, 0, 0, 0x67],
        router,
    };
    let flow = Flow {
        from: guest.into(),
        to: (*target.v4.ip()).into(),
        from_port: target.fresh_port(),
        to_port: target.v4.port(),
    };
    Ok(packet::ask(&mut way, flow))
}
