//! The messages of DNS, as far as Weir speaks it: one question, and the addresses of its name.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};

use crate::record::{Recorded, Told};

/// How long an answer may be kept, in seconds: addresses change.
const LIFETIME: u32 = 5;

/// The longest answer in a datagram: what passes every link (DNS flag day 2020).
const DATAGRAM: u16 = 1232;

/// Addresses in one answer.
const MAX_ADDRESSES: usize = 64;

/// What is known of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Its addresses, of both families.
    Addresses(Vec<IpAddr>),
    /// There is no such name. So that a resolver goes on with the next domain of its search list.
    Nonexistent,
    /// It isn't told.
    Refused,
    /// It can't be told now.
    Failed,
}

/// How a message came, and its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Datagram,
    Stream,
}

/// A message with one question of the internet's class.
#[derive(Debug)]
pub(super) struct Question {
    request: Message,
    name: String,
}

impl Question {
    /// Reads a message; `None` if it is anything else.
    pub(super) fn parse(message: &[u8]) -> Option<Self> {
        let request = Message::from_vec(message).ok()?;
        let is_query = request.metadata.message_type == MessageType::Query
            && request.metadata.op_code == OpCode::Query;
        let [query] = &request.queries[..] else {
            return None;
        };
        if !is_query || query.query_class != DNSClass::IN {
            return None;
        }
        let mut name = query.name.to_ascii();
        name.make_ascii_lowercase();
        if name.len() > 1 && name.ends_with('.') {
            name.pop();
        }
        Some(Self { request, name })
    }

    /// The name, in lower case and without a dot at its end. What isn't a letter, a digit, a hyphen or
    /// an underscore is escaped.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What is asked of it, such as `AAAA`.
    pub(super) fn record_type(&self) -> String {
        self.request.queries[0].query_type.to_string()
    }

    /// What of an answer is told to this question: of addresses, those of the kind that is asked for.
    pub(super) fn told(&self, answer: Answer) -> Told<'static> {
        match answer {
            Answer::Addresses(addresses) => {
                let told = addresses.into_iter().filter(|a| self.record(*a).is_some());
                Told::Addresses(told.take(MAX_ADDRESSES).collect())
            }
            Answer::Nonexistent => Told::Nonexistent,
            Answer::Refused => Told::Refused,
            Answer::Failed => Told::Failed,
        }
    }

    /// The message that says so, once that is recorded.
    pub(super) fn answer(
        &self,
        told: &Told<'_>,
        _: Recorded,
        transport: Transport,
    ) -> Option<Vec<u8>> {
        self.message(told, transport)
    }

    /// The message that nothing can be told now, which needs no record.
    pub(super) fn failure(&self, transport: Transport) -> Option<Vec<u8>> {
        self.message(&Told::Failed, transport)
    }

    fn message(&self, told: &Told<'_>, transport: Transport) -> Option<Vec<u8>> {
        let mut response = Message::response(self.request.metadata.id, OpCode::Query);
        response.metadata = Metadata::response_from_request(&self.request.metadata);
        response.metadata.recursion_available = true;
        response.metadata.response_code = match told {
            Told::Addresses(_) => ResponseCode::NoError,
            Told::Nonexistent => ResponseCode::NXDomain,
            Told::Refused => ResponseCode::Refused,
            Told::Failed => ResponseCode::ServFail,
        };
        response.add_queries(self.request.queries.iter().cloned());
        if self.request.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM);
            response.set_edns(edns);
        }
        let addresses = told.addresses().iter();
        response.add_answers(addresses.filter_map(|address| self.record(*address)));
        let bytes = response.to_vec().ok()?;
        let limit = self.request.max_payload().min(DATAGRAM);
        if transport == Transport::Datagram && bytes.len() > usize::from(limit) {
            return response.truncate().to_vec().ok();
        }
        Some(bytes)
    }

    /// An address as the kind of record that is asked for.
    fn record(&self, address: IpAddr) -> Option<Record> {
        let query = &self.request.queries[0];
        let data = match (query.query_type, address) {
            (RecordType::A, IpAddr::V4(v4)) => RData::A(A(v4)),
            (RecordType::AAAA, IpAddr::V6(v6)) => RData::AAAA(AAAA(v6)),
            _ => return None,
        };
        Some(Record::from_rdata(query.name.clone(), LIFETIME, data))
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_proto::op::Query;
    use hickory_proto::rr::Name;
    use proptest::prelude::*;

    use super::*;

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::new(7, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        message
    }

    fn question(message: &Message) -> Question {
        Question::parse(&message.to_vec().unwrap()).unwrap()
    }

    fn answered(question: &Question, answer: &Answer, transport: Transport) -> Message {
        let told = question.told(answer.clone());
        Message::from_vec(&question.message(&told, transport).unwrap()).unwrap()
    }

    #[test]
    fn an_address_is_told_to_those_who_ask_for_its_family() {
        let both = Answer::Addresses(vec![
            "10.0.0.1".parse().unwrap(),
            "fd00::1".parse().unwrap(),
        ]);
        for (kind, expected) in [
            (RecordType::A, vec!["10.0.0.1"]),
            (RecordType::AAAA, vec!["fd00::1"]),
            (RecordType::TXT, vec![]),
        ] {
            let question = question(&ask("DB.prod.internal.", kind));
            assert_eq!(question.name(), "db.prod.internal");
            let answer = answered(&question, &both, Transport::Datagram);
            assert_eq!(answer.metadata.id, 7);
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            let told = answer.answers.iter().map(|record| record.data.to_string());
            assert_eq!(told.collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_no_has_its_code() {
        let question = question(&ask("x.example.", RecordType::A));
        for (answer, code) in [
            (Answer::Refused, ResponseCode::Refused),
            (Answer::Nonexistent, ResponseCode::NXDomain),
            (Answer::Failed, ResponseCode::ServFail),
        ] {
            let message = answered(&question, &answer, Transport::Datagram);
            assert_eq!(message.metadata.response_code, code);
            assert!(message.answers.is_empty());
        }
    }

    #[test]
    fn what_does_not_fit_a_datagram_is_asked_for_again_by_a_stream() {
        let many = (0..60).map(|n| IpAddr::from([10, 0, 0, n]));
        let many = Answer::Addresses(many.collect());
        let plain = question(&ask("db.internal.", RecordType::A));
        let short = answered(&plain, &many, Transport::Datagram);
        assert!(short.metadata.truncation && short.answers.is_empty());
        let whole = answered(&plain, &many, Transport::Stream);
        assert_eq!(
            (whole.metadata.truncation, whole.answers.len()),
            (false, 60)
        );
        let mut extended = ask("db.internal.", RecordType::A);
        extended.set_edns(Edns::new().set_max_payload(4096).clone());
        let whole = answered(&question(&extended), &many, Transport::Datagram);
        assert_eq!(whole.answers.len(), 60);
        assert!(whole.edns.is_some());
    }

    #[test]
    fn only_one_question_of_the_internet_is_one() {
        let none = Message::new(7, MessageType::Query, OpCode::Query);
        let mut two = ask("a.example.", RecordType::A);
        two.add_query(two.queries[0].clone());
        let mut response = ask("a.example.", RecordType::A);
        response.metadata.message_type = MessageType::Response;
        let mut update = ask("a.example.", RecordType::A);
        update.metadata.op_code = OpCode::Update;
        let mut chaos = ask("a.example.", RecordType::A);
        chaos.queries[0].query_class = DNSClass::CH;
        for message in [none, two, response, update, chaos] {
            assert!(Question::parse(&message.to_vec().unwrap()).is_none());
        }
    }

    #[test]
    fn a_name_that_only_looks_like_another_is_another() {
        let dotted = Name::from_labels([b"db.prod".as_slice(), b"internal"]).unwrap();
        let mut message = ask("x.", RecordType::A);
        message.queries[0].name = dotted;
        assert_ne!(question(&message).name(), "db.prod.internal");
    }

    proptest! {
        #[test]
        fn no_message_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(question) = Question::parse(&bytes) {
                let addresses = Answer::Addresses(vec![[10, 0, 0, 1].into()]);
                let told = question.told(addresses);
                question.message(&told, Transport::Datagram);
            }
        }
    }
}
