//! Ending a socket from outside (`SOCK_DESTROY` of `linux/sock_diag.h`): its program gets
//! ECONNABORTED at once, and its peer a reset.

use std::io;

use gateway_ebpf::Detection;
use nix::sys::socket::SockProtocol;

use super::netlink::{ACKNOWLEDGE, Message, Netlink, REQUEST};

const SOCK_DESTROY: u16 = 21;

const AF_INET6: u32 = 10;
const IPPROTO_TCP: u8 = 6;

/// Ends a socket of the calling thread's namespace: exactly the one with this cookie. One that has
/// ended by itself is as good.
pub(super) fn destroy(socket: &Detection) -> io::Result<()> {
    let netlink = Netlink::of(SockProtocol::NetlinkSockDiag)?;
    let request = Message::new(SOCK_DESTROY, REQUEST | ACKNOWLEDGE, &request(socket));
    match netlink.ask(&request, |_, _| {}) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// `struct inet_diag_req_v2` of `linux/inet_diag.h`.
fn request(socket: &Detection) -> Vec<u8> {
    // AF_INET and AF_INET6 are small.
    let mut bytes = vec![socket.family as u8, IPPROTO_TCP, 0, 0];
    bytes.extend(u32::MAX.to_ne_bytes());
    for endpoint in [&socket.source, &socket.destination] {
        bytes.extend((endpoint.port as u16).to_be_bytes());
    }
    for endpoint in [&socket.source, &socket.destination] {
        let address = if socket.family == AF_INET6 {
            endpoint.address
        } else {
            [endpoint.address[3], 0, 0, 0]
        };
        bytes.extend(address.map(u32::to_ne_bytes).as_flattened());
    }
    bytes.extend(socket.device.to_ne_bytes());
    // The lower half first.
    bytes.extend((socket.cookie as u32).to_ne_bytes());
    bytes.extend(((socket.cookie >> 32) as u32).to_ne_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use gateway_ebpf::Endpoint;

    #[test]
    fn a_request_has_the_kernels_layout() {
        let endpoint = |last, port| Endpoint::v4(u32::from_ne_bytes([10, 0, 0, last]), port);
        let socket = Detection {
            cookie: 0x0102_0304_0506_0708,
            netns: 1,
            cgroup: 1,
            source: endpoint(1, 0x1234),
            destination: endpoint(2, 5432),
            family: 2,
            device: 7,
            pid: 1,
            uid: 0,
            comm: [0; 16],
            protocol: 1,
            dialled: 1,
        };
        let bytes = request(&socket);
        assert_eq!(bytes.len(), 8 + 48);
        assert_eq!(bytes[8..12], [0x12, 0x34, 0x15, 0x38]);
        assert_eq!(bytes[12..16], [10, 0, 0, 1]);
        assert_eq!(bytes[28..32], [10, 0, 0, 2]);
        assert_eq!(bytes[44..48], 7_u32.to_ne_bytes());
        assert_eq!(bytes[48..52], 0x0506_0708_u32.to_ne_bytes());
        let v6 = request(&Detection {
            family: 10,
            ..socket
        });
        assert_eq!(
            v6[12..28],
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1]
        );
    }
}
