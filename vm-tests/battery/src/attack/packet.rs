//! TCP in the attacker's own hands: segments that it makes and reads itself, and sends by whatever
//! way takes them. One small question, one small answer.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{Outcome, patience, pg};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const HEADER: usize = 20;
/// How long to wait before a segment is sent again.
const AGAIN: Duration = Duration::from_millis(300);

/// Who talks to whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) from_port: u16,
    pub(crate) to_port: u16,
}

/// A way for TCP segments, without their IP header.
pub(crate) trait Way {
    fn send(&mut self, flow: &Flow, segment: &[u8]) -> io::Result<()>;
    /// The next segment of any flow, or nothing for a while.
    fn receive(&mut self, flow: &Flow) -> io::Result<Option<Vec<u8>>>;
}

/// Asks the database over `way`.
pub(crate) fn ask(way: &mut impl Way, flow: Flow) -> Outcome {
    ask_in(way, flow, |_| {})
}

/// The same in a cipher, which is its own inverse, byte by byte.
pub(crate) fn ask_in(way: &mut impl Way, flow: Flow, cipher: fn(&mut [u8])) -> Outcome {
    match converse(way, flow, cipher) {
        Ok(reply) if reply.is_empty() => Outcome::Stopped("connected, and no answer".to_owned()),
        Ok(reply) => Outcome::Reply(reply),
        Err(error) => Outcome::stopped("own TCP", &error),
    }
}

/// A connection from SYN to the answer's end. The peer is left to find out by itself that nobody
/// is there any more.
fn converse(way: &mut impl Way, flow: Flow, cipher: fn(&mut [u8])) -> io::Result<Vec<u8>> {
    const START: u32 = 0x1000_0000;
    let syn = segment(&flow, START, 0, SYN, &[]);
    let answer = exchange(way, &flow, &syn, patience() * 2, |s| {
        s.flags & (SYN | ACK) == SYN | ACK || s.flags & RST != 0
    })?;
    let answer = answer.ok_or(io::ErrorKind::TimedOut)?;
    if answer.flags & RST != 0 {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let mut next = answer.number.wrapping_add(1);
    let mut question = pg::flight();
    cipher(&mut question);
    way.send(&flow, &segment(&flow, START + 1, next, ACK, &[]))?;
    let asked = segment(&flow, START + 1, next, ACK | PSH, &question);
    let own = START + 1 + u32::try_from(question.len()).unwrap_or(0);

    let deadline = Instant::now() + patience() * 4;
    let mut reply = Vec::new();
    let mut sent = None::<Instant>;
    while !pg::is_complete(&reply) && Instant::now() < deadline {
        if reply.is_empty() && sent.is_none_or(|sent| sent.elapsed() > AGAIN) {
            way.send(&flow, &asked)?;
            sent = Some(Instant::now());
        }
        let Some(mut segment_in) = receive(way, &flow)? else {
            continue;
        };
        if segment_in.flags & RST != 0 {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if segment_in.number == next && !segment_in.data.is_empty() {
            next = next.wrapping_add(u32::try_from(segment_in.data.len()).unwrap_or(0));
            cipher(&mut segment_in.data);
            reply.extend(segment_in.data);
            way.send(&flow, &segment(&flow, own, next, ACK, &[]))?;
        }
    }
    Ok(reply)
}

/// Sends until an answer of the right kind comes, or `limit` is over.
fn exchange(
    way: &mut impl Way,
    flow: &Flow,
    bytes: &[u8],
    limit: Duration,
    wanted: impl Fn(&Received) -> bool,
) -> io::Result<Option<Received>> {
    let start = Instant::now();
    while start.elapsed() < limit {
        way.send(flow, bytes)?;
        let sent = Instant::now();
        while sent.elapsed() < AGAIN {
            match receive(way, flow)? {
                Some(answer) if wanted(&answer) => return Ok(Some(answer)),
                _ => {}
            }
        }
    }
    Ok(None)
}

struct Received {
    number: u32,
    flags: u8,
    data: Vec<u8>,
}

/// The next segment of this flow, from the other side.
fn receive(way: &mut impl Way, flow: &Flow) -> io::Result<Option<Received>> {
    let Some(bytes) = way.receive(flow)? else {
        return Ok(None);
    };
    let ports = [flow.to_port.to_be_bytes(), flow.from_port.to_be_bytes()].concat();
    if bytes.len() < HEADER || bytes[..4] != ports {
        return Ok(None);
    }
    let offset = usize::from(bytes[12] >> 4) * 4;
    Ok(bytes.get(offset..).map(|data| Received {
        number: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        flags: bytes[13],
        data: data.to_vec(),
    }))
}

/// A TCP segment with its checksum.
fn segment(flow: &Flow, number: u32, acknowledged: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + data.len());
    bytes.extend(flow.from_port.to_be_bytes());
    bytes.extend(flow.to_port.to_be_bytes());
    bytes.extend(number.to_be_bytes());
    bytes.extend(acknowledged.to_be_bytes());
    bytes.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    bytes.extend(data);
    let sum = checksum(&[pseudo_header(flow, bytes.len()), bytes.clone()].concat());
    bytes[16..18].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn pseudo_header(flow: &Flow, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(0).to_be_bytes();
    let mut bytes = octets(flow.from);
    bytes.extend(octets(flow.to));
    // RFC 8200's form; for IPv4 the same words add up to the same sum.
    bytes.extend(length);
    bytes.extend([0, 0, 0, 6]);
    bytes
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IPv4 packet around a segment, with options (such as a source route) of whole words.
pub(crate) fn ipv4(flow: &Flow, options: &[u8], segment: &[u8]) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let total = words * 4 + segment.len();
    let mut bytes = vec![0x40 | u8::try_from(words).unwrap_or(5), 0];
    bytes.extend(u16::try_from(total).unwrap_or(0).to_be_bytes());
    bytes.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0]);
    bytes.extend(octets(flow.from));
    bytes.extend(octets(flow.to));
    bytes.extend(options);
    let sum = checksum(&bytes);
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(segment);
    bytes
}

/// The segment of this flow in an IPv4 packet.
pub(crate) fn from_ipv4(flow: &Flow, packet: &[u8]) -> Option<Vec<u8>> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let is_ours = packet.first()? >> 4 == 4
        && *packet.get(9)? == 6
        && *packet.get(12..16)? == *octets(flow.to)
        && *packet.get(16..20)? == *octets(flow.from);
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    is_ours.then(|| packet.get(header..total).map(<[u8]>::to_vec))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow {
            from: IpAddr::from([10, 0, 0, 1]),
            to: IpAddr::from([10, 0, 0, 2]),
            from_port: 4000,
            to_port: 5432,
        }
    }

    #[test]
    fn a_segment_with_its_pseudo_header_adds_up_to_nothing() {
        let flow = flow();
        let bytes = segment(&flow, 1, 2, SYN, b"odd");
        let whole = [pseudo_header(&flow, bytes.len()), bytes].concat();
        assert_eq!(checksum(&whole), 0);
    }

    #[test]
    fn a_packet_gives_back_its_segment_to_its_own_flow_alone() {
        let flow = flow();
        let bytes = segment(&flow, 1, 2, SYN, b"x");
        let packet = ipv4(&flow, &[], &bytes);
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(from_ipv4(&flow, &packet), None);
        let back = Flow {
            from: flow.to,
            to: flow.from,
            ..flow
        };
        assert_eq!(from_ipv4(&back, &packet), Some(bytes));
    }
}
