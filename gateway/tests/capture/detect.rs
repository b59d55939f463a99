//! Databases on endpoints that nobody has listed: what gives one away is dropped, the connection is
//! ended at once, and what isn't one passes.
#![expect(
    clippy::unwrap_used,
    reason = "a part of tests, which end at what they don't expect"
)]

use std::fs;
use std::time::Duration;

use weir::capture::Protocol;

use crate::TRY;
use crate::perimeter::Bridged;
use crate::stage::{Daemon, Server, Stage, V4};

/// How soon a program has its error.
const SOON: Duration = Duration::from_secs(1);

/// Says a greeting to whoever connects, answers everything with itself, and tells what it was sent by
/// each connection once that is over.
const ECHO: &str = r#"
import socket, sys, threading
greeting = bytes.fromhex(sys.argv[3]) if len(sys.argv) > 3 else b''
s = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET,
                         dualstack_ipv6=sys.argv[1] == '::')
print('ready', s.getsockname()[1], flush=True)
def serve(c):
    seen = b''
    try:
        c.sendall(greeting)
        while data := c.recv(65536):
            seen += data
            c.sendall(data)
    except OSError:
        pass
    print('seen', seen.hex(), flush=True)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"#;

/// Sends pieces one by one, then reads until as much came back: prints `all` or the error's name, how
/// many bytes came, and how many milliseconds that took since the last piece.
const SAY: &str = r#"
import socket, sys, time, errno
family, address, port, protocol, expected = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
s = socket.socket(getattr(socket, family), socket.SOCK_STREAM, protocol)
s.connect((address, port))
s.settimeout(5)
if protocol in (0, 6):
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
received, began = 0, time.monotonic()
try:
    for piece in sys.argv[6:]:
        s.sendall(bytes.fromhex(piece))
        began = time.monotonic()
        if len(sys.argv) > 7: time.sleep(0.02)
    while received < expected:
        data = s.recv(65536)
        if not data: raise OSError(errno.EPIPE, 'closed')
        received += len(data)
    outcome = 'all'
except TimeoutError:
    outcome = 'ETIMEDOUT'
except OSError as e:
    outcome = errno.errorcode[e.errno]
print(outcome, received, int((time.monotonic() - began) * 1000))
"#;

/// What came of it.
#[derive(Debug)]
struct Said {
    outcome: String,
    received: usize,
    took: Duration,
}

impl Said {
    fn of(output: &str) -> Self {
        let mut parts = output.split(' ');
        let mut next = || parts.next().unwrap_or_else(|| panic!("it said {output:?}"));
        Self {
            outcome: next().to_owned(),
            received: next().parse().unwrap(),
            took: Duration::from_millis(next().parse().unwrap()),
        }
    }

    fn is_ended_soon(&self) -> bool {
        ["ECONNABORTED", "EPIPE"].contains(&&*self.outcome)
            && self.received == 0
            && self.took < SOON
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An agent on the host says this, piece by piece, and expects as much back.
fn say(stage: &Stage, server: &Server, pieces: &[&[u8]]) -> Said {
    let pieces: Vec<String> = pieces.iter().map(|piece| hex(piece)).collect();
    let expected = pieces.concat().len() / 2;
    let expected = expected.max(1).to_string();
    let mut arguments = vec!["AF_INET", "127.0.0.1", &server.port, "0", &expected];
    arguments.extend(pieces.iter().map(String::as_str));
    Said::of(&stage.agent_on_host(SAY, &arguments).output())
}

/// What the server was sent by the connection that has ended.
fn seen(server: &mut Server) -> String {
    let line = server.line();
    line.strip_prefix("seen").unwrap().trim().to_owned()
}

fn startup() -> Vec<u8> {
    let parameters = b"user\0agent\0database\0app\0\0";
    let length = parameters.len() as u32 + 8;
    [&length.to_be_bytes()[..], &[0, 3, 0, 0], parameters].concat()
}

/// The first flight of a TLS client that offers these protocols to a server of this name.
fn client_hello(stage: &Stage, name: &str, protocols: &str) -> Vec<u8> {
    let script = r#"
import ssl, sys
context = ssl.create_default_context()
if sys.argv[2]: context.set_alpn_protocols(sys.argv[2].split(','))
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, outgoing, server_hostname=sys.argv[1])
try: tls.do_handshake()
except ssl.SSLWantReadError: pass
print(outgoing.read().hex())
"#;
    let text = stage.outsider_on_host(script, &[name, protocols]).output();
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn what_a_database_is_told_first_never_arrives_and_its_client_has_an_error_soon() {
    let stage = Stage::new();
    let mut server = stage.server_on_host(ECHO, "127.0.0.1", "0");
    let daemon = Daemon::start(&stage, &[V4]);
    let hello = client_hello(&stage, "db.example", "postgresql");
    let both = client_hello(&stage, "db.example", "h2,postgresql");
    let cancel = [&[0, 0, 0, 16, 4, 0xd2, 0x16, 0x2e][..], &[7; 8]].concat();
    let cases: [(Protocol, &[u8]); 9] = [
        (Protocol::Postgres, &startup()),
        (Protocol::Postgres, &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f]),
        (Protocol::Postgres, &[0, 0, 0, 8, 4, 0xd2, 0x16, 0x30]),
        (Protocol::Postgres, &cancel),
        (Protocol::Postgres, &hello),
        (Protocol::Postgres, &both),
        (
            Protocol::Tds,
            b"\x12\x01\x00\x2f\x00\x00\x01\x00\x00\x00\x1a\x00\x06\x01\x00\x20",
        ),
        (
            Protocol::Mongodb,
            b"\x3a\x01\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00\xdd\x07\x00\x00\x00\x00\x00\x00",
        ),
        (Protocol::Redis, b"*1\r\n$4\r\nPING\r\n"),
    ];
    let mut slowest = Duration::ZERO;
    for (protocol, bytes) in cases {
        let said = say(&stage, &server, &[bytes]);
        assert!(said.is_ended_soon(), "{protocol:?} {bytes:?}: {said:?}");
        slowest = slowest.max(said.took);
        assert_eq!(seen(&mut server), "", "{protocol:?}");
        let detection = daemon.detected();
        assert_eq!(detection.protocol, protocol);
        assert_eq!(
            detection.destination.to_string(),
            format!("127.0.0.1:{}", server.port)
        );
        assert_eq!(detection.cgroup_path.as_deref(), Some(&*stage.slice));
        assert_eq!(detection.comm, "python3");
        assert!(detection.pid > 1 && !detection.learned, "{detection:?}");
    }
    println!("the slowest error came after {slowest:?}");
    assert_eq!(daemon.other_detections(), []);
}

#[test]
fn a_first_packet_in_pieces_is_known_all_the_same() {
    let stage = Stage::new();
    let mut server = stage.server_on_host(ECHO, "127.0.0.1", "0");
    let daemon = Daemon::start(&stage, &[V4]);
    let startup = startup();
    let hello = client_hello(&stage, "db.example", "h2,postgresql");
    let name = hello.windows(10).position(|part| part == b"postgresql");
    let name = name.unwrap();
    let bytes: Vec<&[u8]> = startup.chunks(1).take(12).collect();
    let cases: [(&[&[u8]], usize); 5] = [
        (&[&startup[..3], &startup[3..8], &startup[8..]], 8),
        (&[&startup[..8], &startup[8..]], 8),
        (&bytes, 8),
        (&[b"*", b"1\r", b"\n$4\r\nPING\r\n"], 3),
        (
            &[&hello[..7], &hello[7..name + 4], &hello[name + 4..]],
            name + 4,
        ),
    ];
    for (pieces, passed) in cases {
        let said = say(&stage, &server, pieces);
        assert_ne!(said.outcome, "all", "{pieces:?}");
        assert!(said.took < SOON, "{pieces:?}: {said:?}");
        assert_eq!(
            seen(&mut server),
            hex(&pieces.concat()[..passed]),
            "only what tells nothing may arrive"
        );
        daemon.detected();
    }
    assert_eq!(daemon.other_detections(), []);
}

#[test]
fn what_is_no_database_passes() {
    let stage = Stage::new();
    let mut server = stage.server_on_host(ECHO, "127.0.0.1", "0");
    let daemon = Daemon::start(&stage, &[V4]);
    let random: Vec<u8> = (0..60_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let web = client_hello(&stage, "example.org", "h2,http/1.1");
    let bare = client_hello(&stage, "example.org", "");
    let named = client_hello(&stage, "postgresql", "http/1.1");
    let cases: [&[&[u8]]; 12] = [
        &[b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"],
        &[b"G", b"ET / HTTP/1.1\r\nHost: example.org\r\n\r\n"],
        &[b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n"],
        &[&web],
        &[&web[..9], &web[9..100], &web[100..]],
        &[&bare],
        &[&named],
        &[&random],
        &[b"x"],
        &[&[0; 64]],
        // A Metadata request of Kafka's looks like a StartupMessage for eight bytes.
        &[b"\0\0\0\x1f\0\x03\0\x02\0\0\0\x01\0\x07console\0\0\0\0\0\0\0\0"],
        // What would be one later on isn't one.
        &[
            b"0123456789abcdef",
            b"*1\r\n$4\r\nPING\r\n",
            b"\0\0\0\x08\x04\xd2\x16\x2f",
        ],
    ];
    for pieces in cases {
        let said = say(&stage, &server, pieces);
        assert_eq!(said.outcome, "all", "{pieces:?}: {said:?}");
        assert_eq!(seen(&mut server), hex(&pieces.concat()));
    }
    assert_eq!(daemon.other_detections(), []);
}

#[test]
fn a_greeting_of_mysqls_never_arrives_and_that_of_others_does() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    let mariadb = b"\x6d\x00\x00\x00\x0a5.5.5-10.11.6-MariaDB-0+deb12u1\0\x2a\0\0\0saltsalt\0";
    let ssh = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u7\r\n";
    for (greeting, is_database) in [(&mariadb[..], true), (&ssh[..], false)] {
        let arguments = ["127.0.0.1", "0", &hex(greeting)];
        let server = Server::of(stage.outsider_on_host(ECHO, &arguments));
        let expected = greeting.len().to_string();
        let arguments = ["AF_INET", "127.0.0.1", &server.port, "0", &expected];
        let said = Said::of(&stage.agent_on_host(SAY, &arguments).output());
        if is_database {
            assert!(said.is_ended_soon(), "{said:?}");
            assert_eq!(daemon.detected().protocol, Protocol::Mysql);
        } else {
            assert_eq!(said.outcome, "all", "{said:?}");
        }
    }
    assert_eq!(daemon.other_detections(), []);
}

#[test]
fn each_kind_of_socket_is_ended() {
    let stage = Stage::new();
    let mut server = stage.server_on_host(ECHO, "::", "0");
    let daemon = Daemon::start(&stage, &[V4]);
    let startup = hex(&startup());
    for (family, address, protocol) in [
        ("AF_INET", "127.0.0.1", "6"),
        ("AF_INET6", "::1", "6"),
        ("AF_INET6", "::ffff:127.0.0.1", "6"),
        ("AF_INET", "127.0.0.1", "262"),
        ("AF_INET6", "::1", "262"),
    ] {
        let arguments = [family, address, &server.port, protocol, "1", &startup];
        let said = Said::of(&stage.agent_on_host(SAY, &arguments).output());
        assert_ne!(said.outcome, "all", "{arguments:?}");
        assert!(said.took < SOON, "{arguments:?}: {said:?}");
        assert_eq!(seen(&mut server), "", "{family} {protocol}");
        assert_eq!(daemon.detected().protocol, Protocol::Postgres);
    }
}

#[test]
fn a_connection_out_of_an_agents_own_network_is_ended_and_one_inside_is_its_own() {
    let bridged = Bridged::new(81);
    let stage = &bridged.stage;
    let daemon = Daemon::start(stage, &[V4]);
    let startup = hex(&startup());
    let expected = (startup.len() / 2).to_string();
    let mut outside = stage.server_on_host(ECHO, &bridged.host, "0");
    let arguments = [
        "AF_INET",
        &bridged.host,
        &outside.port,
        "0",
        &expected,
        &startup,
    ];
    let said = Said::of(&stage.agent(SAY, &arguments).output());
    assert!(said.is_ended_soon(), "{said:?}");
    assert_eq!(seen(&mut outside), "");
    assert_eq!(daemon.detected().destination.ip().to_string(), bridged.host);

    let inside = stage.server(ECHO, "127.0.0.1", "0");
    let arguments = [
        "AF_INET",
        "127.0.0.1",
        &inside.port,
        "0",
        &expected,
        &startup,
    ];
    let said = Said::of(&stage.agent(SAY, &arguments).output());
    assert_eq!(said.outcome, "all", "its own database: {said:?}");
    assert_eq!(daemon.other_detections(), []);
}

#[test]
fn an_endpoint_is_learned_for_the_cgroup_that_has_tried_it_and_means_the_protected_one() {
    let stage = Stage::new();
    let server = stage.server_on_host(ECHO, "127.0.0.1", "0");
    let daemon = Daemon::start(&stage, &[V4]);
    daemon.govern(V4);
    // The one that dials is made where the agent's children are, and so is the next.
    let said = say(&stage, &server, &[&startup()]);
    assert!(said.is_ended_soon(), "{said:?}");
    assert!(daemon.detected().learned);
    let arguments = ["AF_INET", "127.0.0.1", &server.port, "tcp"];
    assert_eq!(stage.agent_on_host(TRY, &arguments).output(), "weir");
    let origin = daemon.accepted().origin.unwrap();
    assert_eq!(origin.dst.0, V4.parse().unwrap(), "never the learned one");
    let udp = ["AF_INET", "127.0.0.1", &server.port, "udp"];
    assert_ne!(stage.agent_on_host(TRY, &udp).output(), "EPERM");
    // Another cgroup has its own experience to make.
    let web = hex(b"GET / HTTP/1.1\r\n\r\n");
    let expected = (web.len() / 2).to_string();
    let arguments = ["AF_INET", "127.0.0.1", &server.port, "0", &expected, &web];
    let other = stage.agent_on_host_in("other", SAY, &arguments).output();
    assert_eq!(Said::of(&other).outcome, "all");
    // What isn't PostgreSQL is no datastore's.
    let other = stage.server_on_host(ECHO, "127.0.0.1", "0");
    assert!(say(&stage, &other, &[b"*1\r\n$4\r\nPING\r\n"]).is_ended_soon());
    assert!(!daemon.detected().learned);
    assert_eq!(
        say(&stage, &other, &[b"GET / HTTP/1.1\r\n\r\n"]).outcome,
        "all"
    );
}

#[test]
fn a_socket_that_connects_again_begins_anew() {
    let stage = Stage::new();
    let mut server = stage.server_on_host(ECHO, "127.0.0.1", "0");
    let daemon = Daemon::start(&stage, &[V4]);
    let agent = stage.agent_on_host(
        r#"
import ctypes, errno, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket()
s.settimeout(5)
for payload in (b'GET / HTTP/1.1\r\n\r\n', bytes.fromhex(sys.argv[2]), b'GET / HTTP/1.1\r\n\r\n'):
    try:
        s.connect(('127.0.0.1', int(sys.argv[1])))
        s.sendall(payload)
        print(s.recv(100).decode()[:3])
    except OSError as e:
        print(errno.errorcode.get(e.errno, e))
    unspecified = struct.pack('=H14x', socket.AF_UNSPEC)
    libc.connect(s.fileno(), unspecified, len(unspecified))
"#,
        &[&server.port, &hex(&startup())],
    );
    assert_eq!(agent.output(), "GET\nECONNABORTED\nGET");
    let mut told = [seen(&mut server), seen(&mut server), seen(&mut server)];
    told.sort();
    let harmless = hex(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(told, [String::new(), harmless.clone(), harmless]);
    assert_eq!(daemon.detected().protocol, Protocol::Postgres);
    assert_eq!(daemon.other_detections(), []);
}

#[test]
fn a_connection_that_was_found_harmless_is_stopped_when_its_endpoint_becomes_protected() {
    let stage = Stage::new();
    let server = stage.server_on_host(ECHO, "127.0.0.1", "0");
    let mut daemon = Daemon::start(&stage, &[V4]);
    let (changed, back) = (stage.scratch("changed"), stage.scratch("back"));
    let mut agent = stage.agent_on_host(
        r#"
import os, socket, sys, time
s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
s.settimeout(1)
def say(text):
    try:
        s.sendall(text)
        print(s.recv(100).decode(), flush=True)
    except TimeoutError:
        print('nothing', flush=True)
def wait(flag):
    while not os.path.exists(flag): time.sleep(0.01)
say(b'settled and harmless')
say(b'and still so')
wait(sys.argv[2])
say(b'x')
wait(sys.argv[3])
s.settimeout(10)
print(s.recv(100).decode(), flush=True)
"#,
        &[
            &server.port,
            changed.to_str().unwrap(),
            back.to_str().unwrap(),
        ],
    );
    agent.wait_for("settled and harmless");
    agent.wait_for("and still so");
    let protected = format!("127.0.0.1:{}", server.port);
    daemon.set_endpoints(&[V4, &protected]);
    fs::write(changed, "").unwrap();
    agent.wait_for("nothing");
    daemon.set_endpoints(&[V4]);
    fs::write(back, "").unwrap();
    agent.wait_for("x");
}
