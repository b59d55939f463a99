//! Connections by the kernel's own TCP, in all the forms that its system calls know.

use std::{io, net::SocketAddr, net::TcpStream, os::fd::OwnedFd};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Outcome, patience, pg};

/// TCP with more than one path, which is a protocol of its own at the system call.
pub(crate) const MPTCP: i32 = libc::IPPROTO_MPTCP;

/// A stream socket of the family of `address`.
pub(crate) fn socket(address: SocketAddr, protocol: i32) -> io::Result<Socket> {
    Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::from(protocol)),
    )
}

/// Dials with what was done to the socket before, and asks.
pub(crate) fn ask(socket: Socket, address: SocketAddr) -> Outcome {
    match connect(&socket, address) {
        Ok(()) => pg::ask(stream(socket)),
        Err(error) => Outcome::stopped("connect", &error),
    }
}

/// A connect that gives up after a while: where packets are dropped, nobody says no.
pub(crate) fn connect(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.connect_timeout(&SockAddr::from(address), patience())
}

/// A socket as a stream.
pub(crate) fn stream(socket: Socket) -> TcpStream {
    // Some ways of connecting leave it nonblocking; an error shows at the first read.
    let _ = socket.set_nonblocking(false);
    TcpStream::from(OwnedFd::from(socket))
}

/// Tries each address until one is a success of the attacker's; otherwise what a user would see.
pub(crate) fn best(
    addresses: impl IntoIterator<Item = SocketAddr>,
    attack: impl Fn(SocketAddr) -> Outcome,
) -> Outcome {
    let mut best = Outcome::Stopped("no address".to_owned());
    for address in addresses {
        let outcome = attack(address);
        if outcome.is_success() {
            return outcome;
        }
        if !matches!(best, Outcome::Reply(_)) {
            best = outcome;
        }
    }
    best
}
