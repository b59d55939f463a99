//! What the daemon will know about a redirected connection, written down before its SYN leaves.

use aya_ebpf::{
    bindings::BPF_SOCK_OPS_TCP_CONNECT_CB, helpers::generated::bpf_ktime_get_ns, macros::sock_ops,
    programs::SockOpsContext,
};
use aya_log_ebpf::warn;
use gateway_ebpf::{Endpoint, NO_LISTENER, OriginKey};

use super::{netns, words};
use crate::maps::{self, ORIGINS};

const AF_INET: u32 = 2;

/// Nanoseconds of a second.
const NANOS: u64 = 1_000_000_000;

/// Before a redirected connection's SYN leaves: its source is known, and nobody can have accepted it.
#[sock_ops]
pub(crate) fn tcp_connect(ctx: SockOpsContext) -> u32 {
    if ctx.op() == BPF_SOCK_OPS_TCP_CONNECT_CB {
        record_origin(&ctx);
    }
    1
}

#[inline(always)]
fn record_origin(ctx: &SockOpsContext) {
    // SAFETY: the context is valid while the program runs; the verifier knows `sk`.
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    // SAFETY: `sk` is the context's socket, locked by the kernel's `tcp_connect`.
    let Some(record) = (unsafe { maps::socket(sk.cast()) }) else {
        return;
    };
    if record.listener == NO_LISTENER {
        return;
    }
    let port = ctx.local_port() as u16;
    // Both are read before the choice, or the compiler makes one load at a computed place of the two.
    // SAFETY: the context is valid while the program runs; it has both fields for both families.
    let (v4, v6) = unsafe {
        (
            (&raw const (*ctx.ops).local_ip4).read_volatile(),
            words((&raw const (*ctx.ops).local_ip6).cast()),
        )
    };
    let source = if ctx.family() == AF_INET {
        Endpoint::v4(v4, port)
    } else {
        Endpoint::v6(v6, port)
    };
    let key = OriginKey {
        netns: netns(ctx),
        source,
        datagram: 0,
    };
    record.connected = now();
    if ORIGINS.insert(key, *record, 0).is_err() {
        // The daemon won't find it, and closes the connection.
        warn!(ctx, "an origin could not be recorded");
    }
}

/// Seconds of the monotonic clock.
#[inline(always)]
pub(super) fn now() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_ktime_get_ns() } / NANOS) as u32
}
