//! A TUN device (NET_ADMIN): packets that the attacker writes come out of an interface as if they had
//! been received, and its namespace forwards them. No socket sends them. The address is one of the
//! container's own network, for which the namespace answers.

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    process::Command,
};

use anyhow::{Result, ensure};

use crate::{
    attack::{
        Outcome, Target,
        link::Tun,
        packet::{self, Flow},
    },
    kernel::Kernel,
    scenario::{Caps, Case, Expect, Place, Scenario, blocked},
    stage::{Prop, Stage},
    sys,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "tun",
    "injects packets by a TUN device, and lets its namespace forward them",
    attack,
    &[
        Case::new(Place::Bridge, Caps::And(&["net_admin"]), blocked),
        Case::new(Place::Macvlan, Caps::And(&["net_admin"]), without_perimeter),
    ],
)
.with(tunnel_device);

pub(super) fn without_perimeter(_: &Kernel) -> Expect {
    Expect::Gap("NET_ADMIN without a perimeter")
}

/// The container has /dev/net/tun.
pub(super) fn tunnel_device(_: &Stage) -> Result<Prop> {
    Ok(Prop {
        tun: true,
        ..Prop::default()
    })
}

fn attack(target: &Target) -> Result<Outcome> {
    let (device, guest) = forwarded(target)?;
    let flow = Flow {
        from: guest.into(),
        to: (*target.v4.ip()).into(),
        from_port: target.fresh_port(),
        to_port: target.v4.port(),
    };
    Ok(packet::ask(&mut Tun(device), flow))
}

/// A TUN device behind which there is a guest, for whom the namespace forwards.
pub(super) fn forwarded(target: &Target) -> Result<(File, Ipv4Addr)> {
    let [a, b, c, _] = target.own_v4().octets();
    let guest = Ipv4Addr::new(a, b, c, 66);
    let device = sys::tunnel("tun0", false)?;
    ip("link set tun0 up")?;
    ip(&format!("route add {guest}/32 dev tun0"))?;
    ip(&format!("neighbour add proxy {guest} dev eth0"))?;
    for (file, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/tun0/rp_filter", "0")] {
        fs::write(format!("/proc/sys/net/ipv4/{file}"), value)?;
    }
    Ok((device, guest))
}

/// Runs `ip`.
pub(super) fn ip(line: &str) -> Result<()> {
    let output = Command::new("ip").args(line.split(' ')).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip {line}: {}", error.trim());
    Ok(())
}
