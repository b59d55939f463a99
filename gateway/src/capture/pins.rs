//! What keeps programs attached and maps filled: pins when there is no daemon, and while there is one,
//! its own descriptors too. So whoever removes the pins meanwhile detaches nothing, and finds them
//! there again a moment later.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
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
        restore(self.0.iter().map(|(path, object)| (path.clone(), object)));
    }
}

/// Pins links and maps again whose pins were removed: the next daemon finds nothing else.
pub(super) fn restore<'a>(held: impl Iterator<Item = (PathBuf, &'a OwnedFd)>) {
    for (path, object) in held.filter(|(path, _)| !path.exists()) {
        let dir = path.parent().map_or(Ok(()), fs::create_dir_all);
        let pin = path.display();
        match dir.and_then(|()| kernel::pin(object.as_fd(), &path)) {
            Ok(()) => tracing::error!(%pin, "somebody has removed a pin; it is there again"),
            Err(error) => {
                tracing::error!(%pin, %error,
                    "pins are gone: when this daemon ends, what was pinned there does too");
                // The others fare no better, and one line a second is loud enough.
                return;
            }
        }
    }
}
