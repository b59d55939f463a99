//! Verifying a whole journal.

use std::io;
use std::path::Path;

use super::open::SessionId;
use super::read::{Broken, Fault, ReadError, Reader, Tail, is_live};

/// What verifying a journal found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Sound records, from the first on.
    pub records: u64,
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
}

/// Verifies the journal at `path` from its first byte to its last.
///
/// # Errors
/// As the operating system says; damage is not an error.
pub fn verify(path: &Path) -> io::Result<Verified> {
    // Before reading: a session that ends meanwhile then still counts as open, and not as cut.
    let live = is_live(path)?;
    let mut reader = Reader::open(path)?;
    let end = loop {
        match reader.next().map(|record| record.is_some()) {
            Ok(true) => {}
            Ok(false) if reader.closed() => break Verification::Complete,
            Ok(false) if live => break Verification::Open,
            Ok(false) => {
                break Verification::Cut {
                    tail: reader.tail(),
                };
            }
            Err(ReadError::Broken(broken)) => break Verification::Broken(broken),
            Err(ReadError::Io(e)) => return Err(e),
        }
    };
    let name = path
        .file_stem()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let end = match reader.id() {
        Some(id) if name.parse::<SessionId>() != Ok(id) => Verification::Broken(Broken {
            record: 0,
            offset: 0,
            after: None,
            fault: Fault::Name,
        }),
        _ => end,
    };
    Ok(Verified {
        records: reader.records(),
        last_at: reader.last_at(),
        end,
    })
}
