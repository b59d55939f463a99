//! What a session came to: what the index holds about it.
//!
//! Read off its journal, passing over result data, which costs some hundred nanoseconds a statement.
//! That of a session which ended in order, and had few different statements, comes from the journal's
//! writer, which has kept count.

use std::io;
use std::path::Path;

use super::account::{Account, Decided, Group};
use super::entry::Totals;
use super::open::{Close, SessionOpen};
use super::read::{ReadError, Reader, is_live};
use super::stored::Stored;

/// How a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It lives.
    Open,
    /// It ended in order.
    Closed,
    /// Its journal ends without `Close`: the daemon died, or the journal could not be written.
    Cut,
    /// Its journal is damaged; `weir audit verify` says where.
    Broken,
}

impl State {
    /// In one word, lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Closed => "closed",
            State::Cut => "cut",
            State::Broken => "broken",
        }
    }

    pub(super) fn from_word(word: &str) -> Option<State> {
        [State::Open, State::Closed, State::Cut, State::Broken]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// A session, summed up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How it began.
    pub open: SessionOpen,
    /// How it stands.
    pub state: State,
    /// The last time that its journal holds: microseconds since the Unix epoch.
    pub last_at: u64,
    /// Why it ended, in words.
    pub reason: Option<String>,
    /// What it came to.
    pub totals: Totals,
    /// Its statements, those that are alike as one; by first use.
    pub groups: Vec<Group>,
}

impl Summary {
    /// Reads the journal at `path`; `None` if it doesn't hold its first record. `live`: whether
    /// the session is known to live or to have ended; asked of the file's lock otherwise.
    ///
    /// # Errors
    /// As the operating system says; damage is not an error.
    pub fn of(path: &Path, live: Option<bool>) -> io::Result<Option<Summary>> {
        let live = live.map_or_else(|| is_live(path), Ok)?;
        let mut reader = Reader::open(path)?;
        reader.skimming(true);
        let mut reading = Reading::default();
        let broken = loop {
            match reader.next() {
                Ok(Some(record)) => reading.record(record.entry),
                Ok(None) => break false,
                Err(ReadError::Broken(_)) => break true,
                Err(ReadError::Io(e)) => return Err(e),
            }
        };
        let Some(open) = reading.open else {
            return Ok(None);
        };
        let state = match (broken, &reading.close) {
            (true, _) => State::Broken,
            (false, Some(_)) => State::Closed,
            (false, None) if live => State::Open,
            (false, None) => State::Cut,
        };
        Ok(Some(Summary {
            last_at: reader.last_at().unwrap_or(open.at),
            reason: reading.close.map(|close| reason(&close)),
            open,
            state,
            totals: reading.totals,
            groups: reading.account.into_groups(),
        }))
    }

    /// Of a session whose journal was closed so.
    pub(super) fn closed(open: SessionOpen, close: &Close, account: Account) -> Summary {
        Summary {
            open,
            state: State::Closed,
            last_at: close.at,
            reason: Some(reason(close)),
            totals: close.totals,
            groups: account.into_groups(),
        }
    }
}

/// A close reason with its detail.
fn reason(close: &Close) -> String {
    match close.reason.detail() {
        Some(detail) => format!("{}: {detail}", close.reason.as_str()),
        None => close.reason.as_str().to_owned(),
    }
}

#[derive(Default)]
struct Reading {
    open: Option<SessionOpen>,
    close: Option<Close>,
    totals: Totals,
    account: Account,
}

impl Reading {
    fn record(&mut self, entry: Stored<'_>) {
        match entry {
            Stored::Open(open) => self.open = Some(*open),
            Stored::Text { id, sql } => self.account.text(id, sql),
            Stored::Decision(decision) => {
                self.totals.decided(decision.via, &decision.verdict);
                let decided = Decided {
                    statement: decision.statement,
                    at: decision.at,
                    text: decision.text,
                    span: &decision.span,
                    via: decision.via,
                    verdict: &decision.verdict,
                };
                self.account
                    .decided(&decided, decision.rules.iter().copied());
            }
            Stored::Question(question) => {
                self.totals.asked(&question.told);
                self.account.asked(&question);
            }
            Stored::Outcome(outcome) => {
                self.totals
                    .ended(outcome.rows, outcome.bytes, outcome.masked_cells);
                self.account
                    .ended(outcome.statement, &outcome.status, outcome.rows);
            }
            Stored::Close(close) => self.close = Some(*close),
            Stored::Types { .. }
            | Stored::Columns { .. }
            | Stored::Rows { .. }
            | Stored::CopyIn { .. }
            | Stored::Policy { .. }
            | Stored::Note { .. } => {}
        }
    }
}
