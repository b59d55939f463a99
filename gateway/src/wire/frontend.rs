//! What clients send after the start-up: decoders for judging, and the few requests Weir makes.

use super::{Error, Reader, put_cstr, put_frame};

/// `Query`: a text that may hold many statements.
#[derive(Debug, PartialEq, Eq)]
pub struct Query<'a> {
    /// The text, without its NUL.
    pub text: &'a str,
}

impl<'a> Query<'a> {
    /// Decodes the body of a `Q` frame.
    ///
    /// # Errors
    /// No NUL at the end, bytes after it, or not UTF-8.
    pub fn decode(body: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader::new("Query", body);
        let text = r.text()?;
        r.finish()?;
        Ok(Self { text })
    }
}

/// `Parse`: makes a prepared statement.
#[derive(Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty for the unnamed one.
    pub name: &'a [u8],
    /// The text: the server takes one statement at the most.
    pub text: &'a str,
    /// Oids of the parameters' types as they were sent, four bytes each; 0 leaves it to the server.
    pub types: &'a [u8],
}

impl<'a> Parse<'a> {
    /// Decodes the body of a `P` frame.
    ///
    /// # Errors
    /// Truncated, bytes left over, or not UTF-8.
    pub fn decode(body: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader::new("Parse", body);
        let name = r.cstr()?;
        let text = r.text()?;
        let types = r.count()?;
        let types = r.bytes(types * 4)?;
        r.finish()?;
        Ok(Self { name, text, types })
    }
}

/// `Bind`: makes a portal from a prepared statement and values.
#[derive(Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty for the unnamed one.
    pub portal: &'a [u8],
    /// The prepared statement's name.
    pub statement: &'a [u8],
    /// From the parameter-format count to the end: parameter formats, values, result formats.
    pub arguments: &'a [u8],
    /// The result-format codes as they were sent: two bytes each; none, one or one a column.
    pub result_formats: &'a [u8],
}

impl<'a> Bind<'a> {
    /// Decodes the body of a `B` frame.
    ///
    /// # Errors
    /// Truncated, a negative count or length (but -1 for NULL), or bytes left over.
    pub fn decode(body: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader::new("Bind", body);
        let portal = r.cstr()?;
        let statement = r.cstr()?;
        let arguments = r.rest();
        let formats = r.count()?;
        r.bytes(formats * 2)?;
        for _ in 0..r.count()? {
            match r.i32()? {
                -1 => {}
                n => {
                    let n = usize::try_from(n).map_err(|_| Error::Malformed("Bind"))?;
                    r.bytes(n)?;
                }
            }
        }
        let formats = r.count()?;
        let result_formats = r.bytes(formats * 2)?;
        r.finish()?;
        Ok(Self {
            portal,
            statement,
            arguments,
            result_formats,
        })
    }

    /// The result-format codes as numbers: 0 is text, 1 is binary.
    pub fn formats(&self) -> impl Iterator<Item = i16> + Clone + 'a {
        self.result_formats
            .chunks_exact(2)
            .map(|c| i16::from_be_bytes([c[0], c[1]]))
    }
}

/// `Execute`: runs a portal.
#[derive(Debug, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The portal's name.
    pub portal: &'a [u8],
    /// The most rows to return; 0 for all.
    pub max_rows: i32,
}

impl<'a> Execute<'a> {
    /// Decodes the body of an `E` frame.
    ///
    /// # Errors
    /// Truncated, or bytes left over.
    pub fn decode(body: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader::new("Execute", body);
        let portal = r.cstr()?;
        let max_rows = r.i32()?;
        r.finish()?;
        Ok(Self { portal, max_rows })
    }
}

/// Whether a `Describe` or `Close` means a statement or a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetKind {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

/// What a `Describe` or `Close` names.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Statement or portal.
    pub kind: TargetKind,
    /// Its name.
    pub name: &'a [u8],
}

impl<'a> Target<'a> {
    /// Decodes the body of a `D` or `C` frame; `message` names it in errors.
    ///
    /// # Errors
    /// Truncated, bytes left over, or neither `S` nor `P`.
    pub fn decode(message: &'static str, body: &'a [u8]) -> Result<Self, Error> {
        let mut r = Reader::new(message, body);
        let kind = match r.u8()? {
            b'S' => TargetKind::Statement,
            b'P' => TargetKind::Portal,
            _ => return Err(Error::Malformed(message)),
        };
        let name = r.cstr()?;
        r.finish()?;
        Ok(Self { kind, name })
    }
}

/// The requests that Weir itself makes of the server.
pub mod request {
    use super::{put_cstr, put_frame};

    /// `Sync`, whole.
    pub const SYNC: [u8; 5] = *b"S\0\0\0\x04";
    /// `Flush`, whole.
    pub const FLUSH: [u8; 5] = *b"H\0\0\0\x04";
    /// `CopyFail` without a reason, whole.
    pub const COPY_FAIL: [u8; 6] = *b"f\0\0\0\x05\0";
    /// `Terminate`, whole.
    pub const TERMINATE: [u8; 5] = *b"X\0\0\0\x04";

    /// Appends a `Query`.
    pub fn query(out: &mut Vec<u8>, text: &str) {
        put_frame(out, b'Q', |b| put_cstr(b, text.as_bytes()));
    }

    /// Appends a `Parse` without parameter types.
    pub fn parse(out: &mut Vec<u8>, name: &[u8], text: &str) {
        put_frame(out, b'P', |b| {
            put_cstr(b, name);
            put_cstr(b, text.as_bytes());
            b.extend_from_slice(&[0, 0]);
        });
    }

    /// Appends a `Describe` of a prepared statement.
    pub fn describe_statement(out: &mut Vec<u8>, name: &[u8]) {
        put_frame(out, b'D', |b| {
            b.push(b'S');
            put_cstr(b, name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_query_with_bytes_after_its_nul_is_refused() {
        assert_eq!(Query::decode(b"SELECT 1\0"), Ok(Query { text: "SELECT 1" }));
        assert_eq!(
            Query::decode(b"SELECT 1\0DROP\0"),
            Err(Error::Malformed("Query"))
        );
        assert_eq!(Query::decode(b"SELECT 1"), Err(Error::Malformed("Query")));
        assert_eq!(Query::decode(b"\xff\0"), Err(Error::NotUtf8("Query")));
    }

    #[test]
    fn a_parse_gives_name_text_and_types() {
        let mut out = Vec::new();
        request::parse(&mut out, b"s1", "SELECT $1");
        assert_eq!(
            Parse::decode(&out[5..]),
            Ok(Parse {
                name: b"s1",
                text: "SELECT $1",
                types: b""
            })
        );
        let typed = Parse::decode(b"\0SELECT $1\0\0\x01\0\0\0\x17").map(|p| p.types);
        assert_eq!(typed, Ok(&[0, 0, 0, 23][..]));
        assert_eq!(
            Parse::decode(b"s\0x\0\0\x01\0\0"),
            Err(Error::Malformed("Parse"))
        );
    }

    #[test]
    fn a_bind_gives_its_arguments_and_result_formats() {
        let body = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x01a\xff\xff\xff\xff\0\x01\0\x01";
        let bind = Bind::decode(body).expect("well formed");
        assert_eq!((bind.portal, bind.statement), (&b"p"[..], &b"s"[..]));
        assert_eq!(bind.formats().collect::<Vec<_>>(), [1]);
        assert_eq!(bind.arguments, &body[4..]);
    }

    #[test]
    fn a_bind_with_a_negative_length_is_refused() {
        let body = b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0";
        assert_eq!(Bind::decode(body), Err(Error::Malformed("Bind")));
    }

    #[test]
    fn a_describe_of_neither_statement_nor_portal_is_refused() {
        assert!(Target::decode("Describe", b"Sx\0").is_ok());
        assert_eq!(
            Target::decode("Describe", b"Xx\0"),
            Err(Error::Malformed("Describe"))
        );
    }

    proptest! {
        #[test]
        fn decoders_never_panic(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Query::decode(&body);
            let _ = Parse::decode(&body);
            let _ = Bind::decode(&body);
            let _ = Execute::decode(&body);
            let _ = Target::decode("Close", &body);
        }

        #[test]
        fn weirs_own_requests_are_read_back(name in "[a-z]{0,8}", text in "[^\0]{0,64}") {
            let mut out = Vec::new();
            request::parse(&mut out, name.as_bytes(), &text);
            let parse = Parse::decode(&out[5..]).expect("own message");
            prop_assert_eq!((parse.name, parse.text), (name.as_bytes(), text.as_str()));
        }
    }
}
