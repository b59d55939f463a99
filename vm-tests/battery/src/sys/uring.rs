//! io_uring: the same system calls, made by the kernel's own hand.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use io_uring::{IoUring, opcode, squeue, types};
use socket2::{SockAddr, Socket};

/// A ring; with `poll`, a kernel thread takes the submissions, and this process makes no system
/// call for them.
pub(crate) struct Ring(IoUring);

impl Ring {
    pub(crate) fn new(poll: bool) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        if poll {
            builder.setup_sqpoll(1000);
        }
        builder.build(4).map(Self)
    }

    /// `connect`.
    pub(crate) fn connect(&mut self, socket: &Socket, address: SocketAddr) -> io::Result<()> {
        let address = SockAddr::from(address);
        let fd = types::Fd(socket.as_raw_fd());
        let connect = opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
        // SAFETY: the address and the socket outlive the call, which waits for the completion.
        unsafe { self.run(&connect) }.map(drop)
    }

    /// `socket`.
    pub(crate) fn socket(&mut self, domain: i32, kind: i32, protocol: i32) -> io::Result<Socket> {
        let make = opcode::Socket::new(domain, kind, protocol).build();
        // SAFETY: the submission has no pointers.
        let fd = unsafe { self.run(&make) }?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Socket::from(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Submits one operation and waits for its result.
    ///
    /// # Safety
    /// What the operation points to lives until this returns.
    unsafe fn run(&mut self, operation: &squeue::Entry) -> io::Result<i32> {
        // SAFETY: the caller's promise.
        unsafe { self.0.submission().push(operation) }.map_err(io::Error::other)?;
        self.0.submit_and_wait(1)?;
        let completion = self.0.completion().next();
        let result = completion.map_or(-libc::EIO, |done| done.result());
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        Ok(result)
    }
}
