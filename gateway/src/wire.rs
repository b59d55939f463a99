//! PostgreSQL's frames and messages (protocol 3.0 and 3.2), bounded.
//!
//! A frame is a type byte, an `i32` length that counts itself, and a body. This module owns the
//! framing: a length below 4, a type that the protocol doesn't have, or a frame over its type's
//! limit is an [`Error`], and the session ends rather than pass what it could not read. Decoders
//! get the exact body of one frame; bytes left over, a missing NUL and text that is not UTF-8 are
//! errors too, because a reader that skips them reads another message than the server does.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

mod backend;
mod frontend;
mod reader;
mod start;

pub use backend::{
    ErrorFields, Field, Fields, Reply, TxStatus, command_tag, fields, notification,
    parameter_status, parameter_types, ready_status, row_run,
};
pub use frontend::{Bind, Execute, Parse, Query, Target, TargetKind, request};
pub use reader::Reader;
pub use start::{
    CANCEL_REQUEST, FIRST_PACKET_LIMIT, FirstPacket, GSSENC_REQUEST, ProtocolVersion, SSL_REQUEST,
    Startup,
};

/// What is wrong with the bytes of one side.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// A length field below the four bytes that it counts itself.
    #[error("frame of type {tag} has length {length}, less than the length field itself")]
    Length {
        /// The frame's type byte.
        tag: Printable,
        /// The length as it was sent.
        length: i32,
    },
    /// A frame over its type's limit.
    #[error("frame of type {tag} has {size} bytes, more than the {limit} that Weir takes")]
    Oversize {
        /// The frame's type byte.
        tag: Printable,
        /// Bytes of the whole frame.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A type byte that this side never sends.
    #[error("unknown message type {0}")]
    UnknownType(Printable),
    /// A body that ends too early, goes on too long, or misses a NUL.
    #[error("malformed {0} message")]
    Malformed(&'static str),
    /// Text that isn't UTF-8.
    #[error("text in a {0} message is not UTF-8")]
    NotUtf8(&'static str),
}

/// A type byte, shown so that hostile bytes can't reach a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Printable(pub u8);

impl std::fmt::Display for Printable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "'{}'", self.0.escape_ascii())
    }
}

/// The side that a frame comes from: it decides which types exist and how large they may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The agent's driver.
    Client,
    /// The database.
    Upstream,
}

/// Bytes of a frame's type and length.
pub const HEADER: usize = 5;

/// The most that a statement's text may have, in bytes with its frame.
pub const STATEMENT_LIMIT: usize = 16 << 20;
/// The most that a message carrying values may have, either way.
pub const VALUES_LIMIT: usize = 64 << 20;
/// The most that any other message may have.
pub const SMALL_LIMIT: usize = 1 << 20;

/// One frame's place in a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The type byte.
    pub tag: u8,
    /// Bytes of the whole frame, type and length included.
    pub size: usize,
}

/// Reads the header of the frame that starts at `buf[0]`: `None` if five bytes aren't there yet.
///
/// # Errors
/// A type that `side` never sends, a length below 4, or a frame over its type's limit.
#[inline]
pub fn frame(side: Side, buf: &[u8]) -> Result<Option<Frame>, Error> {
    let Some((header, _)) = buf.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [tag, l0, l1, l2, l3] = *header;
    let length = i32::from_be_bytes([l0, l1, l2, l3]);
    let Some(body) = usize::try_from(length).ok().filter(|l| *l >= 4) else {
        return Err(Error::Length {
            tag: Printable(tag),
            length,
        });
    };
    let size = body + 1;
    let limit = limit(side, tag).ok_or(Error::UnknownType(Printable(tag)))?;
    if size > limit {
        return Err(Error::Oversize {
            tag: Printable(tag),
            size,
            limit,
        });
    }
    Ok(Some(Frame { tag, size }))
}

#[inline]
fn limit(side: Side, tag: u8) -> Option<usize> {
    match (side, tag) {
        (Side::Client, b'Q' | b'P') => Some(STATEMENT_LIMIT),
        (Side::Client, b'B' | b'd') => Some(VALUES_LIMIT),
        (Side::Client, b'C' | b'D' | b'E' | b'F' | b'H' | b'S' | b'X' | b'c' | b'f' | b'p') => {
            Some(SMALL_LIMIT)
        }
        // An error quotes the value that it is about.
        (Side::Upstream, b'D' | b'd' | b'E' | b'N') => Some(VALUES_LIMIT),
        (
            Side::Upstream,
            b'1' | b'2' | b'3' | b'A' | b'C' | b'G' | b'H' | b'I' | b'K' | b'R' | b'S' | b'T'
            | b'V' | b'W' | b'Z' | b'c' | b'n' | b's' | b't' | b'v',
        ) => Some(SMALL_LIMIT),
        _ => None,
    }
}

/// Appends a frame: `body` writes what comes after the length.
pub(crate) fn put_frame(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    // Weir's own messages are far below 2 GiB; saturating keeps a mistake from wrapping.
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

pub(crate) fn put_cstr(out: &mut Vec<u8>, text: &[u8]) {
    // A NUL would end the string early and turn its rest into another field.
    out.extend(text.iter().copied().filter(|b| *b != 0));
    out.push(0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_header_needs_five_bytes() {
        assert_eq!(frame(Side::Client, b"Q\0\0\0"), Ok(None));
        assert_eq!(
            frame(Side::Client, b"Q\0\0\0\x05\0"),
            Ok(Some(Frame { tag: b'Q', size: 6 }))
        );
    }

    #[test]
    fn a_length_below_four_is_refused() {
        for length in [3i32, 0, -1, i32::MIN] {
            let mut buf = vec![b'Q'];
            buf.extend(length.to_be_bytes());
            assert!(matches!(
                frame(Side::Client, &buf),
                Err(Error::Length { .. })
            ));
        }
    }

    #[test]
    fn an_oversize_frame_is_refused_by_its_header_alone() {
        let mut buf = vec![b'S'];
        buf.extend((SMALL_LIMIT as i32).to_be_bytes());
        assert!(matches!(
            frame(Side::Client, &buf),
            Err(Error::Oversize { .. })
        ));
    }

    #[test]
    fn a_type_of_the_other_side_is_refused() {
        assert_eq!(
            frame(Side::Client, b"Z\0\0\0\x05I"),
            Err(Error::UnknownType(Printable(b'Z')))
        );
        assert_eq!(
            frame(Side::Upstream, b"Q\0\0\0\x05\0"),
            Err(Error::UnknownType(Printable(b'Q')))
        );
    }

    proptest! {
        #[test]
        fn a_header_never_panics(buf in proptest::collection::vec(any::<u8>(), 0..16)) {
            let _ = frame(Side::Client, &buf);
            let _ = frame(Side::Upstream, &buf);
        }
    }
}
