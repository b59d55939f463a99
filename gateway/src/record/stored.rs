//! What a journal holds, as it reads back: the counterpart of `entry`, in slices of the reader's
//! buffer. Decoding never panics, and reserves no more than the payload's own size.

use std::ops::Range;

use super::codec::{Cursor, Malformed};
use super::entry::{Status, Verdict, Via, kind};
use super::open::{Close, SessionOpen};
use super::question::Question;

/// Names of the bits of a decision's `effects`, bit 0 first: `sql::Effect` in its order. Part of
/// the format: new effects go to the end.
pub(super) const EFFECTS: [&str; 17] = [
    "read",
    "insert",
    "update",
    "delete",
    "truncate",
    "ddl",
    "privilege",
    "session",
    "transaction",
    "maintenance",
    "lock",
    "notify",
    "procedural",
    "bulk_load",
    "bulk_export",
    "unsafe_io",
    "unknown",
];

/// An entry as it reads back. Fields as in [`Entry`], [`SessionOpen`] and [`Close`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each field is the one of the same name of Entry"
)]
pub enum Stored<'a> {
    Open(Box<SessionOpen>),
    Text {
        id: u32,
        sql: &'a [u8],
    },
    Types {
        text: u32,
        oids: Vec<u32>,
    },
    Decision(Box<StoredDecision<'a>>),
    Columns {
        statement: u64,
        number: u32,
        fields: &'a [u8],
        masked: Vec<u16>,
    },
    Rows {
        statement: u64,
        columns: u32,
        frames: &'a [u8],
    },
    CopyIn {
        statement: u64,
        frames: &'a [u8],
    },
    Outcome(Box<StoredOutcome<'a>>),
    Policy {
        at: u64,
        sha256: [u8; 32],
    },
    Note {
        at: u64,
        kind: &'a str,
        text: &'a str,
    },
    Question(Box<Question<'a>>),
    Close(Box<Close>),
}

/// [`Entry::Decision`] as it reads back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each field is the one of the same name of Entry::Decision"
)]
pub struct StoredDecision<'a> {
    pub statement: u64,
    pub at: u64,
    pub text: u32,
    pub span: Range<u32>,
    pub via: Via,
    pub parameters: Option<&'a [u8]>,
    pub verdict: Verdict<'a>,
    pub rules: Vec<&'a str>,
    pub effects: u32,
}

impl StoredDecision<'_> {
    /// The names of the effects.
    pub fn effect_names(&self) -> Vec<&'static str> {
        let set = |bit: usize| self.effects & (1 << bit) != 0;
        EFFECTS
            .iter()
            .enumerate()
            .filter(|(bit, _)| set(*bit))
            .map(|(_, name)| *name)
            .collect()
    }
}

/// [`Entry::Outcome`] as it reads back.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    missing_docs,
    reason = "each field is the one of the same name of Entry::Outcome"
)]
pub struct StoredOutcome<'a> {
    pub statement: u64,
    pub at: u64,
    pub micros: u64,
    pub status: Status<'a>,
    pub rows: u64,
    pub bytes: u64,
    pub masked_cells: u64,
    pub digest: Option<[u8; 32]>,
}

impl<'a> Stored<'a> {
    /// Reads a payload (not compressed).
    pub(super) fn decode(kind: u8, payload: &'a [u8]) -> Result<Stored<'a>, Malformed> {
        let mut c = Cursor::new(payload);
        let stored = match kind {
            kind::OPEN => return json(payload).map(Stored::Open),
            kind::CLOSE => return json(payload).map(Stored::Close),
            kind::TEXT => Stored::Text {
                id: c.small()?,
                sql: c.rest(),
            },
            kind::TYPES => Stored::Types {
                text: c.small()?,
                oids: oids(c.rest())?,
            },
            kind::DECISION => Stored::Decision(Box::new(decision(&mut c)?)),
            kind::COLUMNS => {
                let (statement, number) = (c.varint()?, c.small()?);
                // A column takes a byte at least, so that this reserves no more than was read.
                let count = c.small::<u16>()?;
                let masked = (0..count).map(|_| c.small()).collect::<Result<_, _>>()?;
                Stored::Columns {
                    statement,
                    number,
                    fields: c.rest(),
                    masked,
                }
            }
            kind::ROWS => Stored::Rows {
                statement: c.varint()?,
                columns: c.small()?,
                frames: c.rest(),
            },
            kind::COPY_IN => Stored::CopyIn {
                statement: c.varint()?,
                frames: c.rest(),
            },
            kind::OUTCOME => Stored::Outcome(Box::new(outcome(&mut c)?)),
            kind::POLICY => Stored::Policy {
                at: c.varint()?,
                sha256: c.array()?,
            },
            kind::NOTE => {
                let (at, kind) = (c.varint()?, c.text()?);
                let text = std::str::from_utf8(c.rest()).map_err(|_| Malformed)?;
                Stored::Note { at, kind, text }
            }
            kind::QUESTION => Stored::Question(Box::new(Question::decode(&mut c)?)),
            _ => return Err(Malformed),
        };
        c.end()?;
        Ok(stored)
    }

    /// The time that the entry holds, in microseconds since the Unix epoch.
    pub fn at(&self) -> Option<u64> {
        match self {
            Stored::Open(open) => Some(open.at),
            Stored::Decision(decision) => Some(decision.at),
            Stored::Outcome(outcome) => Some(outcome.at),
            Stored::Policy { at, .. } | Stored::Note { at, .. } => Some(*at),
            Stored::Question(question) => Some(question.at),
            Stored::Close(close) => Some(close.at),
            Stored::Text { .. }
            | Stored::Types { .. }
            | Stored::Columns { .. }
            | Stored::Rows { .. }
            | Stored::CopyIn { .. } => None,
        }
    }
}

fn json<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<Box<T>, Malformed> {
    serde_json::from_slice(payload)
        .map(Box::new)
        .map_err(|_| Malformed)
}

fn oids(bytes: &[u8]) -> Result<Vec<u32>, Malformed> {
    let (oids, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Malformed);
    }
    Ok(oids.iter().map(|oid| u32::from_be_bytes(*oid)).collect())
}

fn decision<'a>(c: &mut Cursor<'a>) -> Result<StoredDecision<'a>, Malformed> {
    let (statement, at, text) = (c.varint()?, c.varint()?, c.small()?);
    let span = c.small()?..c.small()?;
    let via = match c.byte()? {
        0 => Via::Simple,
        1 => Via::Parse,
        2 => Via::Execute,
        _ => return Err(Malformed),
    };
    let verdict = match c.byte()? {
        0 => Verdict::Allow,
        1 => Verdict::Deny {
            sqlstate: c.text()?,
            message: c.text()?,
        },
        2 => Verdict::Observe {
            sqlstate: c.text()?,
            message: c.text()?,
        },
        _ => return Err(Malformed),
    };
    let effects = c.small()?;
    let mut rules = Vec::new();
    for _ in 0..c.varint()? {
        rules.push(c.text()?);
    }
    let parameters = match c.byte()? {
        0 => None,
        1 => Some(c.rest()),
        _ => return Err(Malformed),
    };
    Ok(StoredDecision {
        statement,
        at,
        text,
        span,
        via,
        parameters,
        verdict,
        rules,
        effects,
    })
}

fn outcome<'a>(c: &mut Cursor<'a>) -> Result<StoredOutcome<'a>, Malformed> {
    let (statement, at, micros) = (c.varint()?, c.varint()?, c.varint()?);
    let (rows, bytes, masked_cells) = (c.varint()?, c.varint()?, c.varint()?);
    let status = match c.byte()? {
        0 => Status::Completed { tag: c.bytes()? },
        1 => Status::Failed {
            sqlstate: c.bytes()?,
            message: c.bytes()?,
        },
        2 => Status::Suspended,
        3 => Status::Cut,
        _ => return Err(Malformed),
    };
    let digest = match c.byte()? {
        0 => None,
        1 => Some(c.array()?),
        _ => return Err(Malformed),
    };
    Ok(StoredOutcome {
        statement,
        at,
        micros,
        status,
        rows,
        bytes,
        masked_cells,
        digest,
    })
}
