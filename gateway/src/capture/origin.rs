//! Where an accepted connection wanted to go, and who made it: the kernel's word, given out once.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use aya::maps::{Map, MapData};
use gateway_ebpf::{Endpoint, OriginKey, Socket};

use super::endpoints::Aliases;
use super::place::{Cgroups, Slice};
use super::{Error, kernel};

/// The configured address that a client named, itself or by another address of this host; IPv4 even
/// where its socket is IPv6 (v4-mapped).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OriginalDst(pub SocketAddr);

/// A cgroup's id; never used twice before the next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CgroupId(pub u64);

/// What the kernel knows about a captured connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Where the client wanted to go.
    pub dst: OriginalDst,
    /// The cgroup that the client's socket was made in.
    pub cgroup: CgroupId,
    /// That cgroup's path, relative to the cgroup v2 mount: `weir-agents.slice/coder-1`.
    pub cgroup_path: String,
    /// The process that called `connect`, in the initial pid namespace.
    pub pid: u32,
    /// Its user, in the initial user namespace.
    pub uid: u32,
    /// The name of the thread that called `connect`: chosen by the program itself.
    pub comm: String,
}

/// Why a connection has no origin. It must be closed.
#[derive(Debug, thiserror::Error)]
pub enum Miss {
    /// Not a redirected connection, or its origin was taken or forgotten.
    #[error("the kernel knows no origin for the connection from {0}")]
    Unknown(SocketAddr),
    /// The client's cgroup is gone, or not below the slice.
    #[error("the client's cgroup {id} can't be found below the agents' slice")]
    Cgroup {
        /// The cgroup's id.
        id: u64,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The socket could not be asked.
    #[error("the connection's namespace can't be read")]
    Socket(#[source] io::Error),
    /// The map could not be asked.
    #[error("the origin can't be looked up")]
    Lookup(#[source] io::Error),
}

/// The origins of connections that wait to be accepted.
#[derive(Clone)]
pub struct Origins {
    shared: Arc<Shared>,
}

struct Shared {
    map: MapData,
    aliases: Aliases,
    cgroups: Cgroups,
}

impl Origins {
    pub(super) fn new(map: Map, slice: &Slice, aliases: Aliases) -> Result<Self, Error> {
        let Map::LruHashMap(map) = map else {
            return Err(Error::Incomplete("ORIGINS of the expected kind"));
        };
        Ok(Self {
            shared: Arc::new(Shared {
                map,
                aliases,
                cgroups: Cgroups::open(slice)?,
            }),
        })
    }

    /// The map itself.
    pub(super) fn fd(&self) -> impl AsFd {
        self.shared.map.fd()
    }

    /// Takes the origin of an accepted connection: a second call for it misses. `peer` is what
    /// `accept` gave, which unlike `getpeername` names the client even if it has left already. A
    /// handful of system calls, none of which waits.
    ///
    /// # Errors
    /// See [`Miss`]; the connection has to be closed then.
    pub fn take(&self, stream: &impl AsFd, peer: SocketAddr) -> Result<Origin, Miss> {
        let key = key(stream, peer, false)?;
        let found = kernel::take_element(self.map(), &key);
        self.origin(found, peer)
    }

    /// Finds who sent a datagram to one of Weir's sockets. What was sent later by the same socket has
    /// the same origin.
    ///
    /// # Errors
    /// See [`Miss`]; the datagram has to be dropped then.
    pub fn of_datagram(&self, socket: &impl AsFd, peer: SocketAddr) -> Result<Origin, Miss> {
        let key = key(socket, peer, true)?;
        let found = kernel::find_element(self.map(), &key);
        self.origin(found, peer)
    }

    fn map(&self) -> BorrowedFd<'_> {
        self.shared.map.fd().as_fd()
    }

    fn origin(&self, found: io::Result<Option<Socket>>, peer: SocketAddr) -> Result<Origin, Miss> {
        let socket = found.map_err(Miss::Lookup)?.ok_or(Miss::Unknown(peer))?;
        let cgroup = CgroupId(socket.cgroup);
        let cgroup_path = self.cgroup_path(cgroup).map_err(|source| Miss::Cgroup {
            id: cgroup.0,
            source,
        })?;
        Ok(Origin {
            dst: OriginalDst(self.shared.aliases.resolve(address(&socket.destination))),
            cgroup,
            cgroup_path,
            pid: socket.pid,
            uid: socket.uid,
            comm: name(&socket.comm),
        })
    }

    /// The path of a cgroup below the slice, relative to the mount.
    pub(super) fn cgroup_path(&self, cgroup: CgroupId) -> io::Result<String> {
        self.shared.cgroups.path(cgroup)
    }
}

/// By what the kernel knows who is at the other end of a socket.
fn key(socket: &impl AsFd, peer: SocketAddr, datagram: bool) -> Result<OriginKey, Miss> {
    let netns = kernel::netns_cookie(socket.as_fd()).map_err(Miss::Socket)?;
    Ok(OriginKey {
        netns,
        source: endpoint(&peer),
        datagram: datagram.into(),
    })
}

/// A thread's name up to its terminating zero.
pub(super) fn name(comm: &[u8; 16]) -> String {
    let end = comm
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(comm.len());
    String::from_utf8_lossy(&comm[..end]).into_owned()
}

/// An address as the maps' keys have it.
pub(super) fn endpoint(address: &SocketAddr) -> Endpoint {
    match address.ip() {
        std::net::IpAddr::V4(v4) => Endpoint::v4(u32::from_ne_bytes(v4.octets()), address.port()),
        std::net::IpAddr::V6(v6) => {
            let mut words = [0; 4];
            for (word, bytes) in words.iter_mut().zip(v6.octets().as_chunks::<4>().0) {
                *word = u32::from_ne_bytes(*bytes);
            }
            Endpoint::v6(words, address.port())
        }
    }
}

/// An address from a map.
pub(super) fn address(endpoint: &Endpoint) -> SocketAddr {
    // The programs only write 16 bits.
    let port = endpoint.port as u16;
    let octets = endpoint.address.map(u32::to_ne_bytes);
    if endpoint.is_v4() {
        return SocketAddr::new(Ipv4Addr::from(octets[3]).into(), port);
    }
    let mut all = [0; 16];
    all.as_chunks_mut::<4>().0.copy_from_slice(&octets);
    SocketAddr::new(Ipv6Addr::from(all).into(), port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_address_survives_its_way_through_the_map(
            ip in any::<std::net::IpAddr>(),
            port in any::<u16>(),
        ) {
            let address_in = SocketAddr::new(ip.to_canonical(), port);
            prop_assert_eq!(address(&endpoint(&address_in)), address_in);
        }
    }

    #[test]
    fn a_v4_mapped_address_has_the_key_of_its_ipv4_address() {
        let v4: SocketAddr = "10.1.2.3:5432".parse().unwrap();
        let mapped: SocketAddr = "[::ffff:10.1.2.3]:5432".parse().unwrap();
        assert_eq!(endpoint(&v4), endpoint(&mapped));
    }

    #[test]
    fn a_name_ends_at_its_zero_or_at_its_sixteenth_byte() {
        assert_eq!(name(b"psql\0garbage\0\0\0\0"), "psql");
        assert_eq!(name(b"0123456789abcdef"), "0123456789abcdef");
        assert_eq!(name(&[0xff; 16]).chars().count(), 16);
    }
}
