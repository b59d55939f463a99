//! Questions for names (DNS): those that Weir answers, and who asks.

use gateway_ebpf::{DNS_PORT, Endpoint, NO_LISTENER, OPEN, OriginKey, STRANGER, Socket};

use super::{IPPROTO_UDP, origin::now};
use crate::maps::{self, ORIGINS};

/// Whether what a cgroup's socket sends to a destination is a question that Weir answers: all are, of
/// agents that don't reach everything, and of those that reach nothing for want of a way.
#[inline(always)]
pub(super) fn is_question(cgroup: u64, netns: u64, destination: &Endpoint) -> bool {
    if destination.port != DNS_PORT {
        return false;
    }
    let policy = if maps::is_all_open() {
        OPEN
    } else {
        maps::policy(cgroup)
    };
    match policy {
        OPEN => maps::is_isolated(netns),
        // Refused, as all that it does.
        STRANGER => false,
        _ => true,
    }
}

/// Writes down who sent a datagram to Weir, before it arrives there.
#[inline(always)]
pub(super) fn note(record: Option<&mut Socket>, source: Endpoint, destination: &Endpoint) {
    let Some(record) = record else { return };
    if record.listener == NO_LISTENER || record.listener != destination.port {
        return;
    }
    let key = OriginKey {
        netns: record.netns,
        source,
        datagram: 1,
    };
    record.connected = now();
    // Without it the question isn't answered.
    let _ = ORIGINS.insert(key, *record, 0);
}

/// Whether a packet may be a datagram to Weir.
#[inline(always)]
pub(super) fn may_be_noted(protocol: u8, destination: &Endpoint) -> bool {
    u32::from(protocol) == IPPROTO_UDP && destination.is_loopback()
}
