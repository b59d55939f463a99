//! The file of a journal as it is written.
//!
//! [`Appended`] takes a system call for each commit. [`Mapped`] takes none for a small commit of a
//! busy session: the end of the file is made longer than what is written, by zeros that the disk has
//! room for ([`WINDOW`]), and mapped; a commit is copied there. What is in a shared mapping is in the
//! page cache like what was written by a call, and outlives the daemon as that does. A call costs a
//! statement more than all that is decided about it.
//!
//! ```text
//! written                               the file's end, at a multiple of PAGE
//!    |                                     |
//! ...| 0 0 0 0 0 0 0 0 0 0 ... 0 0 0 0 0 0 |      nothing has kind 0, so a reader stops here
//! ...| 4 4 4 4 _ 4 4 4 4 4 ... 0 0 0 0 0 0 |      a commit is copied, but for its first kind
//! ...| 4 4 4 4 K 4 4 4 4 4 ... 0 0 0 0 0 0 |      and this last byte makes it one
//! ```
//!
//! So a commit that was cut off by the daemon's death is told from damage ([`is_cut_off`]), and a
//! reader of a growing journal never sees one that isn't whole. A large commit, and `Close`, are
//! written by a call behind what is written, once the zeros are cut off.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statfs::{EXT4_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs};
use vmap::{Extent, MapMut};

use super::Durability;
use super::frame::KIND;

/// Bytes of the file that are mapped at once.
const WINDOW: u64 = 64 << 10;
/// What the file's end is a multiple of while a part of it is mapped.
const PAGE: u64 = 4096;
/// The largest commit that is copied: above it, the faults of new pages cost more than a call.
const SMALL: usize = 4096;
/// Small commits in a row that make a session a busy one. Mapping costs as much as so many calls.
const BUSY: u32 = 32;

/// Bytes behind the last sound record within which an unfinished commit and the zeros behind it are.
pub(super) const UNFINISHED: u64 = WINDOW + PAGE;

/// A file of which every commit is written to the end.
pub trait JournalFile {
    /// A new file.
    fn new(file: File, durability: Durability) -> Self;
    /// What it is without a mapping.
    fn appended(&self) -> &Appended;
    /// Writes one commit behind what is written.
    ///
    /// # Errors
    /// As the operating system says; [`Appended::cut_back`] is then due.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Ends the file where what is written ends.
    ///
    /// # Errors
    /// As the operating system says.
    fn settle(&mut self) -> io::Result<()>;
}

/// See the module.
#[derive(Debug)]
pub struct Appended {
    file: Arc<File>,
    written: u64,
}

impl Appended {
    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Bytes written.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn cut_back(&self) -> io::Result<()> {
        self.file.set_len(self.written)
    }
}

impl JournalFile for Appended {
    fn new(file: File, _: Durability) -> Self {
        Self {
            file: Arc::new(file),
            written: 0,
        }
    }

    fn appended(&self) -> &Appended {
        self
    }

    /// One call; a short write is an error, which on a regular file means that the disk is full.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        loop {
            match self.file.write_at(bytes, self.written) {
                Ok(n) if n == bytes.len() => break,
                Ok(_) => return Err(io::ErrorKind::StorageFull.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// See the module. Stays on its thread.
#[derive(Debug)]
pub struct Mapped {
    appended: Appended,
    /// Whether the setting and the filesystem allow it.
    may_map: bool,
    /// Small commits in a row.
    small: u32,
    window: Option<Window>,
}

impl JournalFile for Mapped {
    fn new(file: File, durability: Durability) -> Self {
        Self {
            appended: Appended::new(file, durability),
            // `fdatasync` costs far more than the call that is saved.
            may_map: durability == Durability::Os,
            small: 0,
            window: None,
        }
    }

    fn appended(&self) -> &Appended {
        &self.appended
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > SMALL {
            self.settle()?;
            return self.appended.append(bytes);
        }
        self.small = self.small.saturating_add(1);
        if self.small > BUSY && self.may_map && self.copy(bytes)? {
            self.appended.written += bytes.len() as u64;
            return Ok(());
        }
        self.appended.append(bytes)
    }

    fn settle(&mut self) -> io::Result<()> {
        self.small = 0;
        match self.window.take() {
            Some(_) => self.appended.cut_back(),
            None => Ok(()),
        }
    }
}

impl Mapped {
    /// Copies a commit to where the file is mapped. False: it can't be mapped, and isn't.
    fn copy(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let Appended { file, written } = &self.appended;
        if let Some(window) = &mut self.window
            && window.put(*written, bytes)
        {
            return Ok(true);
        }
        self.window = None;
        let window = Window::open(file, *written).ok();
        if let Some(window) = window
            && self.window.insert(window).put(*written, bytes)
        {
            return Ok(true);
        }
        // A full disk is for the call to find, which follows.
        self.may_map = false;
        self.window = None;
        self.appended.cut_back()?;
        Ok(false)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // If it fails, the reader sees what a killed daemon leaves.
        let _ = self.settle();
    }
}

/// A part of the file that is mapped.
#[derive(Debug)]
struct Window {
    map: MapMut,
    /// Where in the file it begins.
    from: u64,
}

impl Window {
    /// Gets room on the disk and maps it, from the page in which `written` is.
    fn open(file: &File, written: u64) -> io::Result<Window> {
        // Where a page of a file that has its room can still fail to be written, the daemon would die
        // of a full disk. These keep what they promise.
        let filesystem = fstatfs(file)?.filesystem_type();
        if ![EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, TMPFS_MAGIC].contains(&filesystem) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let from = written - written % PAGE;
        fallocate(
            file,
            FallocateFlags::empty(),
            from.cast_signed(),
            WINDOW.cast_signed(),
        )?;
        let map = MapMut::with_options()
            .offset(from as usize)
            .len(Extent::Exact(WINDOW as usize))
            .map(file)?;
        Ok(Window { map, from })
    }

    /// Copies a commit to `at` in the file. False if it has no room here.
    fn put(&mut self, at: u64, bytes: &[u8]) -> bool {
        let start = (at - self.from) as usize;
        let Some(room) = self.map.get_mut(start..start + bytes.len()) else {
            return false;
        };
        let Some(&kind) = bytes.get(KIND) else {
            return false;
        };
        room[..KIND].copy_from_slice(&bytes[..KIND]);
        room[KIND + 1..].copy_from_slice(&bytes[KIND + 1..]);
        // For the processor and the compiler: whoever sees the kind sees the rest, and so does whoever
        // reads what is left of a daemon that died here.
        fence(Ordering::Release);
        room[KIND] = kind;
        true
    }
}

/// Whether a file of `length` bytes that can't be read on at `offset` was cut off there: `rest` is what
/// it holds from there on, up to [`UNFINISHED`] bytes, and `end` where the frame ends that can't be read,
/// if it has a kind.
///
/// Either the daemon died while it copied a commit, or the machine did, and pages that were not on the
/// disk are zeros again.
pub(super) fn is_cut_off(offset: u64, length: u64, rest: &[u8], end: Option<u64>) -> bool {
    if !length.is_multiple_of(PAGE) || offset + rest.len() as u64 != length {
        return false;
    }
    let used = rest
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |n| n + 1);
    match end {
        None => used <= SMALL,
        Some(end) => end > (offset + used as u64).next_multiple_of(PAGE),
    }
}
