//! Sockets: which may be made, where they may be bound, which options they may have.

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
        generated::bpf_get_current_cgroup_id,
    },
    macros::{cgroup_sock, cgroup_sockopt},
    programs::{SockContext, SockoptContext},
};
use aya_log_ebpf::warn;
use gateway_ebpf::{Endpoint, NO_LISTENER, Socket};

use super::{ALLOW, DENY, IPPROTO_TCP, IPPROTO_UDP, listener, netns, policy};
use crate::maps::{self, HOST};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_MPTCP: u32 = 262;

const SOL_IP: i32 = 0;
const SOL_IPV6: i32 = 41;
/// Source routes are one of these options (RFC 791).
const IP_OPTIONS: i32 = 4;
/// RFC 3542's routing header.
const IPV6_RTHDR: i32 = 57;
/// RFC 2292's way to set all headers at once, a routing header among them.
const IPV6_2292PKTOPTIONS: i32 = 6;
/// RFC 2292's routing header.
const IPV6_2292RTHDR: i32 = 5;

/// The most of an option's value that the kernel shows to a program (`sockopt_alloc_buf`).
const SHOWN: i32 = 4096;

/// Only TCP, MPTCP and UDP: nothing else passes through the connect hooks.
#[cgroup_sock(sock_create)]
pub(crate) fn sock_create(ctx: SockContext) -> i32 {
    // SAFETY: the context is valid while the program runs, and the verifier knows its fields.
    let (kind, protocol) = unsafe { ((*ctx.sock).type_, (*ctx.sock).protocol) };
    match (kind, protocol) {
        (SOCK_STREAM, IPPROTO_TCP | IPPROTO_MPTCP) | (SOCK_DGRAM, IPPROTO_UDP) => {}
        _ => {
            warn!(
                &ctx,
                "denied a socket of type {} and protocol {}", kind, protocol
            );
            return DENY;
        }
    }
    let netns = netns(&ctx);
    // SAFETY: a helper without arguments. A new socket belongs to the cgroup of its maker.
    let cgroup = unsafe { bpf_get_current_cgroup_id() };
    policy::meet(cgroup);
    let record = Socket {
        cgroup,
        destination: Endpoint::v4(0, 0),
        listener: NO_LISTENER,
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        uid: bpf_get_current_uid_gid() as u32,
        comm: bpf_get_current_comm().unwrap_or_default(),
        on_host: u32::from(netns == HOST.load()),
        connected: 0,
        netns,
    };
    // SAFETY: this hook's context is the socket.
    unsafe { maps::begin_socket(ctx.as_ptr(), record) };
    if listener(netns) == NO_LISTENER {
        maps::report_namespace();
    }
    ALLOW
}

#[cgroup_sock(post_bind4)]
pub(crate) fn post_bind4(ctx: SockContext) -> i32 {
    bound_beside_listener(&ctx)
}

#[cgroup_sock(post_bind6)]
pub(crate) fn post_bind6(ctx: SockContext) -> i32 {
    bound_beside_listener(&ctx)
}

/// Nobody takes the listener's port: while the daemon is dead, connects still go there. Asked after
/// the bind, when a port that the kernel chose is known too.
#[inline(always)]
fn bound_beside_listener(ctx: &SockContext) -> i32 {
    // SAFETY: as in `sock_create`; the port is in host byte order.
    let (protocol, port) = unsafe { ((*ctx.sock).protocol, (*ctx.sock).src_port) };
    if matches!(protocol, IPPROTO_TCP | IPPROTO_UDP) && port == listener(netns(ctx)) {
        warn!(ctx, "denied a bind to the port of Weir's listener");
        return DENY;
    }
    ALLOW
}

/// Source routing: the address that a connect names is then not the one that packets end at.
#[cgroup_sockopt(setsockopt)]
pub(crate) fn setsockopt(ctx: SockoptContext) -> i32 {
    // SAFETY: the context is valid while the program runs, and the verifier knows its fields.
    let (level, option, length) = unsafe {
        (
            (*ctx.sockopt).level,
            (*ctx.sockopt).optname,
            (*ctx.sockopt).optlen,
        )
    };
    match (level, option) {
        (SOL_IP, IP_OPTIONS) | (SOL_IPV6, IPV6_RTHDR | IPV6_2292PKTOPTIONS | IPV6_2292RTHDR) => {
            warn!(
                &ctx,
                "denied the socket option {} of level {}", option, level
            );
            return DENY;
        }
        _ => {}
    }
    if length > SHOWN {
        // Otherwise the kernel takes the part that was shown for the whole, and fails the call.
        // SAFETY: as above; the field may be written.
        unsafe { (&raw mut (*ctx.sockopt).optlen).write_volatile(0) };
    }
    ALLOW
}
