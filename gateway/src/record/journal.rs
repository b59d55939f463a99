//! The journal of one session, as it is written.
//!
//! Appending encodes into a buffer, committing writes that in one system call. Buffers belong to
//! the thread and are lent to a journal only while something is pending: an idle session holds
//! none, and a busy one allocates none.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::entry::{Entry, Totals, kind};
use super::frame::{self, Chain, PIECE, put_frame};
use super::open::{Close, CloseReason, SessionId, SessionOpen};
use super::{Error, Shared};

/// Pending bytes from which on a session should commit before it appends more.
pub const COMMIT_AT: usize = 1 << 20;

/// Proof that everything appended to a journal until now is recorded, as far as the setting
/// [`super::Durability`] asks. Bytes are forwarded only against one.
#[derive(Debug)]
#[must_use = "bytes are forwarded only against this proof"]
pub struct Recorded(());

/// The journal of one session. Ends with [`SessionJournal::close`]; one that is dropped without it
/// reads back as cut off.
#[derive(Debug)]
pub struct SessionJournal {
    shared: Arc<Shared>,
    id: SessionId,
    file: Arc<File>,
    /// The directory, until the file's entry in it is on the disk.
    day_dir: Option<Arc<File>>,
    chain: Chain,
    /// Whole frames to be written; lent by [`BUFFERS`].
    pending: Vec<u8>,
    /// Bytes in the file.
    written: u64,
    /// Something was written that was not yet synced. Only with a syncer.
    unsynced: bool,
    /// Why nothing more can be recorded.
    failed: Option<Failure>,
    totals: Totals,
}

/// What made a journal fail.
#[derive(Debug)]
enum Failure {
    /// An entry above the limit, of so many bytes; not yet reported by a commit.
    TooLarge(usize),
    /// Reported.
    Dead,
}

impl SessionJournal {
    pub(super) fn start(
        shared: Arc<Shared>,
        file: File,
        day_dir: Arc<File>,
        open: &SessionOpen,
    ) -> SessionJournal {
        let header = frame::file_header(open.id);
        let mut pending = lend_buffer();
        pending.extend_from_slice(&header);
        let mut journal = SessionJournal {
            day_dir: shared.syncer.is_some().then_some(day_dir),
            shared,
            id: open.id,
            file: Arc::new(file),
            chain: frame::first_chain(&header),
            pending,
            written: 0,
            unsynced: false,
            failed: None,
            totals: Totals::default(),
        };
        journal.put(kind::OPEN, |out| put_json(out, open));
        journal.shared.index.opened(open.id);
        journal
    }

    /// The session's id.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// What the session has come to.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Encodes an entry, to be written by the next [`SessionJournal::commit`]. No I/O. An entry
    /// that can't be recorded makes that commit fail.
    pub fn append(&mut self, entry: &Entry<'_>) {
        self.totals.add(entry);
        match *entry {
            Entry::Rows { statement, frames } => {
                for frames in frames.chunks(PIECE) {
                    self.put_entry(&Entry::Rows { statement, frames });
                }
            }
            Entry::CopyIn { statement, frames } => {
                for frames in frames.chunks(PIECE) {
                    self.put_entry(&Entry::CopyIn { statement, frames });
                }
            }
            _ => self.put_entry(entry),
        }
    }

    /// Bytes that the next commit writes. From [`COMMIT_AT`] on the session should commit.
    pub fn bytes_pending(&self) -> usize {
        self.pending.len()
    }

    /// Writes everything that was appended, in one system call (none if there is nothing), and
    /// with [`super::Durability::Disk`] waits until it is on the disk.
    ///
    /// Cancel safe: what was written stays written, and the next commit waits for the disk.
    ///
    /// # Errors
    /// [`Error::Io`] (disk full, …), [`Error::TooLarge`], [`Error::NoSync`]; the file is cut back
    /// to its last whole record and every later commit gives [`Error::Dead`].
    pub async fn commit(&mut self) -> Result<Recorded, Error> {
        let result = match self.write_pending() {
            Ok(()) if self.unsynced => self.sync().await,
            other => other,
        };
        match result {
            Ok(()) => Ok(Recorded(())),
            Err(e) => {
                self.failed = Some(Failure::Dead);
                return_buffer(&mut self.pending);
                Err(e)
            }
        }
    }

    /// Records the end of the session at `at` (microseconds since the Unix epoch) and commits.
    ///
    /// # Errors
    /// As [`SessionJournal::commit`].
    pub async fn close(mut self, at: u64, reason: CloseReason) -> Result<(), Error> {
        let close = Close {
            at,
            reason,
            totals: self.totals,
        };
        self.put(kind::CLOSE, |out| put_json(out, &close));
        self.commit().await.map(|Recorded(())| ())
    }

    #[cfg(test)]
    pub(super) fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    fn put_entry(&mut self, entry: &Entry<'_>) {
        self.put(entry.kind(), |out| entry.encode(out));
    }

    fn put(&mut self, kind: u8, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.failed.is_some() {
            return;
        }
        if self.pending.capacity() == 0 {
            self.pending = lend_buffer();
        }
        if let Err(size) = put_frame(&mut self.pending, &mut self.chain, kind, encode) {
            self.failed = Some(Failure::TooLarge(size));
        }
    }

    fn write_pending(&mut self) -> Result<(), Error> {
        match self.failed {
            Some(Failure::TooLarge(size)) => return Err(Error::TooLarge { size }),
            Some(Failure::Dead) => return Err(Error::Dead),
            None => {}
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        if let Err(source) = write_once(&self.file, &self.pending) {
            // Nothing to be done if this fails as well: the reader then sees a torn tail.
            let _ = self.file.set_len(self.written);
            return Err(Error::Io {
                doing: "write",
                path: self.path(),
                source,
            });
        }
        self.written += self.pending.len() as u64;
        self.unsynced = self.shared.syncer.is_some();
        return_buffer(&mut self.pending);
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), Error> {
        let Some(syncer) = &self.shared.syncer else {
            return Ok(());
        };
        let synced = syncer.sync(Arc::clone(&self.file), self.day_dir.clone());
        let result = synced.await.map_err(|_| Error::NoSync)?;
        // After a failed fdatasync the kernel may have dropped the pages: nobody can tell what is
        // on the disk, so that trying again would prove nothing.
        result.map_err(|source| Error::Io {
            doing: "sync",
            path: self.path(),
            source,
        })?;
        self.unsynced = false;
        self.day_dir = None;
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.id.path_in(&self.shared.dir)
    }
}

impl Drop for SessionJournal {
    fn drop(&mut self) {
        return_buffer(&mut self.pending);
        self.shared.index.ended(self.id);
    }
}

/// One write; a short one is an error, which on a regular file means that the disk is full.
fn write_once(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    loop {
        match file.write(bytes) {
            Ok(n) if n == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::StorageFull.into()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn put_json<T: serde::Serialize>(out: &mut Vec<u8>, value: &T) {
    // Strings, numbers and lists into memory: there is nothing that could fail. If it did, the
    // reader would say "malformed".
    let _ = serde_json::to_writer(out, value);
}

/// Buffers kept by each thread; those that grew beyond [`KEEP_CAPACITY`] are given back.
const KEEP_BUFFERS: usize = 8;
const KEEP_CAPACITY: usize = 2 * COMMIT_AT;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn lend_buffer() -> Vec<u8> {
    BUFFERS
        .with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| Vec::with_capacity(4096))
}

/// Takes the buffer out of a journal, which then holds no memory.
fn return_buffer(pending: &mut Vec<u8>) {
    let mut buffer = std::mem::take(pending);
    if buffer.capacity() == 0 || buffer.capacity() > KEEP_CAPACITY {
        return;
    }
    buffer.clear();
    // A thread that is ending has no buffers any more.
    let _ = BUFFERS.try_with(|kept| {
        if let Ok(mut kept) = kept.try_borrow_mut()
            && kept.len() < KEEP_BUFFERS
        {
            kept.push(buffer);
        }
    });
}
