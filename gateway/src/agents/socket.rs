//! A connection to a runtime's socket, whose other end has to be root (or the daemon's own user).

use std::path::Path;

use tokio::net::UnixStream;

use super::Error;

/// The longest answer, in bytes.
pub(super) const MAX_ANSWER: usize = 8 << 20;

/// Connects. A runtime that isn't root's is a user's, who may say what they like.
pub(super) async fn connect(socket: &Path) -> Result<UnixStream, Error> {
    let failed = |why: String| Error::Socket {
        socket: socket.to_owned(),
        why,
    };
    let stream = UnixStream::connect(socket)
        .await
        .map_err(|e| failed(e.to_string()))?;
    let peer = stream.peer_cred().map_err(|e| failed(e.to_string()))?;
    if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        return Err(failed(format!("it is user {}'s, not root's", peer.uid())));
    }
    Ok(stream)
}

/// Something that went wrong on the way.
pub(super) fn broken(socket: &Path, why: impl std::fmt::Display) -> Error {
    Error::Socket {
        socket: socket.to_owned(),
        why: why.to_string(),
    }
}
