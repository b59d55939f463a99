//! What the two halves of a session share: the streams, the queue, the journal, the judging.
//!
//! Both halves are futures of one task on one thread, so nothing here is locked against another
//! session. A `RefCell` is never borrowed across an await. Each time that the task is polled the
//! server half goes first: the client half sees at once what has become of the queue, and needs no
//! waking; the other way round there is [`Link::wake_server_half`].

use std::cell::{Cell, RefCell};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::{SystemTime, UNIX_EPOCH};

use super::apart::Apart;
use super::buffer::write_all;
use super::judging::Judging;
use super::queue::Queue;
use super::statement::{Judged, Run};
use super::tally::Tally;
use crate::record::{self, Entry, Recorded, SessionJournal, Status};
use crate::wire::{self, TxStatus};

/// How much of a result goes into the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Results {
    /// Every row as the client gets it.
    #[default]
    Full,
    /// A digest of the rows.
    Digest,
    /// Counts only.
    None,
}

/// Why a session ended without fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The client said Terminate.
    ClientQuit,
    /// The client's connection ended.
    ClientLost,
    /// The server's connection ended.
    UpstreamLost,
    /// The daemon is going down, and the session was at rest or had its time.
    Drained,
}

/// Why a session had to be ended. [`Error::for_client`] says what the client may know.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client sent what can't be read.
    #[error("the client broke the protocol")]
    Client(#[source] wire::Error),
    /// The client sent a message that has no place here.
    #[error("the client sent {0}")]
    ClientSequence(&'static str),
    /// The server sent what can't be read.
    #[error("the database broke the protocol")]
    Upstream(#[source] wire::Error),
    /// The server sent a message that has no place here.
    #[error("the database sent {0}")]
    UpstreamSequence(&'static str),
    /// A setting on which judging rests has changed.
    #[error("the database changed {setting} to a value under which statements can't be judged")]
    Setting {
        /// The setting's name.
        setting: &'static str,
    },
    /// The journal can't be written.
    #[error("the journal can't be written")]
    Record(#[from] record::Error),
    /// A row that its description doesn't fit.
    #[error("a row can't be masked")]
    Mask(#[from] crate::mask::Malformed),
    /// The connection to the client broke.
    #[error("writing to the client failed")]
    ClientIo(#[source] io::Error),
    /// The connection to the server broke.
    #[error("writing to the database failed")]
    UpstreamIo(#[source] io::Error),
}

impl Error {
    /// What the client may know: never a value, a path or a word of the server's.
    pub(super) fn for_client(&self) -> &'static str {
        match self {
            Self::Client(_) => "Weir can't read this message; the session ends",
            Self::ClientSequence(_) => "this message has no place here; the session ends",
            Self::Upstream(_) | Self::UpstreamSequence(_) => {
                "Weir can't read the database's answer; the session ends"
            }
            Self::Setting { .. } => {
                "a setting on which Weir's judging rests has changed; the session ends"
            }
            Self::Record(_) => "Weir can't record this session any more, so it ends",
            Self::Mask(_) => "Weir can't mask a row of the result; the session ends",
            Self::ClientIo(_) | Self::UpstreamIo(_) => "the connection broke",
        }
    }
}

/// Shared by the two halves; see the module.
pub(super) struct Link<C, U> {
    pub(super) client: RefCell<Apart<C>>,
    pub(super) upstream: RefCell<Apart<U>>,
    pub(super) queue: RefCell<Queue>,
    pub(super) journal: RefCell<SessionJournal>,
    pub(super) judging: RefCell<Judging>,
    pub(super) results: Results,
    /// The transaction status that the client was last told.
    pub(super) status: Cell<TxStatus>,
    /// Bytes for the client are on their way: it may have got a part of a message.
    pub(super) answering: Cell<bool>,
    pub(super) tally: Arc<Tally>,
    /// Statements so far.
    pub(super) statements: Cell<u64>,
    /// Shapes in the journal so far.
    pub(super) shapes: Cell<u32>,
}

impl<C, U> Link<C, U>
where
    C: tokio::io::AsyncWrite + Unpin,
    U: tokio::io::AsyncWrite + Unpin,
{
    /// The number of the session's next statement.
    pub(super) fn next_statement(&self) -> u64 {
        let next = self.statements.get() + 1;
        self.statements.set(next);
        next
    }

    /// The number of the session's next shape.
    pub(super) fn next_shape(&self) -> u32 {
        let next = self.shapes.get().wrapping_add(1).max(1);
        self.shapes.set(next);
        next
    }

    /// Appends one entry to the journal's buffer.
    pub(super) fn append(&self, entry: &Entry<'_>) {
        self.journal.borrow_mut().append(entry);
    }

    /// Records the types of a text's parameters, unless the journal has them.
    pub(super) fn record_types(&self, judged: &Judged, types: &[u8]) {
        let mut known = judged.types.borrow_mut();
        if **known != *types {
            *known = types.into();
            let (oids, _) = types.as_chunks();
            self.append(&Entry::Types {
                text: judged.text_id,
                oids,
            });
        }
    }

    /// Brings all that was appended into the journal.
    pub(super) async fn commit(&self) -> Result<Recorded, Error> {
        let written = self.journal.borrow_mut().write()?;
        Ok(written.durable().await?)
    }

    /// Sends bytes to the server; what led to them is in the journal.
    pub(super) async fn forward(&self, _: Recorded, bytes: &[u8]) -> Result<(), Error> {
        write_all(&self.upstream, bytes)
            .await
            .map_err(Error::UpstreamIo)
    }

    /// Sends bytes to the client; what they hold is in the journal.
    pub(super) async fn answer(&self, _: Recorded, bytes: &[u8]) -> Result<(), Error> {
        self.answering.set(true);
        write_all(&self.client, bytes)
            .await
            .map_err(Error::ClientIo)?;
        self.answering.set(false);
        Ok(())
    }

    /// Has the server half look at the queue again.
    pub(super) async fn wake_server_half(&self) {
        std::future::poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Ready(())
        })
        .await;
    }

    /// Whether nothing is under way: the session can be ended without cutting anything.
    pub(super) fn at_rest(&self) -> bool {
        self.status.get() == TxStatus::Idle && self.queue.borrow().is_at_rest()
    }

    /// Records how a run ended.
    pub(super) fn record_outcome(&self, run: &mut Run, status: Status<'_>) {
        let micros = u64::try_from(run.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let digest = run.digest.take().map(|d| d.finalize());
        self.append(&Entry::Outcome {
            statement: run.statement,
            at: now(),
            micros,
            status,
            rows: run.rows,
            bytes: run.bytes,
            masked_cells: run.masked_cells,
            digest,
        });
    }
}

/// Microseconds since the Unix epoch.
pub(super) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}
