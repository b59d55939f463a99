//! The index over all journals: an SQLite file that can always be made anew from them.
//!
//! Sessions tell of their beginning and end over a bounded queue that never makes them wait; a
//! thread of its own writes what they came to, and reads that off the journals of those that don't
//! say it. Where the queue overflows, or SQLite fails, the index is stale until the thread has gone
//! through the directory again.

mod db;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use db::{Filter, Index, Indexed, SessionRow};

use super::Error;
use super::open::{EXTENSION, SessionId};
use super::read::Reader;
use super::summary::Summary;

/// Messages that may wait; above it the index goes stale.
const QUEUE: usize = 4096;

/// How long messages gather before they are written together. A session shorter than this costs
/// one row written, not two.
const GATHER: Duration = Duration::from_millis(250);

/// Sessions written in one transaction.
const BATCH: usize = 256;

/// A session and what becomes of it.
type Message = (SessionId, Event);

#[derive(Debug)]
enum Event {
    Opened,
    /// With what it came to, if it says so.
    Ended(Option<Box<Summary>>),
}

/// The way to the index's thread. Dropping it waits until what was told is written.
#[derive(Debug)]
pub(super) struct Feed {
    messages: Option<mpsc::SyncSender<Message>>,
    flags: Arc<Flags>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Flags {
    /// A message was lost.
    stale: AtomicBool,
    /// The daemon ends: leave the rest for the next start.
    stopping: AtomicBool,
}

impl Feed {
    /// Opens the index and starts its thread, which first indexes the journals that the index
    /// does not know or believes open.
    pub(super) fn start(index: &Path, journal: &Path) -> Result<Feed, Error> {
        let index = Index::open(index)?;
        let (messages, queue) = mpsc::sync_channel(QUEUE);
        let flags = Arc::new(Flags {
            stale: AtomicBool::new(true),
            ..Flags::default()
        });
        let worker = Worker {
            index,
            journal: journal.to_owned(),
            queue,
            flags: Arc::clone(&flags),
            wrote: None,
        };
        let thread = std::thread::Builder::new()
            .name("weir-index".into())
            .spawn(move || worker.run())
            .map_err(|e| Error::io("start the index of", journal, e))?;
        Ok(Feed {
            messages: Some(messages),
            flags,
            thread: Some(thread),
        })
    }

    pub(super) fn opened(&self, id: SessionId) {
        self.tell((id, Event::Opened));
    }

    pub(super) fn ended(&self, id: SessionId, summary: Option<Box<Summary>>) {
        self.tell((id, Event::Ended(summary)));
    }

    fn tell(&self, message: Message) {
        if let Some(messages) = &self.messages
            && messages.try_send(message).is_err()
        {
            self.flags.stale.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.flags.stopping.store(true, Ordering::Relaxed);
        self.messages = None;
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been reported by its hook; the index is only stale.
            let _ = thread.join();
        }
    }
}

struct Worker {
    index: Index,
    journal: PathBuf,
    queue: mpsc::Receiver<Message>,
    flags: Arc<Flags>,
    /// When the index was last written.
    wrote: Option<Instant>,
}

impl Worker {
    fn run(mut self) {
        loop {
            if self.flags.stale.swap(false, Ordering::Relaxed) {
                let result = self.catch_up();
                self.note(result);
            }
            let Ok(first) = self.queue.recv() else { return };
            let messages = self.gather(first);
            let result = self.write(messages);
            self.wrote = Some(Instant::now());
            self.note(result);
        }
    }

    /// Everything told within [`GATHER`] of the last write, so that a lone session is listed at
    /// once and a storm of them costs few transactions; of each session the last.
    fn gather(&self, first: Message) -> HashMap<SessionId, Event> {
        let mut messages = HashMap::from([first]);
        let deadline = self.wrote.map_or_else(Instant::now, |wrote| wrote + GATHER);
        while messages.len() < BATCH {
            match self
                .queue
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok((id, event)) => drop(messages.insert(id, event)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        messages
    }

    fn write(&mut self, messages: HashMap<SessionId, Event>) -> Result<(), Error> {
        let mut summaries = Vec::new();
        for (id, event) in messages {
            // The lock may be held for a moment after the message, so that it can't be asked.
            let read = |live| summary(&id.path_in(&self.journal), Some(live));
            summaries.extend(match event {
                Event::Ended(Some(summary)) => Some(*summary),
                Event::Ended(None) => read(false)?,
                Event::Opened => read(true)?,
            });
        }
        self.index.store(&summaries)
    }

    fn catch_up(&mut self) -> Result<(), Error> {
        let settled = self.index.settled()?;
        let stopping = || self.flags.stopping.load(Ordering::Relaxed);
        let paths: Vec<_> = journals(&self.journal, "")
            .map_err(|e| Error::io("list", &self.journal, e))?
            .into_iter()
            .filter(|(id, _)| !settled.contains(id))
            .collect();
        for batch in paths.chunks(BATCH) {
            if stopping() {
                break;
            }
            let mut summaries = Vec::new();
            for (_, path) in batch {
                summaries.extend(summary(path, None)?);
            }
            self.index.store(&summaries)?;
        }
        Ok(())
    }

    fn note(&self, result: Result<(), Error>) {
        if let Err(e) = result {
            let source = std::error::Error::source(&e).map(ToString::to_string);
            tracing::warn!(error = %e, source, "the index is stale until it can be written");
            self.flags.stale.store(true, Ordering::Relaxed);
        }
    }
}

/// The summary of a journal; none if it is gone or holds nothing yet.
fn summary(path: &Path, live: Option<bool>) -> Result<Option<Summary>, Error> {
    match Summary::of(path, live) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map_err(|e| Error::io("read", path, e)),
    }
}

/// All journals below `dir` of the day `from` (`YYYY-MM-DD`; empty: of all days) or later, oldest
/// first.
///
/// # Errors
/// As the operating system says.
pub fn journals(dir: &Path, from: &str) -> io::Result<Vec<(SessionId, PathBuf)>> {
    let mut found: Vec<_> = files(dir, from)?
        .into_iter()
        .filter_map(|path| Some((id_of(&path)?, path)))
        .collect();
    found.sort();
    Ok(found)
}

/// The files where journals are that [`journals`] passes over, although they have a journal's
/// extension or begin like one: whoever renames a journal doesn't make it go away.
///
/// # Errors
/// As the operating system says.
pub fn misnamed_journals(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in files(dir, "")? {
        if id_of(&path).is_none() && (has_extension(&path) || begins_a_journal(&path)?) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// All that is in the directories of the day `from` and later.
fn files(dir: &Path, from: &str) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for day in std::fs::read_dir(dir)? {
        let day = day?;
        if !day.file_type()?.is_dir() || day.file_name().as_encoded_bytes() < from.as_bytes() {
            continue;
        }
        for file in std::fs::read_dir(day.path())? {
            files.push(file?.path());
        }
    }
    Ok(files)
}

/// The session whose journal a file is by its name.
fn id_of(path: &Path) -> Option<SessionId> {
    let name = path.file_stem().and_then(|name| name.to_str())?;
    name.parse().ok().filter(|_| has_extension(path))
}

fn has_extension(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == EXTENSION)
}

fn begins_a_journal(path: &Path) -> io::Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut reader = Reader::open(path)?;
    // Whatever is wrong with its first record: with the header read, the reader has an id.
    let _ = reader.next();
    Ok(reader.id().is_some())
}

/// Makes the index anew from the journals below `journal`; says how many sessions it then holds.
/// The daemon may run meanwhile; what it tells an index whose file was damaged, and is another one
/// from now on, is lost until it is started again.
///
/// # Errors
/// [`Error::Io`], [`Error::Index`]; the index is then as it was, unless its file was damaged.
pub fn reindex(index: &Path, journal: &Path) -> Result<usize, Error> {
    let paths = journals(journal, "").map_err(|e| Error::io("list", journal, e))?;
    let summaries = || {
        paths
            .iter()
            .filter_map(|(_, path)| summary(path, None).transpose())
    };
    match Index::open(index).and_then(|mut index| index.replace(&mut summaries())) {
        Err(e) if e.is_damage() => Index::open_anew(index)?.replace(&mut summaries()),
        other => other,
    }
}
