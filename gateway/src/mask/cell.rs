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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    const TEXT: Kind = Kind::Text {
        limit: None,
        padded: false,
    };

    fn varchar(limit: u32) -> Kind {
        Kind::Text {
            limit: Some(limit),
            padded: false,
        }
    }

    fn char_of(limit: u32) -> Kind {
        Kind::Text {
            limit: Some(limit),
            padded: true,
        }
    }

    fn masked_as(mask: &Mask, kind: Kind, format: Format, value: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        CellMask::compile(mask, kind, format)
            .write(value, &mut out)
            .then_some(out)
    }

    fn masked(mask: &Mask, kind: Kind, value: &str) -> String {
        let bytes = masked_as(mask, kind, Format::Text, value.as_bytes()).expect("not NULL");
        String::from_utf8(bytes).expect("UTF-8")
    }

    fn partial(keep_first: u16, keep_last: u16) -> Mask {
        Mask::Partial {
            keep_first,
            keep_last,
            with: '*',
        }
    }

    fn hmac() -> Mask {
        Mask::Hmac {
            key: Arc::new(Key::new(b"secret".to_vec())),
        }
    }

    #[test]
    fn redacted_text_is_the_same_for_every_value_and_fits_the_column() {
        assert_eq!(masked(&Mask::Redact, TEXT, "a"), "[redacted]");
        assert_eq!(masked(&Mask::Redact, varchar(3), "abc"), "[re");
        assert_eq!(
            masked(&Mask::Redact, char_of(12), "abc         "),
            "[redacted]  "
        );
        assert_eq!(
            masked(&Mask::Constant("unknown".into()), varchar(4), "x"),
            "unkn"
        );
    }

    #[test]
    fn partial_keeps_whole_characters_and_never_a_whole_value() {
        assert_eq!(masked(&partial(0, 4), TEXT, "123-45-6789"), "*******6789");
        assert_eq!(masked(&partial(2, 1), TEXT, "äöüß€"), "äö**€");
        assert_eq!(masked(&partial(0, 4), TEXT, "6789"), "****");
        assert_eq!(masked(&partial(0, 4), TEXT, "12345"), "*2345");
        assert_eq!(masked(&partial(2, 2), TEXT, "abc"), "***");
        assert_eq!(masked(&partial(0, 0), TEXT, ""), "");
        assert_eq!(masked(&partial(u16::MAX, u16::MAX), TEXT, "abc"), "***");
        let wide = Mask::Partial {
            keep_first: 1,
            keep_last: 0,
            with: '●',
        };
        assert_eq!(masked(&wide, TEXT, "abc"), "a●●");
    }

    #[test]
    fn padding_is_no_part_of_a_value() {
        assert_eq!(masked(&partial(0, 4), char_of(8), "123456  "), "**3456  ");
        assert_eq!(masked(&partial(0, 4), char_of(8), "1234    "), "****    ");
        let padded = masked(&hmac(), char_of(40), &format!("{:40}", "abc"));
        assert_eq!(padded, format!("{:40}", masked(&hmac(), TEXT, "abc")));
    }

    #[test]
    fn text_that_is_not_utf_8_is_redacted_whole() {
        let bytes = masked_as(&partial(1, 1), TEXT, Format::Text, b"abc\xff");
        assert_eq!(bytes.as_deref(), Some(&b"[redacted]"[..]));
    }

    #[test]
    fn email_shows_the_domain_and_one_character_of_several() {
        assert_eq!(
            masked(&Mask::Email, TEXT, "jane@example.com"),
            "j***@example.com"
        );
        assert_eq!(
            masked(&Mask::Email, TEXT, "j@example.com"),
            "***@example.com"
        );
        for value in ["jane", "@example.com", "jane@", "a@b: 123-45-6789", ""] {
            assert_eq!(masked(&Mask::Email, TEXT, value), "[redacted]", "{value}");
        }
        assert_eq!(masked(&Mask::Email, varchar(5), "ab@cd"), "[reda");
    }

    #[test]
    fn card_shows_the_last_four_digits_of_what_can_be_a_card() {
        assert_eq!(
            masked(&Mask::Card, TEXT, "4111-1111 1111-1234"),
            "************1234"
        );
        assert_eq!(
            masked(&Mask::Card, varchar(13), "411111111 234"),
            "*********1234"
        );
        for value in [
            "41111111123",
            "41111111111111111234",
            "4111x11111111234",
            "",
        ] {
            assert_eq!(masked(&Mask::Card, TEXT, value), "[redacted]", "{value}");
        }
    }

    #[test]
    fn pseudonyms_are_those_of_hmac_sha_256_and_the_same_in_text_and_binary() {
        // printf abc | openssl dgst -sha256 -hmac secret
        assert_eq!(
            masked(&hmac(), TEXT, "abc"),
            "9946dad4e00e913fc8be8e5d3f7e110a"
        );
        assert_eq!(masked(&hmac(), varchar(5), "abc"), "9946d");
        let text = masked(&hmac(), Kind::Int(4), "-42");
        let value = (-42_i32).to_be_bytes();
        let binary = masked_as(&hmac(), Kind::Int(4), Format::Binary, &value).expect("valid");
        let number = i32::from_be_bytes(binary.try_into().expect("four bytes"));
        assert_eq!((number.to_string(), number >= 0), (text, true));
        let uuid = uuid::uuid!("c0ffee00-0000-4000-8000-000000000001");
        let text = masked(&hmac(), Kind::Uuid, &uuid.to_string());
        let binary =
            masked_as(&hmac(), Kind::Uuid, Format::Binary, uuid.as_bytes()).expect("valid");
        let pseudonym = uuid::Uuid::from_slice(&binary).expect("16 bytes");
        assert_eq!(pseudonym.to_string(), text);
        assert_eq!(
            (pseudonym.get_version_num(), pseudonym.get_variant()),
            (8, uuid::Variant::RFC4122)
        );
        let text = masked(&hmac(), Kind::Jsonb, "{}");
        let binary = masked_as(&hmac(), Kind::Jsonb, Format::Binary, b"\x01{}").expect("valid");
        assert_eq!(binary, [b"\x01", text.as_bytes()].concat());
    }

    #[test]
    fn a_value_that_is_not_of_its_type_becomes_null() {
        assert_eq!(masked_as(&hmac(), Kind::Int(4), Format::Text, b"12x"), None);
        assert_eq!(
            masked_as(&hmac(), Kind::Int(4), Format::Binary, b"123"),
            None
        );
        assert_eq!(
            masked_as(&hmac(), Kind::Uuid, Format::Binary, b"short"),
            None
        );
        assert_eq!(
            masked_as(&Mask::Redact, Kind::Other, Format::Text, b"x"),
            None
        );
    }

    #[test]
    fn a_constant_that_is_no_value_of_the_type_is_redacted() {
        let constant = |text: &str| Mask::Constant(text.into());
        assert_eq!(masked(&constant("42"), Kind::Int(2), "1"), "42");
        for (text, kind) in [
            ("70000", Kind::Int(2)),
            ("x", Kind::Numeric),
            ("inf", Kind::Float8),
        ] {
            assert_eq!(masked(&constant(text), kind, "1"), "0", "{text}");
        }
        assert_eq!(
            masked(&constant("1970-01-01"), Kind::Timestamp, "x"),
            "1970-01-01 00:00:00"
        );
        let binary = masked_as(&constant("1999-12-31"), Kind::Date, Format::Binary, &[0; 4]);
        assert_eq!(binary, Some((-1_i32).to_be_bytes().to_vec()));
        assert_eq!(
            masked(&constant("{\"a\":"), Kind::Json, "1"),
            "\"[redacted]\""
        );
    }

    #[test]
    fn masks_are_ordered_from_strict_to_lax() {
        let ordered = [
            Mask::Null,
            Mask::Redact,
            Mask::Constant("a".into()),
            Mask::Constant("b".into()),
            hmac(),
            partial(0, 0),
            partial(1, 2),
            partial(0, 4),
            Mask::Card,
            partial(3, 2),
            Mask::Email,
        ];
        assert!(ordered.is_sorted_by(|a, b| a < b && crate::mask::strictest(b, a) == a));
    }

    proptest! {
        #[test]
        fn no_mask_of_text_exceeds_the_column_or_breaks_utf_8(
            value in "\\PC{0,20}", limit in 1_u32..24, first in 0_u16..6, last in 0_u16..6, padded: bool,
        ) {
            let value: String = value.chars().take(limit as usize).collect();
            let value = if padded { format!("{value:0$}", limit as usize) } else { value };
            for mask in [Mask::Redact, Mask::Constant("constant".into()), Mask::Email, Mask::Card, hmac(), partial(first, last)] {
                let shown = masked(&mask, Kind::Text { limit: Some(limit), padded }, &value);
                let length = shown.chars().count();
                prop_assert!(length == limit as usize || (!padded && length < limit as usize));
            }
        }

        #[test]
        fn integers_stay_in_range_for_every_width(value: i64, bytes in proptest::collection::vec(any::<u8>(), 0..10)) {
            for (width, max) in [(2, i64::from(i16::MAX)), (4, i64::from(i32::MAX)), (8, i64::MAX)] {
                let shown: i64 = masked(&hmac(), Kind::Int(width), &value.to_string()).parse().expect("a number");
                prop_assert!((0..=max).contains(&shown));
                let _ = masked_as(&hmac(), Kind::Int(width), Format::Binary, &bytes);
                let _ = masked_as(&hmac(), Kind::Uuid, Format::Binary, &bytes);
                let _ = masked_as(&hmac(), Kind::Jsonb, Format::Binary, &bytes);
            }
        }
    }
}
