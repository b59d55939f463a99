//! Masking of result columns. Stand-in: only the types of the contract, replaced on merge.

use std::sync::Arc;

/// A key for `Mask::Hmac`.
#[derive(Debug, PartialEq, Eq)]
pub struct Key(Vec<u8>);
impl Key {
    /// From raw bytes.
    pub fn new(bytes: &[u8]) -> Key {
        Key(bytes.to_vec())
    }
}

/// What a masked cell becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "stand-in")]
pub enum Mask {
    Redact,
    Null,
    Constant(Box<str>),
    Partial { keep_first: usize, keep_last: usize, with: char },
    Email,
    Card,
    Hmac { key: Arc<Key> },
}
