//! The two halves of a session, run as one task until either ends.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

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
        client: RefCell::new(parts.client),
        upstream: RefCell::new(parts.upstream),
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
        client: link.client.into_inner(),
        upstream: link.upstream.into_inner(),
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

/// Polls a future when it is woken itself, and not each time that its task is for something else: a
/// `watch` takes a lock that all sessions share each time it is asked.
async fn apart<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut waker: Option<Arc<OwnWaker>> = None;
    std::future::poll_fn(|cx| {
        let own = match &waker {
            Some(own) if own.task.will_wake(cx.waker()) => {
                if !own.woken.swap(false, Ordering::Acquire) {
                    return Poll::Pending;
                }
                own
            }
            _ => waker.insert(Arc::new(OwnWaker {
                woken: AtomicBool::new(false),
                task: cx.waker().clone(),
            })),
        };
        let waker = Waker::from(Arc::clone(own));
        future.as_mut().poll(&mut Context::from_waker(&waker))
    })
    .await
}

/// Wakes a task, and remembers that it has.
struct OwnWaker {
    woken: AtomicBool,
    task: Waker,
}

impl Wake for OwnWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_future_apart_is_polled_when_it_is_woken_and_only_then() {
        let polls = Cell::new(0);
        let (sender, mut receiver) = watch::channel(false);
        let mut waiting = pin!(receiver.wait_for(|value| *value));
        let mut future = pin!(apart(std::future::poll_fn(|cx| {
            polls.set(polls.get() + 1);
            waiting.as_mut().poll(cx).map(|value| value.is_ok())
        })));
        for _ in 0..3 {
            let polled = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
        }
        assert_eq!(polls.get(), 1);
        sender.send(true).expect("it listens");
        assert!(future.await);
        assert_eq!(polls.get(), 2);
    }
}
