//! Ways for the attacker's own TCP segments: raw sockets, packet sockets, tunnels, AF_XDP.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::packet::{Flow, Way, from_ipv4, ipv4};
use crate::sys;

const ETH_IP: u16 = 0x0800;
const ETH_ARP: u16 = 0x0806;
const BROADCAST: [u8; 6] = [0xff; 6];
const WAIT: Duration = Duration::from_millis(50);

/// A listener that swallows everything that is sent to its port: with it the kernel, which knows
/// nothing of the attacker's own connection, doesn't reset it. Needs no privilege.
pub(crate) struct Mute {
    _listener: TcpListener,
    pub(crate) port: u16,
}

impl Mute {
    pub(crate) fn new(own: IpAddr) -> io::Result<Self> {
        const MIN_HOP_COUNT: i32 = 73;
        let listener = TcpListener::bind(SocketAddr::new(own, 0))?;
        // Nothing comes from as near as 255 hops to go: the kernel drops each segment unseen.
        let (level, name) = match own {
            IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MINTTL),
            IpAddr::V6(_) => (libc::IPPROTO_IPV6, MIN_HOP_COUNT),
        };
        sys::set_number(&listener, level, name, 255)?;
        Ok(Self {
            port: listener.local_addr()?.port(),
            _listener: listener,
        })
    }
}

/// Raw IPv4 sockets, with a header of one's own.
pub(crate) struct RawV4 {
    out: Socket,
    into: Socket,
    /// IP options that each packet carries.
    pub(crate) options: Vec<u8>,
}

impl RawV4 {
    pub(crate) fn new() -> io::Result<Self> {
        let raw = |protocol| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(protocol)));
        Ok(Self {
            out: raw(libc::IPPROTO_RAW)?,
            into: raw(libc::IPPROTO_TCP)?,
            options: Vec::new(),
        })
    }
}

impl Way for RawV4 {
    fn send(&mut self, flow: &Flow, segment: &[u8]) -> io::Result<()> {
        let packet = ipv4(flow, &self.options, segment);
        let to = SockAddr::from(SocketAddr::new(flow.to, 0));
        self.out.send_to(&packet, &to).map(drop)
    }

    fn receive(&mut self, flow: &Flow) -> io::Result<Option<Vec<u8>>> {
        let packet = receive(&self.into)?;
        Ok(packet.and_then(|packet| from_ipv4(flow, &packet)))
    }
}

/// Raw IPv6 sockets, whose header the kernel makes.
pub(crate) struct RawV6(Socket);

impl RawV6 {
    pub(crate) fn new() -> io::Result<Self> {
        let protocol = Some(Protocol::TCP);
        Socket::new(Domain::IPV6, Type::RAW, protocol).map(Self)
    }
}

impl Way for RawV6 {
    fn send(&mut self, flow: &Flow, segment: &[u8]) -> io::Result<()> {
        let to = SockAddr::from(SocketAddr::new(flow.to, 0));
        self.0.send_to(segment, &to).map(drop)
    }

    fn receive(&mut self, _: &Flow) -> io::Result<Option<Vec<u8>>> {
        receive(&self.0)
    }
}

/// A packet socket on an interface, which the kernel's IP never sees.
pub(crate) struct Packet {
    socket: Socket,
    to: SockAddr,
}

impl Packet {
    /// Sends to `station` by `interface`, and hears all interfaces.
    pub(crate) fn new(interface: &str, station: [u8; 6]) -> io::Result<Self> {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(all))?;
        let index = if_nametoindex(interface)?;
        Ok(Self {
            socket,
            to: sys::link_address(index, ETH_IP, station),
        })
    }

    /// The socket, for its options.
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }
}

impl Way for Packet {
    fn send(&mut self, flow: &Flow, segment: &[u8]) -> io::Result<()> {
        let packet = ipv4(flow, &[], segment);
        self.socket.send_to(&packet, &self.to).map(drop)
    }

    fn receive(&mut self, flow: &Flow) -> io::Result<Option<Vec<u8>>> {
        let packet = receive(&self.socket)?;
        Ok(packet.and_then(|packet| from_ipv4(flow, &packet)))
    }
}

/// A TUN device: what is written into it comes out of the kernel's own interface.
pub(crate) struct Tun(pub(crate) File);

impl Way for Tun {
    fn send(&mut self, flow: &Flow, segment: &[u8]) -> io::Result<()> {
        self.0.write_all(&ipv4(flow, &[], segment))
    }

    fn receive(&mut self, flow: &Flow) -> io::Result<Option<Vec<u8>>> {
        let packet = receive(&self.0)?;
        Ok(packet.and_then(|packet| from_ipv4(flow, &packet)))
    }
}

/// A TAP device: the same with Ethernet around it.
pub(crate) struct Tap {
    pub(crate) file: File,
    pub(crate) own: [u8; 6],
    pub(crate) router: [u8; 6],
}

impl Way for Tap {
    fn send(&mut self, flow: &Flow, segment: &[u8]) -> io::Result<()> {
        let packet = ipv4(flow, &[], segment);
        self.file
            .write_all(&frame(self.own, self.router, ETH_IP, &packet))
    }

    fn receive(&mut self, flow: &Flow) -> io::Result<Option<Vec<u8>>> {
        let Some(bytes) = receive(&self.file)? else {
            return Ok(None);
        };
        if let Some(answer) = arp_answer(&bytes, self.own, flow.from) {
            self.file.write_all(&answer)?;
        }
        Ok(bytes.get(14..).and_then(|packet| from_ipv4(flow, packet)))
    }
}

/// AF_XDP to send, a packet socket to hear the answers.
pub(crate) struct Xdp {
    pub(crate) sender: sys::xdp::Sender,
    pub(crate) ears: Packet,
    pub(crate) own: [u8; 6],
    pub(crate) router: [u8; 6],
}

impl Way for Xdp {
    fn send(&mut self, flow: &Flow, segment: &[u8]) -> io::Result<()> {
        let packet = ipv4(flow, &[], segment);
        self.sender
            .send(&frame(self.own, self.router, ETH_IP, &packet))
    }

    fn receive(&mut self, flow: &Flow) -> io::Result<Option<Vec<u8>>> {
        self.ears.receive(flow)
    }
}

/// An Ethernet frame.
fn frame(from: [u8; 6], to: [u8; 6], kind: u16, packet: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &kind.to_be_bytes(), packet].concat()
}

/// "I am `own`", for a frame that asks who has `address`.
fn arp_answer(asked: &[u8], own: [u8; 6], address: IpAddr) -> Option<Vec<u8>> {
    let IpAddr::V4(address) = address else {
        return None;
    };
    let arp = asked.get(14..42)?;
    let is_for_us = asked[12..14] == ETH_ARP.to_be_bytes()
        && arp[6..8] == [0, 1]
        && arp[24..28] == address.octets();
    let asker: [u8; 6] = arp[8..14].try_into().ok()?;
    let head = [0, 1, 8, 0, 6, 4, 0, 2];
    let answer = [&head[..], &own, &address.octets(), &arp[8..18]].concat();
    is_for_us.then(|| frame(own, asker, ETH_ARP, &answer))
}

/// The station of an interface.
pub(crate) fn station(interface: &str) -> io::Result<[u8; 6]> {
    mac(&fs::read_to_string(format!(
        "/sys/class/net/{interface}/address"
    ))?)
}

/// The station of a neighbour: the kernel finds out when something is sent there.
pub(crate) fn neighbour(address: Ipv4Addr) -> io::Result<[u8; 6]> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    for round in 0..57 {
        socket.send_to(b"?", (address, 9))?;
        // A pair answers in less than the first, and who is in a hurry counts on that.
        let pause = Duration::from_micros(150 << round.min(8));
        std::thread::sleep(pause.min(Duration::from_millis(20)));
        let table = fs::read_to_string("/proc/net/arp")?;
        let mut rows = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let known = rows.find(|row| row.first() == Some(&&*address.to_string()));
        if let Some(found) = known.and_then(|row| row.get(3).copied())
            && found != "00:00:00:00:00:00"
        {
            return mac(found);
        }
    }
    Err(io::Error::other(format!("{address} doesn't answer")))
}

/// The same, asked by a packet socket: where the kernel sends nothing there, it doesn't ask either.
pub(crate) fn ask_station(interface: &str, own: Ipv4Addr, wanted: Ipv4Addr) -> io::Result<[u8; 6]> {
    let protocol = Protocol::from(i32::from(ETH_ARP.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
    let to = sys::link_address(if_nametoindex(interface)?, ETH_ARP, BROADCAST);
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    let from = [&station(interface)?[..], &own.octets()].concat();
    let question = [&head[..], &from, &[0; 6], &wanted.octets()].concat();
    for _ in 0..20 {
        socket.send_to(&question, &to)?;
        if let Some(answer) = receive(&socket)?
            && answer.get(6..8) == Some(&[0, 2])
            && answer.get(14..18) == Some(&wanted.octets())
            && let Some(station) = answer.get(8..14)
        {
            return station.try_into().map_err(io::Error::other);
        }
    }
    Err(io::Error::other(format!("{wanted} doesn't answer")))
}

fn mac(text: &str) -> io::Result<[u8; 6]> {
    let bytes = text
        .trim()
        .split(':')
        .map(|part| u8::from_str_radix(part, 16));
    let bytes: Result<Vec<_>, _> = bytes.collect();
    let bytes = bytes.map_err(io::Error::other)?;
    bytes
        .try_into()
        .map_err(|_| io::ErrorKind::InvalidData.into())
}

/// What comes next, or nothing for a while.
fn receive<S>(source: &S) -> io::Result<Option<Vec<u8>>>
where
    for<'a> &'a S: Read + AsFd,
{
    let mut buffer = vec![0; 65536];
    match sys::read_within(&mut { source }, &mut buffer, WAIT) {
        Ok(count) => {
            buffer.truncate(count);
            Ok(Some(buffer))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(None),
        Err(error) => Err(error),
    }
}
