//! The first packet of a connection: it has a length and a code, but no type byte.

use super::{Error, Reader};

/// The most that a first packet may have; PostgreSQL's own limit.
pub const FIRST_PACKET_LIMIT: usize = 10_000;

/// The code of an SSLRequest.
pub const SSL_REQUEST: u32 = 80_877_103;
/// The code of a GSSENCRequest.
pub const GSSENC_REQUEST: u32 = 80_877_104;
/// The code of a CancelRequest.
pub const CANCEL_REQUEST: u32 = 80_877_102;

/// A protocol version as a client asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolVersion {
    /// 3 for all that Weir speaks.
    pub major: u16,
    /// 0 or 2 for all that Weir speaks.
    pub minor: u16,
}

impl ProtocolVersion {
    /// The version that Weir answers with: 3.2 to 3.2 and newer, else 3.0 (3.1 was never used).
    pub fn spoken(self) -> Self {
        Self {
            major: 3,
            minor: if self.minor >= 2 { 2 } else { 0 },
        }
    }
}

/// What a connection's first packet can be.
#[derive(Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// The client wants TLS.
    Ssl,
    /// The client wants GSS encryption, which is refused.
    GssEnc,
    /// The client wants another session's statement cancelled.
    Cancel {
        /// The process id of the key that the session was given.
        pid: i32,
        /// The secret of that key: 4 bytes, up to 256 in protocol 3.2.
        secret: Vec<u8>,
    },
    /// The client wants a session.
    Startup(Startup),
    /// The same, in a protocol of another major version than 3.
    Unsupported(ProtocolVersion),
}

/// A StartupMessage: everything in it is a claim of the client's.
#[derive(Debug, PartialEq, Eq)]
pub struct Startup {
    /// The version asked for.
    pub version: ProtocolVersion,
    /// Names and values in the order sent.
    pub parameters: Vec<(String, String)>,
}

impl Startup {
    /// The last value of a parameter, as the server would take it.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }
}

impl FirstPacket {
    /// Decodes a first packet: `packet` is what follows the length field.
    ///
    /// # Errors
    /// Truncated, or not UTF-8.
    pub fn decode(packet: &[u8]) -> Result<Self, Error> {
        let mut r = Reader::new("StartupMessage", packet);
        let code = r.i32()?.cast_unsigned();
        match code {
            SSL_REQUEST => r.finish().map(|()| Self::Ssl),
            GSSENC_REQUEST => r.finish().map(|()| Self::GssEnc),
            CANCEL_REQUEST => cancel(r),
            _ => startup(code, r),
        }
    }
}

fn cancel(mut r: Reader<'_>) -> Result<FirstPacket, Error> {
    let pid = r.i32()?;
    let secret = r.rest();
    if secret.len() < 4 || secret.len() > 256 {
        return Err(Error::Malformed("CancelRequest"));
    }
    Ok(FirstPacket::Cancel {
        pid,
        secret: secret.to_vec(),
    })
}

fn startup(code: u32, mut r: Reader<'_>) -> Result<FirstPacket, Error> {
    let [a, b, c, d] = code.to_be_bytes();
    let version = ProtocolVersion {
        major: u16::from_be_bytes([a, b]),
        minor: u16::from_be_bytes([c, d]),
    };
    if version.major != 3 {
        return Ok(FirstPacket::Unsupported(version));
    }
    let mut parameters = Vec::new();
    loop {
        let name = r.text()?;
        if name.is_empty() {
            break;
        }
        parameters.push((name.to_owned(), r.text()?.to_owned()));
    }
    r.finish()?;
    Ok(FirstPacket::Startup(Startup {
        version,
        parameters,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        let mut p = code.to_be_bytes().to_vec();
        p.extend_from_slice(rest);
        p
    }

    #[test]
    fn the_last_value_of_a_parameter_counts() {
        let p = packet(0x0003_0000, b"user\0a\0user\0b\0\0");
        let Ok(FirstPacket::Startup(s)) = FirstPacket::decode(&p) else {
            panic!("a startup")
        };
        assert_eq!(s.parameter("user"), Some("b"));
        assert_eq!(s.version, ProtocolVersion { major: 3, minor: 0 });
    }

    #[test]
    fn bytes_after_the_last_parameter_are_refused() {
        let p = packet(0x0003_0000, b"user\0a\0\0Q");
        assert_eq!(
            FirstPacket::decode(&p),
            Err(Error::Malformed("StartupMessage"))
        );
        assert_eq!(
            FirstPacket::decode(&packet(SSL_REQUEST, b"x")),
            Err(Error::Malformed("StartupMessage"))
        );
    }

    #[test]
    fn the_rest_of_another_major_version_is_not_read() {
        let (major, minor) = (2, 1);
        assert_eq!(
            FirstPacket::decode(&packet(0x0002_0001, b"\xff")),
            Ok(FirstPacket::Unsupported(ProtocolVersion { major, minor }))
        );
    }

    #[test]
    fn newer_minor_versions_come_down_to_what_weir_speaks() {
        for (asked, spoken) in [(0, 0), (1, 0), (2, 2), (9999, 2)] {
            let v = ProtocolVersion {
                major: 3,
                minor: asked,
            };
            assert_eq!(v.spoken().minor, spoken);
        }
    }

    #[test]
    fn a_cancel_takes_short_and_long_keys_only_within_bounds() {
        let key = |n: usize| {
            let mut rest = 7i32.to_be_bytes().to_vec();
            rest.extend(vec![1u8; n]);
            FirstPacket::decode(&packet(CANCEL_REQUEST, &rest))
        };
        assert!(matches!(key(4), Ok(FirstPacket::Cancel { pid: 7, .. })));
        assert!(matches!(key(256), Ok(FirstPacket::Cancel { .. })));
        assert!(key(3).is_err());
        assert!(key(257).is_err());
    }

    proptest! {
        #[test]
        fn decoding_never_panics(body in proptest::collection::vec(any::<u8>(), 0..96)) {
            let _ = FirstPacket::decode(&body);
            let _ = FirstPacket::decode(&packet(0x0003_0002, &body));
        }
    }
}
