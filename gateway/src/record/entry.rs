//! What a session hands in to be recorded.
//!
//! Encoded from slices that the session has anyway, so that recording a statement allocates
//! nothing. The layouts are here; `stored` reads them back.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::codec::{put_bytes, put_varint};
use super::question::{Question, Told};

/// The byte that names the kind of a frame.
pub(super) mod kind {
    pub(in crate::record) const OPEN: u8 = 1;
    pub(in crate::record) const TEXT: u8 = 2;
    pub(in crate::record) const TYPES: u8 = 3;
    pub(in crate::record) const DECISION: u8 = 4;
    pub(in crate::record) const COLUMNS: u8 = 5;
    pub(in crate::record) const ROWS: u8 = 6;
    pub(in crate::record) const COPY_IN: u8 = 7;
    pub(in crate::record) const OUTCOME: u8 = 8;
    pub(in crate::record) const POLICY: u8 = 9;
    pub(in crate::record) const NOTE: u8 = 10;
    pub(in crate::record) const CLOSE: u8 = 11;
    pub(in crate::record) const QUESTION: u8 = 12;
}

/// The message by which a statement came to be judged. Stored as 0, 1, 2 in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// `Query`.
    Simple,
    /// `Parse`: judged, not yet run.
    Parse,
    /// `Execute` of a portal.
    Execute,
}

impl Via {
    /// The message's name, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Via::Simple => "simple",
            Via::Parse => "parse",
            Via::Execute => "execute",
        }
    }
}

/// What was decided. Stored as 0, 1, 2 in this order, then SQLSTATE and message as byte strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Forwarded.
    Allow,
    /// Not forwarded; the client was told this.
    Deny {
        /// Five characters.
        sqlstate: &'a str,
        /// What the client was told.
        message: &'a str,
    },
    /// Forwarded because the rule or the policy only observes; it would have been denied so.
    Observe {
        /// Five characters.
        sqlstate: &'a str,
        /// What the client would have been told.
        message: &'a str,
    },
}

impl Verdict<'_> {
    /// `allow`, `deny` or `observe`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Verdict::Allow => "allow",
            Verdict::Deny { .. } => "deny",
            Verdict::Observe { .. } => "observe",
        }
    }
}

/// How a statement ended. Stored as 0 to 3 in this order, then the fields as byte strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status<'a> {
    /// `CommandComplete`, or `EmptyQueryResponse` (an empty tag).
    Completed {
        /// The command tag, without its NUL.
        tag: &'a [u8],
    },
    /// `ErrorResponse`, as the client got it.
    Failed {
        /// Five characters.
        sqlstate: &'a [u8],
        /// The primary message.
        message: &'a [u8],
    },
    /// `PortalSuspended`.
    Suspended,
    /// The session ended before the statement did, or a limit cut it off.
    Cut,
}

/// One thing to record. Integers are LEB128, `bytes` a LEB128 length and the bytes, `rest` all
/// that is left of the payload.
#[derive(Debug, Clone)]
pub enum Entry<'a> {
    /// A text that statements refer to; once per distinct text, before its first decision.
    /// Kind 2: `id, sql rest`.
    Text {
        /// Number within the session; a later `Text` of the same number replaces the earlier.
        id: u32,
        /// The exact bytes.
        sql: &'a [u8],
    },
    /// Types of the parameters of a text, where they are known (`Parse`, or
    /// `ParameterDescription`). Without them binary parameters read back as hex.
    /// Kind 3: `text, oid u32 BE*`.
    Types {
        /// Of which text.
        text: u32,
        /// Type oids in the order of the parameters, big-endian as the protocol has them; 0: not
        /// known.
        oids: &'a [[u8; 4]],
    },
    /// What was decided about a statement; before a byte of it is forwarded.
    /// Kind 4: `statement, at, text, start, end, via u8, verdict u8 [sqlstate bytes, message
    /// bytes], effects, rule count, rule bytes*, 0 u8 | 1 u8 parameters rest`.
    Decision {
        /// Number of the statement within the session.
        statement: u64,
        /// Microseconds since the Unix epoch.
        at: u64,
        /// Which text.
        text: u32,
        /// Which bytes of the text.
        span: Range<u32>,
        /// How it came.
        via: Via,
        /// The body of the `Bind` from the count of parameter formats on, raw.
        parameters: Option<&'a [u8]>,
        /// What was decided.
        verdict: Verdict<'a>,
        /// The rules that decided.
        rules: &'a [Arc<str>],
        /// Bit n: the n-th effect in the order of `sql::Effect`.
        effects: u32,
    },
    /// The shape of a result. Kind 5: `statement, number, masked count, column*, fields rest`.
    Columns {
        /// Of which statement.
        statement: u64,
        /// By what later `Rows` of other statements refer to it, within the session; 0 if none do.
        number: u32,
        /// The body of the `RowDescription`.
        fields: &'a [u8],
        /// Indexes of the masked columns, ascending.
        masked: &'a [u16],
    },
    /// Result data as the client got it. Several of one statement are one stream, which they may
    /// cut anywhere. Kind 6: `statement, columns, frames rest`.
    Rows {
        /// Of which statement.
        statement: u64,
        /// The number of their `Columns`; 0 if those are the statement's own, or not known.
        columns: u32,
        /// Whole `DataRow` or `CopyData` frames, masked.
        frames: &'a [u8],
    },
    /// Data that the client loads; a stream as with `Rows`. Kind 7: `statement, frames rest`.
    CopyIn {
        /// Of which statement.
        statement: u64,
        /// Whole `CopyData` frames.
        frames: &'a [u8],
    },
    /// How a statement ended. Kind 8: `statement, at, micros, rows, bytes, masked_cells,
    /// status u8 [tag bytes | sqlstate bytes, message bytes], 0 u8 | 1 u8 digest (32)`.
    Outcome {
        /// Of which statement.
        statement: u64,
        /// Microseconds since the Unix epoch.
        at: u64,
        /// From the decision to the end, in microseconds.
        micros: u64,
        /// How.
        status: Status<'a>,
        /// Rows sent to the client, or loaded from it.
        rows: u64,
        /// Bytes of result frames sent to the client, or loaded from it.
        bytes: u64,
        /// Cells masked in them.
        masked_cells: u64,
        /// Of the result's frames, see [`RowsDigest`]; where rows are not kept.
        digest: Option<[u8; 32]>,
    },
    /// The policy that holds from here on. Kind 9: `at, sha256 (32)`.
    Policy {
        /// Microseconds since the Unix epoch.
        at: u64,
        /// Of all policy files together.
        sha256: [u8; 32],
    },
    /// Anything else worth keeping. Kind 10: `at, kind bytes, text rest`.
    Note {
        /// Microseconds since the Unix epoch.
        at: u64,
        /// A short word: `cancel`, `notice`, …
        kind: &'a str,
        /// For people.
        text: &'a str,
    },
    /// What an agent asked of a name, and was told. Kind 12.
    Question(Question<'a>),
}

impl Entry<'_> {
    pub(super) fn kind(&self) -> u8 {
        match self {
            Entry::Text { .. } => kind::TEXT,
            Entry::Types { .. } => kind::TYPES,
            Entry::Decision { .. } => kind::DECISION,
            Entry::Columns { .. } => kind::COLUMNS,
            Entry::Rows { .. } => kind::ROWS,
            Entry::CopyIn { .. } => kind::COPY_IN,
            Entry::Outcome { .. } => kind::OUTCOME,
            Entry::Policy { .. } => kind::POLICY,
            Entry::Note { .. } => kind::NOTE,
            Entry::Question(_) => kind::QUESTION,
        }
    }

    /// Appends the payload.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Entry::Text { id, sql } => {
                put_varint(out, u64::from(*id));
                out.extend_from_slice(sql);
            }
            Entry::Types { text, oids } => {
                put_varint(out, u64::from(*text));
                out.extend_from_slice(oids.as_flattened());
            }
            Entry::Decision { .. } => self.encode_decision(out),
            Entry::Columns {
                statement,
                number,
                fields,
                masked,
            } => {
                put_varint(out, *statement);
                put_varint(out, u64::from(*number));
                put_varint(out, masked.len() as u64);
                masked
                    .iter()
                    .for_each(|&column| put_varint(out, u64::from(column)));
                out.extend_from_slice(fields);
            }
            Entry::Rows {
                statement,
                columns,
                frames,
            } => {
                put_varint(out, *statement);
                put_varint(out, u64::from(*columns));
                out.extend_from_slice(frames);
            }
            Entry::CopyIn { statement, frames } => {
                put_varint(out, *statement);
                out.extend_from_slice(frames);
            }
            Entry::Outcome { .. } => self.encode_outcome(out),
            Entry::Policy { at, sha256 } => {
                put_varint(out, *at);
                out.extend_from_slice(sha256);
            }
            Entry::Note { at, kind, text } => {
                put_varint(out, *at);
                put_bytes(out, kind.as_bytes());
                out.extend_from_slice(text.as_bytes());
            }
            Entry::Question(question) => question.encode(out),
        }
    }

    fn encode_decision(&self, out: &mut Vec<u8>) {
        let Entry::Decision {
            statement,
            at,
            text,
            span,
            via,
            parameters,
            verdict,
            rules,
            effects,
        } = self
        else {
            return;
        };
        put_varint(out, *statement);
        put_varint(out, *at);
        put_varint(out, u64::from(*text));
        put_varint(out, u64::from(span.start));
        put_varint(out, u64::from(span.end));
        out.push(*via as u8);
        match verdict {
            Verdict::Allow => out.push(0),
            Verdict::Deny { sqlstate, message } | Verdict::Observe { sqlstate, message } => {
                out.push(if matches!(verdict, Verdict::Deny { .. }) {
                    1
                } else {
                    2
                });
                put_bytes(out, sqlstate.as_bytes());
                put_bytes(out, message.as_bytes());
            }
        }
        put_varint(out, u64::from(*effects));
        put_varint(out, rules.len() as u64);
        rules
            .iter()
            .for_each(|rule| put_bytes(out, rule.as_bytes()));
        out.push(u8::from(parameters.is_some()));
        out.extend_from_slice(parameters.unwrap_or_default());
    }

    fn encode_outcome(&self, out: &mut Vec<u8>) {
        let Entry::Outcome {
            statement,
            at,
            micros,
            status,
            rows,
            bytes,
            masked_cells,
            digest,
        } = self
        else {
            return;
        };
        for value in [statement, at, micros, rows, bytes, masked_cells] {
            put_varint(out, *value);
        }
        match status {
            Status::Completed { tag } => {
                out.push(0);
                put_bytes(out, tag);
            }
            Status::Failed { sqlstate, message } => {
                out.push(1);
                put_bytes(out, sqlstate);
                put_bytes(out, message);
            }
            Status::Suspended => out.push(2),
            Status::Cut => out.push(3),
        }
        out.push(u8::from(digest.is_some()));
        out.extend_from_slice(digest.as_ref().map_or(&[], |d| d.as_slice()));
    }
}

/// What a session, or a part of it, came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Statements that were run or denied, and questions; a `Parse` that was allowed is not one.
    pub statements: u64,
    /// Of these, denied or refused.
    pub denied: u64,
    /// Rows sent to the client or loaded from it.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Cells masked in them.
    pub masked_cells: u64,
}

impl Totals {
    /// Counts a decision.
    pub(super) fn decided(&mut self, via: Via, verdict: &Verdict<'_>) {
        let denied = matches!(verdict, Verdict::Deny { .. });
        self.statements += u64::from(denied || via != Via::Parse);
        self.denied += u64::from(denied);
    }

    /// Counts a question.
    pub(super) fn asked(&mut self, told: &Told<'_>) {
        self.statements += 1;
        self.denied += u64::from(*told == Told::Refused);
    }

    /// Counts an outcome.
    pub(super) fn ended(&mut self, rows: u64, bytes: u64, masked_cells: u64) {
        self.rows = self.rows.saturating_add(rows);
        self.bytes = self.bytes.saturating_add(bytes);
        self.masked_cells = self.masked_cells.saturating_add(masked_cells);
    }

    /// Counts an entry as it is appended.
    pub(super) fn add(&mut self, entry: &Entry<'_>) {
        match entry {
            Entry::Decision { via, verdict, .. } => self.decided(*via, verdict),
            Entry::Question(question) => self.asked(&question.told),
            Entry::Outcome {
                rows,
                bytes,
                masked_cells,
                ..
            } => {
                self.ended(*rows, *bytes, *masked_cells);
            }
            _ => {}
        }
    }
}

/// The digest of a result whose rows are not kept: BLAKE3 over all of its frames as the client
/// got them, whatever the pieces in which they came.
#[derive(Debug, Default)]
pub struct RowsDigest {
    /// Of the blocks that are full; made with the first of them. Most results never fill one.
    full: Option<Box<blake3::Hasher>>,
    block: Vec<u8>,
}

/// Bytes that BLAKE3 is given at a time: sixteen of its chunks, as many as it works on at once. By
/// a server's pieces of 8 KiB, each of which ends within a chunk, it takes more than twice as long.
const BLOCK: usize = 16 << 10;

impl RowsDigest {
    /// Of no rows yet.
    pub fn new() -> RowsDigest {
        RowsDigest::default()
    }

    /// Adds frames, or a piece of one.
    pub fn update(&mut self, mut frames: &[u8]) {
        while self.block.len() + frames.len() >= BLOCK {
            let (fill, rest) = frames.split_at(BLOCK - self.block.len());
            self.block.extend_from_slice(fill);
            self.full.get_or_insert_default().update(&self.block);
            self.block.clear();
            frames = rest;
        }
        self.block.extend_from_slice(frames);
    }

    /// The digest for [`Entry::Outcome`].
    pub fn finalize(self) -> [u8; 32] {
        let digest = match self.full {
            Some(mut full) => full.update(&self.block).finalize(),
            None => blake3::hash(&self.block),
        };
        *digest.as_bytes()
    }
}
