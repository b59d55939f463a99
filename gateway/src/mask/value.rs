//! The types that masks know, and values of them in PostgreSQL's text and binary formats.
//!
//! Hides what each type's send and receive functions expect (`src/backend/utils/adt`). Guarantees
//! that every value made here is valid input for the type in the format asked for.

use std::collections::HashMap;

use super::numeric;
use crate::catalog::{Oid, Type, TypeKind};

/// How a column's values are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// As the type's output function writes it.
    Text,
    /// As the type's send function writes it.
    Binary,
}

/// A type as masking sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Characters, at most `limit` of them; padded with spaces to the limit if `padded`. Text and
    /// binary are the same.
    Text {
        limit: Option<u32>,
        padded: bool,
    },
    /// An integer of 2, 4 or 8 bytes.
    Int(usize),
    Float4,
    Float8,
    Numeric,
    Bool,
    Date,
    Time,
    TimeTz,
    Timestamp,
    TimestampTz,
    Interval,
    Uuid,
    Bytea,
    Json,
    Jsonb,
    /// `inet`, or `cidr` if true.
    Address(bool),
    /// An array of this element type.
    Array(Oid),
    /// Anything else: only NULL is known to be valid.
    Other,
}

/// Which kind a result column's type is. RowDescription names a domain's base type, but a domain
/// is followed all the same.
pub(super) fn kind_of(type_oid: Oid, typmod: i32, types: &HashMap<Oid, Type>) -> Kind {
    if let Some(kind) = builtin(type_oid, typmod) {
        return kind;
    }
    let Some(Type { name, kind }) = types.get(&type_oid) else {
        return Kind::Other;
    };
    match kind {
        TypeKind::Array(element) => Kind::Array(*element),
        // One step: a domain over a domain is rare, and one over itself would never end.
        TypeKind::Domain(base) => match types.get(base).map(|base| base.kind) {
            Some(TypeKind::Array(element)) => Kind::Array(element),
            _ => builtin(*base, typmod).unwrap_or(Kind::Other),
        },
        // The extension's oid differs from server to server; its send function is text's.
        TypeKind::Base if &**name == "citext" => Kind::Text {
            limit: None,
            padded: false,
        },
        TypeKind::Base | TypeKind::Other => Kind::Other,
    }
}

/// The types whose oids are fixed, by `src/include/catalog/pg_type.dat`.
fn builtin(type_oid: Oid, typmod: i32) -> Option<Kind> {
    // A length's modifier is the length and four bytes of header.
    let limit = u32::try_from(typmod.saturating_sub(4))
        .ok()
        .filter(|&limit| limit > 0);
    let text = |limit, padded| Kind::Text { limit, padded };
    Some(match type_oid {
        25 => text(None, false),
        19 => text(Some(63), false),
        1043 => text(limit, false),
        1042 => text(limit, limit.is_some()),
        21 => Kind::Int(2),
        23 => Kind::Int(4),
        20 => Kind::Int(8),
        700 => Kind::Float4,
        701 => Kind::Float8,
        1700 => Kind::Numeric,
        16 => Kind::Bool,
        1082 => Kind::Date,
        1083 => Kind::Time,
        1266 => Kind::TimeTz,
        1114 => Kind::Timestamp,
        1184 => Kind::TimestampTz,
        1186 => Kind::Interval,
        2950 => Kind::Uuid,
        17 => Kind::Bytea,
        114 => Kind::Json,
        3802 => Kind::Jsonb,
        869 => Kind::Address(false),
        650 => Kind::Address(true),
        _ => return None,
    })
}

/// The value that says nothing. `None` is NULL.
pub(super) fn redacted(kind: Kind, format: Format) -> Option<Vec<u8>> {
    let (text, binary): (&str, &[u8]) = match kind {
        Kind::Text { .. } => return Some(fitted("[redacted]", kind)),
        Kind::Int(width) => ("0", &[0; 8][..width.min(8)]),
        Kind::Float4 => ("0", &[0; 4]),
        Kind::Float8 => ("0", &[0; 8]),
        // No digits, weight 0, positive, scale 0.
        Kind::Numeric => ("0", &[0; 8]),
        Kind::Bool => ("f", &[0]),
        // Dates and times count from 2000-01-01.
        Kind::Date => ("2000-01-01", &[0; 4]),
        Kind::Time => ("00:00:00", &[0; 8]),
        Kind::TimeTz => ("00:00:00+00", &[0; 12]),
        Kind::Timestamp => ("2000-01-01 00:00:00", &[0; 8]),
        Kind::TimestampTz => ("2000-01-01 00:00:00+00", &[0; 8]),
        Kind::Interval => ("00:00:00", &[0; 16]),
        Kind::Uuid => ("00000000-0000-0000-0000-000000000000", &[0; 16]),
        Kind::Bytea => ("\\x", &[]),
        Kind::Json => ("\"[redacted]\"", b"\"[redacted]\""),
        Kind::Jsonb => ("\"[redacted]\"", b"\x01\"[redacted]\""),
        // Family AF_INET, bits, whether a cidr, length, address.
        Kind::Address(false) => ("0.0.0.0", &[2, 32, 0, 4, 0, 0, 0, 0]),
        Kind::Address(true) => ("0.0.0.0/32", &[2, 32, 1, 4, 0, 0, 0, 0]),
        Kind::Array(element) => return Some(empty_array(element, format)),
        Kind::Other => return None,
    };
    Some(match format {
        Format::Text => text.as_bytes().to_vec(),
        Format::Binary => binary.to_vec(),
    })
}

/// A constant of a rule as a value of the kind, if it is one.
pub(super) fn constant(text: &str, kind: Kind, format: Format) -> Option<Vec<u8>> {
    let binary = match kind {
        // A NUL is no character to PostgreSQL.
        Kind::Text { .. } => return (!text.contains('\0')).then(|| fitted(text, kind)),
        Kind::Int(width) => return integer(text.parse().ok()?, width, format),
        Kind::Float4 => text
            .parse::<f32>()
            .ok()
            .filter(|f| f.is_finite())?
            .to_be_bytes()
            .to_vec(),
        Kind::Float8 => text
            .parse::<f64>()
            .ok()
            .filter(|f| f.is_finite())?
            .to_be_bytes()
            .to_vec(),
        Kind::Numeric => numeric::encode(text)?,
        Kind::Bool => match text {
            "true" | "t" => return Some(pick(format, b"t", &[1])),
            "false" | "f" => return Some(pick(format, b"f", &[0])),
            _ => return None,
        },
        Kind::Date => days(text)?.to_be_bytes().to_vec(),
        Kind::Timestamp => (i64::from(days(text)?) * 86_400_000_000)
            .to_be_bytes()
            .to_vec(),
        Kind::Uuid => {
            let uuid = uuid::Uuid::try_parse(text).ok()?;
            return Some(pick(
                format,
                uuid.hyphenated().to_string().as_bytes(),
                uuid.as_bytes(),
            ));
        }
        Kind::Json | Kind::Jsonb => {
            serde_json::from_str::<serde_json::Value>(text).ok()?;
            return Some(json(text, kind, format));
        }
        _ => return None,
    };
    match (format, kind) {
        (Format::Binary, _) => Some(binary),
        (Format::Text, Kind::Timestamp) => Some(format!("{text} 00:00:00").into_bytes()),
        (Format::Text, _) => Some(text.as_bytes().to_vec()),
    }
}

/// An integer of 2, 4 or 8 bytes, if it fits.
pub(super) fn integer(value: i64, width: usize, format: Format) -> Option<Vec<u8>> {
    let binary = match width {
        2 => i16::try_from(value).ok()?.to_be_bytes().to_vec(),
        4 => i32::try_from(value).ok()?.to_be_bytes().to_vec(),
        8 => value.to_be_bytes().to_vec(),
        _ => return None,
    };
    Some(pick(format, value.to_string().as_bytes(), &binary))
}

/// A JSON text as `json` or `jsonb`: binary `jsonb` begins with its version.
pub(super) fn json(text: &str, kind: Kind, format: Format) -> Vec<u8> {
    let version: &[u8] = if kind == Kind::Jsonb && format == Format::Binary {
        &[1]
    } else {
        &[]
    };
    [version, text.as_bytes()].concat()
}

fn pick(format: Format, text: &[u8], binary: &[u8]) -> Vec<u8> {
    match format {
        Format::Text => text.to_vec(),
        Format::Binary => binary.to_vec(),
    }
}

/// Text cut and padded to what the kind holds.
fn fitted(text: &str, kind: Kind) -> Vec<u8> {
    let Kind::Text { limit, padded } = kind else {
        return text.as_bytes().to_vec();
    };
    let limit = limit.map_or(usize::MAX, |limit| limit as usize);
    let mut fitted: String = text.chars().take(limit).collect();
    if padded {
        let missing = limit - fitted.chars().count();
        fitted.extend(std::iter::repeat_n(' ', missing));
    }
    fitted.into_bytes()
}

fn empty_array(element: Oid, format: Format) -> Vec<u8> {
    match format {
        Format::Text => b"{}".to_vec(),
        // No dimensions, no NULLs, the element's type.
        Format::Binary => [[0; 4], [0; 4], element.to_be_bytes()].concat(),
    }
}

/// Days from 2000-01-01 of a date written `YYYY-MM-DD`.
fn days(text: &str) -> Option<i32> {
    let format = time::macros::format_description!("[year]-[month]-[day]");
    let date = time::Date::parse(text, &format)
        .ok()
        .filter(|date| date.year() > 0)?;
    Some(date.to_julian_day() - time::macros::date!(2000 - 01 - 01).to_julian_day())
}
