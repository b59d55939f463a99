//! The bytes of payloads: LEB128 integers, length-prefixed byte strings, and a bounds-checked
//! cursor that reads them back and never panics.

/// Longest encoding of a `u64`, in bytes.
const MAX_VARINT: usize = 10;

/// The bytes are not what a writer of this format produces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed record")]
pub(super) struct Malformed;

#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, value: u64) {
    // Nearly all of them.
    if value < 0x80 {
        out.push(value as u8);
    } else {
        put_long_varint(out, value);
    }
}

#[inline(never)]
fn put_long_varint(out: &mut Vec<u8>, mut value: u64) {
    let mut bytes = [0; MAX_VARINT];
    let mut length = 0;
    for byte in &mut bytes {
        length += 1;
        *byte = value as u8 | 0x80;
        value >>= 7;
        if value == 0 {
            *byte &= 0x7f;
            break;
        }
    }
    out.extend_from_slice(&bytes[..length]);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads from the front of a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor(bytes)
    }

    /// Everything that is left.
    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(n).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn varint(&mut self) -> Result<u64, Malformed> {
        // Nearly all of them.
        if let &[byte @ ..0x80, ref rest @ ..] = self.0 {
            self.0 = rest;
            return Ok(byte.into());
        }
        let mut value = 0u64;
        for i in 0..MAX_VARINT {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shifted = bits << (7 * i);
            // The tenth byte has room for one bit.
            if shifted >> (7 * i) != bits {
                return Err(Malformed);
            }
            value |= shifted;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    pub(super) fn small<T: TryFrom<u64>>(&mut self) -> Result<T, Malformed> {
        T::try_from(self.varint()?).map_err(|_| Malformed)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.small::<usize>()?;
        self.take(n)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }

    /// `Ok` if nothing is left: trailing bytes are malformed.
    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Malformed)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_varint_reads_back(value: u64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            let mut cursor = Cursor::new(&out);
            prop_assert_eq!(cursor.varint(), Ok(value));
            prop_assert!(cursor.is_empty());
        }

        #[test]
        fn a_cut_byte_string_is_malformed(bytes: Vec<u8>, cut in 1usize..8) {
            let mut out = Vec::new();
            put_bytes(&mut out, &bytes);
            out.truncate(out.len().saturating_sub(cut));
            prop_assert!(Cursor::new(&out).bytes().is_err());
        }
    }

    #[test]
    fn a_varint_above_64_bits_is_malformed() {
        let mut bytes = [0xff; 10];
        bytes[9] = 0x02;
        assert_eq!(Cursor::new(&bytes).varint(), Err(Malformed));
        assert_eq!(Cursor::new(&[0x80; 11]).varint(), Err(Malformed));
    }
}
