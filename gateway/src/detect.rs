//! The protocol of a connection, from its first bytes.
//!
//! A client speaks first in PostgreSQL. Whatever isn't recognised is [`Opening::Unknown`], and the
//! connection is closed: a datastore is never spoken to in a protocol that Weir doesn't judge.

/// What a client's first byte tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A first packet of PostgreSQL: its length's upper bytes are zero, as it is below 10,000.
    Postgres,
    /// A TLS record that opens a handshake: PostgreSQL's direct TLS, to be confirmed by ALPN.
    Tls,
    /// Neither.
    Unknown,
}

/// Judges a connection by its first byte.
pub fn opening(first: u8) -> Opening {
    match first {
        0x00 => Opening::Postgres,
        0x16 => Opening::Tls,
        _ => Opening::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_postgres_length_or_a_tls_handshake_opens_a_session() {
        assert_eq!(opening(0), Opening::Postgres);
        assert_eq!(opening(0x16), Opening::Tls);
        for other in [b'G', b'Q', 0x80, 0x01, 0xff] {
            assert_eq!(opening(other), Opening::Unknown);
        }
    }
}
