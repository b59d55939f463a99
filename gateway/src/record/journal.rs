//! The journal of one session, as it is written.
//!
//! Appending encodes into a buffer, committing writes that, in one system call or none (`file`).
//! Buffers belong to the thread and are lent to a journal only while something is pending: an idle
//! session holds none, and a busy one allocates none.

use std::cell::RefCell;
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::account::Account;
use super::entry::{Entry, Totals, kind};
use super::file::{Appended, JournalFile, Mapped};
use super::frame::{self, Framer, PIECE};
use super::open::{Close, CloseReason, SessionId, SessionOpen};
use super::summary::Summary;
use super::sync::Synced;
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
pub struct SessionJournal<F: JournalFile = Mapped> {
    shared: Arc<Shared>,
    id: SessionId,
    file: F,
    /// The directory that holds the file.
    day_dir: Arc<File>,
    framer: Framer,
    /// Whole frames to be written; lent by [`BUFFERS`].
    pending: Vec<u8>,
    /// Bytes of the file that are known to be on the disk. Only with a syncer.
    synced_to: Arc<AtomicU64>,
    /// Why nothing more can be recorded.
    failed: Option<Failure>,
    totals: Totals,
    /// What the index is told at the end; `None` once that is too much to keep.
    live: Option<Box<Live>>,
    /// The same, of a journal that was closed.
    summary: Option<Box<Summary>>,
}

/// How the session began, and its statements until now.
#[derive(Debug)]
struct Live {
    open: SessionOpen,
    account: Account,
}

/// What made a journal fail.
#[derive(Debug)]
enum Failure {
    /// An entry above the limit, of so many bytes; not yet reported by a commit.
    TooLarge(usize),
    /// Reported.
    Dead,
}

impl<F: JournalFile> SessionJournal<F> {
    pub(super) fn start(
        shared: Arc<Shared>,
        file: File,
        day_dir: Arc<File>,
        open: &SessionOpen,
    ) -> Self {
        let header = frame::file_header(open.id);
        let mut pending = lend_buffer();
        pending.extend_from_slice(&header);
        let mut journal = SessionJournal {
            file: F::new(file, shared.durability()),
            day_dir,
            shared,
            id: open.id,
            framer: Framer::new(&header),
            pending,
            synced_to: Arc::default(),
            failed: None,
            totals: Totals::default(),
            live: Some(Box::new(Live {
                open: open.clone(),
                account: Account::default(),
            })),
            summary: None,
        };
        journal.put(kind::OPEN, |out| put_json(out, open));
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
        if let Some(live) = &mut self.live {
            live.account.add(entry);
            if !live.account.is_small() {
                self.live = None;
            }
        }
        match *entry {
            Entry::Rows {
                statement,
                columns,
                frames,
            } => {
                for frames in frames.chunks(PIECE) {
                    self.put_entry(&Entry::Rows {
                        statement,
                        columns,
                        frames,
                    });
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

    /// Writes everything that was appended, in one system call or none. What it
    /// gives then waits for the disk, where [`super::Durability::Disk`] asks for that; meanwhile
    /// the journal can be appended to.
    ///
    /// # Errors
    /// [`Error::Io`] (disk full, …), [`Error::TooLarge`]; the file is cut back to its last whole
    /// record and every later write gives [`Error::Dead`].
    pub fn write(&mut self) -> Result<Written, Error> {
        if let Err(e) = self.write_pending() {
            self.failed = Some(Failure::Dead);
            return_buffer(&mut self.pending);
            return Err(e);
        }
        let Some(syncer) = &self.shared.syncer else {
            return Ok(Written(None));
        };
        let file = self.file.appended();
        let synced_to = self.synced_to.load(Ordering::Acquire);
        if synced_to == file.written() {
            return Ok(Written(None));
        }
        // The directory's entry has to be on the disk once.
        let dir = (synced_to == 0).then(|| Arc::clone(&self.day_dir));
        Ok(Written(Some(Syncing {
            synced: syncer.sync(Arc::clone(file.file()), dir),
            upto: file.written(),
            synced_to: Arc::clone(&self.synced_to),
            path: self.path(),
        })))
    }

    /// [`SessionJournal::write`], and waits for the disk where that is asked for.
    ///
    /// # Errors
    /// As [`SessionJournal::write`] and [`Written::durable`].
    pub async fn commit(&mut self) -> Result<Recorded, Error> {
        self.write()?.durable().await
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
        // It is the last record, and nothing may follow it.
        if let Err(source) = self.file.settle() {
            return Err(self.failed_to("cut back", source));
        }
        self.put(kind::CLOSE, |out| put_json(out, &close));
        let Recorded(()) = self.commit().await?;
        self.summary = self
            .live
            .take()
            .map(|live| Box::new(Summary::closed(live.open, &close, live.account)));
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn is_unsynced(&self) -> bool {
        self.synced_to.load(Ordering::Acquire) < self.file.appended().written()
    }

    /// Whether it still knows what the index is told at the end.
    #[cfg(test)]
    pub(super) fn keeps_account(&self) -> bool {
        self.live.is_some()
    }

    /// Bytes of buffer that this journal holds.
    #[cfg(test)]
    pub(super) fn buffer_held(&self) -> usize {
        self.pending.capacity()
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
        if let Err(size) = self.framer.put(&mut self.pending, kind, encode) {
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
        let first = self.file.appended().written() == 0;
        if let Err(source) = self.file.append(&self.pending) {
            // Nothing to be done if this fails as well: the reader then sees a torn tail.
            let _ = self.file.appended().cut_back();
            return Err(self.failed_to("write", source));
        }
        if first {
            // Its first record is there to be read.
            self.shared.index.opened(self.id);
        }
        return_buffer(&mut self.pending);
        Ok(())
    }

    fn failed_to(&self, doing: &'static str, source: std::io::Error) -> Error {
        Error::Io {
            doing,
            path: self.path(),
            source,
        }
    }

    fn path(&self) -> PathBuf {
        self.id.path_in(&self.shared.dir)
    }
}

/// The journal of a session that may go from thread to thread.
pub type UnpinnedJournal = SessionJournal<Appended>;

/// What was written, on its way to the disk.
#[derive(Debug)]
#[must_use = "it is recorded only when it is durable"]
pub struct Written(Option<Syncing>);

#[derive(Debug)]
struct Syncing {
    synced: Synced,
    upto: u64,
    synced_to: Arc<AtomicU64>,
    path: PathBuf,
}

impl Written {
    /// Waits until what was written is as durable as the setting asks.
    ///
    /// Cancel safe: what was written stays written, and the next write waits for the disk.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSync`]: the session has to end. After a failed `fdatasync` the
    /// kernel may have dropped the pages; nobody can tell what is on the disk, so that trying
    /// again would prove nothing.
    pub async fn durable(self) -> Result<Recorded, Error> {
        if let Self(Some(Syncing {
            synced,
            upto,
            synced_to,
            path,
        })) = self
        {
            synced
                .await
                .map_err(|_| Error::NoSync)?
                .map_err(|source| Error::Io {
                    doing: "sync",
                    path,
                    source,
                })?;
            synced_to.fetch_max(upto, Ordering::AcqRel);
        }
        Ok(Recorded(()))
    }
}

impl<F: JournalFile> Drop for SessionJournal<F> {
    fn drop(&mut self) {
        return_buffer(&mut self.pending);
        self.shared.index.ended(self.id, self.summary.take());
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
