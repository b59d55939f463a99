//! What leaves an agent's own network namespace, as it arrives at the host's end of the veth, whoever
//! sent it: a packet socket, a TUN device, a socket of somebody else's.
//!
//! Nothing passes that is for a protected endpoint. Where egress is governed, nothing else does but what
//! a policy of those who live in the namespace permits, and what finds the neighbours on the link.

use aya_ebpf::{
    macros::classifier,
    programs::{TcContext, sk_buff::SkBuff},
};
use aya_log_ebpf::debug;

use super::packet::{HOP_BY_HOP, ICMPV6, IPV4, IPV6, Ipv6, Packet, V6_HEADER};
use super::policy;
use crate::maps;

/// `TC_ACT_UNSPEC` and `TCX_NEXT`: the next program is asked.
const TC_NEXT: i32 = -1;
/// `TC_ACT_SHOT` and `TCX_DROP`.
const TC_DROP: i32 = 2;

const ETHERNET_HEADER: usize = 14;

const ARP: u32 = 0x0806_u16.to_be() as u32;
/// What another header lies under, in which there may be IP again. (The kernel has taken the
/// outermost VLAN tag off.)
const VLAN: u32 = 0x8100_u16.to_be() as u32;
const PROVIDER_VLAN: u32 = 0x88a8_u16.to_be() as u32;
const PPPOE: u32 = 0x8864_u16.to_be() as u32;
const MPLS: u32 = 0x8847_u16.to_be() as u32;
const MPLS_MULTICAST: u32 = 0x8848_u16.to_be() as u32;

#[classifier]
pub(crate) fn perimeter(ctx: TcContext) -> i32 {
    let packet = Packet::<true> {
        skb: &ctx.skb,
        start: ETHERNET_HEADER,
    };
    let dropped = match ctx.skb.protocol() {
        IPV4 | IPV6 => is_dropped(&packet),
        VLAN | PROVIDER_VLAN | PPPOE | MPLS | MPLS_MULTICAST => true,
        ARP => false,
        // Nobody routes it, but whoever is on the same bridge could have use for it.
        _ => !policy::is_open(&maps::outlet(packet.device())),
    };
    if dropped {
        debug!(&ctx, "dropped a packet from an agent's namespace");
        return TC_DROP;
    }
    TC_NEXT
}

#[inline(always)]
fn is_dropped(packet: &Packet<'_, true>) -> bool {
    let target = packet.target();
    if packet.is_dropped(&target) {
        return true;
    }
    let Some(endpoint) = target.endpoint() else {
        return true;
    };
    !policy::lets_out(&maps::outlet(packet.device()), &endpoint) && !is_neighbourly(packet.skb)
}

/// Whether a packet is what IPv6 needs for an address to work, and nobody leads it further than the
/// link: questions for routers and neighbours and answers to these (RFC 4861), and reports of groups
/// (RFC 2710, RFC 3810).
#[inline(always)]
fn is_neighbourly(skb: &SkBuff) -> bool {
    if skb.protocol() != IPV6 {
        return false;
    }
    let Ok(header) = skb.load::<Ipv6>(ETHERNET_HEADER) else {
        return false;
    };
    if !is_link_local(header.destination[0].to_ne_bytes()) {
        return false;
    }
    if header.next == ICMPV6 {
        let [kind, _] = header.ports[0].to_ne_bytes();
        return matches!(kind, 133 | 135 | 136);
    }
    // A report has the header that tells routers to look at it, of eight bytes.
    const OPTIONS: usize = ETHERNET_HEADER + V6_HEADER;
    header.next == HOP_BY_HOP
        && skb.load::<[u8; 9]>(OPTIONS).is_ok_and(|bytes| {
            bytes[0] == ICMPV6 && bytes[1] == 0 && matches!(bytes[8], 131 | 132 | 143)
        })
}

/// Whether an address, of which these are the first bytes, is in fe80::/10 or ff02::/16.
#[inline(always)]
fn is_link_local(first: [u8; 4]) -> bool {
    (first[0] == 0xfe && first[1] & 0xc0 == 0x80) || (first[0] == 0xff && first[1] == 0x02)
}
