//! By which first bytes of a flow a database's protocol is known.
//!
//! What a client says first: PostgreSQL's start-up packets, TDS's PRELOGIN, a message of MongoDB's, a
//! command of Redis's, or a TLS ClientHello, whose ALPN then tells. What a server says first:
//! MySQL's greeting. The patterns are narrow: an agent's other traffic must pass. A client that
//! takes pains not to look like one isn't found; the boundary is elsewhere.

/// How many of a flow's first bytes are looked at.
pub const PREFIX: usize = 16;

/// A flow's first bytes, as far as they are known; zeros behind.
pub type Prefix = [u8; PREFIX];

/// How far into a flow a ClientHello is read. With post-quantum key shares it has some 1,800 bytes.
pub const CLIENT_HELLO: u32 = 2048;

/// A protocol of databases.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// PostgreSQL, and whatever speaks its protocol.
    Postgres = 1,
    /// MySQL and MariaDB.
    Mysql = 2,
    /// Microsoft's SQL Server.
    Tds = 3,
    /// MongoDB.
    Mongodb = 4,
    /// Redis, with RESP.
    Redis = 5,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Postgres,
        Self::Mysql,
        Self::Tds,
        Self::Mongodb,
        Self::Redis,
    ];
}

/// What a flow's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// There are too few to tell.
    Undecided,
    /// Nothing that is looked for.
    Other,
    /// The beginning of a TLS ClientHello; see [`Alpn`].
    ClientHello,
    /// A database's.
    Database(Protocol),
}

/// Judges the `known` first bytes that a client has sent.
#[inline(always)]
#[must_use]
pub fn client(prefix: &Prefix, known: u32) -> Opening {
    if is_postgres(prefix, known) {
        return Opening::Database(Protocol::Postgres);
    }
    if is_redis(prefix, known) {
        return Opening::Database(Protocol::Redis);
    }
    if (known as usize) < PREFIX {
        return Opening::Undecided;
    }
    if is_prelogin(prefix) {
        return Opening::Database(Protocol::Tds);
    }
    if is_mongodb(prefix) {
        return Opening::Database(Protocol::Mongodb);
    }
    // A handshake record of TLS 1.x (RFC 8446, 5.1), and in it a ClientHello.
    if prefix[0] == 22 && prefix[1] == 3 && prefix[5] == 1 {
        return Opening::ClientHello;
    }
    Opening::Other
}

/// Judges the `known` first bytes that a server has sent.
#[inline(always)]
#[must_use]
pub fn server(prefix: &Prefix, known: u32) -> Opening {
    if (known as usize) < PREFIX {
        return Opening::Undecided;
    }
    // Protocol::HandshakeV10: a packet's length and number, the version of the protocol, and that of
    // the server as text.
    let is_packet = prefix[2] == 0 && prefix[1] < 4 && prefix[3] == 0 && prefix[4] == 10;
    let is_version = prefix[5].is_ascii_digit()
        && (prefix[6] == b'.' || prefix[6].is_ascii_digit())
        && (prefix[7] == b'.' || prefix[7].is_ascii_digit());
    if is_packet && is_version {
        Opening::Database(Protocol::Mysql)
    } else {
        Opening::Other
    }
}

/// A first packet of PostgreSQL: its length, then the version of the protocol or a request's code.
/// (`MAX_STARTUP_PACKET_LENGTH` of its `libpq/pqcomm.h` is 10,000.)
#[inline(always)]
fn is_postgres(prefix: &Prefix, known: u32) -> bool {
    if known < 8 || prefix[0] != 0 || prefix[1] != 0 {
        return false;
    }
    let length = word([prefix[3], prefix[2], 0, 0]);
    let code = word([prefix[7], prefix[6], prefix[5], prefix[4]]);
    match code {
        // SSLRequest, GSSENCRequest.
        80_877_103 | 80_877_104 => length == 8,
        // CancelRequest; its key has up to 256 bytes.
        80_877_102 => length > 12 && length <= 268,
        // Version 3 has a parameter's name behind it: an empty StartupMessage opens nothing, and
        // other protocols have small numbers in this place, such as Kafka.
        _ if code >> 16 == 3 => {
            known > 8 && length > 9 && length <= 10_000 && begins_name(prefix[8])
        }
        // Version 2, which servers understood until 14, is of one size.
        0x2_0000 => length == 296,
        _ => false,
    }
}

#[inline(always)]
fn begins_name(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// An array of bulk strings: `*`, up to four digits, CR LF and `$`.
#[inline(always)]
fn is_redis(prefix: &Prefix, known: u32) -> bool {
    if prefix[0] != b'*' || !prefix[1].is_ascii_digit() {
        return false;
    }
    let mut digits_over = false;
    let mut place = 2;
    while place < 6 {
        if known > place as u32 + 2 && !digits_over && prefix[place] == b'\r' {
            return prefix[place + 1] == b'\n' && prefix[place + 2] == b'$';
        }
        digits_over |= !prefix[place].is_ascii_digit();
        place += 1;
    }
    false
}

/// A PRELOGIN packet, and its first option, the version: it lies behind a list of options of five
/// bytes each, and has six bytes.
#[inline(always)]
fn is_prelogin(prefix: &Prefix) -> bool {
    prefix[0] == 0x12
        && prefix[1] == 1
        && prefix[4] == 0
        && prefix[5] == 0
        && prefix[7] == 0
        && prefix[8] == 0
        && prefix[9] == 0
        && prefix[10] > 5
        && prefix[11] == 0
        && prefix[12] == 6
}

/// A header with a sensible length, that answers nothing, of an OP_MSG, an OP_QUERY or an
/// OP_COMPRESSED.
#[inline(always)]
fn is_mongodb(prefix: &Prefix) -> bool {
    let length = word([prefix[0], prefix[1], prefix[2], prefix[3]]);
    let answered = word([prefix[8], prefix[9], prefix[10], prefix[11]]);
    let operation = word([prefix[12], prefix[13], prefix[14], prefix[15]]);
    let is_operation = operation == 2013 || operation == 2004 || operation == 2012;
    is_operation && answered == 0 && length > 20 && length <= 48_000_000
}

/// Four bytes, the lowest first.
#[inline(always)]
fn word(bytes: [u8; 4]) -> u32 {
    u32::from_le_bytes(bytes)
}

/// Looks for `postgresql` among the protocols that a ClientHello offers, byte by byte, so that it
/// may come in whichever pieces.
///
/// What is looked for is the name behind its length (RFC 7301, 3.1), wherever it is. A host of that
/// name (RFC 6066, 3) is told from it by the two zeros before its length, which has 16 bits: so one
/// of two patterns of 13 bytes has to be there, with a first or a second byte that isn't zero.
///
/// Both are followed at once, a bit for each of their places (Baeza-Yates and Gonnet's shift-and):
/// the verifier follows each way that a program can take, and this has one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Alpn {
    /// A bit for each place of the patterns up to which the last bytes are one.
    places: u32,
    /// The places at which a pattern has ended so far.
    ended: u32,
}

/// The length of `postgresql`, and itself.
const NAME: [u8; 11] = *b"\x0apostgresql";
/// The bytes of a pattern.
const PATTERN: usize = NAME.len() + 2;
/// The patterns' first places.
const BEGIN: u32 = 1 | 1 << PATTERN;
/// The patterns' last places.
const END: u32 = BEGIN << (PATTERN - 1);

/// By byte, the places at which it may be.
static PLACES: [u32; 256] = places();

const fn places() -> [u32; 256] {
    let mut places = [0; 256];
    let mut byte = 0;
    while byte < places.len() {
        // The second byte of the first pattern, and the first of the second.
        places[byte] = 1 << 1 | 1 << PATTERN;
        if byte != 0 {
            places[byte] |= 1 | 1 << (PATTERN + 1);
        }
        let mut place = 0;
        while place < NAME.len() {
            if byte == NAME[place] as usize {
                places[byte] |= BEGIN << (place + 2);
            }
            place += 1;
        }
        byte += 1;
    }
    places
}

impl Alpn {
    /// Takes the next byte.
    #[inline(always)]
    pub fn take(&mut self, byte: u8) {
        self.places = (self.places << 1 | BEGIN) & PLACES[usize::from(byte)];
        self.ended |= self.places & END;
    }

    /// Whether the name was there.
    #[inline(always)]
    #[must_use]
    pub fn is_found(&self) -> bool {
        self.ended != 0
    }
}

#[cfg(test)]
mod tests;
