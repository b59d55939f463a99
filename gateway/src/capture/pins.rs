//! What keeps programs attached and maps filled: pins when there is no daemon, and while there is one,
//! its own descriptors too. So whoever removes the pins meanwhile detaches nothing, and finds them
//! there again a moment later.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::kernel;

/// Descriptors of everything that is pinned in a directory, and where.
pub(super) struct Pins(Vec<(PathBuf, OwnedFd)>);

impl Pins {
    /// Holds what is pinned there now, as far as `which` says so of a name.
    pub(super) fn hold(dir: &Path, which: impl Fn(&str) -> bool) -> io::Result<Self> {
        let mut held = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(&which) {
                held.push((entry.path(), kernel::open_pinned(&entry.path())?));
            }
        }
        Ok(Self(held))
    }

    /// Pins again what was removed.
    pub(super) fn restore(&self) {
        for (path, object) in &self.0 {
            restore(object.as_fd(), path);
        }
    }
}

/// Pins a link or map again if its pin was removed: the next daemon finds nothing else.
pub(super) fn restore(object: BorrowedFd<'_>, path: &Path) {
    if path.exists() {
        return;
    }
    let dir = path.parent().map_or(Ok(()), fs::create_dir_all);
    match dir.and_then(|()| kernel::pin(object, path)) {
        Ok(()) => {
            tracing::error!(pin = %path.display(), "somebody has removed a pin; it is there again")
        }
        Err(error) => tracing::error!(pin = %path.display(), %error,
            "a pin is gone: when this daemon ends, what was pinned there does too"),
    }
}
