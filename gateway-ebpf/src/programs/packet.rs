//! Packets, by the address that is on the wire: whatever made them, and whatever was rewritten on
//! the way.
//!
//! `egress` sees what sockets of the slice send, after the rules of their own network namespace; what
//! leaves that is seen once more by the perimeter. A packet whose destination or port can't be read,
//! and is for a host with a protected endpoint, is dropped.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::bpf_skb_cgroup_id,
    macros::cgroup_skb,
    programs::{SkBuffContext, sk_buff::SkBuff},
};
use aya_log_ebpf::debug;
use gateway_ebpf::{Address, Endpoint, NO_LISTENER, Socket};

use super::{ALLOW, DENY, detect, names, policy};
use crate::maps::{self, Scope};

/// `ETH_P_*` as a context has them, in network byte order.
pub(super) const IPV4: u32 = 0x0800_u16.to_be() as u32;
pub(super) const IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// The loopback device's index, in every network namespace (`LOOPBACK_IFINDEX`).
pub(super) const LOOPBACK_DEVICE: u32 = 1;

const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const ICMPV6: u8 = 58;

pub(super) const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION_OPTIONS: u8 = 60;

/// More extension headers than anybody has use for.
const MAX_HEADERS: usize = 8;

/// An IPv4 header without options, and the first bytes of what it carries.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Ipv4 {
    /// Version and length in words.
    pub(super) length: u8,
    service: u8,
    total: u16,
    id: u16,
    pub(super) fragment: u16,
    lifetime: u8,
    pub(super) protocol: u8,
    checksum: u16,
    source: u32,
    pub(super) destination: u32,
    /// Source and destination, if there is neither an option nor an offset.
    pub(super) ports: [u16; 2],
}

/// An IPv6 header, and the first bytes of what it carries.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Ipv6 {
    flow: u32,
    payload: u16,
    pub(super) next: u8,
    hops: u8,
    source: [u32; 4],
    pub(super) destination: [u32; 4],
    /// Source and destination, if there is no extension header.
    pub(super) ports: [u16; 2],
}

pub(super) const V4_HEADER: usize = 20;
pub(super) const V6_HEADER: usize = 40;

#[cgroup_skb(egress)]
pub(crate) fn egress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the hook's own packet.
    if unsafe { detect::is_settled(skb) } {
        return ALLOW;
    }
    // Before all that it stands for is looked up: what changes meanwhile is asked again then.
    let generation = maps::generation();
    let packet = Packet::<false> {
        skb: &ctx.skb,
        start: 0,
    };
    let target = packet.target();
    if packet.is_dropped(&target) {
        debug!(&ctx, "dropped a packet to a protected endpoint");
        return DENY;
    }
    packet.note(&target);
    if let Target::Port {
        endpoint,
        protocol: TCP,
        transport,
    } = target
    {
        // SAFETY: the hook's own packet, of TCP.
        return unsafe { detect::sent(&ctx.skb, transport, endpoint, generation) };
    }
    ALLOW
}

/// A packet with its IP header at `start`; at the perimeter, or as its socket sends it.
pub(super) struct Packet<'a, const PERIMETER: bool> {
    pub(super) skb: &'a SkBuff,
    pub(super) start: usize,
}

/// Where a packet goes, as far as it says so.
pub(super) enum Target {
    /// Nobody can tell.
    Unknown,
    /// To the kernel of the host with this endpoint's address.
    Kernel(Endpoint),
    /// To something at this endpoint's address.
    Host(Endpoint),
    /// There, with a protocol that has ports, whose header is at `transport`.
    Port {
        endpoint: Endpoint,
        protocol: u8,
        transport: usize,
    },
}

impl Target {
    /// The destination, without a port where there is none or it can't be read; `None` if nobody can
    /// tell.
    #[inline(always)]
    pub(super) fn endpoint(&self) -> Option<Endpoint> {
        match *self {
            Self::Unknown => None,
            Self::Kernel(endpoint) | Self::Host(endpoint) | Self::Port { endpoint, .. } => {
                Some(endpoint)
            }
        }
    }
}

impl<const PERIMETER: bool> Packet<'_, PERIMETER> {
    #[inline(always)]
    pub(super) fn target(&self) -> Target {
        match self.skb.protocol() {
            IPV4 => self.target_v4(),
            IPV6 => self.target_v6(),
            // Neither hook asks for anything else.
            _ => Target::Unknown,
        }
    }

    #[inline(always)]
    fn target_v4(&self) -> Target {
        if let Ok(header) = self.skb.load::<Ipv4>(self.start) {
            let whole = header.length & 0xf == 5 && fragment_offset(header.fragment) == 0;
            if whole && has_ports(header.protocol) {
                let port = u16::from_be(header.ports[1]);
                return Target::Port {
                    endpoint: Endpoint::v4(header.destination, port),
                    protocol: header.protocol,
                    transport: self.start + V4_HEADER,
                };
            }
        }
        self.unusual_v4()
    }

    /// With options, a fragment, without ports, or too short for them.
    #[inline(always)]
    fn unusual_v4(&self) -> Target {
        let Ok(header) = self.skb.load::<[u8; V4_HEADER]>(self.start) else {
            return Target::Unknown;
        };
        let length = usize::from(header[0] & 0xf) * 4;
        let is_multicast = header[16] & 0xf0 == 0xe0;
        // A source route is an option, and then the address isn't where the packet ends. Only
        // multicast's own protocols have use for options.
        if length < V4_HEADER || (length > V4_HEADER && !is_multicast) {
            return Target::Unknown;
        }
        let protocol = header[9];
        let destination = u32::from_ne_bytes([header[16], header[17], header[18], header[19]]);
        let whole = fragment_offset(u16::from_ne_bytes([header[6], header[7]])) == 0;
        if whole && protocol == ICMP {
            return Target::Kernel(Endpoint::v4(destination, 0));
        }
        if whole
            && has_ports(protocol)
            && let Ok(port) = self.skb.load::<u16>(self.start + length + 2)
        {
            return Target::Port {
                endpoint: Endpoint::v4(destination, u16::from_be(port)),
                protocol,
                transport: self.start + length,
            };
        }
        Target::Host(Endpoint::v4(destination, 0))
    }

    #[inline(always)]
    fn target_v6(&self) -> Target {
        if let Ok(header) = self.skb.load::<Ipv6>(self.start)
            && has_ports(header.next)
        {
            let port = u16::from_be(header.ports[1]);
            return Target::Port {
                endpoint: Endpoint::v6(header.destination, port),
                protocol: header.next,
                transport: self.start + V6_HEADER,
            };
        }
        self.unusual_v6()
    }

    /// With extension headers, without ports, or too short for them.
    #[inline(always)]
    fn unusual_v6(&self) -> Target {
        let Ok(next) = self.skb.load::<u8>(self.start + 6) else {
            return Target::Unknown;
        };
        let Ok(address) = self.skb.load::<Address>(self.start + 24) else {
            return Target::Unknown;
        };
        let mut next = next;
        let mut place = self.start + V6_HEADER;
        for _ in 0..MAX_HEADERS {
            if next == ICMPV6 || next == NO_NEXT_HEADER {
                return Target::Kernel(Endpoint::v6(address, 0));
            }
            if has_ports(next) {
                let Ok(port) = self.skb.load::<u16>(place + 2) else {
                    break;
                };
                return Target::Port {
                    endpoint: Endpoint::v6(address, u16::from_be(port)),
                    protocol: next,
                    transport: place,
                };
            }
            let Ok(header) = self.skb.load::<[u8; 4]>(place) else {
                break;
            };
            let size = match next {
                HOP_BY_HOP | DESTINATION_OPTIONS => (usize::from(header[1]) + 1) * 8,
                // Where it goes in the end is in this header, as long as stations are left.
                ROUTING if header[3] != 0 => return Target::Unknown,
                ROUTING => (usize::from(header[1]) + 1) * 8,
                AUTHENTICATION => (usize::from(header[1]) + 2) * 4,
                FRAGMENT if u16::from_be_bytes([header[2], header[3]]) >> 3 == 0 => 8,
                // A later fragment, or what this doesn't know.
                _ => break,
            };
            next = header[0];
            place += size;
        }
        Target::Host(Endpoint::v6(address, 0))
    }

    #[inline(always)]
    pub(super) fn is_dropped(&self, target: &Target) -> bool {
        match *target {
            Target::Unknown => true,
            Target::Kernel(endpoint) => self.is_beyond(&endpoint),
            Target::Host(endpoint) => self.is_guarded_address(endpoint),
            Target::Port { endpoint, .. } => self.is_guarded(endpoint),
        }
    }

    /// Has Weir know who sent it a datagram.
    #[inline(always)]
    fn note(&self, target: &Target) {
        let Target::Port {
            endpoint, protocol, ..
        } = target
        else {
            return;
        };
        if !names::may_be_noted(*protocol, endpoint) {
            return;
        }
        if let Some(source) = self.source() {
            names::note(self.record(), source, endpoint);
        }
    }

    /// Where a packet without options or extension headers is from.
    #[inline(always)]
    fn source(&self) -> Option<Endpoint> {
        if self.skb.protocol() == IPV4 {
            let header = self.skb.load::<Ipv4>(self.start).ok()?;
            let port = u16::from_be(header.ports[0]);
            return (header.length & 0xf == 5).then_some(Endpoint::v4(header.source, port));
        }
        let header = self.skb.load::<Ipv6>(self.start).ok()?;
        let port = u16::from_be(header.ports[0]);
        has_ports(header.next).then_some(Endpoint::v6(header.source, port))
    }

    /// Whether the packet's sender has no way to an endpoint but Weir.
    #[inline(always)]
    fn is_guarded(&self, endpoint: Endpoint) -> bool {
        let scope = maps::endpoint_scope(&endpoint);
        if scope != Scope::NOBODY {
            return self.is_meant(scope);
        }
        // At an address that came up just now, say.
        let is_new = !PERIMETER
            && self.device() == LOOPBACK_DEVICE
            && maps::is_local_port(endpoint.port as u16)
            && self.is_from_host();
        is_new || self.is_beyond(&endpoint)
    }

    /// As `is_guarded`, for whichever port.
    #[inline(always)]
    fn is_guarded_address(&self, endpoint: Endpoint) -> bool {
        let endpoint = endpoint.canonical_loopback().unwrap_or(endpoint);
        let scope = maps::address_scope(&endpoint.address);
        scope != Scope::NOBODY && self.is_meant(scope) || self.is_beyond(&endpoint)
    }

    /// Whether the packet's socket may not send there by its agent's egress policy. (The perimeter
    /// sees no socket, and asks for the namespace.)
    #[inline(always)]
    fn is_beyond(&self, destination: &Endpoint) -> bool {
        if PERIMETER || maps::is_all_open() {
            return false;
        }
        // SAFETY: the hook's own packet.
        let cgroup = unsafe { bpf_skb_cgroup_id(self.skb.skb) };
        let record = self.record();
        // Without a record (made by the kernel, or before Weir), loopback may be the namespace's own.
        let on_host = record.as_ref().is_some_and(|record| {
            record.on_host != 0
                && (record.listener == NO_LISTENER || record.listener != destination.port)
        });
        !policy::permits(cgroup, on_host, destination)
    }

    #[inline(always)]
    fn is_meant(&self, scope: Scope) -> bool {
        scope.is_anywhere() || (!PERIMETER && self.is_from_host())
    }

    /// Whether the packet's socket is in the host's own namespace, as far as is known.
    #[inline(always)]
    fn is_from_host(&self) -> bool {
        self.record().is_none_or(|record| record.on_host != 0)
    }

    /// What is known of the packet's socket.
    #[inline(always)]
    fn record(&self) -> Option<&'static mut Socket> {
        let skb: *mut __sk_buff = self.skb.skb;
        // SAFETY: the context is valid while the program runs, and the verifier knows its fields.
        let sk = unsafe { (*skb).__bindgen_anon_2.sk };
        // SAFETY: `sk` is the context's socket.
        unsafe { maps::socket(sk.cast()) }
    }

    /// The index of the device that it leaves by, or at the perimeter, has arrived at.
    #[inline(always)]
    pub(super) fn device(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb.skb).ifindex }
    }
}

/// The offset in an IPv4 header's field, in units of eight bytes.
#[inline(always)]
pub(super) fn fragment_offset(field: u16) -> u16 {
    u16::from_be(field) & 0x1fff
}

/// TCP, UDP, DCCP, SCTP and UDP-Lite: the destination's port is their second 16 bits.
#[inline(always)]
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 17 | 33 | 132 | 136)
}
