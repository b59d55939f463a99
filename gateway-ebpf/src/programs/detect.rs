//! Databases on endpoints that nobody has listed: known by a TCP socket's first bytes, in whichever
//! pieces they come.
//!
//! What such a socket has to say is dropped from the packet on that gives it away, and the daemon is
//! told; whether that succeeds changes nothing. Redirected sockets are Weir's own business, and what
//! stays in an agent's own namespace is that agent's.
//!
//! A socket whose beginning is no database's is settled: from then on its record says that its packets
//! may pass, as long as they go where they went and the daemon has changed nothing.

use core::{hint::black_box, ptr};

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    cty::{c_long, c_void},
    helpers::{
        bpf_get_socket_uid,
        generated::{bpf_get_socket_cookie, bpf_loop, bpf_skb_cgroup_id, bpf_skb_load_bytes},
    },
    macros::cgroup_skb,
    programs::{SkBuffContext, sk_buff::SkBuff},
};
use aya_log_ebpf::debug;
use gateway_ebpf::{
    Address, Beginning, Detection, Endpoint, Flow, NO_LISTENER,
    fingerprint::{self, Alpn, CLIENT_HELLO, Opening, PREFIX, Prefix},
};

use super::{
    ALLOW, DENY, forgotten,
    packet::{IPV4, IPV6, Ipv4, Ipv6, LOOPBACK_DEVICE, TCP, V4_HEADER, V6_HEADER, fragment_offset},
    words,
};
use crate::maps;

const AF_INET: u32 = 2;

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Bytes of a ClientHello that are read at once.
const CHUNK: usize = 32;

/// What the most frequent packets begin with: plain headers of IPv4 and TCP.
#[repr(C)]
struct Plain4 {
    ip: Ipv4,
    tcp: Tcp,
}

/// The same with IPv6.
#[repr(C)]
struct Plain6 {
    ip: Ipv6,
    tcp: Tcp,
}

/// A header of TCP behind its ports, up to its flags.
#[repr(C)]
struct Tcp {
    sequence: u32,
    acknowledged: u32,
    /// Its length in words, in the upper half.
    length: u8,
    flags: u8,
}

/// A packet that begins like that.
struct Plain<'a> {
    destination: Destination<'a>,
    port: u16,
    tcp: &'a Tcp,
    /// Where the header of TCP begins.
    transport: u32,
}

enum Destination<'a> {
    V4(u32),
    V6(&'a Address),
}

impl Plain<'_> {
    /// `None` for all others.
    ///
    /// # Safety
    /// `skb` is the running program's packet, as its socket sends or receives it.
    #[inline(always)]
    unsafe fn read(skb: *mut __sk_buff) -> Option<Self> {
        // SAFETY: the context is valid while the program runs, and the verifier knows its fields.
        let (protocol, data, end) = unsafe {
            (
                (*skb).protocol,
                (*skb).data as usize,
                (*skb).data_end as usize,
            )
        };
        if protocol == IPV4 {
            if data + size_of::<Plain4>() > end {
                return None;
            }
            // SAFETY: the packet is that long.
            let Plain4 { ip, tcp } = unsafe { &*(data as *const Plain4) };
            let plain = ip.length == 0x45 && fragment_offset(ip.fragment) == 0;
            if !plain || ip.protocol != TCP {
                return None;
            }
            return Some(Self {
                destination: Destination::V4(ip.destination),
                port: ip.ports[1],
                tcp,
                transport: V4_HEADER as u32,
            });
        }
        if protocol != IPV6 || data + size_of::<Plain6>() > end {
            return None;
        }
        // SAFETY: the packet is that long.
        let Plain6 { ip, tcp } = unsafe { &*(data as *const Plain6) };
        if ip.next != TCP {
            return None;
        }
        Some(Self {
            destination: Destination::V6(&ip.destination),
            port: ip.ports[1],
            tcp,
            transport: V6_HEADER as u32,
        })
    }

    #[inline(always)]
    fn is_syn(&self) -> bool {
        self.tcp.flags & SYN != 0
    }

    /// Whether it has no payload.
    #[inline(always)]
    fn is_bare(&self, length: u32) -> bool {
        length == self.transport + u32::from(self.tcp.length >> 4) * 4
    }

    #[inline(always)]
    fn is_for(&self, endpoint: &Endpoint) -> bool {
        let address = &endpoint.address;
        let same = match self.destination {
            Destination::V4(destination) => address[3] == destination && endpoint.is_v4(),
            Destination::V6(destination) => {
                address[0] == destination[0]
                    && address[1] == destination[1]
                    && address[2] == destination[2]
                    && address[3] == destination[3]
            }
        };
        same && endpoint.port == u32::from(u16::from_be(self.port))
    }
}

/// Whether nothing has changed since a packet like this was found to be harmless.
///
/// # Safety
/// `skb` is the running program's packet, as a socket sends it.
#[inline(always)]
pub(super) unsafe fn is_settled(skb: *mut __sk_buff) -> bool {
    // SAFETY: the context is valid while the program runs, and the verifier knows its fields.
    let Some(flow) = (unsafe { maps::flow(socket_of(skb).cast()) }) else {
        return false;
    };
    if flow.settled == 0 || flow.settled != maps::generation() {
        return false;
    }
    // SAFETY: as the caller says.
    let Some(packet) = (unsafe { Plain::read(skb) }) else {
        return false;
    };
    // A SYN is another connection. Where nothing was said that tells anything, only what says nothing
    // passes.
    // SAFETY: as above.
    let length = unsafe { (*skb).len };
    packet.is_for(&flow.wire)
        && !packet.is_syn()
        && (flow.sent.harmless != 0 || packet.is_bare(length))
}

/// Judges a packet that a socket sends to an endpoint at which it may.
///
/// # Safety
/// `skb` is the running program's packet, with a header of TCP at `transport`.
#[inline(always)]
pub(super) unsafe fn sent(
    skb: &SkBuff,
    transport: usize,
    endpoint: Endpoint,
    generation: u32,
) -> i32 {
    // SAFETY: as the caller says.
    let sk = unsafe { socket_of(skb.skb) };
    let transport = forgotten(transport as u32) as usize;
    let Some(segment) = Segment::load(skb, transport) else {
        return ALLOW;
    };
    // A listener's answer to a SYN, say.
    if segment.has(RST) || (segment.has(SYN) && segment.has(ACK) && segment.length == 0) {
        return ALLOW;
    }
    // SAFETY: `sk` is the context's socket.
    let Some(flow) = (unsafe { maps::flow_or_new(sk.cast()) }) else {
        return if segment.length == 0 { ALLOW } else { DENY };
    };
    if segment.has(SYN) && (flow.sent.begun == 0 || flow.sent.first != segment.first()) {
        restart(flow, &segment);
    }
    flow.sent.begin_in_the_middle(&segment);
    if flow.database == 0 && flow.sent.harmless == 0 && segment.length > 0 {
        // SAFETY: as above.
        if unsafe { is_exempt(skb.skb, sk) } {
            flow.sent.harmless = 1;
        } else if !flow.sent.collect(skb, &segment) {
            return DENY;
        } else {
            match said_by_client(skb, flow, &segment) {
                Opening::Database(protocol) => flow.database = protocol as u32,
                Opening::Other => flow.sent.harmless = 1,
                Opening::Undecided | Opening::ClientHello => {}
            }
        }
    }
    if flow.database != 0 {
        // SAFETY: as above.
        return unsafe { shut(skb.skb, sk, flow, &segment, generation) };
    }
    flow.wire = endpoint;
    flow.settled = generation;
    ALLOW
}

/// A greeting of MySQL's.
#[cgroup_skb(ingress)]
pub(crate) fn ingress(ctx: SkBuffContext) -> i32 {
    let skb = &ctx.skb;
    // SAFETY: the hook's own packet.
    let Some(packet) = (unsafe { Plain::read(skb.skb) }) else {
        return ALLOW;
    };
    if packet.is_bare(skb.len()) && !packet.is_syn() {
        return ALLOW;
    }
    let transport = packet.transport as usize;
    // SAFETY: as above.
    let sk = unsafe { socket_of(skb.skb) };
    // SAFETY: `sk` is the context's socket.
    if let Some(flow) = unsafe { maps::flow(sk.cast()) }
        && flow.received.harmless != 0
        && flow.database == 0
        && !packet.is_syn()
    {
        return ALLOW;
    }
    let Some(segment) = Segment::load(skb, transport) else {
        return ALLOW;
    };
    // A SYN alone is for a listener.
    if segment.has(RST) || (segment.has(SYN) && !segment.has(ACK)) {
        return ALLOW;
    }
    // SAFETY: as above.
    let Some(flow) = (unsafe { maps::flow_or_new(sk.cast()) }) else {
        return if segment.length == 0 { ALLOW } else { DENY };
    };
    if segment.has(SYN) {
        flow.received.begin(&segment);
    }
    flow.received.begin_in_the_middle(&segment);
    if flow.database == 0 && flow.received.harmless == 0 && segment.length > 0 {
        // SAFETY: as above.
        if unsafe { is_exempt(skb.skb, sk) } {
            flow.received.harmless = 1;
            return ALLOW;
        }
        if !flow.received.collect(skb, &segment) {
            return DENY;
        }
        match fingerprint::server(&flow.received.prefix, flow.received.known) {
            Opening::Database(protocol) => flow.database = protocol as u32,
            Opening::Other => flow.received.harmless = 1,
            Opening::Undecided | Opening::ClientHello => {}
        }
    }
    if flow.database == 0 {
        return ALLOW;
    }
    debug!(&ctx, "dropped a database's greeting");
    // SAFETY: as above.
    unsafe { shut(skb.skb, sk, flow, &segment, maps::generation()) }
}

/// Has a socket's connection begin anew, with this SYN.
#[inline(always)]
fn restart(flow: &mut Flow, syn: &Segment) {
    flow.settled = 0;
    flow.database = 0;
    flow.told = 0;
    flow.alpn = Alpn::default();
    flow.scanned = 0;
    flow.sent.begin(syn);
    flow.received.begun = 0;
}

/// Drops what a socket says that was found to speak to a database. Bare acknowledgements and the end
/// of the connection pass.
///
/// # Safety
/// `skb` is the running program's packet, and `sk` its socket.
#[inline(always)]
unsafe fn shut(
    skb: *mut __sk_buff,
    sk: *mut bpf_sock,
    flow: &mut Flow,
    segment: &Segment,
    generation: u32,
) -> i32 {
    // What was found of one direction before the other showed itself is over.
    flow.settled = 0;
    if segment.length == 0 {
        return ALLOW;
    }
    // A daemon that comes later hears of it again.
    let told = generation.wrapping_add(1);
    // SAFETY: as the caller says.
    if flow.told != told && maps::report_detection(unsafe { detection(skb, sk, flow) }) {
        flow.told = told;
    }
    DENY
}

/// What the daemon is told.
///
/// # Safety
/// `skb` is the running program's packet, and `sk` its socket, which isn't null.
#[inline(always)]
unsafe fn detection(skb: *mut __sk_buff, sk: *mut bpf_sock, flow: &Flow) -> Detection {
    // SAFETY: the verifier knows the fields of the context and its socket. All are read before the
    // choice, or the compiler makes one load at a computed place of several.
    unsafe {
        let family = (&raw const (*sk).family).read_volatile();
        let v4 = (
            (&raw const (*sk).src_ip4).read_volatile(),
            (&raw const (*sk).dst_ip4).read_volatile(),
        );
        let v6 = (
            words((&raw const (*sk).src_ip6).cast()),
            words((&raw const (*sk).dst_ip6).cast()),
        );
        let own_port = (&raw const (*sk).src_port).read_volatile() as u16;
        let port = u16::from_be((&raw const (*sk).dst_port).read_volatile());
        let (source, destination) = if family == AF_INET {
            (Endpoint::v4(v4.0, own_port), Endpoint::v4(v4.1, port))
        } else {
            (Endpoint::v6(v6.0, own_port), Endpoint::v6(v6.1, port))
        };
        let (netns, pid, comm) = match maps::socket(sk.cast()) {
            Some(record) => (record.netns, record.pid, record.comm),
            None => (0, 0, [0; 16]),
        };
        Detection {
            cookie: bpf_get_socket_cookie(skb.cast()),
            netns,
            cgroup: bpf_skb_cgroup_id(skb),
            source,
            destination,
            family,
            device: (&raw const (*sk).bound_dev_if).read_volatile(),
            pid,
            uid: bpf_get_socket_uid(skb),
            comm,
            protocol: flow.database,
            dialled: u32::from(flow.sent.begun == Beginning::BY_SYN),
        }
    }
}

/// Whether a socket's flow is nobody's concern: Weir's own, or one that stays in an agent's own
/// namespace. Without a record (made by the kernel, accepted, or before Weir) that isn't known.
///
/// # Safety
/// `skb` is the running program's packet, and `sk` its socket.
#[inline(always)]
unsafe fn is_exempt(skb: *mut __sk_buff, sk: *mut bpf_sock) -> bool {
    // SAFETY: `sk` is the context's socket.
    let Some(record) = (unsafe { maps::socket(sk.cast()) }) else {
        return false;
    };
    // SAFETY: the context is valid while the program runs.
    let device = unsafe { (*skb).ifindex };
    record.listener != NO_LISTENER || (record.on_host == 0 && device == LOOPBACK_DEVICE)
}

/// What a socket's first bytes are, with this segment.
#[inline(always)]
fn said_by_client(skb: &SkBuff, flow: &mut Flow, segment: &Segment) -> Opening {
    match fingerprint::client(&flow.sent.prefix, flow.sent.known) {
        Opening::ClientHello => offered(skb, flow, segment),
        other => other,
    }
}

/// Reads on in a ClientHello, as far as this segment has it.
#[inline(always)]
fn offered(skb: &SkBuff, flow: &mut Flow, segment: &Segment) -> Opening {
    let record = u32::from(u16::from_be_bytes([
        flow.sent.prefix[3],
        flow.sent.prefix[4],
    ]));
    // The header of a record has five bytes.
    let end = (record + 5).min(CLIENT_HELLO);
    // The name is none of the first bytes.
    if flow.scanned < PREFIX as u32 {
        flow.scanned = PREFIX as u32;
    }
    let begin = segment.first().wrapping_sub(flow.sent.first);
    let skipped = flow.scanned.wrapping_sub(begin);
    if skipped as i32 >= 0 && skipped < segment.length {
        let left = (segment.length - skipped).min(end.saturating_sub(flow.scanned));
        let place = segment.payload + skipped as usize;
        let mut alpn = flow.alpn;
        scan(skb, place, left, &mut alpn);
        if alpn.is_found() {
            return Opening::Database(fingerprint::Protocol::Postgres);
        }
        flow.alpn = alpn;
        flow.scanned += left;
    }
    if flow.scanned >= end {
        Opening::Other
    } else {
        Opening::Undecided
    }
}

/// Reads the `length` bytes of a ClientHello that are at `place`.
#[inline(always)]
fn scan(skb: &SkBuff, place: usize, length: u32, alpn: &mut Alpn) {
    let mut reader = Reader {
        skb: SkBuff::new(skb.skb),
        place,
        alpn: *alpn,
    };
    let (length, chunk) = (forgotten(length), CHUNK as u32);
    if reader.read::<CHUNK>(length / chunk) {
        reader.read::<1>(length % chunk);
    }
    *alpn = reader.alpn;
}

/// Reads a packet piece by piece. The kernel calls it for each: a loop here would be walked through by
/// the verifier turn by turn.
struct Reader {
    skb: SkBuff,
    place: usize,
    alpn: Alpn,
}

impl Reader {
    /// Reads pieces of `N` bytes; false if the packet hasn't so many.
    #[inline(always)]
    fn read<const N: usize>(&mut self, pieces: u32) -> bool {
        let end = self.place + N * pieces as usize;
        let piece = Self::piece::<N> as *mut c_void;
        // SAFETY: the verifier checks what is called with what.
        unsafe { bpf_loop(pieces, piece, ptr::from_mut(self).cast(), 0) };
        self.place == end
    }

    /// Reads one; 1 says that it was the last.
    ///
    /// # Safety
    /// `reader` is one.
    unsafe extern "C" fn piece<const N: usize>(_: u32, reader: *mut Self) -> c_long {
        // SAFETY: as the caller says.
        let reader = unsafe { &mut *reader };
        let Ok(bytes) = reader.skb.load::<[u8; N]>(reader.place) else {
            return 1;
        };
        for byte in &bytes {
            reader.alpn.take(*byte);
        }
        reader.place += N;
        0
    }
}

/// What a packet's header of TCP says.
struct Segment {
    sequence: u32,
    flags: u8,
    /// Where its payload begins in the packet, and how long that is.
    payload: usize,
    length: u32,
}

impl Segment {
    /// `None` for what no socket of TCP's own sends: made by hand, or too short.
    #[inline(always)]
    fn load(skb: &SkBuff, transport: usize) -> Option<Self> {
        let header = skb.load::<[u8; 14]>(transport).ok()?;
        let size = usize::from(header[12] >> 4) * 4;
        let payload = transport + size;
        if size < 20 || skb.len() < payload as u32 {
            return None;
        }
        Some(Self {
            sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            flags: header[13],
            payload,
            length: skb.len() - payload as u32,
        })
    }

    #[inline(always)]
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The number of its first byte of payload: a SYN has one of its own.
    #[inline(always)]
    fn first(&self) -> u32 {
        self.sequence.wrapping_add(u32::from(self.has(SYN)))
    }
}

/// What [`Beginning`] is to these programs.
trait Gather {
    fn begin(&mut self, syn: &Segment);
    fn begin_in_the_middle(&mut self, segment: &Segment);
    fn collect(&mut self, skb: &SkBuff, segment: &Segment) -> bool;
}

impl Gather for Beginning {
    /// Begins with a connection's SYN.
    #[inline(always)]
    fn begin(&mut self, syn: &Segment) {
        self.begun = Self::BY_SYN;
        self.first = syn.first();
        self.known = 0;
        self.harmless = 0;
        self.prefix = Prefix::default();
    }

    /// Begins with whatever comes first, if it hasn't begun.
    #[inline(always)]
    fn begin_in_the_middle(&mut self, segment: &Segment) {
        if self.begun == 0 {
            self.begin(segment);
            self.begun = Self::IN_THE_MIDDLE;
        }
    }

    /// Takes what a segment has of the first bytes; false if there are some missing before it: it has
    /// to come again behind those, and then does; or if nobody can read it. The segment has a payload.
    #[inline(always)]
    fn collect(&mut self, skb: &SkBuff, segment: &Segment) -> bool {
        let mut offset = segment.first().wrapping_sub(self.first);
        // Sent again, or asking whether somebody is there.
        if self.known as usize >= PREFIX || (offset as i32) < 0 {
            return true;
        }
        if offset > self.known {
            if self.begun == Self::BY_SYN {
                return false;
            }
            self.begin(segment);
            self.begun = Self::IN_THE_MIDDLE;
            offset = 0;
        }
        // Bounds for the verifier, which the compiler knows and would leave out. What is read beyond the
        // first bytes is of no use.
        let place = black_box(offset as usize) & (PREFIX - 1);
        let length = black_box(segment.length as usize - 1).min(PREFIX - 1) + 1;
        let mut bytes = [self.prefix; 2];
        // SAFETY: both arrays together have room for this at each place of the first.
        let loaded = unsafe {
            let to = bytes.as_mut_ptr().cast::<u8>().add(place).cast();
            bpf_skb_load_bytes(skb.skb.cast(), segment.payload as u32, to, length as u32)
        };
        // In memory of a device, say.
        if loaded != 0 {
            return false;
        }
        self.prefix = bytes[0];
        self.known = self.known.max((place + length).min(PREFIX) as u32);
        true
    }
}

/// The packet's socket.
///
/// # Safety
/// `skb` is the running program's packet.
#[inline(always)]
unsafe fn socket_of(skb: *mut __sk_buff) -> *mut bpf_sock {
    // SAFETY: the verifier knows the field.
    unsafe { (&raw const (*skb).__bindgen_anon_2.sk).read_volatile() }
}
