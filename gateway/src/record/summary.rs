//! What a session came to, read off its journal: what the index holds about it.
//!
//! There is no second account of a session beside its journal, so that an index kept live and one
//! that was rebuilt can't differ. Result data is passed over, so that this costs some hundred
//! nanoseconds a statement.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use super::entry::{Status, Totals, Via};
use super::open::{Close, SessionOpen};
use super::question::{Question, Told};
use super::read::{ReadError, Reader, is_live};
use super::stored::{Stored, StoredDecision};

/// Groups of statements kept per session; what comes later counts into one group per decision
/// and rule without a text. Keeps an agent that never repeats itself from filling the index.
const MAX_GROUPS: usize = 10_000;

/// Bytes of texts remembered while reading; statements of later texts have none.
const MAX_TEXTS: usize = 16 << 20;

/// Characters of a statement that the index shows.
const PREVIEW: usize = 200;

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

/// Between the names of a group's rules.
const BETWEEN_RULES: &str = ", ";

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

/// Statements of a session with the same text, decision and rules. A question is a statement too: its
/// text is the type of record and the name, and one that was refused is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// BLAKE3 of the text; `None`: texts that were too many to keep apart.
    pub digest: Option<[u8; 32]>,
    /// The text's first 200 characters; invalid UTF-8 replaced.
    pub text: String,
    /// `allow`, `deny` or `observe`.
    pub decision: &'static str,
    /// The rules, separated by `, `.
    pub rules: String,
    /// How many statements.
    pub count: u64,
    /// Rows of them all.
    pub rows: u64,
    /// When the first and the last were decided: microseconds since the Unix epoch.
    pub first_at: u64,
    /// See `first_at`.
    pub last_at: u64,
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
            groups: reading.groups.all,
        }))
    }
}

/// A close reason with its detail.
fn reason(close: &Close) -> String {
    match close.reason.detail() {
        Some(detail) => format!("{}: {detail}", close.reason.as_str()),
        None => close.reason.as_str().to_owned(),
    }
}

/// Text, decision, rules.
type GroupKey = (Option<[u8; 32]>, &'static str, String);

/// What most often tells a group without looking at the text: its number, the span, the decision.
type Memo = (u32, u32, u32, &'static str);

#[derive(Default)]
struct Reading {
    open: Option<SessionOpen>,
    close: Option<Close>,
    totals: Totals,
    texts: HashMap<u32, Vec<u8>>,
    text_bytes: usize,
    groups: Groups,
    /// Groups of statements seen lately; to be trusted where the rules are the same.
    memo: BTreeMap<Memo, usize>,
    /// The group of each statement that still runs.
    running: BTreeMap<u64, usize>,
}

impl Reading {
    fn record(&mut self, entry: Stored<'_>) {
        match entry {
            Stored::Open(open) => self.open = Some(*open),
            Stored::Text { id, sql } => self.text(id, sql),
            Stored::Decision(decision) => self.decided(&decision),
            Stored::Question(question) => self.asked(&question),
            Stored::Outcome(outcome) => {
                self.totals
                    .ended(outcome.rows, outcome.bytes, outcome.masked_cells);
                let group = match outcome.status {
                    Status::Suspended => self.running.get(&outcome.statement).copied(),
                    _ => self.running.remove(&outcome.statement),
                };
                if let Some(group) = group {
                    self.groups.all[group].rows += outcome.rows;
                }
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

    fn text(&mut self, id: u32, sql: &[u8]) {
        if let Some(replaced) = self.texts.remove(&id) {
            self.text_bytes -= replaced.len();
            self.memo.clear();
        }
        if self.text_bytes + sql.len() <= MAX_TEXTS {
            self.text_bytes += sql.len();
            self.texts.insert(id, sql.to_vec());
        }
    }

    fn decided(&mut self, decision: &StoredDecision<'_>) {
        if !self.totals.decided(decision.via, &decision.verdict) {
            return;
        }
        let group = self.group(decision);
        let entry = &mut self.groups.all[group];
        entry.count += 1;
        entry.last_at = decision.at;
        let runs = !matches!(decision.verdict, super::Verdict::Deny { .. });
        if runs && decision.via != Via::Parse && self.running.len() < MAX_GROUPS {
            self.running.insert(decision.statement, group);
        }
    }

    /// The group that a decision counts into.
    fn group(&mut self, decision: &StoredDecision<'_>) -> usize {
        let span = &decision.span;
        let memo = (
            decision.text,
            span.start,
            span.end,
            decision.verdict.as_str(),
        );
        if let Some(&group) = self.memo.get(&memo)
            && is_joined(&self.groups.all[group].rules, &decision.rules)
        {
            return group;
        }
        let group = self.find_group(decision);
        if self.memo.len() < MAX_GROUPS {
            self.memo.insert(memo, group);
        }
        group
    }

    fn find_group(&mut self, decision: &StoredDecision<'_>) -> usize {
        let span = decision.span.start as usize..decision.span.end as usize;
        let text = self
            .texts
            .get(&decision.text)
            .and_then(|text| text.get(span));
        let text = text.unwrap_or_default();
        let word = decision.verdict.as_str();
        let rules = decision.rules.join(BETWEEN_RULES);
        self.groups.find(text, word, rules, decision.at)
    }

    fn asked(&mut self, question: &Question<'_>) {
        self.totals.asked(&question.told);
        let word = match question.told {
            Told::Refused => "deny",
            Told::Addresses(_) | Told::Nonexistent | Told::Failed => "allow",
        };
        let text = format!("{} {}", question.record_type, question.name);
        let group = self
            .groups
            .find(text.as_bytes(), word, String::new(), question.at);
        let group = &mut self.groups.all[group];
        group.count += 1;
        group.last_at = question.at;
    }
}

/// The groups of a session, each found by what its statements have in common.
#[derive(Default)]
struct Groups {
    all: Vec<Group>,
    by_key: HashMap<GroupKey, usize>,
}

impl Groups {
    /// The number of a group; if there is none as yet, it begins now.
    fn find(&mut self, text: &[u8], word: &'static str, rules: String, at: u64) -> usize {
        let digest = Some(*blake3::hash(text).as_bytes());
        if let Some(&group) = self.by_key.get(&(digest, word, rules.clone())) {
            return group;
        }
        let full = self.all.len() >= MAX_GROUPS;
        let digest = digest.filter(|_| !full);
        let preview = if full { String::new() } else { preview(text) };
        let next = self.all.len();
        let group = *self
            .by_key
            .entry((digest, word, rules.clone()))
            .or_insert(next);
        if group == next {
            self.all.push(Group {
                digest,
                text: preview,
                decision: word,
                rules,
                count: 0,
                rows: 0,
                first_at: at,
                last_at: at,
            });
        }
        group
    }
}

/// Whether `joined` is what `parts` come to, one behind the other.
fn is_joined(joined: &str, parts: &[&str]) -> bool {
    let mut rest = Some(joined);
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            rest = rest.and_then(|rest| rest.strip_prefix(BETWEEN_RULES));
        }
        rest = rest.and_then(|rest| rest.strip_prefix(part));
    }
    rest == Some("")
}

fn preview(text: &[u8]) -> String {
    // A character has four bytes at most.
    let text = &text[..text.len().min(4 * PREVIEW)];
    String::from_utf8_lossy(text)
        .chars()
        .take(PREVIEW)
        .collect()
}
