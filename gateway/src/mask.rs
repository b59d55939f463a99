//! Masking of result columns: which columns an agent must not see plainly, and the rewriting of
//! the rows that would show them.
//!
//! Hides the types' text and binary formats, how masks spread (to partitions, through views) and
//! the layout of a DataRow. Guarantees that a masked cell's value never reaches the output except
//! for the characters that its mask keeps, that what takes its place is valid for the column's
//! type in the format asked for, and that whatever is not known is refused, not shown.

mod cell;
mod numeric;
mod plan;
mod resolve;
mod value;

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

pub use plan::{Field, Malformed, Planned, Refusal, RowPlan, Why};
pub use resolve::{Cover, MaskSet, Matches, Request, UnresolvedColumn, resolve};

/// How a column's values are shown. NULL stays NULL under every mask.
///
/// What each does by type is told at the variant; where a type doesn't fit (`Email` on a number)
/// the value is redacted, and where a type isn't understood it becomes NULL. No mask but `Partial`
/// lets the length of a value be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mask {
    /// The same for all values: `[redacted]` (cut to the column's length) for text, zero for
    /// numbers, false, 2000-01-01, the nil UUID, `"[redacted]"` for JSON, empty arrays and bytes.
    Redact,
    /// NULL.
    Null,
    /// This text, read as a value of the column's type; redacted where it isn't one.
    Constant(Box<str>),
    /// For text: the first and last so many characters, the ones between replaced one by one. A
    /// value that would be shown whole is replaced whole.
    Partial {
        /// Characters kept at the start.
        keep_first: u16,
        /// Characters kept at the end.
        keep_last: u16,
        /// What stands for each character that is not kept.
        with: char,
    },
    /// For text: the first character of the local part and the domain, `j***@example.com`.
    Email,
    /// For text with at least 12 digits: the last four, `************1234`.
    Card,
    /// A pseudonym: the same for equal values under the same key, also across columns and in text
    /// and binary. 32 hex digits for text (cut to the column's length), a number in range for
    /// integers, a version-8 UUID, 16 bytes, a JSON string. Redacted for other types.
    Hmac {
        /// The secret that keeps the pseudonyms from being looked up.
        key: Arc<Key>,
    },
}

/// The secret of [`Mask::Hmac`]; wiped from memory when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Zeroizing<Vec<u8>>);

impl Key {
    /// A key of these bytes. 32 random ones are a good length; every length works.
    pub fn new(bytes: Vec<u8>) -> Key {
        Key(Zeroizing::new(bytes))
    }

    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Mask {
    /// What orders masks: a class, then how many characters are kept, then which kind.
    fn laxity(&self) -> (u8, u32, u8) {
        match self {
            Mask::Null => (0, 0, 0),
            Mask::Redact => (1, 0, 0),
            Mask::Constant(_) => (2, 0, 0),
            Mask::Hmac { .. } => (3, 0, 0),
            Mask::Partial {
                keep_first,
                keep_last,
                ..
            } => (4, u32::from(*keep_first) + u32::from(*keep_last), 0),
            Mask::Card => (4, 4, 1),
            // A domain has no bound.
            Mask::Email => (4, u32::MAX, 2),
        }
    }
}

/// A total order in which the stricter mask is the smaller one: null, redact, constant, hmac,
/// then by the characters kept (partial before card, email last). Ties are broken by content, so
/// that the result doesn't depend on the order of rules.
impl Ord for Mask {
    fn cmp(&self, other: &Mask) -> Ordering {
        self.laxity()
            .cmp(&other.laxity())
            .then_with(|| match (self, other) {
                (Mask::Constant(a), Mask::Constant(b)) => a.cmp(b),
                (Mask::Hmac { key: a }, Mask::Hmac { key: b }) => a.bytes().cmp(b.bytes()),
                (
                    Mask::Partial {
                        keep_first: a,
                        with: x,
                        ..
                    },
                    Mask::Partial {
                        keep_first: b,
                        with: y,
                        ..
                    },
                ) => (a, x).cmp(&(b, y)),
                _ => Ordering::Equal,
            })
    }
}

impl PartialOrd for Mask {
    fn partial_cmp(&self, other: &Mask) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The one of two masks that shows less.
pub fn strictest<'a>(a: &'a Mask, b: &'a Mask) -> &'a Mask {
    a.min(b)
}
