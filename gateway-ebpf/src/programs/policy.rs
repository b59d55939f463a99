//! What an agent may reach beside the databases: its egress policy.
//!
//! The policy is that of the cgroup that a socket was made in. The daemon says whose a cgroup is;
//! until it has, that cgroup's sockets send nothing.

use gateway_ebpf::{ALL_PORTS, Destination, Endpoint, NOTHING, OPEN, STRANGER};

use crate::maps;

/// 127.0.0.11 in network byte order.
const DOCKERS_RESOLVER: u32 = u32::from_ne_bytes([127, 0, 0, 11]);

/// Whether a socket of a cgroup may send to a destination that isn't protected. Loopback is the
/// namespace's own, unless that is the host's.
#[inline(always)]
pub(super) fn permits(cgroup: u64, on_host: bool, destination: &Endpoint) -> bool {
    if maps::is_all_open() || (!on_host && is_own(destination)) {
        return true;
    }
    match maps::policy(cgroup) {
        OPEN => true,
        NOTHING => false,
        STRANGER => {
            maps::report_stranger(cgroup);
            false
        }
        policy => {
            let wanted = |port| Destination {
                policy,
                port,
                address: destination.address,
            };
            maps::is_listed(wanted(destination.port)) || maps::is_listed(wanted(ALL_PORTS))
        }
    }
}

/// Whether a destination is the namespace's own. Docker's resolver isn't: it listens at 127.0.0.11 in
/// the containers of its networks, and asks the world.
#[inline(always)]
fn is_own(destination: &Endpoint) -> bool {
    destination.is_loopback() && destination.address[3] != DOCKERS_RESOLVER
}

/// Has the daemon find out whose a new cgroup is before it is refused anything.
#[inline(always)]
pub(super) fn meet(cgroup: u64) {
    if !maps::is_all_open() && maps::policy(cgroup) == STRANGER {
        maps::report_stranger(cgroup);
    }
}
