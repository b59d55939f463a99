//! The two halves of a session, run as one task until either ends.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::apart::{Apart, apart};
use super::judging::Judging;
use super::link::{End, Error, Link, Results};
use super::queue::Queue;
use super::responses::Cancel;
use super::tally::Tally;
use super::{requests, responses};
use crate::record::SessionJournal;
use crate::wire::TxStatus;

/// What a relay starts with.
pub(super) struct Parts<C, U> {
    pub(super) client: C,
    pub(super) upstream: U,
    /// Bytes of the server's that came with its log-in.
    pub(super) leftover: Vec<u8>,
    pub(super) journal: SessionJournal,
    pub(super) judging: Judging,
    pub(super) results: Results,
    pub(super) tally: Arc<Tally>,
}

/// What a relay leaves.
pub(super) struct Left<C, U> {
    pub(super) end: Result<End, Error>,
    pub(super) client: C,
    pub(super) upstream: U,
    pub(super) journal: SessionJournal,
    /// Whether the server is still working on something of this session's.
    pub(super) busy: bool,
    /// Whether the client may have got a part of a message: anything more would be taken for its
    /// rest.
    pub(super) torn: bool,
}

/// Relays until one side ends, the protocol is broken, or `drain` turns true and the session is at
/// rest.
pub(super) async fn run<C, U, X>(
    parts: Parts<C, U>,
    cancel: &X,
    drain: watch::Receiver<bool>,
) -> Left<C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    X: Cancel,
{
    let link = Link {
        client: RefCell::new(Apart::new(parts.client)),
        upstream: RefCell::new(Apart::new(parts.upstream)),
        queue: RefCell::new(Queue::default()),
        journal: RefCell::new(parts.journal),
        judging: RefCell::new(parts.judging),
        results: parts.results,
        tally: parts.tally,
        statements: Cell::new(0),
        shapes: Cell::new(0),
        status: Cell::new(TxStatus::Idle),
        answering: Cell::new(false),
    };
    let end = tokio::select! {
        biased;
        end = responses::run(&link, cancel, parts.leftover) => end,
        end = requests::run(&link) => end,
        () = drained(&link, drain) => Ok(End::Drained),
    };
    let busy = !link.queue.borrow().is_empty();
    Left {
        end,
        busy,
        torn: link.answering.get(),
        client: link.client.into_inner().into_inner(),
        upstream: link.upstream.into_inner().into_inner(),
        journal: link.journal.into_inner(),
    }
}

/// How long a session that isn't at rest may go on once the daemon goes down. Then it is cut, in
/// order: what runs is cancelled, the journal closed, the client told. All of that has to fit into
/// what the daemon gives its sessions, [`crate::daemon::DRAIN`].
const LAST_WORK: Duration = Duration::from_secs(7);

/// Returns when the daemon drains and the session is at rest, or has had its time.
async fn drained<C, U>(link: &Link<C, U>, mut drain: watch::Receiver<bool>)
where
    C: AsyncWrite + Unpin,
    U: AsyncWrite + Unpin,
{
    if apart(drain.wait_for(|draining| *draining)).await.is_err() {
        // Whoever could drain is gone; the session ends by itself.
        std::future::pending::<()>().await;
    }
    // Whatever brings the session to rest polls this task, and the halves before this.
    let rest = std::future::poll_fn(|_| match link.at_rest() {
        true => Poll::Ready(()),
        false => Poll::Pending,
    });
    let _ = tokio::time::timeout(LAST_WORK, rest).await;
}
