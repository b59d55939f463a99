//! Bounded reading of the server's messages, for log-in and for Weir's own queries.
//!
//! A frame is a type byte, an i32 length that counts itself, and a body. Lengths are checked
//! before anything is read or reserved by them, and memory grows with what arrives, not with what
//! is announced.

use std::ops::Range;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::{Error, Step};

/// Bytes asked of the socket at a time.
const CHUNK: usize = 8 * 1024;
/// Type byte and length.
const HEADER: usize = 5;

/// A buffer of bytes from the server, cut into frames.
pub(super) struct Frames {
    buf: Vec<u8>,
    /// Where the unread bytes begin.
    start: usize,
    /// The longest body in bytes.
    max: usize,
}

impl Frames {
    pub(super) fn new(max: usize) -> Self {
        Self {
            buf: Vec::new(),
            start: 0,
            max,
        }
    }

    /// Reads one whole frame: its type and its body.
    ///
    /// Not cancel safe in the sense that matters to callers: they time out for good.
    pub(super) async fn next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        step: Step,
    ) -> Result<(u8, &[u8]), Error> {
        loop {
            match frame(&self.buf[self.start..], self.max) {
                Ok(Some(range)) => {
                    let tag = self.buf[self.start];
                    let body = self.start + range.start..self.start + range.end;
                    self.start = body.end;
                    return Ok((tag, &self.buf[body]));
                }
                Ok(None) => self.fill(stream, step).await?,
                Err(what) => return Err(Error::Protocol { step, what }),
            }
        }
    }

    /// What was read beyond the last frame.
    pub(super) fn leftover(self) -> Vec<u8> {
        self.buf[self.start..].to_vec()
    }

    async fn fill<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        step: Step,
    ) -> Result<(), Error> {
        self.buf.drain(..self.start);
        self.start = 0;
        self.buf.reserve(CHUNK);
        match stream.read_buf(&mut self.buf).await {
            Ok(0) => Err(Error::Io(step, std::io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(e) => Err(Error::Io(step, e)),
        }
    }
}

/// The body's range of the first frame in `bytes`; `None` while it isn't whole.
fn frame(bytes: &[u8], max: usize) -> Result<Option<Range<usize>>, &'static str> {
    let Some(&[_, a, b, c, d]) = bytes.get(..HEADER) else {
        return Ok(None);
    };
    let length = i32::from_be_bytes([a, b, c, d]);
    let body = usize::try_from(length).ok().and_then(|l| l.checked_sub(4));
    let body = body.ok_or("a message's length is less than its own four bytes")?;
    if body > max {
        return Err("a message is longer than allowed");
    }
    Ok((bytes.len() >= HEADER + body).then_some(HEADER..HEADER + body))
}

/// Walks a body from front to back; every step is checked against its end.
pub(super) struct Body<'a>(pub(super) &'a [u8]);

impl<'a> Body<'a> {
    pub(super) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|b| b[0])
    }

    pub(super) fn i16(&mut self) -> Option<i16> {
        self.bytes(2)
            .and_then(|b| b.try_into().ok())
            .map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        self.bytes(4)
            .and_then(|b| b.try_into().ok())
            .map(i32::from_be_bytes)
    }

    /// A string up to its zero byte.
    pub(super) fn cstr(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|&b| b == 0)?;
        let text = self.bytes(end)?;
        self.bytes(1)?;
        Some(text)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The server's `ErrorResponse` as an [`Error`].
pub(super) fn error_response(body: &[u8], step: Step) -> Error {
    let (mut sqlstate, mut message) = (None, None);
    let mut body = Body(body);
    loop {
        let malformed = Error::Protocol {
            step,
            what: "malformed ErrorResponse",
        };
        match body.u8() {
            Some(0) if body.is_empty() => break,
            Some(field) if field != 0 => {
                let Some(value) = body.cstr() else {
                    return malformed;
                };
                // Before the session's encoding is settled, messages may be in any: this is for
                // people, so what isn't UTF-8 is replaced.
                let value = String::from_utf8_lossy(value).into_owned();
                match field {
                    b'C' => sqlstate = Some(value),
                    b'M' => message = Some(value),
                    _ => {}
                }
            }
            _ => return malformed,
        }
    }
    match (sqlstate, message) {
        (Some(sqlstate), Some(message)) if is_sqlstate(&sqlstate) => {
            Error::Server { sqlstate, message }
        }
        _ => Error::Protocol {
            step,
            what: "ErrorResponse without a SQLSTATE and a message",
        },
    }
}

fn is_sqlstate(code: &str) -> bool {
    code.len() == 5
        && code
            .bytes()
            .all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn impossible_lengths_are_refused_before_anything_is_read_by_them() {
        for length in [i32::MIN, -1, 0, 3] {
            let mut bytes = vec![b'R'];
            bytes.extend(length.to_be_bytes());
            assert!(frame(&bytes, 1024).is_err(), "{length}");
        }
        let mut bytes = vec![b'R'];
        bytes.extend(1029_i32.to_be_bytes());
        assert!(frame(&bytes, 1024).is_err());
        assert_eq!(frame(&bytes, 1025), Ok(None));
    }

    #[test]
    fn an_error_response_gives_sqlstate_and_message() {
        let error = error_response(b"SFATAL\0C3D000\0Mno such database\0\0", Step::Auth);
        let Error::Server { sqlstate, message } = error else {
            panic!("{error}")
        };
        assert_eq!(
            (sqlstate.as_str(), message.as_str()),
            ("3D000", "no such database")
        );
    }

    #[test]
    fn a_malformed_error_response_is_a_protocol_error() {
        for body in [
            &b""[..],
            b"\0",
            b"C3D000\0",
            b"C3D000\0Mx\0",
            b"C3D000\0Mx\0\0x",
            b"Cbad\0Mx\0\0",
        ] {
            let error = error_response(body, Step::Auth);
            assert!(matches!(error, Error::Protocol { .. }), "{body:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn frames_are_the_same_however_the_bytes_are_cut(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8),
            cut in 1_usize..50,
        ) {
            let mut wire = Vec::new();
            for body in &bodies {
                wire.push(b'D');
                wire.extend((body.len() as i32 + 4).to_be_bytes());
                wire.extend(body);
            }
            let mut mock = in_pieces(&wire, cut);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut frames = Frames::new(1024);
                for body in &bodies {
                    let (tag, got) = frames.next(&mut mock, Step::Query).await.unwrap();
                    assert_eq!((tag, got), (b'D', &body[..]));
                }
                assert!(frames.leftover().is_empty());
            });
        }

        #[test]
        fn no_error_response_panics(body in prop::collection::vec(any::<u8>(), 0..100)) {
            error_response(&body, Step::Auth);
        }
    }

    /// A reader that gives `cut` bytes at a time.
    fn in_pieces(bytes: &[u8], cut: usize) -> impl AsyncRead + Unpin + '_ {
        struct Cut<'a>(&'a [u8], usize);
        impl AsyncRead for Cut<'_> {
            fn poll_read(
                mut self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                let n = self.1.min(self.0.len()).min(buf.remaining());
                let (head, tail) = self.0.split_at(n);
                buf.put_slice(head);
                self.0 = tail;
                std::task::Poll::Ready(Ok(()))
            }
        }
        Cut(bytes, cut)
    }
}
