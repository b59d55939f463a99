//! A cursor over one message's body that can't read past its end.

use super::Error;

/// Reads a body front to back; every read is checked, [`Reader::finish`] refuses leftovers.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl<'a> Reader<'a> {
    /// Starts at the front of `body`; `message` names it in errors.
    pub fn new(message: &'static str, body: &'a [u8]) -> Self {
        Self {
            rest: body,
            message,
        }
    }

    /// One byte.
    ///
    /// # Errors
    /// The body has ended.
    pub fn u8(&mut self) -> Result<u8, Error> {
        let (first, rest) = self.rest.split_first().ok_or(self.malformed())?;
        self.rest = rest;
        Ok(*first)
    }

    /// A big-endian `i16`.
    ///
    /// # Errors
    /// The body has ended.
    pub fn i16(&mut self) -> Result<i16, Error> {
        self.array().map(i16::from_be_bytes)
    }

    /// A big-endian `i32`.
    ///
    /// # Errors
    /// The body has ended.
    pub fn i32(&mut self) -> Result<i32, Error> {
        self.array().map(i32::from_be_bytes)
    }

    /// A count: an `i16` that must not be negative.
    ///
    /// # Errors
    /// The body has ended, or the count is negative.
    pub fn count(&mut self) -> Result<usize, Error> {
        usize::try_from(self.i16()?).map_err(|_| self.malformed())
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(self.malformed())?;
        self.rest = rest;
        Ok(taken)
    }

    /// Bytes up to a NUL, which is taken too.
    ///
    /// # Errors
    /// There is no NUL.
    pub fn cstr(&mut self) -> Result<&'a [u8], Error> {
        let end = self
            .rest
            .iter()
            .position(|b| *b == 0)
            .ok_or(self.malformed())?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Ok(text)
    }

    /// Text up to a NUL.
    ///
    /// # Errors
    /// There is no NUL, or the text isn't UTF-8.
    pub fn text(&mut self) -> Result<&'a str, Error> {
        let message = self.message;
        std::str::from_utf8(self.cstr()?).map_err(|_| Error::NotUtf8(message))
    }

    /// What hasn't been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// Bytes are left over.
    pub fn finish(self) -> Result<(), Error> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed())
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(self.malformed())?;
        self.rest = rest;
        Ok(*taken)
    }

    fn malformed(&self) -> Error {
        Error::Malformed(self.message)
    }
}
