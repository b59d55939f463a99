//! Connects and datagrams: where they really go, and whether Weir is to be there instead.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::{debug, warn};
use gateway_ebpf::{DNS_PORT, Endpoint, LOOPBACK_V4, LOOPBACK_V6, NO_LISTENER, Socket};

use super::{
    ALLOW, DENY, IPPROTO_TCP, IPPROTO_UDP, bound, listener, named4, named6, names, netns, policy,
    protected, write_ip4, write_ip6, write_port,
};
use crate::maps::{self, HOST};

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    carry_out4(&ctx, rule(&ctx, named4(&ctx)))
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    carry_out6(&ctx, rule(&ctx, named6(&ctx)))
}

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    carry_out4(&ctx, datagram(&ctx, named4(&ctx)))
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    carry_out6(&ctx, datagram(&ctx, named6(&ctx)))
}

#[inline(always)]
fn carry_out4(ctx: &SockAddrContext, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Redirect { port, .. } => {
            write_ip4(ctx, LOOPBACK_V4);
            write_port(ctx, port);
            ALLOW
        }
        Verdict::Pass => ALLOW,
        Verdict::Deny => DENY,
    }
}

#[inline(always)]
fn carry_out6(ctx: &SockAddrContext, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Redirect { port, v4 } => {
            let loopback = Endpoint::v4(LOOPBACK_V4, 0).address;
            write_ip6(ctx, if v4 { loopback } else { LOOPBACK_V6 });
            write_port(ctx, port);
            ALLOW
        }
        Verdict::Pass => ALLOW,
        Verdict::Deny => DENY,
    }
}

/// What happens to a datagram from a socket that isn't connected: none goes to a protected endpoint,
/// nor to one that its agent may not reach, and a question may go to Weir.
#[inline(always)]
fn datagram(ctx: &SockAddrContext, named: Endpoint) -> Verdict {
    // SAFETY: the context is valid while the program runs, and the verifier knows its fields.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk };
    if sk.is_null() {
        return Verdict::Deny;
    }
    // SAFETY: `sk` is the context's socket.
    let bound = unsafe { bound(sk) };
    let netns = netns(ctx);
    let Some(destination) = named.resolve(&bound) else {
        return Verdict::Deny;
    };
    if protected(destination, netns).is_some() {
        debug!(ctx, "denied a datagram to a protected endpoint");
        return Verdict::Deny;
    }
    // SAFETY: `sk` is the context's socket.
    let record = unsafe { maps::socket(sk.cast()) };
    let listener = listener(netns);
    if is_listener(&destination, listener) {
        // What an IPv6 socket that is connected to a v4-mapped address sends comes by here again.
        let is_led_there = record.is_some_and(|record| record.listener == listener);
        return if is_led_there {
            Verdict::Pass
        } else {
            Verdict::Deny
        };
    }
    if is_question(&record, netns, &destination) {
        return redirect(ctx, record, destination, listener);
    }
    if is_permitted(record, netns, &destination) {
        return Verdict::Pass;
    }
    debug!(ctx, "denied a datagram by egress policy");
    Verdict::Deny
}

/// Whether this is Weir's own listener in the socket's namespace.
#[inline(always)]
fn is_listener(destination: &Endpoint, listener: u32) -> bool {
    listener != NO_LISTENER && destination.is_loopback() && listener == destination.port
}

/// Whether Weir answers what a socket sends there.
#[inline(always)]
fn is_question(record: &Option<&mut Socket>, netns: u64, destination: &Endpoint) -> bool {
    record
        .as_ref()
        .is_some_and(|record| names::is_question(record.cgroup, netns, destination))
}

/// Whether a socket may send to a destination that isn't protected, by its agent's egress policy. One
/// without a record (made by the kernel, as MPTCP's are, or before Weir) is judged by its packets.
#[inline(always)]
fn is_permitted(record: Option<&mut Socket>, netns: u64, destination: &Endpoint) -> bool {
    record.is_none_or(|record| policy::permits(record.cgroup, netns == HOST.load(), destination))
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
    let netns = netns(ctx);
    let listener = listener(netns);
    if is_listener(&destination, listener) {
        warn!(ctx, "denied a connect to Weir's own listener");
        return Verdict::Deny;
    }
    let led_to = if let Some(database) = protected(destination, netns) {
        Some(database)
    } else if is_learned(ctx, &record, destination) || is_question(&record, netns, &destination) {
        Some(destination)
    } else {
        None
    };
    if let Some(endpoint) = led_to {
        return redirect(ctx, record, endpoint, listener);
    }
    if is_permitted(record, netns, &destination) {
        return Verdict::Pass;
    }
    debug!(ctx, "denied a connect by egress policy");
    Verdict::Deny
}

/// Whether a socket's cgroup has tried a database there: by TCP, which says nothing of other protocols.
#[inline(always)]
fn is_learned(ctx: &SockAddrContext, record: &Option<&mut Socket>, destination: Endpoint) -> bool {
    // SAFETY: as in the hooks.
    let protocol = unsafe { (*ctx.sock_addr).protocol };
    let cgroup = record.as_ref().map_or(0, |record| record.cgroup);
    protocol == IPPROTO_TCP && maps::is_learned(cgroup, destination)
}

/// Sends a connect to a protected endpoint, or a question, to the namespace's listener, or denies it.
#[inline(always)]
fn redirect(
    ctx: &SockAddrContext,
    record: Option<&mut Socket>,
    destination: Endpoint,
    listener: u32,
) -> Verdict {
    // SAFETY: as in the hooks.
    let protocol = unsafe { (*ctx.sock_addr).protocol };
    let is_question = protocol == IPPROTO_UDP && destination.port == DNS_PORT;
    if protocol != IPPROTO_TCP && !is_question {
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

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(destination) = redirected_from(ctx.sock_addr) {
        write_ip4(&ctx, destination.address[3]);
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

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    if let Some(asked) = answered_for(&ctx, named4(&ctx)) {
        write_ip4(&ctx, asked.address[3]);
        write_port(&ctx, asked.port as u16);
    }
    ALLOW
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    if let Some(asked) = answered_for(&ctx, named6(&ctx)) {
        write_ip6(&ctx, asked.address);
        write_port(&ctx, asked.port as u16);
    }
    ALLOW
}

/// Whom a datagram's receiver had asked, if the datagram is Weir's answer.
#[inline(always)]
fn answered_for(ctx: &SockAddrContext, source: Endpoint) -> Option<Endpoint> {
    // SAFETY: as in the other hooks.
    let record = unsafe { maps::socket((*ctx.sock_addr).__bindgen_anon_1.sk.cast()) }?;
    is_listener(&source, record.listener).then_some(record.destination)
}

/// Where the client of a redirected socket wanted to go.
#[inline(always)]
fn redirected_from(ctx: *mut bpf_sock_addr) -> Option<Endpoint> {
    // SAFETY: as in the other hooks.
    let record = unsafe { maps::socket((*ctx).__bindgen_anon_1.sk.cast()) }?;
    (record.listener != NO_LISTENER).then_some(record.destination)
}
