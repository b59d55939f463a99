//! The record of what agents did: one append-only, hash-chained journal file per session, an
//! index over all of them, and reading them back.
//!
//! What this module hides: framing, compression, chaining, mapped files, group commits to the disk,
//! SQLite.
//! What it guarantees:
//!
//! - [`SessionJournal::commit`] returns a [`Recorded`] only once everything that was appended is
//!   in the file ([`Durability::Os`]: survives the daemon's death) or on the disk
//!   ([`Durability::Disk`]: survives the machine's). The session forwards bytes only against one.
//! - A journal that could not be written is dead: it is cut back to its last whole record and
//!   every later append and commit fails, so the session ends. Nothing is dropped in silence.
//! - The index never slows a session down; it is derived from the journals and can be rebuilt.
//! - Reading never panics, whatever the file holds, and everything shown is escaped ([`show`]).
//!
//! # The journal file
//!
//! `<journal dir>/YYYY-MM-DD/<session id>.weir` (the UTC day of the session id, a UUID v7), mode
//! 0600 in directories of mode 0700. While its session lives the file is locked (`flock`,
//! exclusive), which is how a reader tells an open session from one that was cut off.
//!
//! ```text
//! file   = header frame*
//! header = magic "WEIRJRNL" (8) | version u32 LE = 1 | reserved u32 = 0 | session id (16)
//! frame  = length u32 LE | kind u8 | flags u8 | check (2) | payload (length bytes) | chain (32)
//! ```
//!
//! - `chain` of frame n is `BLAKE3(length | kind | flags | check | payload as stored)` keyed with the
//!   chain of n-1; the chain before the first frame is `BLAKE3(header)`, without a key.
//! - `check` is the first two bytes of the chain of n-1, XORed with the three byte pairs of
//!   length, kind and flags.
//! - `flags` bit 0: the payload is `u32 LE raw length | LZ4 block`. All other bits are 0.
//! - No kind is 0. While its session lives, or if its daemon was killed, a file may end in zeros, up to
//!   a multiple of 4096 bytes: room for what is recorded next. Before them there may be a commit that is
//!   being copied, whose first kind is 0 yet. Any other zeros are damage.
//! - The first frame is [`Stored::Open`] (kind 1); a session that ended in order has
//!   [`Stored::Close`] (kind 11) last.
//! - Integers inside payloads are unsigned LEB128, byte strings a LEB128 length and the bytes.
//!   Times are microseconds since the Unix epoch, durations microseconds. The layout of each
//!   payload is on its [`Entry`] or [`Question`]; `Open` and `Close` are JSON.
//!
//! A journal without statements has a word in parentheses for its datastore: `(unlisted)`, an
//! attempt to reach a database past Weir; `(names)`, an agent's questions for names, with one
//! [`Question`] each.
//!
//! Nothing that writes version 1 has been released: until then what changes is part of it.
//!
//! The chain shows damage and careless edits. Whoever can rewrite the whole file can also
//! recompute its chain, and whole records taken off the end of a file that has no `Close` leave
//! no trace: both need signed digests kept elsewhere.

mod account;
pub mod cells;
mod codec;
mod entry;
mod file;
mod frame;
mod index;
mod journal;
mod open;
mod question;
mod read;
pub mod show;
mod stored;
mod summary;

mod sync;
#[cfg(test)]
mod tests;
mod verify;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use file::JournalFile;

pub use account::Group;
pub use entry::{Entry, RowsDigest, Status, Totals, Verdict, Via};
pub use frame::MAX_PAYLOAD;

pub use index::{Filter, Index, Indexed, SessionRow, journals, misnamed_journals, reindex};
pub use journal::{COMMIT_AT, Recorded, SessionJournal, UnpinnedJournal, Written};
pub use open::{Close, CloseReason, SessionId, SessionOpen, Upstream};
pub use question::{Question, Told};
pub use read::{Broken, Fault, ReadError, Reader, Record, Tail, is_live};
pub use stored::{Stored, StoredDecision, StoredOutcome};
pub use summary::{State, Summary};
pub use verify::{Loss, Verification, Verified, misnamed, verify};

/// Free space, in bytes, below which no new session is accepted. Sessions that are open may use
/// it: 64 MiB lets each of hundreds of them record what it is doing and its end, instead of all
/// being cut off in the middle of a statement in the moment in which the disk fills up.
pub const RESERVE: u64 = 64 << 20;

/// How far a commit goes before the session may forward anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Into the kernel's page cache: survives `kill -9` of the daemon, not a power cut.
    #[default]
    Os,
    /// Onto the disk, by a `fdatasync` that concurrent sessions share.
    Disk,
}

/// Where and how to record.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The directory of the journals; created (0700) where it is missing.
    pub dir: PathBuf,
    /// How far a commit goes.
    pub durability: Durability,
    /// The SQLite file of the index; created (0600) where it is missing.
    pub index: PathBuf,
}

/// What the CLI reads from.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The directory of the journals.
    pub journal: PathBuf,
    /// The SQLite file of the index.
    pub index: PathBuf,
}

/// Why something was not recorded or could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was being done, as in "cannot write …".
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Less than [`RESERVE`] is free.
    #[error("{} has {free} bytes free; new sessions need {RESERVE}", dir.display())]
    Full {
        /// The journal directory.
        dir: PathBuf,
        /// Bytes free to an unprivileged process.
        free: u64,
    },
    /// Another daemon records into the same directory.
    #[error("another daemon records into {}", dir.display())]
    Locked {
        /// The journal directory.
        dir: PathBuf,
    },
    /// An earlier write of this journal failed; its session has to end.
    #[error("the journal of this session failed earlier")]
    Dead,
    /// One entry is larger than a frame may be.
    #[error("an entry of {size} bytes exceeds the {MAX_PAYLOAD} that a record can hold")]
    TooLarge {
        /// Bytes of the payload.
        size: usize,
    },
    /// The threads that bring journals to the disk are gone.
    #[error("the journal's sync threads are gone")]
    NoSync,
    /// SQLite refused.
    #[error("the index failed")]
    Index(#[from] rusqlite::Error),
}

impl Error {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Error {
        Error::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}

/// Opens journals for sessions. Cheap to clone, shared by all threads.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Shared>);

/// What all journals of a recorder share.
#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// Some with [`Durability::Disk`].
    syncer: Option<sync::Syncer>,
    index: index::Feed,
    /// Today's directory, kept open so that a session costs no `mkdir`.
    day: Mutex<Option<(String, Arc<File>)>>,
    /// Holds the lock on the directory as long as the recorder lives.
    _lock: File,
}

impl Recorder {
    /// Prepares the directory, takes its lock, and starts the index (and, for
    /// [`Durability::Disk`], the sync threads). Journals left by a daemon that died are indexed in
    /// the background.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Locked`], [`Error::Index`] where the index can't be opened even
    /// after being made anew.
    pub fn open(settings: &Settings) -> Result<Recorder, Error> {
        make_dir(&settings.dir).map_err(|e| Error::io("create", &settings.dir, e))?;
        let lock = lock_dir(&settings.dir)?;
        let syncer = match settings.durability {
            Durability::Os => None,
            Durability::Disk => Some(
                sync::Syncer::start()
                    .map_err(|e| Error::io("start the sync threads of", &settings.dir, e))?,
            ),
        };
        let index = index::Feed::start(&settings.index, &settings.dir)?;
        Ok(Recorder(Arc::new(Shared {
            dir: settings.dir.clone(),
            syncer,
            index,
            day: Mutex::new(None),
            _lock: lock,
        })))
    }

    /// Whether a new session could be recorded: the directory can be written, and [`RESERVE`] is
    /// free. Two system calls.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Full`].
    pub fn check_writable(&self) -> Result<(), Error> {
        check_writable(&self.0.dir)
    }

    /// Starts the journal of a session that stays on its thread: makes its file and appends `open`.
    /// The first commit writes it.
    ///
    /// # Errors
    /// As [`Recorder::check_writable`]; also if a journal of this id exists.
    pub fn session(&self, open: &SessionOpen) -> Result<SessionJournal, Error> {
        self.start(open)
    }

    /// [`Recorder::session`] for one that doesn't.
    ///
    /// # Errors
    /// As [`Recorder::session`].
    pub fn unpinned_session(&self, open: &SessionOpen) -> Result<UnpinnedJournal, Error> {
        self.start(open)
    }

    fn start<F: JournalFile>(&self, open: &SessionOpen) -> Result<SessionJournal<F>, Error> {
        self.check_writable()?;
        let shared = &self.0;
        let day_dir = shared.day_dir(&open.id.day())?;
        let path = open.id.path_in(&shared.dir);
        // A shared mapping reads as well.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| Error::io("create", &path, e))?;
        lock_journal(&file).map_err(|e| Error::io("lock", &path, e))?;
        Ok(SessionJournal::start(
            Arc::clone(shared),
            file,
            day_dir,
            open,
        ))
    }
}

impl Shared {
    fn durability(&self) -> Durability {
        if self.syncer.is_some() {
            Durability::Disk
        } else {
            Durability::Os
        }
    }

    /// The open directory of a day, made on its first use.
    fn day_dir(&self, day: &str) -> Result<Arc<File>, Error> {
        let mut cached = self.day.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, dir)) = &*cached
            && name == day
        {
            return Ok(Arc::clone(dir));
        }
        let path = self.dir.join(day);
        let made = || -> io::Result<File> {
            make_dir(&path)?;
            if self.syncer.is_some() {
                File::open(&self.dir)?.sync_all()?;
            }
            File::open(&path)
        };
        let dir = Arc::new(made().map_err(|e| Error::io("create", &path, e))?);
        *cached = Some((day.to_owned(), Arc::clone(&dir)));
        Ok(dir)
    }
}

/// Whether journals can be written in `dir` and [`RESERVE`] is free there.
///
/// # Errors
/// [`Error::Io`], [`Error::Full`].
pub fn check_writable(dir: &Path) -> Result<(), Error> {
    use nix::unistd::AccessFlags;
    nix::unistd::access(dir, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|e| Error::io("write in", dir, e.into()))?;
    let fs = nix::sys::statvfs::statvfs(dir)
        .map_err(|e| Error::io("see the free space of", dir, e.into()))?;
    let free = fs.blocks_available().saturating_mul(fs.fragment_size());
    if free < RESERVE {
        return Err(Error::Full {
            dir: dir.to_owned(),
            free,
        });
    }
    Ok(())
}

fn make_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// One daemon per directory: two would race for nothing good, and the index could not tell whose
/// sessions are dead.
fn lock_dir(dir: &Path) -> Result<File, Error> {
    let path = dir.join(".lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| Error::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(Error::Locked {
            dir: dir.to_owned(),
        }),
        Err(std::fs::TryLockError::Error(e)) => Err(Error::io("lock", &path, e)),
    }
}

/// Marks the journal as being written. A reader probes the lock for some microseconds; the file
/// was made just now, so that at most one such probe can be in the way.
fn lock_journal(file: &File) -> io::Result<()> {
    for _ in 0..100 {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::WouldBlock) => std::thread::yield_now(),
            Err(std::fs::TryLockError::Error(e)) => return Err(e),
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}
