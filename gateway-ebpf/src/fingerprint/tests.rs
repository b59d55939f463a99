extern crate std;

use std::vec::Vec;

use super::*;

/// What is known at each length of a flow's beginning, and in the end.
fn judged(bytes: &[u8], judge: fn(&Prefix, u32) -> Opening) -> Opening {
    let mut last = Opening::Undecided;
    for known in 1..=bytes.len().min(PREFIX) {
        let mut prefix = Prefix::default();
        prefix[..known].copy_from_slice(&bytes[..known]);
        let now = judge(&prefix, known as u32);
        assert!(
            last == Opening::Undecided || matches!(last, Opening::Database(_)),
            "{last:?}, and then more of {bytes:?}"
        );
        if last == Opening::Undecided {
            last = now;
        }
    }
    last
}

fn of_client(bytes: &[u8]) -> Opening {
    judged(bytes, client)
}

fn of_server(bytes: &[u8]) -> Opening {
    judged(bytes, server)
}

fn startup(length: u32, code: u32, rest: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
}

fn finds_name(bytes: &[u8]) -> bool {
    let mut alpn = Alpn::default();
    bytes.iter().for_each(|byte| alpn.take(*byte));
    alpn.is_found()
}

#[test]
fn each_first_packet_of_postgresql_is_known_by_its_first_bytes() {
    let postgres = Opening::Database(Protocol::Postgres);
    for minor in [0, 2, 9999] {
        let message = startup(41, 3 << 16 | minor, b"user\0agent\0");
        assert_eq!(of_client(&message), postgres);
        assert_eq!(of_client(&message[..9]), postgres);
        assert_eq!(of_client(&message[..8]), Opening::Undecided);
    }
    assert_eq!(
        of_client(&startup(60, 3 << 16, b"_pq_.x\x001\0")),
        postgres,
        "a protocol extension first"
    );
    assert_eq!(of_client(&startup(8, 80_877_103, b"")), postgres, "SSL");
    assert_eq!(of_client(&startup(8, 80_877_104, b"")), postgres, "GSSENC");
    let key = [7; 260];
    assert_eq!(
        of_client(&startup(16, 80_877_102, &key[..8])),
        postgres,
        "cancel"
    );
    assert_eq!(
        of_client(&startup(268, 80_877_102, &key)),
        postgres,
        "cancel of 3.2"
    );
    assert_eq!(of_client(&startup(296, 2 << 16, b"app")), postgres, "2.0");
}

#[test]
fn each_other_client_is_known() {
    for (bytes, protocol) in [
        (&b"*1\r\n$4\r\nPING\r\n"[..], Protocol::Redis),
        (b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n", Protocol::Redis),
        (b"*1024\r\n$", Protocol::Redis),
        (
            b"\x12\x01\x00\x2f\x00\x00\x01\x00\x00\x00\x1a\x00\x06\x01\x00\x20\x00",
            Protocol::Tds,
        ),
        (
            b"\x3a\x01\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00\x00",
            Protocol::Mongodb,
        ),
        (
            b"\x3a\x01\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\xd4\x07\x00\x00\x00",
            Protocol::Mongodb,
        ),
    ] {
        assert_eq!(of_client(bytes), Opening::Database(protocol), "{bytes:?}");
    }
}

#[test]
fn the_greetings_of_mysql_and_mariadb_are_known() {
    for greeting in [
        &b"\x4a\x00\x00\x00\x0a8.0.36\0\x09\0\0\0salt"[..],
        b"\x6d\x00\x00\x00\x0a5.5.5-10.11.6-MariaDB-0+deb12u1\0",
        b"\x6d\x00\x00\x00\x0a10.11.6-MariaDB\0\0\0\0",
    ] {
        assert_eq!(of_server(greeting), Opening::Database(Protocol::Mysql));
    }
    for other in [
        &b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n"[..],
        b"220 mail.example.org ESMTP Postfix",
        b"HTTP/1.1 200 OK\r\nServer: x",
        b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03aaaaaaaa",
        b"\x4a\x00\x00\x01\x0a8.0.36\0\x09\0\0\0",
        b"\x4a\x00\x00\x00\x098.0.36\0\x09\0\0\0",
        b"\x4a\x00\x00\x00\x0aeight\0\x09\0\0\0\0",
        &[0; 16],
    ] {
        assert_eq!(of_server(other), Opening::Other, "{other:?}");
    }
}

#[test]
fn what_is_no_database_is_none() {
    let kafka_metadata = b"\0\0\0\x1f\0\x03\0\x02\0\0\0\x01\0\x07console";
    for bytes in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"EHLO example.org\r\n......",
        kafka_metadata,
        b"*** This is a banner ***",
        b"*5 is no array of strings",
        b"\x10\x1a\x00\x04MQTT\x04\x02\x00\x3c\x00\x0eabc",
        b"AMQP\x00\x00\x09\x01............",
        b"\x12\x01\x00\x34 what looks like TDS",
        // LDAP's bind, SMB's negotiate, a DNS question over TCP, git's.
        b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00..",
        b"\0\0\0\x9b\xffSMBr\0\0\0\0\x18\x53\xc8..",
        b"\0\x1d\xab\xcd\x01\0\0\x01\0\0\0\0\0\0\x07example",
        b"0033git-upload-pack /x\0host=y\0",
        &[0; 16],
        &[0xff; 16],
    ] {
        assert_eq!(of_client(bytes), Opening::Other, "{bytes:?}");
    }
}

#[test]
fn lengths_that_no_client_sends_are_none_of_postgresqls() {
    for message in [
        startup(9, 3 << 16, b"\0......."),
        startup(10_001, 3 << 16, b"user\0a\0\0"),
        startup(41, 3 << 16, b"\0\0\0\x01...."),
        startup(9, 80_877_103, b"........"),
        startup(12, 80_877_102, b"........"),
        startup(297, 2 << 16, b"........"),
        startup(41, 4 << 16, b"user\0a\0\0"),
    ] {
        assert_eq!(of_client(&message), Opening::Other, "{message:?}");
    }
}

#[test]
fn random_bytes_are_no_database() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..1_000_000 {
        let mut bytes = Prefix::default();
        for part in bytes.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            part.copy_from_slice(&state.to_le_bytes());
        }
        let found = client(&bytes, PREFIX as u32);
        assert!(matches!(found, Opening::Other | Opening::ClientHello));
        assert_eq!(server(&bytes, PREFIX as u32), Opening::Other);
    }
}

#[test]
fn a_client_hello_tells_by_the_protocols_that_it_offers() {
    let record = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaa";
    assert_eq!(of_client(record), Opening::ClientHello);
    assert!(finds_name(b"\x00\x10\x00\x0d\x00\x0b\x0apostgresql"));
    assert!(finds_name(b"\x00\x10\x00\x10\x00\x0e\x02h2\x0apostgresql"));
    assert!(finds_name(b"\x0apost\x0apostgresql"));
    assert!(!finds_name(b"\x00\x10\x00\x0e\x00\x0c\x02h2\x08http/1.1"));
    assert!(!finds_name(b"\x0bpostgresql2"));
}

#[test]
fn a_host_that_is_called_postgresql_is_none() {
    // server_name: length of the list, the kind of name, its length, itself.
    assert!(!finds_name(
        b"\x00\x00\x00\x0f\x00\x0d\x00\x00\x0apostgresql"
    ));
    let both = b"\x00\x0d\x00\x00\x0apostgresql\x00\x10\x00\x0d\x00\x0b\x0apostgresql";
    assert!(finds_name(both));
}
