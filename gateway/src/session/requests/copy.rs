//! COPY FROM STDIN: data, and what comes in their place.
//!
//! While the server reads data it ignores a Flush and a Sync, and fails at any other request without an
//! answer of that request's own; once the COPY has failed it handles them like any others. Which of the two
//! it does is known only when it has answered. So nothing but data and Flush goes upstream as long as the
//! server may be reading: a Sync is held back, and any other request waits, or ends the session.

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::link::{Error, Link, Results};
use super::{Half, Seen};
use crate::record::Entry;

/// Whether a message may come behind a COPY whose data aren't ended: they themselves, and what the
/// server ignores or ends with.
pub(super) fn may_come_behind(tag: u8) -> bool {
    matches!(tag, b'd' | b'c' | b'f' | b'H' | b'S' | b'X')
}

impl<C, U> Half<'_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Waits until it is known whether the server reads data. Returns for which statement.
    pub(super) async fn await_copy(&mut self, seen: &Seen<'_>) -> Result<Option<u64>, Error> {
        let is_open = |link: &Link<C, U>| link.queue.borrow().awaits_copy_in();
        if is_open(self.link) {
            self.flush(seen);
            self.wait_while(seen, is_open).await?;
        }
        Ok(self.link.queue.borrow().reads_copy())
    }

    pub(super) async fn copy_data(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        // Outside of a COPY the server ignores it.
        let Some(statement) = self.await_copy(seen).await? else {
            return Ok(());
        };
        self.link.queue.borrow_mut().copy_in().data();
        if self.link.results == Results::Full {
            let frames = &seen.source[seen.range.clone()];
            self.link.append(&Entry::CopyIn { statement, frames });
        }
        self.keep(seen);
        Ok(())
    }

    pub(super) async fn copy_end(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        if self.await_copy(seen).await?.is_some() {
            self.link.queue.borrow_mut().copy_in().end();
            self.keep(seen);
        }
        Ok(())
    }
}
