//! What servers send: decoders for what Weir has to understand, and the answers it gives itself.

use super::{Error, HEADER, Reader, put_cstr, put_frame};

/// The transaction status of a `ReadyForQuery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxStatus {
    /// Not in a transaction block.
    Idle,
    /// In a transaction block.
    InBlock,
    /// In a failed transaction block.
    Failed,
}

impl TxStatus {
    fn byte(self) -> u8 {
        match self {
            Self::Idle => b'I',
            Self::InBlock => b'T',
            Self::Failed => b'E',
        }
    }
}

/// Decodes the body of a `ReadyForQuery`.
///
/// # Errors
/// Not exactly one byte, or none of `I`, `T`, `E`.
pub fn ready_status(body: &[u8]) -> Result<TxStatus, Error> {
    match body {
        b"I" => Ok(TxStatus::Idle),
        b"T" => Ok(TxStatus::InBlock),
        b"E" => Ok(TxStatus::Failed),
        _ => Err(Error::Malformed("ReadyForQuery")),
    }
}

/// The tag of a `CommandComplete`, such as `SELECT 5`.
///
/// # Errors
/// No NUL at the end, or bytes after it.
pub fn command_tag(body: &[u8]) -> Result<&[u8], Error> {
    let mut r = Reader::new("CommandComplete", body);
    let tag = r.cstr()?;
    r.finish()?;
    Ok(tag)
}

/// The oids of a `ParameterDescription`, as they were sent: four bytes each.
///
/// # Errors
/// Truncated, or bytes left over.
pub fn parameter_types(body: &[u8]) -> Result<&[u8], Error> {
    let mut r = Reader::new("ParameterDescription", body);
    let types = r.count()?;
    let types = r.bytes(types * 4)?;
    r.finish()?;
    Ok(types)
}

/// Name and value of a `ParameterStatus`.
///
/// # Errors
/// Truncated, bytes left over, or not UTF-8.
pub fn parameter_status(body: &[u8]) -> Result<(&str, &str), Error> {
    let mut r = Reader::new("ParameterStatus", body);
    let pair = (r.text()?, r.text()?);
    r.finish()?;
    Ok(pair)
}

/// A `NotificationResponse` up to its payload, and the payload.
///
/// # Errors
/// Truncated, or bytes left over.
pub fn notification(body: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    let mut r = Reader::new("NotificationResponse", body);
    r.i32()?;
    r.cstr()?;
    let from = &body[..body.len() - r.rest().len()];
    let payload = r.cstr()?;
    r.finish()?;
    Ok((from, payload))
}

/// One column of a `RowDescription`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    /// The column's name in the result.
    pub name: &'a [u8],
    /// The relation that it comes from plainly, or 0.
    pub table_oid: u32,
    /// The column's number there, or 0.
    pub attnum: i16,
    /// Its type.
    pub type_oid: u32,
    /// The type's size in bytes; negative for variable ones.
    pub type_len: i16,
    /// The type's modifier, or -1.
    pub typmod: i32,
    /// 0 for text, 1 for binary. Always 0 where a prepared statement was described.
    pub format: i16,
}

/// The columns of a `RowDescription`, in order.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    left: usize,
    reader: Reader<'a>,
}

/// Opens the body of a `RowDescription`; each column is checked as it is read.
///
/// # Errors
/// Truncated within the count.
pub fn fields(body: &[u8]) -> Result<Fields<'_>, Error> {
    let mut reader = Reader::new("RowDescription", body);
    let left = reader.count()?;
    Ok(Fields { left, reader })
}

impl<'a> Fields<'a> {
    fn read(r: &mut Reader<'a>) -> Result<Field<'a>, Error> {
        Ok(Field {
            name: r.cstr()?,
            table_oid: r.i32()?.cast_unsigned(),
            attnum: r.i16()?,
            type_oid: r.i32()?.cast_unsigned(),
            type_len: r.i16()?,
            typmod: r.i32()?,
            format: r.i16()?,
        })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<Field<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let rest = std::mem::replace(&mut self.reader, Reader::new("RowDescription", &[]));
            return rest.finish().err().map(Err);
        }
        self.left -= 1;
        let field = Self::read(&mut self.reader);
        if field.is_err() {
            self.left = 0;
            self.reader = Reader::new("RowDescription", &[]);
        }
        Some(field)
    }
}

/// The fields of an `ErrorResponse` or `NoticeResponse` that Weir reads.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ErrorFields<'a> {
    /// `S`, localised, as it was sent.
    pub severity: &'a [u8],
    /// `V`, the same in English; empty before PostgreSQL 9.6.
    pub level: &'a [u8],
    /// `C`: five characters.
    pub sqlstate: &'a [u8],
    /// `M`.
    pub message: &'a [u8],
    /// `s`, the schema of the table that the error is about; empty where it is about none.
    pub schema: &'a [u8],
    /// `t`, the table that the error is about; empty where it is about none.
    pub table: &'a [u8],
    /// `W`: the functions and statements that it came out of, a line each; empty where it came out
    /// of the client's own statement.
    pub context: &'a [u8],
}

impl<'a> ErrorFields<'a> {
    /// Decodes the body of an `E` or `N` frame from the server.
    ///
    /// # Errors
    /// Truncated, or bytes left over.
    pub fn decode(body: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader::new("ErrorResponse", body);
        let mut out = Self::default();
        loop {
            match r.u8()? {
                0 => break,
                b'S' => out.severity = r.cstr()?,
                b'V' => out.level = r.cstr()?,
                b'C' => out.sqlstate = r.cstr()?,
                b'M' => out.message = r.cstr()?,
                b's' => out.schema = r.cstr()?,
                b't' => out.table = r.cstr()?,
                b'W' => out.context = r.cstr()?,
                _ => {
                    r.cstr()?;
                }
            }
        }
        r.finish()?;
        Ok(out)
    }

    /// Whether the server ends the session with it.
    pub fn ends_session(&self) -> bool {
        matches!(self.level, b"FATAL" | b"PANIC")
    }
}

/// The size in bytes and the number of the whole `DataRow` (or `CopyData`) frames at the front of
/// `buf`.
///
/// This is the hot loop of an unmasked result: it reads headers only. It stops at the first frame
/// of another type than the first, the first incomplete one, and before a row that would exceed `max_rows`.
/// A length that [`super::frame`] would refuse also stops it, so that the caller's own look at
/// that frame finds the error.
#[inline]
pub fn row_run(buf: &[u8], max_rows: u64) -> (usize, u64) {
    let (mut at, mut rows) = (0, 0);
    let tag = match buf.first() {
        Some(tag @ (b'D' | b'd')) => *tag,
        _ => return (0, 0),
    };
    while rows < max_rows {
        let Some((header, _)) = buf[at..].split_first_chunk::<HEADER>() else {
            break;
        };
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if header[0] != tag || !(4..super::VALUES_LIMIT).contains(&length) {
            break;
        }
        if buf.len() - at <= length {
            break;
        }
        at += length + 1;
        rows += 1;
    }
    (at, rows)
}

/// An answer of Weir's own to a client.
#[derive(Debug)]
pub struct Reply<'a> {
    /// SQLSTATE, five characters.
    pub sqlstate: &'a str,
    /// The message: what was refused and why.
    pub message: &'a str,
    /// What to do about it.
    pub hint: Option<&'a str>,
}

impl Reply<'_> {
    /// Appends an `ErrorResponse` after which the session goes on.
    pub fn error(&self, out: &mut Vec<u8>) {
        self.put(out, b'E', "ERROR");
    }

    /// Appends an `ErrorResponse` after which the connection is closed.
    pub fn fatal(&self, out: &mut Vec<u8>) {
        self.put(out, b'E', "FATAL");
    }

    /// Appends the body of a message whose text must not be shown: severity and SQLSTATE stay.
    pub fn scrubbed(out: &mut Vec<u8>, tag: u8, original: &ErrorFields<'_>) {
        put_frame(out, tag, |b| {
            for (code, text) in [
                (b'S', original.severity),
                (b'V', non_localised(original.severity)),
                (b'C', original.sqlstate),
                (
                    b'M',
                    b"message withheld by Weir: it may tell of masked columns".as_slice(),
                ),
            ] {
                b.push(code);
                put_cstr(b, text);
            }
            b.push(0);
        });
    }

    fn put(&self, out: &mut Vec<u8>, tag: u8, severity: &str) {
        put_frame(out, tag, |b| {
            let hint = self.hint.map(|h| (b'H', h));
            for (code, text) in [
                (b'S', severity),
                (b'V', severity),
                (b'C', self.sqlstate),
                (b'M', self.message),
            ]
            .into_iter()
            .chain(hint)
            {
                b.push(code);
                put_cstr(b, text.as_bytes());
            }
            b.push(0);
        });
    }

    /// Appends a `ReadyForQuery`.
    pub fn ready(out: &mut Vec<u8>, status: TxStatus) {
        put_frame(out, b'Z', |b| b.push(status.byte()));
    }

    /// Appends an `AuthenticationOk`.
    pub fn authentication_ok(out: &mut Vec<u8>) {
        put_frame(out, b'R', |b| b.extend_from_slice(&[0; 4]));
    }

    /// Appends a `ParameterStatus`.
    pub fn parameter_status(out: &mut Vec<u8>, name: &str, value: &str) {
        put_frame(out, b'S', |b| {
            put_cstr(b, name.as_bytes());
            put_cstr(b, value.as_bytes());
        });
    }

    /// Appends a `NotificationResponse` without a payload; `from` is what stands before it.
    pub fn bare_notification(out: &mut Vec<u8>, from: &[u8]) {
        put_frame(out, b'A', |b| {
            b.extend_from_slice(from);
            b.push(0);
        });
    }

    /// Appends a `BackendKeyData`.
    pub fn backend_key(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
        put_frame(out, b'K', |b| {
            b.extend_from_slice(&pid.to_be_bytes());
            b.extend_from_slice(secret);
        });
    }

    /// Appends a `NegotiateProtocolVersion`: the newest minor version spoken, and the protocol
    /// options that weren't understood.
    pub fn negotiate(out: &mut Vec<u8>, minor: u16, unknown: &[&str]) {
        put_frame(out, b'v', |b| {
            b.extend_from_slice(&(0x0003_0000 | u32::from(minor)).to_be_bytes());
            let count = u32::try_from(unknown.len()).unwrap_or(u32::MAX);
            b.extend_from_slice(&count.to_be_bytes());
            for name in unknown {
                put_cstr(b, name.as_bytes());
            }
        });
    }
}

/// The severity as drivers compare it; anything that isn't a known English word becomes ERROR.
fn non_localised(severity: &[u8]) -> &[u8] {
    match severity {
        b"ERROR" | b"FATAL" | b"PANIC" | b"WARNING" | b"NOTICE" | b"DEBUG" | b"INFO" | b"LOG" => {
            severity
        }
        _ => b"ERROR",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(cells: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, b'D', |b| {
            b.extend((cells.len() as i16).to_be_bytes());
            for c in cells {
                b.extend((c.len() as i32).to_be_bytes());
                b.extend_from_slice(c);
            }
        });
        out
    }

    #[test]
    fn a_run_of_rows_ends_at_the_first_other_or_incomplete_frame() {
        let one = row(&[b"a", b"bc"]);
        let mut buf = [one.clone(), one.clone()].concat();
        assert_eq!(row_run(&buf, u64::MAX), (2 * one.len(), 2));
        buf.extend_from_slice(b"C\0\0\0\x0dSELECT 2\0");
        assert_eq!(row_run(&buf, u64::MAX), (2 * one.len(), 2));
        assert_eq!(row_run(&buf[..one.len() * 2 - 1], u64::MAX), (one.len(), 1));
        assert_eq!(row_run(&buf, 1), (one.len(), 1));
        assert_eq!(row_run(b"D\0\0\0\x03", u64::MAX), (0, 0));
    }

    #[test]
    fn an_error_is_read_back_as_it_was_made() {
        let mut out = Vec::new();
        Reply {
            sqlstate: "42501",
            message: "no\0t",
            hint: Some("ask"),
        }
        .error(&mut out);
        let fields = ErrorFields::decode(&out[5..]).expect("own message");
        assert_eq!(fields.sqlstate, b"42501");
        assert_eq!(fields.message, b"not", "a NUL can't end the field early");
    }

    #[test]
    fn a_scrubbed_error_keeps_severity_and_sqlstate_only() {
        let mut out = Vec::new();
        let secret = ErrorFields {
            severity: b"ERROR",
            sqlstate: b"22P02",
            message: b"\"123-45-6789\"",
            ..ErrorFields::default()
        };
        Reply::scrubbed(&mut out, b'E', &secret);
        let fields = ErrorFields::decode(&out[5..]).expect("own message");
        assert_eq!(
            (fields.severity, fields.sqlstate),
            (&b"ERROR"[..], &b"22P02"[..])
        );
        assert!(!out.windows(4).any(|w| w == b"6789"));
    }

    #[test]
    fn a_row_description_with_bytes_left_over_is_refused() {
        let mut body = 1i16.to_be_bytes().to_vec();
        body.extend_from_slice(b"ssn\0");
        body.extend(16384i32.to_be_bytes());
        body.extend(2i16.to_be_bytes());
        body.extend(25i32.to_be_bytes());
        body.extend((-1i16).to_be_bytes());
        body.extend((-1i32).to_be_bytes());
        body.extend(0i16.to_be_bytes());
        let read = |b: &[u8]| {
            fields(b).and_then(|f| {
                f.map(|r| r.map(|f| (f.table_oid, f.attnum)))
                    .collect::<Result<Vec<_>, _>>()
            })
        };
        assert_eq!(read(&body), Ok(vec![(16384, 2)]));
        body.push(0);
        assert_eq!(read(&body), Err(Error::Malformed("RowDescription")));
        assert_eq!(
            read(&body[..body.len() - 3]),
            Err(Error::Malformed("RowDescription"))
        );
    }

    proptest! {
        #[test]
        fn decoders_never_panic(body in proptest::collection::vec(any::<u8>(), 0..96), max in 0u64..4) {
            let _ = ErrorFields::decode(&body);
            let _ = command_tag(&body);
            let _ = parameter_status(&body);
            let _ = ready_status(&body);
            let _ = fields(&body).map(|f| f.count());
            let (size, rows) = row_run(&body, max);
            prop_assert!(size <= body.len() && rows <= max);
        }
    }
}
