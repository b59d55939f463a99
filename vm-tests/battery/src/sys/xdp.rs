//! AF_XDP sockets, which hand frames to a driver without any of the network stack in between. Only
//! the sending half: it needs no XDP program.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr, slice,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{checked, set_number, set_option};

const FRAMES: u32 = 16;
const FRAME: u32 = 2048;
const SOL_XDP: i32 = 283;

/// A socket that sends frames on one interface.
pub(crate) struct Sender {
    socket: OwnedFd,
    umem: Mapping,
    ring: Mapping,
    producer: usize,
    descriptors: usize,
    sent: u32,
}

impl Sender {
    pub(crate) fn new(interface: u32) -> io::Result<Self> {
        // SAFETY: a call without pointers.
        let fd = checked(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0) })?;
        // SAFETY: the kernel has just made this descriptor for us.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let size = (FRAMES * FRAME) as usize;
        let umem = Mapping::anonymous(size)?;
        let region = libc::xdp_umem_reg {
            addr: umem.start as u64,
            len: size as u64,
            chunk_size: FRAME,
            headroom: 0,
            flags: 0,
            tx_metadata_len: 0,
        };
        // The last fields are younger than 6.1, which takes the first 24 or 32 bytes.
        // SAFETY: the structure is plain data without padding in its first 32 bytes.
        let bytes = unsafe { slice::from_raw_parts((&raw const region).cast::<u8>(), 32) };
        set_option(&socket, SOL_XDP, libc::XDP_UMEM_REG, bytes)?;
        let count = i32::try_from(FRAMES).unwrap_or(0);
        for ring in [
            libc::XDP_UMEM_FILL_RING,
            libc::XDP_UMEM_COMPLETION_RING,
            libc::XDP_TX_RING,
        ] {
            set_number(&socket, SOL_XDP, ring, count)?;
        }
        let offsets = offsets(&socket)?;
        let ring_size = usize::try_from(offsets.tx.desc).unwrap_or(0)
            + FRAMES as usize * size_of::<libc::xdp_desc>();
        let ring = Mapping::of(&socket, ring_size, libc::XDP_PGOFF_TX_RING)?;
        bind(&socket, interface)?;
        Ok(Self {
            socket,
            umem,
            ring,
            producer: usize::try_from(offsets.tx.producer).unwrap_or(0),
            descriptors: usize::try_from(offsets.tx.desc).unwrap_or(0),
            sent: 0,
        })
    }

    /// Sends one Ethernet frame. Frames of the memory are used in turn: a conversation sends fewer
    /// at once than there are.
    pub(crate) fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        if frame.len() > FRAME as usize {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let index = self.sent % FRAMES;
        let place = (index * FRAME) as usize;
        let descriptor = libc::xdp_desc {
            addr: place as u64,
            len: u32::try_from(frame.len()).unwrap_or(0),
            options: 0,
        };
        // SAFETY: all three places are within their mappings: the frame's by its index, the
        // descriptor's and the producer's by the offsets that the kernel gave for this ring.
        unsafe {
            ptr::copy_nonoverlapping(frame.as_ptr(), self.umem.start.add(place), frame.len());
            let slot = self
                .ring
                .start
                .add(self.descriptors)
                .cast::<libc::xdp_desc>();
            slot.add(index as usize).write(descriptor);
            let producer = self.ring.start.add(self.producer).cast::<AtomicU32>();
            (*producer).store(self.sent.wrapping_add(1), Ordering::Release);
        }
        self.sent = self.sent.wrapping_add(1);
        let fd = self.socket.as_raw_fd();
        // SAFETY: the descriptor is open; nothing is read from the null pointer.
        let kick = unsafe { libc::sendto(fd, ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
        if kick < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

fn offsets(socket: &OwnedFd) -> io::Result<libc::xdp_mmap_offsets> {
    // SAFETY: all zeros is a value of this structure of numbers.
    let mut offsets: libc::xdp_mmap_offsets = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of_val(&offsets)).unwrap_or(0);
    let (fd, name) = (socket.as_raw_fd(), libc::XDP_MMAP_OFFSETS);
    let place = (&raw mut offsets).cast();
    // SAFETY: the kernel writes at most `length` bytes of the structure.
    checked(unsafe { libc::getsockopt(fd, SOL_XDP, name, place, &raw mut length) })?;
    Ok(offsets)
}

fn bind(socket: &OwnedFd, interface: u32) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: u16::try_from(libc::AF_XDP).unwrap_or(0),
        sxdp_flags: libc::XDP_COPY,
        sxdp_ifindex: interface,
        sxdp_queue_id: 0,
        sxdp_shared_umem_fd: 0,
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
    // SAFETY: the address is a whole `sockaddr_xdp`.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    checked(result).map(drop)
}

/// Memory shared with the kernel.
struct Mapping {
    start: *mut u8,
    size: usize,
}

impl Mapping {
    fn anonymous(size: usize) -> io::Result<Self> {
        Self::map(size, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    fn of(socket: &OwnedFd, size: usize, offset: i64) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(size, flags, socket.as_raw_fd(), offset)
    }

    fn map(size: usize, flags: i32, fd: i32, offset: i64) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice touches no other memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            size,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping that `map` made, and nothing points into it any more.
        unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}
