//! System calls that no safe wrapper has. All of the crate's `unsafe` is in this module.

pub(crate) mod bpf;
pub(crate) mod uring;
pub(crate) mod xdp;

use std::{
    fs::File,
    io::{self, Read},
    mem,
    os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd, RawFd},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{ForkResult, Pid},
};
use socket2::{SockAddr, SockAddrStorage, Socket};

/// A system call's result as an `io::Result`.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Reads when there is something to read, or fails with `TimedOut`.
pub(crate) fn read_within<S: AsFd + Read>(
    stream: &mut S,
    buffer: &mut [u8],
    limit: Duration,
) -> io::Result<usize> {
    if !readable(stream, limit)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    stream.read(buffer)
}

/// Waits until something can be read.
pub(crate) fn readable(stream: &impl AsFd, limit: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    Ok(poll(&mut fds, limit)? > 0)
}

/// `setsockopt` with any value.
pub(crate) fn set_option(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: &[u8],
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the kernel reads `length` bytes of `value`.
    checked(unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), length) }).map(drop)
}

/// The same for options that are a number.
pub(crate) fn set_number(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: i32,
) -> io::Result<()> {
    set_option(socket, level, name, &value.to_ne_bytes())
}

/// `connect` to no address at all, which takes a socket's connection away.
pub(crate) fn disconnect(socket: &impl AsFd) -> io::Result<()> {
    let nobody = libc::sockaddr {
        sa_family: u16::try_from(libc::AF_UNSPEC).unwrap_or(0),
        sa_data: [0; 14],
    };
    let length = libc::socklen_t::try_from(size_of_val(&nobody)).unwrap_or(0);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open, and the address is a whole `sockaddr`.
    checked(unsafe { libc::connect(fd, &raw const nobody, length) }).map(drop)
}

/// The address of a network interface for packet sockets: the protocol that it listens for or
/// sends, and the station that it sends to.
pub(crate) fn link_address(interface: u32, protocol: u16, station: [u8; 6]) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: `sockaddr_ll` is one of the addresses that a storage can hold.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
    link.sll_protocol = protocol.to_be();
    link.sll_ifindex = i32::try_from(interface).unwrap_or(0);
    link.sll_halen = 6;
    link.sll_addr[..6].copy_from_slice(&station);
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or(0);
    // SAFETY: the storage was initialized as an address of this length just now.
    unsafe { SockAddr::new(storage, length) }
}

/// Opens a TUN (`tap` false) or TAP device with this name.
pub(crate) fn tunnel(name: &str, tap: bool) -> io::Result<File> {
    let file = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: all zeros is a value of `ifreq`.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
        *place = byte.cast_signed();
    }
    let kind = if tap { libc::IFF_TAP } else { libc::IFF_TUN };
    request.ifr_ifru.ifru_flags = i16::try_from(kind | libc::IFF_NO_PI).unwrap_or(0);
    // SAFETY: the descriptor is open, and the request is a whole `ifreq`.
    checked(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })?;
    Ok(file)
}

/// Opens a process by its number.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: a call without pointers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    owned(fd)
}

/// Copies another process's descriptor.
pub(crate) fn steal(process: &OwnedFd, descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a call without pointers; the process's descriptor is open.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0) };
    owned(fd)
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The packet sockets' option to go past queueing disciplines.
pub(crate) fn bypass_qdisc(socket: &Socket) -> io::Result<()> {
    set_number(socket, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, 1)
}

/// A descriptor that came with a message.
pub(crate) fn received(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has made this descriptor for us with the message; the caller has just
    // taken it out of there, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A copy of this process: `None` in the copy, its id in the original. For a process that has no
/// other threads.
pub(crate) fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: with one thread there is no lock that could be left held by another.
    Ok(match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => None,
        ForkResult::Parent { child } => Some(child),
    })
}

/// Takes all capabilities but these, by number, out of the bounding set.
pub(crate) fn bound_capabilities(kept: &[u32]) -> io::Result<()> {
    for capability in (0..64).filter(|capability| !kept.contains(capability)) {
        // SAFETY: a call without pointers.
        let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        if let Err(error) = checked(dropped) {
            // The kernel knows no capability with this number, and none behind it.
            let last = error.raw_os_error() == Some(libc::EINVAL);
            return if last { Ok(()) } else { Err(error) };
        }
    }
    Ok(())
}

/// The number by which the kernel's path manager knows a multipath connection.
pub(crate) fn mptcp_token(socket: &Socket) -> io::Result<u32> {
    const SOL_MPTCP: libc::c_int = 284;
    const MPTCP_INFO: libc::c_int = 1;
    // The start of `struct mptcp_info`: counters, flags, and the token as the fourth word.
    let mut info = [0_u32; 4];
    let mut length = libc::socklen_t::try_from(size_of_val(&info)).unwrap_or(0);
    let (fd, place) = (socket.as_raw_fd(), info.as_mut_ptr().cast());
    // SAFETY: the kernel writes at most `length` bytes.
    checked(unsafe { libc::getsockopt(fd, SOL_MPTCP, MPTCP_INFO, place, &raw mut length) })?;
    Ok(info[3])
}
