//! The programs, by what they look at: sockets as they are made and set up, connects and datagrams,
//! packets, unix sockets, tasks.
//!
//! A cgroup program's 1 lets the call pass, its 0 fails it with EPERM. What a program decides hangs
//! on the socket, never on the task that happens to run; what it doesn't know, it denies.

mod connect;
mod detect;
mod names;
mod origin;
mod packet;
mod perimeter;
mod policy;
mod socket;
mod task;
mod unix;

use core::hint::black_box;

use aya_ebpf::{
    EbpfContext, bindings::bpf_sock, helpers::generated::bpf_get_netns_cookie,
    programs::SockAddrContext,
};
use gateway_ebpf::{Bound, Endpoint, NO_LISTENER};

use crate::maps::{self, LISTENERS};

const ALLOW: i32 = 1;
const DENY: i32 = 0;

const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;

/// The cookie of the network namespace of the context's socket.
#[inline(always)]
fn netns<C: EbpfContext>(ctx: &C) -> u64 {
    // SAFETY: the context is a socket's, or has one, in all hooks that call this.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// The port of the listener in a namespace, or [`NO_LISTENER`]. (Not an `Option`: the compiler
/// copies its undefined half, which the verifier refuses.)
#[inline(always)]
fn listener(netns: u64) -> u32 {
    // SAFETY: the value is copied at once. The daemon replaces values whole, and a port read while
    // its namespace goes can only be refused.
    unsafe { LISTENERS.get(netns) }.map_or(NO_LISTENER, |port| *port)
}

/// The protected endpoint that a socket in `netns` would reach at `destination`.
#[inline(always)]
fn protected(destination: Endpoint, netns: u64) -> Option<Endpoint> {
    if maps::endpoint_scope(&destination).covers(netns) {
        return Some(destination);
    }
    let loopback = destination.canonical_loopback()?;
    maps::endpoint_scope(&loopback)
        .covers(netns)
        .then_some(loopback)
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

/// What a client named, of an IPv4 hook.
#[inline(always)]
fn named4(ctx: &SockAddrContext) -> Endpoint {
    // SAFETY: the context is valid while the program runs, and the verifier knows its fields.
    let address = unsafe { (&raw const (*ctx.sock_addr).user_ip4).read_volatile() };
    Endpoint::v4(address, port(ctx))
}

/// What a client named, of an IPv6 hook.
#[inline(always)]
fn named6(ctx: &SockAddrContext) -> Endpoint {
    // SAFETY: as above.
    let address = unsafe { words((&raw const (*ctx.sock_addr).user_ip6).cast()) };
    Endpoint::v6(address, port(ctx))
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

#[inline(always)]
fn write_ip4(ctx: &SockAddrContext, address: u32) {
    // SAFETY: as in the hooks; the field may be written.
    unsafe { (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(address) };
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

/// A number of which the verifier knows nothing any more: ways to here that differ in nothing else are
/// one to it from here on. (Of what is on the stack, it follows only what begins at a multiple of eight
/// bytes: `check_stack_write_fixed_off` of the kernel's `verifier.c`.)
#[inline(always)]
fn forgotten(number: u32) -> u32 {
    let mut place = 0_u64;
    // SAFETY: within the eight bytes.
    unsafe {
        let half = black_box(&raw mut place).cast::<u32>().add(1);
        half.write_volatile(number);
        half.read_volatile()
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
