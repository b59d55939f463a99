//! A question for a name (DNS), and what was told: written and read back as the same value.

use std::borrow::Cow;
use std::net::IpAddr;

use super::codec::{Cursor, Malformed, put_bytes, put_varint};

/// A question, before its answer leaves. Kind 12: `at, pid, comm bytes, name bytes, type bytes,
/// answer u8 [address bytes*]`; an address has 4 or 16 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// Microseconds since the Unix epoch.
    pub at: u64,
    /// The process that asked, in the daemon's PID namespace.
    pub pid: u32,
    /// Its command name.
    pub comm: &'a str,
    /// The name that was asked for.
    pub name: &'a str,
    /// What was asked of it, such as `AAAA`.
    pub record_type: &'a str,
    /// What was told.
    pub told: Told<'a>,
}

/// The answer to a question. Stored as 0 to 3 in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told<'a> {
    /// These addresses of the name; none if it has none of the kind that was asked for.
    Addresses(Cow<'a, [IpAddr]>),
    /// That there is no such name.
    Nonexistent,
    /// That it isn't told.
    Refused,
    /// That it can't be told now.
    Failed,
}

impl Told<'_> {
    /// `answered`, `nonexistent`, `refused` or `failed`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Told::Addresses(_) => "answered",
            Told::Nonexistent => "nonexistent",
            Told::Refused => "refused",
            Told::Failed => "failed",
        }
    }

    /// The addresses, where there are any.
    pub fn addresses(&self) -> &[IpAddr] {
        match self {
            Told::Addresses(addresses) => addresses,
            _ => &[],
        }
    }
}

impl<'a> Question<'a> {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.at);
        put_varint(out, u64::from(self.pid));
        for text in [self.comm, self.name, self.record_type] {
            put_bytes(out, text.as_bytes());
        }
        out.push(match self.told {
            Told::Addresses(_) => 0,
            Told::Nonexistent => 1,
            Told::Refused => 2,
            Told::Failed => 3,
        });
        for address in self.told.addresses() {
            match address {
                IpAddr::V4(v4) => put_bytes(out, &v4.octets()),
                IpAddr::V6(v6) => put_bytes(out, &v6.octets()),
            }
        }
    }

    pub(super) fn decode(c: &mut Cursor<'a>) -> Result<Question<'a>, Malformed> {
        let (at, pid) = (c.varint()?, c.small()?);
        let (comm, name, record_type) = (c.text()?, c.text()?, c.text()?);
        let told = match c.byte()? {
            0 => {
                let mut addresses = Vec::new();
                while !c.is_empty() {
                    addresses.push(address(c.bytes()?)?);
                }
                Told::Addresses(addresses.into())
            }
            1 => Told::Nonexistent,
            2 => Told::Refused,
            3 => Told::Failed,
            _ => return Err(Malformed),
        };
        Ok(Question {
            at,
            pid,
            comm,
            name,
            record_type,
            told,
        })
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, Malformed> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told() -> impl Strategy<Value = Told<'static>> {
        let addresses = proptest::collection::vec(any::<IpAddr>(), 0..5);
        prop_oneof![
            addresses.prop_map(|addresses| Told::Addresses(addresses.into())),
            Just(Told::Nonexistent),
            Just(Told::Refused),
            Just(Told::Failed),
        ]
    }

    proptest! {
        #[test]
        fn a_question_reads_back(at: u64, pid: u32, texts: [String; 3], told in told()) {
            let [comm, name, record_type] = &texts;
            let question = Question { at, pid, comm, name, record_type, told };
            let mut payload = Vec::new();
            question.encode(&mut payload);
            let mut cursor = Cursor::new(&payload);
            prop_assert_eq!(Question::decode(&mut cursor), Ok(question));
            prop_assert!(cursor.is_empty());
        }
    }

    #[test]
    fn an_address_of_any_other_length_is_malformed() {
        let question = Question {
            at: 1,
            pid: 2,
            comm: "psql",
            name: "db.internal",
            record_type: "A",
            told: Told::Addresses(Vec::new().into()),
        };
        let mut payload = Vec::new();
        question.encode(&mut payload);
        for length in [0, 3, 5, 15, 17] {
            let mut payload = payload.clone();
            put_bytes(&mut payload, &vec![0; length]);
            assert_eq!(
                Question::decode(&mut Cursor::new(&payload)),
                Err(Malformed),
                "{length}"
            );
        }
    }
}
