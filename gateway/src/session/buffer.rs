//! Read buffers that only busy sessions hold, and splices that copy only what changes.
//!
//! A session that waits for bytes owns no buffer: [`ReadBuffer::fill`] borrows one from its
//! thread's pool for the length of one poll and gives it back when nothing came. What stays
//! between reads is at most one incomplete frame.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::apart::Apart;

/// Bytes of a pooled buffer: large enough that a bulk result isn't made of system calls.
const BUFFER: usize = 64 << 10;
/// Buffers that a thread keeps for its next busy sessions.
const POOLED: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn take_pooled() -> Vec<u8> {
    POOL.with_borrow_mut(Vec::pop)
        .unwrap_or_else(|| vec![0; BUFFER])
}

fn give_back(storage: Vec<u8>) {
    if storage.len() == BUFFER {
        POOL.with_borrow_mut(|pool| {
            if pool.len() < POOLED {
                pool.push(storage);
            }
        });
    }
}

/// One direction's bytes that were read and not yet consumed.
#[derive(Debug, Default)]
pub(super) struct ReadBuffer {
    storage: Vec<u8>,
    filled: Range<usize>,
}

impl ReadBuffer {
    /// A buffer that already holds `bytes`.
    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        let filled = 0..bytes.len();
        Self {
            storage: bytes,
            filled,
        }
    }

    /// What is there.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.storage[self.filled.clone()]
    }

    /// Drops the first `n` bytes; the storage goes back to the pool with the last of them.
    pub(super) fn consume(&mut self, n: usize) {
        self.filled.start += n;
        if self.filled.is_empty() {
            self.filled = 0..0;
            give_back(std::mem::take(&mut self.storage));
        }
    }

    /// Makes room for a frame of `size` bytes that starts at the front: for no more of it than what
    /// has come of it justifies, or five bytes of a header would cost 64 MiB.
    pub(super) fn reserve(&mut self, size: usize) {
        let size = size.min(BUFFER.max(self.filled.len() * 2));
        if self.filled.start > 0 {
            self.storage.copy_within(self.filled.clone(), 0);
            self.filled = 0..self.filled.len();
        }
        if self.storage.len() < size {
            // The next power of two keeps a large frame from growing by one read at a time;
            // frames are bounded by `wire`'s limits.
            self.storage.resize(size.next_power_of_two(), 0);
        }
    }

    /// Takes over what another buffer holds, behind what is there.
    pub(super) fn append(&mut self, other: &mut Self) {
        if self.filled.is_empty() {
            std::mem::swap(self, other);
        } else {
            self.storage.truncate(self.filled.end);
            self.storage.extend_from_slice(other.bytes());
            self.filled.end = self.storage.len();
        }
        other.consume(other.filled.len());
    }

    /// Reads once from `stream`; 0 means that the other side has closed.
    ///
    /// Cancel safe: nothing is taken from the stream unless it returns.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Apart<S>,
    ) -> Poll<io::Result<usize>> {
        stream.poll_read(cx, |cx, stream| {
            let pooled = self.storage.is_empty();
            if pooled {
                self.storage = take_pooled();
            } else if self.filled.end == self.storage.len() {
                self.reserve(self.filled.len() + BUFFER / 2);
            }
            let mut buf = ReadBuf::new(&mut self.storage[self.filled.end..]);
            let polled = Pin::new(stream).poll_read(cx, &mut buf);
            let n = buf.filled().len();
            self.filled.end += n;
            if pooled && n == 0 {
                give_back(std::mem::take(&mut self.storage));
            }
            polled.map_ok(|()| n)
        })
    }
}

/// Writes all of `bytes` and flushes. Not cancel safe.
pub(super) async fn write_all<S: AsyncWrite + Unpin>(
    stream: &RefCell<Apart<S>>,
    mut bytes: &[u8],
) -> io::Result<()> {
    std::future::poll_fn(|cx| {
        let mut stream = stream.borrow_mut();
        let stream = stream.stream();
        while !bytes.is_empty() {
            match Pin::new(&mut *stream).poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => bytes = &bytes[n..],
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(stream).poll_flush(cx)
    })
    .await
}

/// What one direction sends for the bytes that it read: the same bytes where nothing changed.
///
/// Frames are kept by their range in the source, in order. As long as the kept ranges touch each
/// other nothing is copied; the first change moves what was kept into `out`.
#[derive(Debug, Default)]
pub(super) struct Splice {
    run: Range<usize>,
    out: Vec<u8>,
}

impl Splice {
    /// Keeps `range` of the source as it is.
    #[inline]
    pub(super) fn keep(&mut self, source: &[u8], range: Range<usize>) {
        if self.run.end != range.start || self.run.is_empty() {
            self.settle(source);
            self.run.start = range.start;
        }
        self.run.end = range.end;
    }

    /// Gives the place to append bytes that aren't in the source.
    #[inline]
    pub(super) fn insert(&mut self, source: &[u8]) -> &mut Vec<u8> {
        self.settle(source);
        &mut self.out
    }

    /// Where the next bytes will stand among those to be sent.
    pub(super) fn position(&self) -> usize {
        self.out.len() + self.run.len()
    }

    /// What was put in since [`Splice::position`] gave `before`.
    pub(super) fn since<'a>(&'a mut self, source: &'a [u8], before: usize) -> &'a [u8] {
        match before.checked_sub(self.out.len()) {
            Some(kept) => &source[self.run.start + kept..self.run.end],
            None => {
                self.settle(source);
                &self.out[before..]
            }
        }
    }

    /// All that is to be sent.
    pub(super) fn bytes<'a>(&'a mut self, source: &'a [u8]) -> &'a [u8] {
        if self.out.is_empty() {
            return &source[self.run.clone()];
        }
        self.settle(source);
        &self.out
    }

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.run.is_empty() && self.out.is_empty()
    }

    /// Starts over; a buffer that grew beyond use is let go.
    pub(super) fn clear(&mut self) {
        self.run = 0..0;
        if self.out.capacity() > 4096 {
            self.out = Vec::new();
        } else {
            self.out.clear();
        }
    }

    fn settle(&mut self, source: &[u8]) {
        if !self.run.is_empty() {
            self.out.extend_from_slice(&source[self.run.clone()]);
        }
        self.run = 0..0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_ranges_that_touch_are_not_copied() {
        let source = b"aabbcc";
        let mut s = Splice::default();
        s.keep(source, 0..2);
        s.keep(source, 2..4);
        assert!(std::ptr::eq(s.bytes(source), &source[0..4]));
    }

    #[test]
    fn a_splice_sends_kept_and_inserted_bytes_in_order() {
        let source = b"aabbcc";
        let mut s = Splice::default();
        s.keep(source, 0..2);
        s.insert(source).extend_from_slice(b"XX");
        s.keep(source, 4..6);
        let before = s.position();
        assert_eq!(s.bytes(source), b"aaXXcc");
        s.insert(source).extend_from_slice(b"YY");
        assert_eq!(s.since(source, before), b"YY");
        let before = s.position();
        s.keep(source, 1..3);
        assert_eq!(s.since(source, before), b"ab");
        s.clear();
        assert!(s.is_empty());
        s.keep(source, 2..4);
        s.keep(source, 0..2);
        assert_eq!(s.bytes(source), b"bbaa");
    }

    #[test]
    fn what_is_appended_stands_behind_what_was_there() {
        let mut buffer = ReadBuffer::default();
        for part in [&b"ab"[..], b"cd", b""] {
            let mut more = ReadBuffer::holding(part.to_vec());
            buffer.append(&mut more);
            assert!(more.bytes().is_empty());
        }
        assert_eq!(buffer.bytes(), b"abcd");
        buffer.consume(1);
        buffer.append(&mut ReadBuffer::holding(b"e".to_vec()));
        assert_eq!(buffer.bytes(), b"bcde");
    }

    #[tokio::test]
    async fn a_waiting_buffer_holds_no_storage() {
        let (near, _far) = tokio::io::duplex(16);
        let mut near = Apart::new(near);
        let mut buffer = ReadBuffer::default();
        std::future::poll_fn(|cx| {
            assert!(buffer.poll_fill(cx, &mut near).is_pending());
            Poll::Ready(())
        })
        .await;
        assert!(buffer.storage.is_empty());
    }

    #[test]
    fn a_frame_that_has_only_been_announced_takes_no_room() {
        let mut buffer = ReadBuffer::holding(b"B\x03\xff\xff\xff".to_vec());
        buffer.reserve(64 << 20);
        assert_eq!(buffer.storage.len(), BUFFER);
    }

    #[tokio::test]
    async fn a_frame_larger_than_the_buffer_arrives_whole() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = Apart::new(near);
        let sent: Vec<u8> = (0..BUFFER * 3).map(|i| (i % 251) as u8).collect();
        tokio::io::AsyncWriteExt::write_all(&mut far, &sent)
            .await
            .expect("duplex");
        let mut buffer = ReadBuffer::default();
        while buffer.bytes().len() < sent.len() {
            let n = std::future::poll_fn(|cx| buffer.poll_fill(cx, &mut near))
                .await
                .expect("read");
            assert!(n > 0);
            buffer.reserve(sent.len());
        }
        assert_eq!(buffer.bytes(), sent);
        buffer.consume(sent.len());
        assert!(buffer.storage.is_empty());
    }
}
