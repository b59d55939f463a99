//! The programs, in the order in which a connection meets them: socket, connect, SYN, getpeername.
//!
//! A cgroup program's 1 lets the call pass, its 0 fails it with EPERM. What a program decides hangs
//! on the socket, never on the task that happens to run; what it doesn't know, it denies.

use aya_ebpf::{
    EbpfContext,
    bindings::{BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock, bpf_sock_addr},
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::{
            bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie,
        },
    },
    macros::{cgroup_sock, cgroup_sock_addr, raw_tracepoint, sock_ops},
    programs::{RawTracePointContext, SockAddrContext, SockContext, SockOpsContext},
};
use aya_log_ebpf::{debug, warn};
use gateway_ebpf::{Bound, Endpoint, LOOPBACK_V4, LOOPBACK_V6, NO_LISTENER, OriginKey, Socket};

use crate::maps::{self, ENDPOINTS, LISTENERS, ORIGINS, SLICE};

const ALLOW: i32 = 1;
const DENY: i32 = 0;

const AF_INET: u32 = 2;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const IPPROTO_MPTCP: u32 = 262;

/// How deep below the root the slice may be.
const MAX_SLICE_LEVEL: i32 = 16;

/// Only TCP, MPTCP and UDP: nothing else passes through the connect hooks.
#[cgroup_sock(sock_create)]
pub(crate) fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the context is valid while the program runs, and the verifier knows its fields.
    let (kind, protocol) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP | IPPROTO_MPTCP) => {}
        (SOCK_DGRAM, IPPROTO_UDP) => return ALLOW,
        _ => {
            warn!(
                &ctx,
                "denied a socket of type {} and protocol {}", kind, protocol
            );
            return DENY;
        }
    }
    let record = Socket {
        // SAFETY: a helper without arguments. A new socket belongs to the cgroup of its maker.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        destination: Endpoint::v4(0, 0),
        listener: NO_LISTENER,
        pid: 0,
        uid: 0,
        comm: [0; 16],
    };
    // SAFETY: this hook's context is the socket.
    unsafe { maps::begin_socket(ctx.as_ptr(), record) };
    if listener(&ctx) == NO_LISTENER {
        maps::report_namespace();
    }
    ALLOW
}

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is valid while the program runs, and the verifier knows its fields.
    let address = unsafe { (&raw const (*ctx.sock_addr).user_ip4).read_volatile() };
    let named = Endpoint::v4(address, port(&ctx));
    match rule(&ctx, named) {
        Verdict::Redirect { port, .. } => {
            // SAFETY: as above; both fields may be written by this hook.
            unsafe { (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(LOOPBACK_V4) };
            write_port(&ctx, port);
            ALLOW
        }
        Verdict::Pass => ALLOW,
        Verdict::Deny => DENY,
    }
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: as in `connect4`.
    let address = unsafe { words((&raw const (*ctx.sock_addr).user_ip6).cast()) };
    let named = Endpoint::v6(address, port(&ctx));
    match rule(&ctx, named) {
        Verdict::Redirect { port, v4 } => {
            let loopback = Endpoint::v4(LOOPBACK_V4, 0).address;
            write_ip6(&ctx, if v4 { loopback } else { LOOPBACK_V6 });
            write_port(&ctx, port);
            ALLOW
        }
        Verdict::Pass => ALLOW,
        Verdict::Deny => DENY,
    }
}

enum Verdict {
    Pass,
    Deny,
    /// To the listener at this port, at IPv4's or IPv6's loopback.
    Redirect {
        port: u16,
        v4: bool,
    },
}

/// What happens to a connect to `named`.
#[inline(always)]
fn rule(ctx: &SockAddrContext, named: Endpoint) -> Verdict {
    // SAFETY: as in the hooks; the verifier knows that `sk` is this context's socket.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return Verdict::Deny;
    }
    // SAFETY: `sk` is the context's socket. `connect` holds its lock while this runs.
    let mut record = unsafe { maps::socket(sk.cast()) };
    if let Some(record) = &mut record {
        // A socket can connect again, to somewhere else (AF_UNSPEC in between).
        record.listener = NO_LISTENER;
    }
    // SAFETY: as above.
    let bound = unsafe { bound(sk) };
    let Some(destination) = named.resolve(&bound) else {
        warn!(
            ctx,
            "denied a connect to the wildcard address from a bound socket"
        );
        return Verdict::Deny;
    };
    let listener = listener(ctx);
    if listener != NO_LISTENER && destination.is_loopback() && listener == destination.port {
        warn!(ctx, "denied a connect to Weir's own listener");
        return Verdict::Deny;
    }
    let Some(destination) = protected(destination) else {
        return Verdict::Pass;
    };
    redirect(ctx, record, destination, listener)
}

/// What a socket is bound to.
///
/// # Safety
/// `sk` is the socket pointer of the running program's context.
#[inline(always)]
unsafe fn bound(sk: *const bpf_sock) -> Bound {
    // SAFETY: the verifier knows the socket's fields.
    unsafe {
        Bound {
            v4: (*sk).src_ip4,
            v6: [
                (*sk).src_ip6[0],
                (*sk).src_ip6[1],
                (*sk).src_ip6[2],
                (*sk).src_ip6[3],
            ],
            device: (*sk).bound_dev_if,
        }
    }
}

/// Sends a connect to a protected endpoint to the namespace's listener, or denies it.
#[inline(always)]
fn redirect(
    ctx: &SockAddrContext,
    record: Option<&mut Socket>,
    destination: Endpoint,
    listener: u32,
) -> Verdict {
    // SAFETY: as in the hooks.
    let protocol = unsafe { (*ctx.sock_addr).protocol };
    if protocol != IPPROTO_TCP {
        // Resolvers connect UDP sockets only to learn their source address, and take a no.
        debug!(ctx, "denied protocol {} to a protected endpoint", protocol);
        return Verdict::Deny;
    }
    // Without a record: sockets that are older than the pins, and MPTCP's subflows, which the kernel
    // makes itself.
    let Some(record) = record else {
        warn!(
            ctx,
            "denied a socket of unknown origin to a protected endpoint"
        );
        return Verdict::Deny;
    };
    if listener == NO_LISTENER {
        maps::report_namespace();
        debug!(
            ctx,
            "denied a connect from a namespace without a listener yet"
        );
        return Verdict::Deny;
    }
    record.destination = destination;
    record.pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    record.uid = bpf_get_current_uid_gid() as u32;
    record.comm = bpf_get_current_comm().unwrap_or_default();
    record.listener = listener;
    Verdict::Redirect {
        port: listener as u16,
        v4: destination.is_v4(),
    }
}

/// The protected endpoint that a connect to `destination` would reach.
#[inline(always)]
fn protected(destination: Endpoint) -> Option<Endpoint> {
    // SAFETY: only presence counts; nothing is read through the reference.
    if unsafe { ENDPOINTS.get(destination) }.is_some() {
        return Some(destination);
    }
    let loopback = destination.canonical_loopback()?;
    // SAFETY: as above.
    unsafe { ENDPOINTS.get(loopback) }.map(|_| loopback)
}

/// The port of the listener in the namespace of the context's socket, or [`NO_LISTENER`]. (Not an
/// `Option`: the compiler copies its undefined half, which the verifier refuses.)
#[inline(always)]
fn listener<C: EbpfContext>(ctx: &C) -> u32 {
    // SAFETY: the context is a socket's, or has one, in all hooks that call this.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: the value is copied at once. The daemon replaces values whole, and a port read while
    // its namespace goes can only be refused.
    unsafe { LISTENERS.get(netns) }.map_or(NO_LISTENER, |port| *port)
}

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
        // SAFETY: this hook's context has a socket.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        source,
        reserved: 0,
    };
    if ORIGINS.insert(key, *record, 0).is_err() {
        // The daemon won't find it, and closes the connection.
        warn!(ctx, "an origin could not be recorded");
    }
}

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(destination) = redirected_from(ctx.sock_addr) {
        let address = destination.address[3];
        // SAFETY: as in `connect4`.
        unsafe { (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(address) };
        write_port(&ctx, destination.port as u16);
    }
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(destination) = redirected_from(ctx.sock_addr) {
        write_ip6(&ctx, destination.address);
        write_port(&ctx, destination.port as u16);
    }
    ALLOW
}

/// Where the client of a redirected socket wanted to go.
#[inline(always)]
fn redirected_from(ctx: *mut bpf_sock_addr) -> Option<Endpoint> {
    // SAFETY: as in the other hooks.
    let record = unsafe { maps::socket((*ctx).__bindgen_anon_1.sk.cast()) }?;
    (record.listener != NO_LISTENER).then_some(record.destination)
}

/// An agent's program starts: the daemon gets the time until its first connect to open a listener.
#[raw_tracepoint]
pub(crate) fn sched_process_exec(_: RawTracePointContext) -> i32 {
    let slice = SLICE.load();
    for level in 1..MAX_SLICE_LEVEL {
        // SAFETY: a helper without pointers; it gives 0 for a level that doesn't exist.
        let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if ancestor == slice {
            maps::report_namespace();
            break;
        }
        if ancestor == 0 {
            break;
        }
    }
    0
}

/// The port that a client named, in host byte order.
#[inline(always)]
fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: as in the hooks.
    let port = unsafe { (&raw const (*ctx.sock_addr).user_port).read_volatile() };
    u16::from_be(port as u16)
}

#[inline(always)]
fn write_port(ctx: &SockAddrContext, port: u16) {
    let port = u32::from(port.to_be());
    // SAFETY: as in the hooks; the field may be written.
    unsafe { (&raw mut (*ctx.sock_addr).user_port).write_volatile(port) };
}

/// An address of a context, word by word: the verifier takes no wider access, and none at a computed
/// place.
///
/// # Safety
/// `address` is that of an address field of the running program's context.
#[inline(always)]
unsafe fn words(address: *const u32) -> [u32; 4] {
    // SAFETY: the field has four words.
    unsafe {
        [
            address.read_volatile(),
            address.add(1).read_volatile(),
            address.add(2).read_volatile(),
            address.add(3).read_volatile(),
        ]
    }
}

#[inline(always)]
fn write_ip6(ctx: &SockAddrContext, address: [u32; 4]) {
    // SAFETY: as in the hooks; the words may be written.
    unsafe {
        let words = (&raw mut (*ctx.sock_addr).user_ip6).cast::<u32>();
        words.write_volatile(address[0]);
        words.add(1).write_volatile(address[1]);
        words.add(2).write_volatile(address[2]);
        words.add(3).write_volatile(address[3]);
    }
}
