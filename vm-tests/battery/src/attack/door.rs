//! A unix socket in the attacker's folder, through which somebody outside hands it another socket.

use std::{
    io::IoSliceMut,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::UnixListener,
    },
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use socket2::Socket;

use super::ready;
use crate::{container::HOME, sys};

/// Says that the door is open, and takes what is handed through it.
pub(crate) fn receive() -> Result<Socket> {
    let listener = UnixListener::bind(format!("{HOME}/door"))?;
    ready()?;
    let (stream, _) = listener.accept()?;
    let mut byte = [0];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut room = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut data, Some(&mut room), flags)?;
    let handed = message.cmsgs()?.find_map(|rights| match rights {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let handed: OwnedFd = sys::received(handed.context("a socket was handed in")?);
    Ok(handed.into())
}
