//! Waiting for the server, and doing meanwhile what its half asks for.

use std::io;
use std::rc::Rc;
use std::task::{Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::judging::limit_exceeded;
use super::super::link::{Error, Link};
use super::super::queue::{Asked, AskedBy, Owed};
use super::{Half, REFUSED, Seen, copy, refused_text};
use crate::wire::request;

/// Bytes that are read while a request waits for the server; a client that leaves behind more of
/// them is noticed once the server has answered.
const AHEAD: usize = 64 << 10;

impl<C, U> Half<'_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Does what the server's half has asked for: ends a COPY, makes the transaction fail. What was
    /// entered in the queue before goes out before. To be called again before anything is entered that
    /// was waited for.
    pub(super) async fn do_as_asked(&mut self, source: &[u8]) -> Result<(), Error> {
        while self.link.queue.borrow().asks() {
            self.send(source).await?;
            self.do_next(source);
            self.send(source).await?;
        }
        Ok(())
    }

    fn do_next(&mut self, source: &[u8]) {
        let asked = self.link.queue.borrow_mut().asked();
        match asked {
            Some(Asked::EndCopy) => {
                let out = self.splice.insert(source);
                out.extend_from_slice(&request::COPY_FAIL);
            }
            Some(Asked::Sync(count)) => {
                for _ in 0..count {
                    self.splice.insert(source).extend_from_slice(&request::SYNC);
                    self.push(Owed::Sync(AskedBy::Client));
                }
            }
            // Behind work without its Sync a query's error couldn't be told from that work's own. So the work
            // is failed, and the transaction with it.
            Some(Asked::FailTransaction { told: true })
                if self.link.queue.borrow().is_unsynced() =>
            {
                self.refuse_under(source, REFUSED, &Rc::new(limit_exceeded()));
            }
            Some(Asked::FailTransaction { told }) => {
                request::query(self.splice.insert(source), &refused_text(None));
                self.push(Owed::FailTransaction { told });
            }
            None => {}
        }
    }

    /// Does all that the server's half has asked for by now; no request overtakes it, or comes in the
    /// middle of COPY data: what the server takes for a part of them is answered by nothing.
    pub(super) async fn heed(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        self.do_as_asked(seen.source).await?;
        if copy::may_come_behind(seen.tag) {
            return Ok(());
        }
        if self.await_copy(seen).await?.is_some() {
            return Err(Error::ClientSequence(
                "a request in the middle of COPY data",
            ));
        }
        let is_to_fail = |link: &Link<C, U>| link.queue.borrow().is_to_fail();
        if is_to_fail(self.link) {
            // It waits for the end of a COPY.
            self.flush(seen);
            self.wait_while(seen, is_to_fail).await?;
        }
        Ok(())
    }

    /// Has the server answer what stands before a query without a Sync, whose errors couldn't be told from
    /// the query's own, and ends it where that changes nothing. Returns whether the query is still to be
    /// handled: the server may ignore it by now, or the client have an error for its answer.
    pub(super) async fn separate(&mut self, seen: &Seen<'_>) -> Result<bool, Error> {
        let unanswered = {
            let queue = self.link.queue.borrow();
            queue.is_unsynced() && !queue.is_empty()
        };
        if unanswered {
            self.settle(seen).await?;
        }
        if self.link.queue.borrow().is_only_prepared() {
            self.push(Owed::Sync(AskedBy::Weir));
            self.splice
                .insert(seen.source)
                .extend_from_slice(&request::SYNC);
            self.settle(seen).await?;
        }
        let mut queue = self.link.queue.borrow_mut();
        Ok(!queue.take_answered() && !queue.skips())
    }

    /// Forwards what there is and waits until the server owes nothing.
    pub(super) async fn settle(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        self.flush(seen);
        self.wait_while(seen, |link| !link.queue.borrow().is_empty())
            .await
    }

    /// Has the server answer what it owes: without a Sync it keeps its answers to itself.
    pub(super) fn flush(&mut self, seen: &Seen<'_>) {
        if self.link.queue.borrow().is_unsynced() {
            let flush = request::FLUSH;
            self.splice.insert(seen.source).extend_from_slice(&flush);
        }
    }

    pub(super) async fn wait_while(
        &mut self,
        seen: &Seen<'_>,
        condition: impl Fn(&Link<C, U>) -> bool,
    ) -> Result<(), Error> {
        self.send(seen.source).await?;
        loop {
            // Nothing may overtake it, and what is waited for may come of it.
            self.do_as_asked(seen.source).await?;
            if !condition(self.link) {
                return Ok(());
            }
            self.answered(&condition).await?;
        }
    }

    /// Waits until the server half asks for something or `condition` has ended. Reads ahead
    /// meanwhile: a client that leaves must not leave behind a statement that nothing ends.
    pub(super) async fn answered(
        &mut self,
        condition: &impl Fn(&Link<C, U>) -> bool,
    ) -> Result<(), Error> {
        let (link, ahead) = (self.link, &mut self.ahead);
        std::future::poll_fn(|cx| {
            if link.queue.borrow().asks() || !condition(link) {
                return Poll::Ready(Ok(()));
            }
            let mut client = link.client.borrow_mut();
            while ahead.bytes().len() < AHEAD {
                match ready!(ahead.poll_fill(cx, &mut *client)) {
                    Ok(1..) => {}
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            Poll::Pending
        })
        .await
        .map_err(Error::ClientIo)
    }
}
