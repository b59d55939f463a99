//! What an agent may reach beside the databases: its egress policy.
//!
//! The policy is that of the cgroup that a socket was made in. The daemon says whose a cgroup is;
//! until it has, that cgroup's sockets send nothing. Where no socket is to be seen, at the perimeter, a
//! packet may go where any of the policies permits it that count in the namespace it comes from.

use gateway_ebpf::{
    ALL_PORTS, DNS_PORT, Destination, Endpoint, FIRST_LIST, NOTHING, OPEN, Outlet, STRANGER,
};

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
        policy => lists(policy, destination),
    }
}

/// Whether a packet may leave a namespace for a destination that isn't protected. Loopback is none of
/// its own there. Questions for names were led to Weir, but for those of whom everything may leave.
#[inline(always)]
pub(super) fn lets_out(outlet: &Outlet, destination: &Endpoint) -> bool {
    if is_open(outlet) {
        return true;
    }
    if destination.port == DNS_PORT {
        return false;
    }
    for policy in *outlet {
        if policy >= FIRST_LIST && lists(policy, destination) {
            return true;
        }
    }
    false
}

/// Whether everything may leave, but for what is for a protected endpoint.
#[inline(always)]
pub(super) fn is_open(outlet: &Outlet) -> bool {
    outlet[0] == OPEN
}

/// Whether a policy that is a list has a destination in it.
#[inline(always)]
fn lists(policy: u32, destination: &Endpoint) -> bool {
    let wanted = |port| Destination {
        policy,
        port,
        address: destination.address,
    };
    maps::is_listed(wanted(destination.port)) || maps::is_listed(wanted(ALL_PORTS))
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
