//! Polling only what was woken.
//!
//! A session is one task, and each time that something wakes it all that it waits for is polled. To
//! ask a socket that has nothing takes locks, and so does a `watch`, one that all sessions share. Here
//! each has a waker of its own, which remembers what was woken.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Polls a future when it is woken itself, and not each time that its task is for something else.
pub(super) async fn apart<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut own = Own::default();
    std::future::poll_fn(|cx| own.poll(cx, |cx| future.as_mut().poll(cx))).await
}

/// A stream that is read like that.
#[derive(Debug)]
pub(super) struct Apart<S> {
    stream: S,
    own: Own,
}

impl<S> Apart<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            own: Own::default(),
        }
    }

    /// Reads it by `read`, if there may be anything to read.
    pub(super) fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        read: impl FnOnce(&mut Context<'_>, &mut S) -> Poll<T>,
    ) -> Poll<T> {
        let stream = &mut self.stream;
        self.own.poll(cx, |cx| read(cx, stream))
    }

    /// The stream, to be written to.
    pub(super) fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

/// A waker of its own for one of the things that a task waits for.
#[derive(Debug, Default)]
struct Own(Option<(Arc<OwnWaker>, Waker)>);

impl Own {
    /// Polls if that was woken, or has never been polled for this task, or was ready the last time.
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let (own, waker) = match &self.0 {
            Some((own, waker)) if own.task.will_wake(cx.waker()) => {
                if !own.take_woken() {
                    return Poll::Pending;
                }
                (own, waker)
            }
            _ => {
                let own = Arc::new(OwnWaker {
                    woken: AtomicBool::new(false),
                    task: cx.waker().clone(),
                });
                let waker = Waker::from(Arc::clone(&own));
                let (own, waker) = self.0.insert((own, waker));
                (&*own, &*waker)
            }
        };
        let polled = poll(&mut Context::from_waker(waker));
        if polled.is_ready() {
            // There may be more, of which nobody would wake it.
            own.woken.store(true, Ordering::Release);
        }
        polled
    }
}

/// Wakes a task, and remembers that it has.
#[derive(Debug)]
struct OwnWaker {
    woken: AtomicBool,
    task: Waker,
}

impl OwnWaker {
    fn take_woken(&self) -> bool {
        // Who wakes it next wakes the task behind that: nothing is missed, and nothing locked as a
        // rule.
        self.woken.load(Ordering::Relaxed) && self.woken.swap(false, Ordering::Acquire)
    }
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
    use std::cell::Cell;
    use std::pin::Pin;

    use tokio::io::{AsyncRead as _, AsyncWriteExt as _, DuplexStream, ReadBuf};
    use tokio::sync::watch;

    use super::*;

    /// Polls once, as the test's own task.
    async fn poll_once<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        std::future::poll_fn(|cx| Poll::Ready(poll(cx))).await
    }

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
            assert!(poll_once(|cx| future.as_mut().poll(cx)).await.is_pending());
        }
        assert_eq!(polls.get(), 1);
        sender.send(true).expect("it listens");
        assert!(future.await);
        assert_eq!(polls.get(), 2);
    }

    /// Reads a byte by `near`; none at its end.
    async fn read_byte(near: &mut Apart<DuplexStream>) -> Option<u8> {
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        std::future::poll_fn(|cx| {
            near.poll_read(cx, |cx, stream| Pin::new(stream).poll_read(cx, &mut read))
        })
        .await
        .expect("open");
        read.filled().first().copied()
    }

    #[tokio::test]
    async fn a_stream_apart_gives_all_that_comes_piece_by_piece() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut near = Apart::new(near);
        let write = async {
            for piece in [&b"ab"[..], b"cdefghij", b"k"] {
                far.write_all(piece).await.expect("it is read");
                tokio::task::yield_now().await;
            }
            drop(far);
        };
        let read = async {
            let mut all = Vec::new();
            while let Some(byte) = read_byte(&mut near).await {
                all.push(byte);
            }
            all
        };
        // Of one task: either is polled whenever the other is woken.
        let ((), all) = tokio::join!(write, read);
        assert_eq!(all, b"abcdefghijk");
    }

    #[tokio::test]
    async fn a_stream_that_moves_to_another_task_is_heard_there() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut near = Apart::new(near);
        let mut here = Box::pin(read_byte(&mut near));
        assert!(poll_once(|cx| here.as_mut().poll(cx)).await.is_pending());
        drop(here);
        let elsewhere = tokio::spawn(async move { read_byte(&mut near).await });
        tokio::task::yield_now().await;
        far.write_u8(7).await.expect("it is read");
        assert_eq!(elsewhere.await.expect("no panic"), Some(7));
    }
}
