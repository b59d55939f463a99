//! The raw protocol bytes in a journal, read for people: the columns and cells of results, the
//! parameters of a `Bind`, COPY data.
//!
//! Bounds-checked throughout: the bytes come from a database or an agent. What can't be read is
//! an error or hex, never a panic.

use super::codec::{Cursor, Malformed};
use super::show::hex;

/// A column of a result, from its `RowDescription`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name; invalid UTF-8 replaced. May hold anything: escape it.
    pub name: String,
    /// The oid of its type.
    pub type_oid: u32,
    /// Whether its cells are binary.
    pub binary: bool,
}

/// A value: the bytes, or `None` for NULL.
pub type Value<'a> = Option<&'a [u8]>;

/// The values of a `Bind` and the formats that it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters<'a> {
    /// The values, and whether each is binary.
    pub values: Vec<(Value<'a>, bool)>,
    /// Whether the columns of the result are to be binary: none (text for all), one (for all) or
    /// one each.
    pub result_formats: Vec<bool>,
}

/// Gives the columns of a result the formats that its `Bind` asked for.
pub fn apply_formats(formats: &[bool], fields: &mut [Field]) {
    for (i, field) in fields.iter_mut().enumerate() {
        field.binary = format_of(formats, i);
    }
}

/// Protocol 3: no code means text for all, one code holds for all, otherwise one each.
fn format_of(formats: &[bool], i: usize) -> bool {
    match formats {
        [] => false,
        [all] => *all,
        each => each.get(i).copied().unwrap_or(false),
    }
}

/// The columns in the body of a `RowDescription`; `None` if it is malformed.
pub fn fields(body: &[u8]) -> Option<Vec<Field>> {
    let mut c = Cursor::new(body);
    let mut read = || -> Result<Vec<Field>, Malformed> {
        let count = be16(&mut c)?;
        let mut fields = Vec::new();
        for _ in 0..count {
            let rest = c;
            let mut probe = rest;
            let name_length = probe
                .rest()
                .iter()
                .position(|&byte| byte == 0)
                .ok_or(Malformed)?;
            let name = String::from_utf8_lossy(c.take(name_length)?).into_owned();
            // The NUL, then table oid and attribute number.
            c.take(1 + 4 + 2)?;
            let type_oid = u32::from_be_bytes(c.array()?);
            // Size and modifier of the type.
            c.take(2 + 4)?;
            let binary = be16(&mut c)? == 1;
            fields.push(Field {
                name,
                type_oid,
                binary,
            });
        }
        Ok(fields)
    };
    let fields = read().ok()?;
    c.is_empty().then_some(fields)
}

/// The values of a `Bind`, from the count of parameter formats on; `None` if it is malformed.
pub fn parameters(body: &[u8]) -> Option<Parameters<'_>> {
    let mut c = Cursor::new(body);
    let mut read = || -> Result<Parameters<'_>, Malformed> {
        let formats = formats(&mut c)?;
        let count = be16(&mut c)?;
        let mut values = Vec::new();
        for i in 0..usize::from(count) {
            values.push((value(&mut c)?, format_of(&formats, i)));
        }
        Ok(Parameters {
            values,
            result_formats: self::formats(&mut c)?,
        })
    };
    let parameters = read().ok()?;
    c.is_empty().then_some(parameters)
}

/// A message in a stream of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// `D` or `d`.
    pub tag: u8,
    /// What follows tag and length.
    pub body: &'a [u8],
}

/// Takes the first whole frame off a stream; `None` where its end has not been read yet, or the
/// stream is malformed.
pub fn take_frame<'a>(stream: &mut &'a [u8]) -> Option<Frame<'a>> {
    let (&[tag, a, b, c, d], rest) = stream.split_first_chunk()?;
    let length = (u32::from_be_bytes([a, b, c, d]) as usize).checked_sub(4)?;
    let (body, rest) = rest.split_at_checked(length)?;
    *stream = rest;
    Some(Frame { tag, body })
}

/// The cells in the body of a `DataRow`; `None` if it is malformed.
pub fn data_row(body: &[u8]) -> Option<Vec<Value<'_>>> {
    let mut c = Cursor::new(body);
    let mut read = || -> Result<Vec<Value<'_>>, Malformed> {
        let count = be16(&mut c)?;
        let mut cells = Vec::new();
        for _ in 0..count {
            cells.push(value(&mut c)?);
        }
        Ok(cells)
    };
    let cells = read().ok()?;
    c.is_empty().then_some(cells)
}

fn be16(c: &mut Cursor<'_>) -> Result<u16, Malformed> {
    Ok(u16::from_be_bytes(c.array()?))
}

fn formats(c: &mut Cursor<'_>) -> Result<Vec<bool>, Malformed> {
    let count = be16(c)?;
    let mut formats = Vec::new();
    for _ in 0..count {
        formats.push(be16(c)? == 1);
    }
    Ok(formats)
}

fn value<'a>(c: &mut Cursor<'a>) -> Result<Value<'a>, Malformed> {
    match i32::from_be_bytes(c.array()?) {
        -1 => Ok(None),
        length => Ok(Some(
            c.take(usize::try_from(length).map_err(|_| Malformed)?)?,
        )),
    }
}

/// A value as text, exact for what is text; `None` if it is neither text nor of a binary type
/// known here, so that it can only be shown as hex. `type_oid` 0: not known.
pub fn value_text(value: &[u8], binary: bool, type_oid: u32) -> Option<String> {
    if !binary {
        return std::str::from_utf8(value).ok().map(str::to_owned);
    }
    // Oids of pg_type, which are fixed.
    match (type_oid, value) {
        (16, [0]) => Some("f".to_owned()),
        (16, [_]) => Some("t".to_owned()),
        (21, &[a, b]) => Some(i16::from_be_bytes([a, b]).to_string()),
        (23, &[a, b, c, d]) => Some(i32::from_be_bytes([a, b, c, d]).to_string()),
        (26, &[a, b, c, d]) => Some(u32::from_be_bytes([a, b, c, d]).to_string()),
        (700, &[a, b, c, d]) => Some(f32::from_be_bytes([a, b, c, d]).to_string()),
        (20, _) => value
            .try_into()
            .ok()
            .map(|v| i64::from_be_bytes(v).to_string()),
        (701, _) => value
            .try_into()
            .ok()
            .map(|v| f64::from_be_bytes(v).to_string()),
        (2950, _) => value
            .try_into()
            .ok()
            .map(|v| uuid::Uuid::from_bytes(v).to_string()),
        // jsonb: a version, then the text.
        (3802, [1, text @ ..]) => value_text(text, false, 0),
        // char, name, text, json, xml, unknown, bpchar, varchar.
        (18 | 19 | 25 | 114 | 142 | 705 | 1042 | 1043, text) => value_text(text, false, 0),
        _ => None,
    }
}

/// As [`value_text`], with hex (`\x…`) where that gives nothing. Not escaped.
pub fn cell_text(value: &[u8], binary: bool, type_oid: u32) -> String {
    value_text(value, binary, type_oid).unwrap_or_else(|| format!("\\x{}", hex(value)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body of a `RowDescription`.
    fn description(fields: &[(&str, u32, u16)]) -> Vec<u8> {
        let mut body = (fields.len() as u16).to_be_bytes().to_vec();
        for (name, type_oid, format) in fields {
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(&[0; 1 + 4 + 2]);
            body.extend_from_slice(&type_oid.to_be_bytes());
            body.extend_from_slice(&[0; 2 + 4]);
            body.extend_from_slice(&format.to_be_bytes());
        }
        body
    }

    #[test]
    fn columns_are_read_and_trailing_bytes_are_malformed() {
        let mut body = description(&[("id", 23, 0), ("név", 25, 1)]);
        let fields_read = fields(&body).unwrap();
        assert_eq!(
            fields_read[0],
            Field {
                name: "id".into(),
                type_oid: 23,
                binary: false
            }
        );
        assert_eq!(
            fields_read[1],
            Field {
                name: "név".into(),
                type_oid: 25,
                binary: true
            }
        );
        body.push(0);
        assert_eq!(fields(&body), None);
    }

    #[test]
    fn parameters_have_the_formats_that_bind_gives_them() {
        // One format for all; an int4, a NULL; all results binary.
        let body = [
            &[0, 1, 0, 1][..],
            &[0, 2],
            &[0, 0, 0, 4, 0, 0, 0, 42],
            &[0xff; 4],
            &[0, 1, 0, 1],
        ]
        .concat();
        let read = parameters(&body).unwrap();
        assert_eq!(
            read.values,
            [(Some(&[0, 0, 0, 42][..]), true), (None, true)]
        );
        let mut columns = fields(&description(&[("a", 23, 0)])).unwrap();
        apply_formats(&read.result_formats, &mut columns);
        assert!(columns[0].binary);
        assert_eq!(parameters(&body[..body.len() - 1]), None);
    }

    #[test]
    fn frames_are_taken_only_whole() {
        let stream = [b'D', 0, 0, 0, 6, 0, 0, b'D', 0, 0];
        let mut rest = &stream[..];
        assert_eq!(
            take_frame(&mut rest),
            Some(Frame {
                tag: b'D',
                body: &[0, 0]
            })
        );
        assert_eq!(take_frame(&mut rest), None);
        assert_eq!(rest, [b'D', 0, 0]);
    }

    #[test]
    fn binary_values_of_common_types_are_decoded() {
        assert_eq!(cell_text(&[1], true, 16), "t");
        assert_eq!(cell_text(&[0xff, 0xfe], true, 21), "-2");
        assert_eq!(cell_text(&42i32.to_be_bytes(), true, 23), "42");
        assert_eq!(cell_text(&(-7i64).to_be_bytes(), true, 20), "-7");
        assert_eq!(cell_text(&1.5f64.to_be_bytes(), true, 701), "1.5");
        assert_eq!(
            cell_text(&[0; 16], true, 2950),
            "00000000-0000-0000-0000-000000000000"
        );
        assert_eq!(cell_text(b"\x01{}", true, 3802), "{}");
        assert_eq!(cell_text(b"abc", true, 25), "abc");
        assert_eq!(cell_text(&[0, 1], true, 23), "\\x0001");
        assert_eq!(cell_text(&[0, 1], true, 0), "\\x0001");
        assert_eq!(cell_text(b"\xff", false, 25), "\\xff");
    }

    proptest! {
        #[test]
        fn reading_any_bytes_does_not_panic(bytes: Vec<u8>, binary: bool, type_oid in 0u32..4000) {
            let _ = (fields(&bytes), parameters(&bytes), data_row(&bytes));
            let mut rest = &bytes[..];
            while take_frame(&mut rest).is_some() {}
            let _ = cell_text(&bytes, binary, type_oid);
        }
    }
}
