//! Frames: the header of a journal file, the header of a frame, compression, the chain.
//!
//! See the module documentation of `record` for the format.

use std::cell::RefCell;

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};

use super::codec::Malformed;
use super::open::SessionId;

const MAGIC: &[u8; 8] = b"WEIRJRNL";
const VERSION: u32 = 1;

/// Bytes of the file's header.
pub(super) const FILE_HEADER: usize = 8 + 4 + 4 + 16;
/// Bytes of a frame's header: length, kind, flags, check.
pub(super) const FRAME_HEADER: usize = 4 + 1 + 1 + 2;
/// Where in its header a frame has its kind.
pub(super) const KIND: usize = 4;
/// Bytes of a link of the chain.
pub(super) const CHAIN: usize = 32;

/// Largest payload of a frame before compression, in bytes. A statement or a `Bind` above it is
/// not recorded and so not forwarded; results and COPY data are cut into pieces well below it.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// Pieces into which bulk data is cut: below 64 KiB, where LZ4's small table will do.
pub(super) const PIECE: usize = 60 << 10;

/// Payloads below this many bytes are not worth compressing: up to about here, LZ4 takes longer
/// than the `write` of the bytes that it would save.
const COMPRESS_FROM: usize = 1024;

/// `flags` bit 0.
const LZ4: u8 = 1;

/// A link of the chain.
pub(super) type Chain = [u8; CHAIN];

/// The first bytes of a journal.
pub(super) fn file_header(id: SessionId) -> [u8; FILE_HEADER] {
    let mut header = [0; FILE_HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..].copy_from_slice(id.as_bytes());
    header
}

/// The id in a file's header, if it is one of this version.
pub(super) fn parse_file_header(header: &[u8; FILE_HEADER]) -> Result<SessionId, Malformed> {
    let (_, id) = header.split_last_chunk::<16>().ok_or(Malformed)?;
    let id = SessionId::from_bytes(*id);
    if *header == file_header(id) {
        Ok(id)
    } else {
        Err(Malformed)
    }
}

/// The chain before the first frame.
pub(super) fn first_chain(header: &[u8; FILE_HEADER]) -> Chain {
    *blake3::hash(header).as_bytes()
}

/// Guards a frame's header. Without it a damaged length would look like a frame whose end was
/// never written; with it, damage to any byte of a journal is told from a write that was cut off.
fn check(header: &[[u8; 2]], previous: &Chain) -> [u8; 2] {
    header
        .iter()
        .fold([previous[0], previous[1]], |[a, b], [x, y]| [a ^ x, b ^ y])
}

/// The link that follows `previous` for a frame's header and payload as stored. The one before is the
/// key, and not hashed in front of the frame: most frames are then one block of 64 bytes, and not two.
pub(super) fn next_chain(previous: &Chain, frame: &[u8]) -> Chain {
    *blake3::keyed_hash(previous, frame).as_bytes()
}

/// A frame's header as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Bytes of the payload as stored.
    pub(super) length: usize,
    pub(super) kind: u8,
    compressed: bool,
}

impl FrameHeader {
    /// A frame has a kind that isn't 0; what isn't there yet has none (see `file`).
    pub(super) fn has_kind(bytes: &[u8; FRAME_HEADER]) -> bool {
        bytes[KIND] != 0
    }

    /// Refuses lengths that no writer produces, so that a reader's memory is bounded.
    pub(super) fn parse(
        bytes: [u8; FRAME_HEADER],
        previous: &Chain,
    ) -> Result<FrameHeader, Malformed> {
        let [a, b, c, d, kind, flags, ..] = bytes;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        let sealed = bytes[6..] == check(bytes[..6].as_chunks().0, previous);
        let has_kind = Self::has_kind(&bytes);
        if !sealed || !has_kind || length > MAX_PAYLOAD || flags & !LZ4 != 0 {
            return Err(Malformed);
        }
        Ok(FrameHeader {
            length,
            kind,
            compressed: flags & LZ4 != 0,
        })
    }

    /// The payload in the clear; `scratch` holds it where it was compressed.
    pub(super) fn payload<'a>(
        &self,
        stored: &'a [u8],
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Malformed> {
        if !self.compressed {
            return Ok(stored);
        }
        let (raw_length, block) = stored.split_first_chunk::<4>().ok_or(Malformed)?;
        let raw_length = u32::from_le_bytes(*raw_length) as usize;
        // LZ4 can't do better than 255 to 1: a larger claim is a lie that would cost memory.
        if raw_length > MAX_PAYLOAD || raw_length > block.len().saturating_mul(255) {
            return Err(Malformed);
        }
        scratch.clear();
        scratch.resize(raw_length, 0);
        let written = lz4_flex::block::decompress_into(block, scratch).map_err(|_| Malformed)?;
        if written == raw_length {
            Ok(scratch)
        } else {
            Err(Malformed)
        }
    }
}

/// What compressing needs, shared by all journals of a thread: no session holds it while idle.
struct Scratch {
    table: CompressTable,
    out: Vec<u8>,
}

/// Keeps a thread's scratch for a large text from staying for ever.
const KEEP_SCRATCH: usize = 256 << 10;

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { table: CompressTable::small(), out: Vec::new() });
}

/// Frames as they follow each other in one journal.
#[derive(Debug)]
pub(super) struct Framer {
    chain: Chain,
    /// Payloads to be stored as they are before compressing is tried again.
    pass: u8,
}

/// Payloads stored as they are after one that hardly compressed. What a session reads is much
/// alike for a while, and LZ4 takes the longer the less it finds: on 60 KiB several times as long
/// as writing them. Above [`WELL`] it costs more of the session's time than it saves.
const PASS: u8 = 15;

/// Compressed well: to so much of the raw size, as a fraction, or less.
const WELL: (usize, usize) = (2, 5);

impl Framer {
    /// Follows the header of a file.
    pub(super) fn new(header: &[u8; FILE_HEADER]) -> Framer {
        Framer {
            chain: first_chain(header),
            pass: 0,
        }
    }

    /// Appends one frame to `out`, whose payload `encode` appends.
    ///
    /// Returns the size of a payload above [`MAX_PAYLOAD`], with `out` as it was.
    pub(super) fn put(
        &mut self,
        out: &mut Vec<u8>,
        kind: u8,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), usize> {
        let start = out.len();
        out.extend_from_slice(&[0, 0, 0, 0, kind, 0, 0, 0]);
        encode(out);
        let body = start + FRAME_HEADER;
        let size = out.len() - body;
        if size > MAX_PAYLOAD {
            out.truncate(start);
            return Err(size);
        }
        if size >= COMPRESS_FROM && self.compress(out, body) {
            out[start + 5] |= LZ4;
        }
        let length = (out.len() - body) as u32;
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        let check = check(out[start..start + 6].as_chunks().0, &self.chain);
        out[start + 6..body].copy_from_slice(&check);
        self.chain = next_chain(&self.chain, &out[start..]);
        out.extend_from_slice(&self.chain);
        Ok(())
    }

    /// Compresses what `out` holds from `body` on, if that promises to be worth it; whether it
    /// did.
    fn compress(&mut self, out: &mut Vec<u8>, body: usize) -> bool {
        if self.pass > 0 {
            self.pass -= 1;
            return false;
        }
        let raw = out.len() - body;
        let smaller = compress_tail(out, body);
        if (out.len() - body) * WELL.1 > raw * WELL.0 {
            self.pass = PASS;
        }
        smaller
    }
}

/// Replaces what `out` holds from `body` on by its compressed form, if that is smaller by an
/// eighth at least.
fn compress_tail(out: &mut Vec<u8>, body: usize) -> bool {
    SCRATCH.with_borrow_mut(|scratch| {
        let raw = out.len() - body;
        let room = get_maximum_output_size(raw);
        if scratch.out.len() < room {
            scratch.out.resize(room, 0);
        }
        let packed = compress_into_with_table(&out[body..], &mut scratch.out, &mut scratch.table);
        let smaller = match packed {
            Ok(length) if length + 4 <= raw - raw / 8 => {
                out.truncate(body);
                out.extend_from_slice(&(raw as u32).to_le_bytes());
                out.extend_from_slice(&scratch.out[..length]);
                true
            }
            // An error would be "no room", which get_maximum_output_size rules out; stored as it
            // is, the payload is just as good.
            _ => false,
        };
        if scratch.out.len() > KEEP_SCRATCH {
            *scratch = Scratch {
                table: CompressTable::small(),
                out: Vec::new(),
            };
        }
        smaller
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behind a chain that begins with zeros, zeros have the right check.
    #[test]
    fn what_is_not_there_yet_is_no_frame() {
        assert!(FrameHeader::parse([0; FRAME_HEADER], &[0; CHAIN]).is_err());
        let first = [1, 0, 0, 0, 9, 0, 8, 0];
        assert!(FrameHeader::parse(first, &[0; CHAIN]).is_ok());
    }

    /// A file that was written must stay readable: this is what version 1 looks like.
    #[test]
    fn a_frame_is_what_it_has_always_been() {
        let header = file_header(SessionId::from_bytes([7; 16]));
        let mut out = Vec::new();
        let mut framer = Framer::new(&header);
        framer
            .put(&mut out, 4, |out| out.extend_from_slice(b"payload"))
            .expect("small");
        let (frame, chain) = out.split_at(FRAME_HEADER + 7);
        assert_eq!(frame, b"\x07\0\0\0\x04\0\x89\xb1payload");
        assert_eq!(
            blake3::Hash::from_bytes(chain.try_into().expect("32"))
                .to_hex()
                .as_str(),
            "5f06ff8658cd9e8db89b499c76c5bb76eadc52944133f59407636d17ee6abfcd"
        );
    }
}
