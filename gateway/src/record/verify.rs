//! Verifying a whole journal: by itself, and against what the index knows of its session.
//!
//! The chain shows that nothing before a journal's end was changed; that the end itself is there,
//! only something beside the journal can tell.

use std::io;
use std::path::Path;

use super::entry::Totals;
use super::index::Indexed;
use super::open::SessionId;
use super::read::{Broken, Fault, ReadError, Reader, Tail, is_live};
use super::stored::Stored;
use super::summary::State;

/// What verifying a journal found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Sound records, from the first on.
    pub records: u64,
    /// Statements that they hold.
    pub statements: u64,
    /// Of the last sound record that holds a time: microseconds since the Unix epoch.
    pub last_at: Option<u64>,
    /// How it ends.
    pub end: Verification,
}

/// How a journal ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// With `Close`: the session ended in order and nothing is missing.
    Complete,
    /// The session lives.
    Open,
    /// Without `Close`: the daemon died, or the journal could not be written.
    Cut {
        /// The unfinished record at the end, if there is one.
        tail: Tail,
    },
    /// At a record that can't be trusted.
    Broken(Broken),
    /// Sound as far as it goes, but more of it was there when its session was indexed.
    Lost(Loss),
}

/// What the index knows to be missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Loss {
    /// The session was closed; its `Close` isn't there.
    #[error("cut after it was closed: the index has {indexed} statements, the journal {found}")]
    Close {
        /// Statements in the index.
        indexed: u64,
        /// Statements in the journal.
        found: u64,
    },
    /// There is a `Close`, but fewer statements before it.
    #[error("statements are missing: the index has {indexed}, the journal {found}")]
    Statements {
        /// Statements in the index.
        indexed: u64,
        /// Statements in the journal.
        found: u64,
    },
}

impl Verified {
    /// Holds what was found against what the index knew before the journal was read.
    #[must_use]
    pub fn against(mut self, indexed: &Indexed) -> Verified {
        let (found, indexed, closed) = (
            self.statements,
            indexed.statements,
            indexed.state == State::Closed,
        );
        self.end = match self.end {
            Verification::Complete if closed && found < indexed => {
                Verification::Lost(Loss::Statements { indexed, found })
            }
            // Also of a journal that is locked: the index is told of a close once it is written.
            Verification::Open | Verification::Cut { .. } if closed => {
                Verification::Lost(Loss::Close { indexed, found })
            }
            end => end,
        };
        self
    }
}

/// Verifies the journal at `path` from its first byte to its last.
///
/// # Errors
/// As the operating system says; damage is not an error.
pub fn verify(path: &Path) -> io::Result<Verified> {
    // Before reading: a session that ends meanwhile then still counts as open, and not as cut.
    let live = is_live(path)?;
    let mut reader = Reader::open(path)?;
    let mut totals = Totals::default();
    let end = loop {
        match reader
            .next()
            .map(|record| record.map(|record| count(&mut totals, &record.entry)))
        {
            Ok(Some(())) => {}
            Ok(None) if reader.closed() => break Verification::Complete,
            Ok(None) if live => break Verification::Open,
            Ok(None) => {
                break Verification::Cut {
                    tail: reader.tail(),
                };
            }
            Err(ReadError::Broken(broken)) => break Verification::Broken(broken),
            Err(ReadError::Io(e)) => return Err(e),
        }
    };
    let end = reader
        .id()
        .and_then(|id| misnamed(path, id))
        .map_or(end, Verification::Broken);
    Ok(Verified {
        records: reader.records(),
        statements: totals.statements,
        last_at: reader.last_at(),
        end,
    })
}

/// What is wrong with a journal at `path` that is of session `id`, if its name says another: whoever
/// swaps two files doesn't have one session shown as the other.
pub fn misnamed(path: &Path, id: SessionId) -> Option<Broken> {
    let name = path
        .file_stem()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    (name.parse::<SessionId>() != Ok(id)).then_some(Broken {
        record: 0,
        offset: 0,
        after: None,
        fault: Fault::Name,
    })
}

fn count(totals: &mut Totals, entry: &Stored<'_>) {
    match entry {
        Stored::Decision(decision) => totals.decided(decision.via, &decision.verdict),
        Stored::Question(question) => totals.asked(&question.told),
        _ => {}
    }
}
