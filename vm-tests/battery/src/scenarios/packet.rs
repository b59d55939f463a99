//! Packet sockets, which NET_RAW gives too: frames that the kernel's IP never sees, so that no hook on a
//! cgroup does either. What stops them is the perimeter at the host's end of the veth, BPF LSM, or a
//! container without NET_RAW.

use crate::{
    attack::{
        Outcome, Target,
        link::{Mute, Packet, neighbour},
        packet,
    },
    kernel::Kernel,
    scenario::{Caps, Case, Expect, Place, Scenario, blocked},
    scenarios::raw_v4,

};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "packet",
    "speaks TCP itself over a packet socket",
    attack,
    &[
        Case::bridge(blocked),
        Case::new(Place::Bridge, Caps::NoRaw, blocked),
        Case::new(Place::Macvlan, Caps::Docker, without_perimeter),
    ],
);

/// Nothing sees the frames but the making of their socket.
pub(super) fn without_perimeter(kernel: &Kernel) -> Expect {
    if kernel.lsm {
        Expect::Blocked
    } else {
        Expect::Gap("NET_RAW without a perimeter")
    }
}

pub(super) fn attack(target: &Target) -> anyhow::Result<Outcome> {
    let mut way = Packet::new("eth0", neighbour(target.router())?)?;
    let mute = Mute::new(target.own_v4().into())?;
    Ok(packet::ask(&mut way, raw_v4::flow(target, &mute)))
}
