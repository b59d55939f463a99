//! What takes the place of one cell: compiled once per result column, applied per row without
//! allocation beyond the output.
//!
//! Guarantees that no byte of the value is in the output but the characters that the mask keeps,
//! and that text is counted and cut in whole characters. A value that can't be read as its type
//! is redacted or becomes NULL.

use std::io::Write;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::value::{self, Format, Kind};
use super::{Key, Mask};

/// A mask made ready for one column's type and format. `otherwise` is the redacted value, for
/// what the mask can't be applied to.
#[derive(Clone)]
pub(super) enum CellMask {
    Null,
    /// The same bytes for every value.
    Fixed(Box<[u8]>),
    Partial {
        keep: (usize, usize),
        with: char,
        padded: bool,
        otherwise: Box<[u8]>,
    },
    Email {
        limit: usize,
        otherwise: Box<[u8]>,
    },
    Card {
        limit: usize,
        otherwise: Box<[u8]>,
    },
    /// Hex digits, as text or in JSON.
    Digits {
        key: Keyed,
        shape: Digits,
    },
    Integer {
        key: Keyed,
        width: usize,
        format: Format,
    },
    Uuid {
        key: Keyed,
        format: Format,
    },
}

/// HMAC-SHA256 with its key taken in.
pub(super) type Keyed = Hmac<Sha256>;

/// How a pseudonym of hex digits is written.
#[derive(Clone, Copy)]
pub(super) struct Digits {
    /// What stands before the digits; of a binary `jsonb` the value begins with it too.
    before: &'static [u8],
    after: &'static [u8],
    /// At most so many digits.
    limit: usize,
    /// Spaces added at the end.
    pad: usize,
    /// Whether spaces at the end are no part of the value.
    padded: bool,
}

/// Hex digits of a pseudonym: 128 bits.
const DIGITS: usize = 32;

impl CellMask {
    /// A mask for a column of this kind in this format.
    pub(super) fn compile(mask: &Mask, kind: Kind, format: Format) -> CellMask {
        let Some(redacted) = value::redacted(kind, format) else {
            return CellMask::Null;
        };
        let otherwise = redacted.into_boxed_slice();
        match (mask, kind) {
            (Mask::Null, _) => CellMask::Null,
            (Mask::Constant(text), _) => CellMask::Fixed(
                value::constant(text, kind, format).map_or(otherwise, Vec::into_boxed_slice),
            ),
            (Mask::Hmac { key }, _) => CellMask::pseudonym(key, kind, format, otherwise),
            (
                Mask::Partial {
                    keep_first,
                    keep_last,
                    with,
                },
                Kind::Text { padded, .. },
            ) => {
                let keep = (usize::from(*keep_first), usize::from(*keep_last));
                CellMask::Partial {
                    keep,
                    with: *with,
                    padded,
                    otherwise,
                }
            }
            // What these write isn't padded: char(n) is redacted rather than made invalid.
            (
                Mask::Email,
                Kind::Text {
                    limit,
                    padded: false,
                },
            ) => CellMask::Email {
                limit: bound(limit),
                otherwise,
            },
            (
                Mask::Card,
                Kind::Text {
                    limit,
                    padded: false,
                },
            ) => CellMask::Card {
                limit: bound(limit),
                otherwise,
            },
            (Mask::Redact | Mask::Partial { .. } | Mask::Email | Mask::Card, _) => {
                CellMask::Fixed(otherwise)
            }
        }
    }

    fn pseudonym(key: &Key, kind: Kind, format: Format, otherwise: Box<[u8]>) -> CellMask {
        let Ok(key) = Keyed::new_from_slice(key.bytes()) else {
            return CellMask::Fixed(otherwise);
        };
        let quoted = |before| Digits {
            before,
            after: b"\"",
            limit: DIGITS,
            pad: 0,
            padded: false,
        };
        let shape = match (kind, format) {
            (Kind::Text { limit, padded }, _) => Digits {
                before: b"",
                after: b"",
                limit: bound(limit).min(DIGITS),
                pad: if padded {
                    bound(limit).saturating_sub(DIGITS)
                } else {
                    0
                },
                padded,
            },
            (Kind::Json, _) | (Kind::Jsonb, Format::Text) => quoted(b"\""),
            (Kind::Jsonb, Format::Binary) => quoted(b"\x01\""),
            (Kind::Int(width), _) => return CellMask::Integer { key, width, format },
            (Kind::Uuid, _) => return CellMask::Uuid { key, format },
            _ => return CellMask::Fixed(otherwise),
        };
        CellMask::Digits { key, shape }
    }

    /// Appends the masked form of a value that isn't NULL; `false` is NULL, with nothing appended.
    pub(super) fn write(&self, value: &[u8], out: &mut Vec<u8>) -> bool {
        let (written, otherwise) = match self {
            CellMask::Null => return false,
            CellMask::Fixed(bytes) => {
                out.extend_from_slice(bytes);
                return true;
            }
            CellMask::Digits { key, shape } => {
                shape.write(key, value, out);
                return true;
            }
            CellMask::Integer { key, width, format } => {
                return write_integer(key, (*width, *format), value, out);
            }
            CellMask::Uuid { key, format } => return write_uuid(key, *format, value, out),
            CellMask::Partial {
                keep,
                with,
                padded,
                otherwise,
            } => (
                write_partial(*keep, (*with, *padded), value, out),
                otherwise,
            ),
            CellMask::Email { limit, otherwise } => (write_email(*limit, value, out), otherwise),
            CellMask::Card { limit, otherwise } => (write_card(*limit, value, out), otherwise),
        };
        if written.is_none() {
            out.extend_from_slice(otherwise);
        }
        true
    }
}

impl Digits {
    fn write(&self, key: &Keyed, value: &[u8], out: &mut Vec<u8>) {
        let value = if self.padded {
            trim_spaces(value)
        } else {
            value
        };
        // The same pseudonym in text and binary: the version of a binary jsonb is left out.
        let value = if self.before.first() == Some(&1) {
            value.get(1..).unwrap_or_default()
        } else {
            value
        };
        out.extend_from_slice(self.before);
        let code = code(key, value);
        out.extend(
            code.iter()
                .flat_map(|byte| [hex(byte >> 4), hex(byte & 15)])
                .take(self.limit),
        );
        out.extend_from_slice(self.after);
        out.resize(out.len() + self.pad, b' ');
    }
}

fn bound(limit: Option<u32>) -> usize {
    limit.map_or(usize::MAX, |limit| limit as usize)
}

/// The first 128 bits of the value's code.
fn code(key: &Keyed, value: &[u8]) -> [u8; 16] {
    let mut mac = key.clone();
    mac.update(value);
    let full = mac.finalize().into_bytes();
    std::array::from_fn(|i| full[i])
}

fn hex(nibble: u8) -> u8 {
    b"0123456789abcdef"[usize::from(nibble & 15)]
}

fn trim_spaces(value: &[u8]) -> &[u8] {
    let end = value
        .iter()
        .rposition(|byte| *byte != b' ')
        .map_or(0, |last| last + 1);
    &value[..end]
}

/// Keeps the first and last characters, unless that would be all of them.
fn write_partial(
    (first, last): (usize, usize),
    (with, padded): (char, bool),
    value: &[u8],
    out: &mut Vec<u8>,
) -> Option<()> {
    let shown = if padded { trim_spaces(value) } else { value };
    let text = std::str::from_utf8(shown).ok()?;
    let characters = text.chars().count();
    let (first, last) = if characters > first + last {
        (first, last)
    } else {
        (0, 0)
    };
    let at = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    out.extend_from_slice(&shown[..at(first)]);
    let mut buffer = [0; 4];
    let with = with.encode_utf8(&mut buffer).as_bytes();
    for _ in 0..characters - first - last {
        out.extend_from_slice(with);
    }
    out.extend_from_slice(&shown[at(characters - last)..]);
    out.resize(out.len() + value.len() - shown.len(), b' ');
    Some(())
}

/// `j***@example.com`; the one character of a local part of one isn't shown.
fn write_email(limit: usize, value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (local, domain) = std::str::from_utf8(value).ok()?.rsplit_once('@')?;
    // Anything else behind an @ is no domain, and might be what must not be seen.
    let is_domain = !domain.is_empty()
        && domain
            .chars()
            .all(|c| c.is_alphanumeric() || c == '-' || c == '.');
    let mut local = local.chars();
    let initial = local.next()?;
    let initial = local.next().map(|_| initial);
    let characters = usize::from(initial.is_some()) + "***@".len() + domain.chars().count();
    if !is_domain || characters > limit {
        return None;
    }
    if let Some(initial) = initial {
        out.extend_from_slice(initial.encode_utf8(&mut [0; 4]).as_bytes());
    }
    out.extend_from_slice(b"***@");
    out.extend_from_slice(domain.as_bytes());
    Some(())
}

/// `************1234` for 12 to 19 digits, with spaces or dashes between them.
fn write_card(limit: usize, value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut last = [0; 4];
    let mut digits = 0_usize;
    for &byte in value {
        match byte {
            b'0'..=b'9' => {
                last.rotate_left(1);
                last[3] = byte;
                digits += 1;
            }
            b' ' | b'-' => {}
            _ => return None,
        }
    }
    let hidden = limit.checked_sub(4)?.min(12);
    if !(12..=19).contains(&digits) || hidden == 0 {
        return None;
    }
    out.resize(out.len() + hidden, b'*');
    out.extend_from_slice(&last);
    Some(())
}

/// A number from 0 to the type's largest.
fn write_integer(
    key: &Keyed,
    (width, format): (usize, Format),
    value: &[u8],
    out: &mut Vec<u8>,
) -> bool {
    let Some(number) = read_integer(format, value) else {
        return false;
    };
    // Of the number as text, so that all widths and both formats give the same code.
    let mut text = [0; 20];
    let mut rest = &mut text[..];
    if write!(rest, "{number}").is_err() {
        return false;
    }
    let unused = rest.len();
    let code = code(key, &text[..text.len() - unused]);
    let [a, b, c, d, e, f, g, h, ..] = code;
    let positive = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> (65 - 8 * width.clamp(2, 8));
    match format {
        Format::Text => write!(out, "{positive}").is_ok(),
        Format::Binary => {
            out.extend_from_slice(&positive.to_be_bytes()[8 - width.clamp(2, 8)..]);
            true
        }
    }
}

fn read_integer(format: Format, value: &[u8]) -> Option<i64> {
    Some(match (format, value) {
        (Format::Text, _) => std::str::from_utf8(value).ok()?.parse().ok()?,
        (Format::Binary, &[a, b]) => i16::from_be_bytes([a, b]).into(),
        (Format::Binary, &[a, b, c, d]) => i32::from_be_bytes([a, b, c, d]).into(),
        (Format::Binary, &[a, b, c, d, e, f, g, h]) => i64::from_be_bytes([a, b, c, d, e, f, g, h]),
        _ => return None,
    })
}

/// A UUID of version 8 (RFC 9562: "custom"), variant 10.
fn write_uuid(key: &Keyed, format: Format, value: &[u8], out: &mut Vec<u8>) -> bool {
    let read = match format {
        Format::Text => uuid::Uuid::try_parse_ascii(value),
        Format::Binary => uuid::Uuid::from_slice(value),
    };
    let Ok(read) = read else { return false };
    let mut bytes = code(key, read.as_bytes());
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    match format {
        Format::Text => {
            let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
            out.extend_from_slice(
                uuid::Uuid::from_bytes(bytes)
                    .hyphenated()
                    .encode_lower(&mut text)
                    .as_bytes(),
            );
        }
        Format::Binary => out.extend_from_slice(&bytes),
    }
    true
}
