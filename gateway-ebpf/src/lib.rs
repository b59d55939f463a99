//! What Weir's eBPF programs and its daemon both know: the layout of the maps, and when two ways of
//! writing an address mean the same endpoint.
//!
//! Everything is `repr(C)` without padding, so that a map key compares equal exactly when its fields
//! do. A change of any type here is a change of [`LAYOUT`].
#![no_std]

pub mod fingerprint;

use fingerprint::{Alpn, Prefix};

/// The version of the types below. It is part of the pins' path: a daemon never reads maps that
/// another layout wrote.
pub const LAYOUT: u32 = 4;

/// Protected endpoints at most; a full map refuses the next one rather than forgetting one.
pub const MAX_ENDPOINTS: usize = 4096;

/// A protected endpoint's value: it is one whichever namespace a socket is in.
pub const ANYWHERE: u8 = 1;

/// A protected endpoint's value: it is one for sockets in the host's own namespace. A loopback
/// address of a database on this host is, for everybody else, their own.
pub const ON_HOST: u8 = 2;

/// Words of a set of ports, a bit each.
pub const PORT_WORDS: usize = 65536 / 64;

/// Network namespaces with a listener at most; one more has no database until another one goes.
pub const MAX_NAMESPACES: usize = 4096;

/// Connections on their way from `connect` to `accept` at most. Beyond, the oldest is forgotten, and
/// its session closed.
pub const MAX_ORIGINS: usize = 65536;

/// Endpoints that were learned at most; one more is denied as before.
pub const MAX_LEARNED: usize = 4096;

/// Cgroups whose egress policy is known at most; one more sends nothing until another one goes.
pub const MAX_CGROUPS: usize = 65536;

/// Entries of all egress lists together at most.
pub const MAX_DESTINATIONS: usize = 16384;

/// Devices that lead out of agents' own network namespaces at most; nothing passes by one more.
pub const MAX_OUTLETS: usize = 2 * MAX_NAMESPACES;

/// Egress policies that count for one namespace at most; what only others permit doesn't leave it.
pub const MAX_SHARED: usize = 4;

/// What may leave a network namespace by a device: whatever one of these egress policies permits.
/// [`OPEN`] stands first; [`NOTHING`] is in the places that are left.
pub type Outlet = [u32; MAX_SHARED];

/// Where names are asked for.
pub const DNS_PORT: u32 = 53;

/// In the place of an egress policy: the daemon hasn't said yet whose this cgroup is.
pub const STRANGER: u32 = 0;

/// The egress policy of a cgroup that may send anything anywhere (but to a protected endpoint).
pub const OPEN: u32 = 1;

/// The egress policy of a cgroup that reaches its own loopback and Weir, and nothing else.
pub const NOTHING: u32 = 2;

/// The first of the egress policies that are lists.
pub const FIRST_LIST: u32 = 3;

/// In the place of a port in an egress list: all of them.
pub const ALL_PORTS: u32 = 0;

/// In the place of a listener's port: there is none, or the socket wasn't redirected to one.
pub const NO_LISTENER: u32 = 0;

/// `127.0.0.0/8`'s first octet.
const LOOPBACK_NET: u8 = 127;

/// The third word of a v4-mapped address: `0000:ffff` in network byte order.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// An address as [`Endpoint`] has it, without a port.
pub type Address = [u32; 4];

/// `127.0.0.1` in network byte order.
pub const LOOPBACK_V4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);

/// `::1` in network byte order.
pub const LOOPBACK_V6: [u32; 4] = [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])];

/// An address and port. IPv4 is always in its v4-mapped form, so that one endpoint has one key
/// whichever family a client's socket has. Scope ids aren't part of it: a link-local address counts
/// on every interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The IPv6 address, each word as it lies in memory in network byte order.
    pub address: [u32; 4],
    /// The port, in host byte order.
    pub port: u32,
}

impl Endpoint {
    /// The endpoint of an IPv4 address in network byte order and a port in host byte order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(address: u32, port: u16) -> Self {
        Self {
            address: [0, 0, MAPPED, address],
            port: port as u32,
        }
    }

    /// The endpoint of an IPv6 address (v4-mapped or not) in network byte order.
    #[inline(always)]
    #[must_use]
    pub const fn v6(address: [u32; 4], port: u16) -> Self {
        Self {
            address,
            port: port as u32,
        }
    }

    /// Whether the address is IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn is_v4(&self) -> bool {
        self.address[0] == 0 && self.address[1] == 0 && self.address[2] == MAPPED
    }

    /// Whether the address is in 127.0.0.0/8 or `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(&self) -> bool {
        if self.is_v4() {
            self.address[3].to_ne_bytes()[0] == LOOPBACK_NET
        } else {
            self.is_prefix_zero() && self.address[3] == LOOPBACK_V6[3]
        }
    }

    /// The same port at `127.0.0.1`, for an address of 127.0.0.0/8: a server that listens on the
    /// wildcard answers at all of them.
    #[inline(always)]
    #[must_use]
    pub const fn canonical_loopback(&self) -> Option<Self> {
        if self.is_v4() && self.is_loopback() {
            Some(Self {
                address: [0, 0, MAPPED, LOOPBACK_V4],
                port: self.port,
            })
        } else {
            None
        }
    }

    /// Where the kernel will really go from a socket bound as `bound` says, or `None` if that takes
    /// a routing decision that this can't foresee: such a connect has to be denied.
    ///
    /// The kernel replaces a wildcard destination: IPv6 by loopback (`tcp_v6_connect`), IPv4 by the
    /// socket's own source address, or the device's, or 127.0.0.1 (`ip_route_output_key_hash_rcu`).
    #[inline(always)]
    #[must_use]
    pub const fn resolve(self, bound: &Bound) -> Option<Self> {
        if self.is_v4() {
            if self.address[3] != 0 {
                return Some(self);
            }
            if bound.device != 0 {
                return None;
            }
            let source = if bound.v4 == 0 { LOOPBACK_V4 } else { bound.v4 };
            let resolved = Self {
                address: [0, 0, MAPPED, source],
                port: self.port,
            };
            // Bound to anything but loopback, the kernel's choice depends on the kind of address
            // (a multicast source counts as none).
            return if resolved.is_loopback() {
                Some(resolved)
            } else {
                None
            };
        }
        if self.is_prefix_zero() && self.address[3] == 0 {
            let mapped = bound.v6[0] == 0 && bound.v6[1] == 0 && bound.v6[2] == MAPPED;
            let address = if mapped {
                [0, 0, MAPPED, LOOPBACK_V4]
            } else {
                LOOPBACK_V6
            };
            return Some(Self {
                address,
                port: self.port,
            });
        }
        Some(self)
    }

    #[inline(always)]
    const fn is_prefix_zero(&self) -> bool {
        self.address[0] == 0 && self.address[1] == 0 && self.address[2] == 0
    }
}

/// What a socket was bound to before its `connect`; zero where nothing was.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The IPv4 source address in network byte order.
    pub v4: u32,
    /// The IPv6 source address in network byte order.
    pub v6: [u32; 4],
    /// The interface's index (`SO_BINDTODEVICE`).
    pub device: u32,
}

/// What the kernel knows about a socket: made when the socket is, completed at each redirected
/// `connect`, and handed to the daemon as the connection's origin.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The cgroup that the socket was made in.
    pub cgroup: u64,
    /// Where the client wanted to go.
    pub destination: Endpoint,
    /// The port of the listener that it was sent to last, or [`NO_LISTENER`].
    pub listener: u32,
    /// The process that made the socket, and then that which called `connect`, as the initial pid
    /// namespace numbers it.
    pub pid: u32,
    /// Its user, in the initial user namespace.
    pub uid: u32,
    /// Its thread's name, padded with zeros.
    pub comm: [u8; 16],
    /// 1 if the socket is in the host's own network namespace, 0 if not.
    pub on_host: u32,
    /// When its SYN, or what it sent Weir last, left, in seconds of the monotonic clock.
    pub connected: u32,
    /// The cookie of the socket's network namespace.
    pub netns: u64,
}

/// What has been seen of a TCP socket's packets.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// The generation of endpoints and policies in which its packets to `wire` were found to be
    /// allowed; 0 while they have to be looked at.
    pub settled: u32,
    /// Where they go, on the wire.
    pub wire: Endpoint,
    /// The [`fingerprint::Protocol`] that it was found to speak; 0 if none was. Nothing that it has to
    /// say passes any more then.
    pub database: u32,
    /// The generation in which the daemon was told so; 0 if it wasn't.
    pub told: u32,
    /// What was sent.
    pub sent: Beginning,
    /// What was received.
    pub received: Beginning,
    /// What was seen of its ClientHello.
    pub alpn: Alpn,
    /// How far into what was sent `alpn` is.
    pub scanned: u32,
}

/// The beginning of one direction of a TCP connection.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Beginning {
    /// How its first byte's number is known: see the constants; 0 if it isn't.
    pub begun: u32,
    /// The sequence number of its first byte.
    pub first: u32,
    /// How many of its first bytes are in `prefix`.
    pub known: u32,
    /// Whether it was found to be no database's.
    pub harmless: u32,
    /// Its first bytes.
    pub prefix: Prefix,
}

impl Beginning {
    /// Its SYN was seen.
    pub const BY_SYN: u32 = 1;
    /// It is older than the programs: it begins where they saw it first.
    pub const IN_THE_MIDDLE: u32 = 2;
}

/// An endpoint that speaks a datastore's protocol without being listed, for the sockets of a cgroup:
/// what one agent has tried changes nothing for others.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Learned {
    /// The cgroup.
    pub cgroup: u64,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Always 0.
    pub reserved: u32,
}

/// "This socket speaks a database's protocol, and isn't redirected."
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detection {
    /// The socket's cookie, unique until the next boot.
    pub cookie: u64,
    /// The cookie of its network namespace; 0 where that isn't known.
    pub netns: u64,
    /// The cgroup that it was made in.
    pub cgroup: u64,
    /// Its own address.
    pub source: Endpoint,
    /// Where it is connected to.
    pub destination: Endpoint,
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// The interface that it is bound to; 0 if none.
    pub device: u32,
    /// The process that made it, as the initial pid namespace numbers it; 0 where that isn't known.
    pub pid: u32,
    /// Its user, in the initial user namespace.
    pub uid: u32,
    /// The name of the thread that made it, padded with zeros.
    pub comm: [u8; 16],
    /// The [`fingerprint::Protocol`].
    pub protocol: u32,
    /// 1 if it was connected from here, 0 if it was accepted, or if that isn't known.
    pub dialled: u32,
}

/// What is looked up in the egress lists, or an entry of one: of an entry, only the first bits count.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// Whose list.
    pub policy: u32,
    /// The port in host byte order, or [`ALL_PORTS`].
    pub port: u32,
    /// The address, as an [`Endpoint`] has it.
    pub address: Address,
}

impl Destination {
    /// The bits of an entry that always count: the policy's and the port's.
    pub const FIXED_BITS: u32 = 64;
    /// The bits of an entry for one address.
    pub const BITS: u32 = Self::FIXED_BITS + 128;
}

/// By what the daemon finds a connection's origin when it accepts it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OriginKey {
    /// The network namespace's cookie (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// The client's own address.
    pub source: Endpoint,
    /// 1 if it sent a datagram, 0 if it connected.
    pub datagram: u32,
}

/// "This thread is an agent's, look at its network namespace."
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its cgroup.
    pub cgroup: u64,
    /// The thread, as the initial pid namespace numbers it.
    pub tid: u32,
    /// Always 0.
    pub reserved: u32,
}

const _: () = {
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Destination>() == 24);
    assert!(size_of::<OriginKey>() == 32);
    assert!(size_of::<Socket>() == 72);
    assert!(size_of::<Flow>() == 4 + 20 + 4 + 4 + 2 * size_of::<Beginning>() + 12);
    assert!(size_of::<Beginning>() == 32);
    assert!(size_of::<Learned>() == 32);
    assert!(size_of::<Detection>() == 104);
    assert!(size_of::<Event>() == 16);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)`, no padding (asserted above), and every bit pattern is a value.
    unsafe impl aya::Pod for super::Endpoint {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Destination {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::OriginKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Socket {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Learned {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Detection {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Event {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNBOUND: Bound = Bound {
        v4: 0,
        v6: [0; 4],
        device: 0,
    };

    fn v4(octets: [u8; 4]) -> Endpoint {
        Endpoint::v4(u32::from_ne_bytes(octets), 5432)
    }

    fn v6(last: [u8; 4]) -> Endpoint {
        Endpoint::v6([0, 0, 0, u32::from_ne_bytes(last)], 5432)
    }

    #[test]
    fn an_ordinary_address_stays_as_it_is() {
        let bound = Bound {
            device: 3,
            v4: 9,
            ..UNBOUND
        };
        assert_eq!(v4([10, 0, 0, 1]).resolve(&bound), Some(v4([10, 0, 0, 1])));
        assert_eq!(v6([0, 0, 0, 9]).resolve(&bound), Some(v6([0, 0, 0, 9])));
    }

    #[test]
    fn a_wildcard_is_loopback_of_its_family() {
        assert_eq!(v4([0; 4]).resolve(&UNBOUND), Some(v4([127, 0, 0, 1])));
        assert_eq!(v6([0; 4]).resolve(&UNBOUND), Some(v6([0, 0, 0, 1])));
    }

    #[test]
    fn a_wildcard_from_a_bound_socket_is_its_loopback_source_or_unknown() {
        let source = |octets| Bound {
            v4: u32::from_ne_bytes(octets),
            ..UNBOUND
        };
        assert_eq!(
            v4([0; 4]).resolve(&source([127, 0, 0, 9])),
            Some(v4([127, 0, 0, 9]))
        );
        assert_eq!(v4([0; 4]).resolve(&source([10, 0, 0, 5])), None);
        assert_eq!(v4([0; 4]).resolve(&source([224, 0, 0, 1])), None);
        assert_eq!(
            v4([0; 4]).resolve(&Bound {
                device: 2,
                ..UNBOUND
            }),
            None
        );
    }

    #[test]
    fn an_ipv6_wildcard_from_a_v4_mapped_source_is_ipv4_loopback() {
        let bound = Bound {
            v6: v4([10, 0, 0, 5]).address,
            ..UNBOUND
        };
        assert_eq!(v6([0; 4]).resolve(&bound), Some(v4([127, 0, 0, 1])));
    }

    #[test]
    fn all_of_127_is_one_loopback() {
        assert_eq!(
            v4([127, 9, 9, 9]).canonical_loopback(),
            Some(v4([127, 0, 0, 1]))
        );
        assert_eq!(v4([128, 0, 0, 1]).canonical_loopback(), None);
        assert!(v6([0, 0, 0, 1]).is_loopback());
        assert!(!v6([0, 0, 0, 2]).is_loopback());
        assert!(!v6([127, 0, 0, 1]).is_loopback());
    }
}
