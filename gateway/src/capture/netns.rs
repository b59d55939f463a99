//! Listeners inside other network namespaces. The daemon stays in its own: a short-lived thread
//! enters, listens, and hands the sockets out.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

use super::kernel;

/// Connections that wait for `accept`; the namespace's `somaxconn` caps it.
const BACKLOG: i32 = 4096;

/// How many ports to try until one is free for both families.
const TRIES: usize = 16;

/// Weir's listeners in one namespace.
pub(super) struct Opened {
    /// The namespace's cookie.
    pub(super) cookie: u64,
    /// The port of all of `listeners`.
    pub(super) port: u16,
    /// At 127.0.0.1, and at `::1` where the kernel has IPv6; nonblocking.
    pub(super) listeners: Vec<TcpListener>,
}

/// Listens on loopback inside a namespace, given as its open `/proc/<pid>/ns/net`.
pub(super) fn open(namespace: File) -> io::Result<Opened> {
    let inside = move || {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        listen()
    };
    thread::Builder::new()
        .name("weir-netns".into())
        .spawn(inside)?
        .join()
        .map_err(|_| io::Error::other("the thread inside the namespace panicked"))?
}

fn listen() -> io::Result<Opened> {
    for _ in 0..TRIES {
        let v4 = listen_at(Ipv4Addr::LOCALHOST.into(), 0)?;
        let cookie = kernel::netns_cookie(v4.as_fd())?;
        let port = v4.local_addr()?.port();
        let listeners = match listen_at(Ipv6Addr::LOCALHOST.into(), port) {
            Ok(v6) => vec![v4, v6],
            Err(error) if is(&error, Errno::EADDRINUSE) => continue,
            Err(error) if is(&error, Errno::EAFNOSUPPORT) || is(&error, Errno::EADDRNOTAVAIL) => {
                vec![v4]
            }
            Err(error) => return Err(error),
        };
        return Ok(Opened {
            cookie,
            port,
            listeners,
        });
    }
    Err(io::Error::from(Errno::EADDRINUSE))
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// One nonblocking listener. It may be bound before `lo` is up (FREEBIND): a namespace is found
/// before whoever made it has set it up.
fn listen_at(address: IpAddr, port: u16) -> io::Result<TcpListener> {
    let address = SocketAddr::new(address, port);
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_listen_at_one_port_in_the_current_namespace() {
        let own = File::open("/proc/self/ns/net").unwrap();
        // Entering a namespace takes CAP_SYS_ADMIN, even one's own; listening doesn't.
        let opened = if nix::unistd::geteuid().is_root() {
            open(own)
        } else {
            listen()
        }
        .unwrap();
        assert!(opened.cookie > 0);
        for listener in &opened.listeners {
            let address = listener.local_addr().unwrap();
            assert!(address.ip().is_loopback());
            assert_eq!(address.port(), opened.port);
        }
    }
}
