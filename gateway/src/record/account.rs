//! The statements of a session, those that are alike as one: kept while its journal is written, or read
//! off the journal, by the same code, so that an index kept live and one that was rebuilt can't differ.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

use super::entry::{Entry, Status, Verdict, Via};
use super::question::{Question, Told};

/// Groups of statements kept per session; what comes later counts into one group per decision
/// and rule without a text. Keeps an agent that never repeats itself from filling the index.
const MAX_GROUPS: usize = 10_000;

/// Bytes of texts remembered while reading; statements of later texts have none.
const MAX_TEXTS: usize = 16 << 20;

/// What a session that lives may have of either, see [`Account::is_small`].
const SMALL_GROUPS: usize = 128;
const SMALL_TEXTS: usize = 64 << 10;

/// Characters of a statement that the index shows.
const PREVIEW: usize = 200;

/// Between the names of a group's rules.
const BETWEEN_RULES: &str = ", ";

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

/// Text, decision, rules.
type GroupKey = (Option<[u8; 32]>, &'static str, String);

/// What most often tells a group without looking at the text: its number, the span, the decision.
type Memo = (u32, u32, u32, &'static str);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Account {
    texts: HashMap<u32, Vec<u8>>,
    text_bytes: usize,
    groups: Groups,
    /// Groups of statements seen lately; to be trusted where the rules are the same.
    memo: BTreeMap<Memo, usize>,
    running: Running,
}

/// A decision, but for its rules, which the writer and the reader of a journal have otherwise.
pub(super) struct Decided<'a> {
    pub(super) statement: u64,
    pub(super) at: u64,
    pub(super) text: u32,
    pub(super) span: &'a Range<u32>,
    pub(super) via: Via,
    pub(super) verdict: &'a Verdict<'a>,
}

impl Account {
    /// Whether it takes so little memory that a session may keep it. What is larger is read off the
    /// journal once the session has ended.
    pub(super) fn is_small(&self) -> bool {
        let most = [self.groups.all.len(), self.memo.len(), self.running.0.len()];
        self.text_bytes <= SMALL_TEXTS && most.iter().all(|&number| number <= SMALL_GROUPS)
    }

    /// By first use.
    pub(super) fn into_groups(self) -> Vec<Group> {
        self.groups.all
    }

    /// Counts an entry as it is appended.
    pub(super) fn add(&mut self, entry: &Entry<'_>) {
        match entry {
            Entry::Text { id, sql } => self.text(*id, sql),
            Entry::Decision {
                statement,
                at,
                text,
                span,
                via,
                verdict,
                rules,
                ..
            } => {
                let decided = Decided {
                    statement: *statement,
                    at: *at,
                    text: *text,
                    span,
                    via: *via,
                    verdict,
                };
                self.decided(&decided, rules.iter().map(|rule| &**rule));
            }
            Entry::Outcome {
                statement,
                status,
                rows,
                ..
            } => self.ended(*statement, status, *rows),
            Entry::Question(question) => self.asked(question),
            Entry::Types { .. }
            | Entry::Columns { .. }
            | Entry::Rows { .. }
            | Entry::CopyIn { .. }
            | Entry::Policy { .. }
            | Entry::Note { .. } => {}
        }
    }

    pub(super) fn text(&mut self, id: u32, sql: &[u8]) {
        if let Some(replaced) = self.texts.remove(&id) {
            self.text_bytes -= replaced.len();
            self.memo.clear();
        }
        if self.text_bytes + sql.len() <= MAX_TEXTS {
            self.text_bytes += sql.len();
            self.texts.insert(id, sql.to_vec());
        }
    }

    pub(super) fn decided<'r>(
        &mut self,
        decision: &Decided<'_>,
        rules: impl Iterator<Item = &'r str> + Clone,
    ) {
        let is_denied = matches!(decision.verdict, Verdict::Deny { .. });
        if decision.via == Via::Parse && !is_denied {
            return;
        }
        let group = self.group(decision, rules);
        let entry = &mut self.groups.all[group];
        entry.count += 1;
        entry.last_at = decision.at;
        let runs = !is_denied && decision.via != Via::Parse;
        if runs {
            self.running.begin(decision.statement, group);
        }
    }

    pub(super) fn ended(&mut self, statement: u64, status: &Status<'_>, rows: u64) {
        let group = match status {
            Status::Suspended => self.running.group(statement),
            _ => self.running.end(statement),
        };
        if let Some(group) = group {
            self.groups.all[group].rows += rows;
        }
    }

    pub(super) fn asked(&mut self, question: &Question<'_>) {
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

    /// The group that a decision counts into.
    fn group<'r>(
        &mut self,
        decision: &Decided<'_>,
        rules: impl Iterator<Item = &'r str> + Clone,
    ) -> usize {
        let (span, word) = (decision.span, decision.verdict.as_str());
        let memo = (decision.text, span.start, span.end, word);
        if let Some(&group) = self.memo.get(&memo)
            && is_joined(&self.groups.all[group].rules, rules.clone())
        {
            return group;
        }
        let text = self.texts.get(&decision.text);
        let text = text.and_then(|text| text.get(span.start as usize..span.end as usize));
        let rules = rules.collect::<Vec<_>>().join(BETWEEN_RULES);
        let group = self
            .groups
            .find(text.unwrap_or_default(), word, rules, decision.at);
        if self.memo.len() < MAX_GROUPS {
            self.memo.insert(memo, group);
        }
        group
    }
}

/// The group of each statement that still runs. By their numbers, in which they also begin and, as a
/// rule, end: a map would hash each of them, to begin and to end.
#[derive(Debug, Default)]
struct Running(VecDeque<(u64, usize)>);

impl Running {
    fn begin(&mut self, statement: u64, group: usize) {
        if self.0.len() >= MAX_GROUPS {
            return;
        }
        match self.place(statement) {
            Ok(place) => self.0[place].1 = group,
            Err(place) => self.0.insert(place, (statement, group)),
        }
    }

    fn group(&self, statement: u64) -> Option<usize> {
        let place = self.place(statement).ok()?;
        Some(self.0[place].1)
    }

    fn end(&mut self, statement: u64) -> Option<usize> {
        let place = self.place(statement).ok()?;
        let (_, group) = self.0.remove(place)?;
        Some(group)
    }

    /// Where a statement is, or belongs.
    fn place(&self, statement: u64) -> Result<usize, usize> {
        self.0
            .binary_search_by_key(&statement, |&(number, _)| number)
    }
}

/// The groups of a session, each found by what its statements have in common.
#[derive(Debug, Default)]
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
fn is_joined<'p>(joined: &str, parts: impl Iterator<Item = &'p str>) -> bool {
    let mut rest = Some(joined);
    for (number, part) in parts.enumerate() {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn of_statements_that_are_too_many_at_once_some_have_no_rows() {
        let rules: [Arc<str>; 1] = ["read".into()];
        let most = MAX_GROUPS as u64;
        let mut account = Account::default();
        let sql = b"SELECT 1";
        account.add(&Entry::Text { id: 0, sql });
        for statement in 1..=most + 5 {
            account.add(&Entry::Decision {
                statement,
                at: statement,
                text: 0,
                span: 0..8,
                via: Via::Execute,
                parameters: None,
                verdict: Verdict::Allow,
                rules: &rules,
                effects: 0,
            });
        }
        // Not in the order in which they began.
        for statement in (1..=most + 5).rev() {
            account.add(&Entry::Outcome {
                statement,
                at: most + statement,
                micros: 1,
                status: Status::Completed { tag: b"SELECT 3" },
                rows: 3,
                bytes: 30,
                masked_cells: 0,
                digest: None,
            });
        }
        assert!(account.running.0.is_empty());
        let groups = account.into_groups();
        let [group] = &*groups else {
            panic!("{groups:?}");
        };
        assert_eq!((group.count, group.rows), (most + 5, most * 3));
    }
}
