//! Reading a journal: every frame is checked against the chain before it is handed out.
//!
//! Never panics and never takes more memory than the file's own frames do, whatever the file
//! holds. A reader that has come to the end can be asked again: it goes on where it was, which is
//! how a growing journal is followed.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use super::entry::kind;
use super::file::{self, UNFINISHED};
use super::frame::{self, CHAIN, Chain, FILE_HEADER, FRAME_HEADER, FrameHeader};
use super::open::SessionId;
use super::stored::Stored;

/// Bytes read at once.
const READ_AHEAD: usize = 64 << 10;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its number in the file; the first is 1.
    pub number: u64,
    /// Where its frame begins, in bytes.
    pub offset: u64,
    /// What it holds.
    pub entry: Stored<'a>,
}

/// What is at the end of what could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// The end of a record (or nothing at all).
    Whole,
    /// A record whose end is missing: a write was cut off, or is going on.
    Torn {
        /// Where its frame begins.
        offset: u64,
    },
}

/// The first record that can't be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {record} at byte {offset} is broken: {fault}")]
pub struct Broken {
    /// Its number; 0 is the file's header.
    pub record: u64,
    /// Where its frame begins, in bytes.
    pub offset: u64,
    /// The last time that a sound record before it holds: microseconds since the Unix epoch.
    pub after: Option<u64>,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The file does not begin like a journal of this version.
    FileHeader,
    /// The header belongs to another session than the file's name.
    Name,
    /// The header of the frame is damaged.
    FrameHeader,
    /// The chain does not match: this record, or one before it, was changed.
    Chain,
    /// The chain matches, but the payload is not what a writer produces.
    Malformed,
    /// `Open` is not the first record, or something follows `Close`.
    Order,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::FileHeader => "not a journal of this version",
            Fault::Name => "the file belongs to another session than its name says",
            Fault::FrameHeader => "its header is damaged",
            Fault::Chain => "it does not fit the chain",
            Fault::Malformed => "it cannot be decoded",
            Fault::Order => "it stands where it must not",
        })
    }
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The journal is damaged. Reading on gives the same error.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// The file can't be read.
    #[error("cannot read the journal")]
    Io(#[from] io::Error),
}

/// Reads the records of one journal in order.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    /// Bytes read and not yet consumed are `buffer[start..]`.
    buffer: Vec<u8>,
    start: usize,
    /// Where `buffer[start]` is in the file.
    offset: u64,
    /// Records handed out or passed over.
    records: u64,
    id: Option<SessionId>,
    chain: Chain,
    closed: bool,
    after: Option<u64>,
    /// See [`Reader::skimming`].
    skim: bool,
    /// Holds a payload that was compressed.
    scratch: Vec<u8>,
    /// An unfinished record was found where reading goes on, and isn't in the buffer.
    torn: bool,
}

impl Reader<File> {
    /// Opens a journal.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn open(path: &Path) -> io::Result<Reader<File>> {
        Ok(Reader::new(File::open(path)?))
    }
}

impl<R: Read + Seek> Reader<R> {
    /// Reads a journal from its first byte, where `source` has to stand.
    pub fn new(source: R) -> Reader<R> {
        Reader {
            source,
            buffer: Vec::new(),
            start: 0,
            offset: 0,
            records: 0,
            id: None,
            chain: [0; CHAIN],
            closed: false,
            after: None,
            skim: false,
            scratch: Vec::new(),
            torn: false,
        }
    }

    /// From here on: pass over result rows and COPY data without reading them, and trust the
    /// chain as stored. For summaries; never for evidence. `false` goes back to checking, from
    /// the next record on.
    pub fn skimming(&mut self, skim: bool) {
        self.skim = skim;
    }

    /// The session's id; `None` before the first record was read.
    pub fn id(&self) -> Option<SessionId> {
        self.id
    }

    /// Whether `Close` was read.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Records read until now.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Where the records read until now end, in bytes.
    #[cfg(test)]
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The last time that a record held: microseconds since the Unix epoch.
    pub fn last_at(&self) -> Option<u64> {
        self.after
    }

    /// What is at the end, once [`Reader::next`] gave `None`.
    pub fn tail(&self) -> Tail {
        if self.start == self.buffer.len() && !self.torn {
            Tail::Whole
        } else {
            Tail::Torn {
                offset: self.offset,
            }
        }
    }

    /// The next record; `None` at the end of what is there by now, see [`Reader::tail`].
    ///
    /// # Errors
    /// [`ReadError::Broken`] at the first record that can't be trusted.
    #[expect(
        clippy::should_implement_trait,
        reason = "lends from the reader's buffer"
    )]
    pub fn next(&mut self) -> Result<Option<Record<'_>>, ReadError> {
        let Some(frame) = self.next_frame()? else {
            return Ok(None);
        };
        let FrameAt {
            number,
            offset,
            header,
            payload,
        } = frame;
        let broken = Broken {
            record: number,
            offset,
            after: self.after,
            fault: Fault::Malformed,
        };
        let stored = &self.buffer[payload];
        let Ok(payload) = header.payload(stored, &mut self.scratch) else {
            return Err(broken.into());
        };
        let Ok(entry) = Stored::decode(header.kind, payload) else {
            return Err(broken.into());
        };
        self.after = entry.at().or(self.after);
        Ok(Some(Record {
            number,
            offset,
            entry,
        }))
    }

    /// Finds the next whole frame, checks it, and moves behind it.
    fn next_frame(&mut self) -> Result<Option<FrameAt>, ReadError> {
        if self.id.is_none() && !self.file_header()? {
            return Ok(None);
        }
        self.torn = false;
        loop {
            if !self.fill(if self.closed { 1 } else { FRAME_HEADER })? {
                return Ok(None);
            }
            if self.closed {
                return Err(self.broken(Fault::Order));
            }
            let Some(header) = self.buffer[self.start..].first_chunk() else {
                return Ok(None);
            };
            let has_kind = FrameHeader::has_kind(header);
            let Ok(header) = FrameHeader::parse(*header, &self.chain) else {
                let Some(length) = self.look_again()? else {
                    continue;
                };
                return self.cut_off(Fault::FrameHeader, length, has_kind.then_some(FRAME_HEADER));
            };
            if (header.kind == kind::OPEN) != (self.records == 0) {
                return Err(self.broken(Fault::Order));
            }
            let whole = FRAME_HEADER + header.length + CHAIN;
            let bulk = matches!(header.kind, kind::ROWS | kind::COPY_IN);
            if self.skim && bulk {
                if !self.pass_over(whole - CHAIN)? {
                    return Ok(None);
                }
                continue;
            }
            if !self.fill(whole)? {
                return Ok(None);
            }
            if !self.skim && !self.fits_chain(&header) {
                let Some(length) = self.look_again()? else {
                    continue;
                };
                return self.cut_off(Fault::Chain, length, Some(whole));
            }
            return Ok(Some(self.take(header)));
        }
    }

    fn fits_chain(&self, header: &FrameHeader) -> bool {
        let end = self.start + FRAME_HEADER + header.length;
        let chain = frame::next_chain(&self.chain, &self.buffer[self.start..end]);
        self.buffer[end..end + CHAIN] == chain
    }

    /// Moves behind the frame that the buffer begins with.
    fn take(&mut self, header: FrameHeader) -> FrameAt {
        let end = self.start + FRAME_HEADER + header.length;
        self.chain.copy_from_slice(&self.buffer[end..end + CHAIN]);
        let (number, offset) = (self.records + 1, self.offset);
        let payload = self.start + FRAME_HEADER..end;
        self.consume(FRAME_HEADER + header.length + CHAIN);
        self.records = number;
        self.closed = header.kind == kind::CLOSE;
        FrameAt {
            number,
            offset,
            header,
            payload,
        }
    }

    /// Reads anew what can't be read on, since it may have been read while it was written. `None`: it is
    /// something else now. Otherwise the file is as long as it says, and the buffer holds the rest of it,
    /// if that isn't more than [`UNFINISHED`].
    fn look_again(&mut self) -> io::Result<Option<u64>> {
        let length = self.source.seek(SeekFrom::End(0))?;
        self.source.seek(SeekFrom::Start(self.offset))?;
        let before = &self.buffer[self.start..];
        // All that was looked at, or a large record would never be the same.
        let most = UNFINISHED.max(before.len() as u64);
        let mut rest = Vec::new();
        (&mut self.source).take(most).read_to_end(&mut rest)?;
        let whole = length.saturating_sub(self.offset).min(most) == rest.len() as u64;
        let same = whole && before == rest;
        self.buffer = rest;
        self.start = 0;
        Ok(same.then_some(length))
    }

    /// What can't be read on may be a commit that was cut off, or isn't there yet: reading ends before
    /// it then. `size` is that of the frame, if it has a kind.
    fn cut_off(
        &mut self,
        fault: Fault,
        length: u64,
        size: Option<usize>,
    ) -> Result<Option<FrameAt>, ReadError> {
        let end = size.map(|size| self.offset + size as u64);
        if !file::is_cut_off(self.offset, length, &self.buffer, end) {
            return Err(self.broken(fault));
        }
        self.torn = self.buffer.iter().any(|&byte| byte != 0);
        // What may be there by the next time is read then.
        self.buffer.clear();
        self.source.seek(SeekFrom::Start(self.offset))?;
        Ok(None)
    }

    /// Moves behind the `length` bytes of a frame and takes its link of the chain as stored.
    /// `false` if the file doesn't hold all of it yet.
    fn pass_over(&mut self, length: usize) -> Result<bool, ReadError> {
        let buffered = self.buffer.len() - self.start;
        if buffered < length + CHAIN {
            let end = self.offset + (length + CHAIN) as u64;
            if self.source.seek(SeekFrom::End(0))? < end {
                self.source
                    .seek(SeekFrom::Start(self.offset + buffered as u64))?;
                return Ok(false);
            }
            self.offset += length as u64;
            self.source.seek(SeekFrom::Start(self.offset))?;
            self.buffer.clear();
            self.start = 0;
            if !self.fill(CHAIN)? {
                return Ok(false);
            }
        } else {
            self.consume(length);
        }
        self.chain
            .copy_from_slice(&self.buffer[self.start..self.start + CHAIN]);
        self.consume(CHAIN);
        self.records += 1;
        Ok(true)
    }

    fn file_header(&mut self) -> Result<bool, ReadError> {
        if !self.fill(FILE_HEADER)? {
            return Ok(false);
        }
        let Some(header) = self.buffer[self.start..].first_chunk() else {
            return Ok(false);
        };
        let Ok(id) = frame::parse_file_header(header) else {
            let broken = Broken {
                record: 0,
                offset: 0,
                after: None,
                fault: Fault::FileHeader,
            };
            return Err(broken.into());
        };
        self.chain = frame::first_chain(header);
        self.id = Some(id);
        self.consume(FILE_HEADER);
        Ok(true)
    }

    /// Reads until `n` bytes are buffered; `false` if the file doesn't have them yet. Memory
    /// grows with what is read, never with what a length claims.
    fn fill(&mut self, n: usize) -> io::Result<bool> {
        let buffered = self.buffer.len() - self.start;
        if buffered >= n {
            return Ok(true);
        }
        self.buffer.drain(..self.start);
        self.start = 0;
        let want = n.max(READ_AHEAD) - buffered;
        (&mut self.source)
            .take(want as u64)
            .read_to_end(&mut self.buffer)?;
        Ok(self.buffer.len() >= n)
    }

    fn consume(&mut self, n: usize) {
        self.start += n;
        self.offset += n as u64;
    }

    fn broken(&self, fault: Fault) -> ReadError {
        let (record, offset) = (self.records + 1, self.offset);
        Broken {
            record,
            offset,
            after: self.after,
            fault,
        }
        .into()
    }
}

/// A frame in the reader's buffer.
struct FrameAt {
    number: u64,
    offset: u64,
    header: FrameHeader,
    /// Of the buffer.
    payload: Range<usize>,
}

/// Whether the session of this journal still lives: its daemon holds the file's lock.
///
/// # Errors
/// As the operating system says.
pub fn is_live(path: &Path) -> io::Result<bool> {
    match File::open(path)?.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(std::fs::TryLockError::WouldBlock) => Ok(true),
        Err(std::fs::TryLockError::Error(e)) => Err(e),
    }
}
