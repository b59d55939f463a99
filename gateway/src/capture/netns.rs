//! Listeners inside other network namespaces. The daemon stays in its own: a short-lived thread
//! enters, binds, and hands the sockets out.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::thread;

use gateway_ebpf::Detection;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, SockRef, Socket, Type};

use super::netlink::{Device, Netlink};
use super::{kernel, sock_diag};

/// Connections that wait for `accept`; the namespace's `somaxconn` caps it.
const BACKLOG: i32 = 4096;

/// How many ports to try until one is free for both families.
const TRIES: usize = 32;

/// The lowest port to try: below are those that servers are known by.
const LOWEST: u16 = 20000;

/// Weir's listeners in one namespace.
pub(super) struct Opened {
    /// The namespace's cookie.
    pub(super) cookie: u64,
    /// The port of all of `listeners` and `questions`.
    pub(super) port: u16,
    /// At 127.0.0.1, and at `::1` where the kernel has IPv6; nonblocking. See [`Opened::listen`].
    pub(super) listeners: Vec<TcpListener>,
    /// The same for datagrams.
    pub(super) questions: Vec<UdpSocket>,
}

impl Opened {
    /// Takes connections from now on: just before clients are sent there, so that they are neither
    /// refused here, nor see the listeners in their list of sockets long before they are served.
    pub(super) fn listen(&self) -> io::Result<()> {
        let mut listeners = self.listeners.iter().map(SockRef::from);
        listeners.try_for_each(|listener| listener.listen(BACKLOG))
    }
}

/// Binds on loopback inside a namespace, given as its open `/proc/<pid>/ns/net`.
pub(super) fn open(namespace: &File) -> io::Result<Opened> {
    within(namespace, bind)
}

/// The devices of a namespace.
pub(super) fn devices(namespace: &File) -> io::Result<Vec<Device>> {
    within(namespace, || Netlink::open()?.devices())
}

/// Ends a connection in a namespace.
pub(super) fn end_connection(namespace: &File, socket: &Detection) -> io::Result<()> {
    within(namespace, || sock_diag::destroy(socket))
}

/// Calls a function on a thread that is in a namespace.
fn within<T: Send>(namespace: &File, body: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let inside = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET)?;
            body()
        };
        thread::Builder::new()
            .name("weir-netns".into())
            .spawn_scoped(scope, inside)?
            .join()
            .map_err(|_| io::Error::other("the thread inside the namespace panicked"))?
    })
}

/// The cookie of this process's own namespace.
pub(super) fn own_cookie() -> io::Result<u64> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    kernel::netns_cookie(socket.as_fd())
}

fn bind() -> io::Result<Opened> {
    let automatic = automatic_ports();
    for attempt in 0..TRIES {
        // The last attempts take what the kernel gives.
        let wanted = if attempt < TRIES / 2 {
            random_port(&automatic)?
        } else {
            0
        };
        let (v4, v4_questions) = match both_at(Ipv4Addr::LOCALHOST.into(), wanted) {
            Err(error) if is(&error, Errno::EADDRINUSE) => continue,
            result => result?,
        };
        let cookie = kernel::netns_cookie(v4.as_fd())?;
        let port = v4.local_addr()?.port();
        let (listeners, questions) = match both_at(Ipv6Addr::LOCALHOST.into(), port) {
            Ok((v6, v6_questions)) => (vec![v4, v6], vec![v4_questions, v6_questions]),
            Err(error) if is(&error, Errno::EADDRINUSE) => continue,
            Err(error) if is(&error, Errno::EAFNOSUPPORT) || is(&error, Errno::EADDRNOTAVAIL) => {
                (vec![v4], vec![v4_questions])
            }
            Err(error) => return Err(error),
        };
        return Ok(Opened {
            cookie,
            port,
            listeners,
            questions,
        });
    }
    Err(io::Error::from(Errno::EADDRINUSE))
}

/// The ports that the kernel gives to sockets that ask for none, in the thread's namespace.
fn automatic_ports() -> RangeInclusive<u16> {
    // With this path, the kernel shows the reading thread's own namespace.
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(low)), Some(Ok(high))) => low..=high,
        // Its default.
        _ => 32768..=60999,
    }
}

/// A port that the kernel gives to nobody by itself: what a hook on `bind` can't see is `listen` on
/// a socket without a port, and that must not get the listener's when the daemon is dead. 0 if there
/// is none.
fn random_port(automatic: &RangeInclusive<u16>) -> io::Result<u16> {
    for _ in 0..64 {
        let random = getrandom::u32().map_err(io::Error::other)?;
        let port = LOWEST + (random % u32::from(u16::MAX - LOWEST + 1)) as u16;
        if !automatic.contains(&port) {
            return Ok(port);
        }
    }
    Ok(0)
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}

/// A socket for connections and one for datagrams, at the same port.
fn both_at(address: IpAddr, port: u16) -> io::Result<(TcpListener, UdpSocket)> {
    let listener: TcpListener = bind_at(Type::STREAM, SocketAddr::new(address, port))?.into();
    let questions = bind_at(Type::DGRAM, listener.local_addr()?)?;
    Ok((listener, questions.into()))
}

/// A nonblocking socket at an address. It may be bound before `lo` is up (FREEBIND): a namespace is
/// found before whoever made it has set it up.
fn bind_at(kind: Type, address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_port_is_none_that_the_kernel_gives_by_itself() {
        for _ in 0..1000 {
            let port = random_port(&(32768..=60999)).unwrap();
            assert!((LOWEST..32768).contains(&port) || port > 60999, "{port}");
        }
        assert_eq!(random_port(&(1..=u16::MAX)).unwrap(), 0);
    }

    #[test]
    fn both_families_listen_at_one_port_in_the_current_namespace() {
        let own = File::open("/proc/self/ns/net").unwrap();
        // Entering a namespace takes CAP_SYS_ADMIN, even one's own; binding doesn't.
        let opened = if nix::unistd::geteuid().is_root() {
            open(&own)
        } else {
            bind()
        }
        .unwrap();
        assert!(opened.cookie > 0);
        let dial = |listener: &TcpListener| TcpStream::connect(listener.local_addr().unwrap());
        assert!(
            opened
                .listeners
                .iter()
                .all(|listener| dial(listener).is_err())
        );
        opened.listen().unwrap();
        assert!(
            opened
                .listeners
                .iter()
                .all(|listener| dial(listener).is_ok())
        );
        for listener in &opened.listeners {
            let address = listener.local_addr().unwrap();
            assert!(address.ip().is_loopback());
            assert_eq!(address.port(), opened.port);
        }
        let address = |socket: &UdpSocket| socket.local_addr().unwrap();
        let of_questions: Vec<_> = opened.questions.iter().map(address).collect();
        let listeners = opened.listeners.iter();
        let of_listeners: Vec<_> = listeners.map(|l| l.local_addr().unwrap()).collect();
        assert_eq!(of_questions, of_listeners);
    }
}
