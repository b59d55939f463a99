//! Masking of result columns. Stand-in: only the types of the contract, replaced on merge.

use std::sync::Arc;

/// A key for `Mask::Hmac`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(Vec<u8>);
impl Key {
    /// From raw bytes.
    pub fn new(bytes: Vec<u8>) -> Key {
        Key(bytes)
    }
}

/// What a masked cell becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "stand-in")]
pub enum Mask {
    Redact,
    Null,
    Constant(Box<str>),
    Partial {
        keep_first: u16,
        keep_last: u16,
        with: char,
    },
    Email,
    Card,
    Hmac {
        key: Arc<Key>,
    },
}

/// Whether a rule's object patterns match a relation: (schema, name).
pub type Matches = dyn Fn(Option<&str>, &str) -> bool + Send + Sync;

/// One mask of a rule, as the policy hands it in.
#[derive(Clone)]
#[expect(missing_docs, reason = "stand-in")]
pub struct Request {
    pub objects: Arc<Matches>,
    pub columns: Arc<[Box<str>]>,
    pub mask: Mask,
    pub rule: Arc<str>,
}
