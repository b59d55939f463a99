//! What is on the wire decides: packets of sockets that no other hook sees, and of those whose
//! destination is rewritten on the way.

use std::fs;

use crate::stage::{Daemon, Stage, V4, V6};
use crate::{SERVER, TRY};
use weir::capture::Miss;

/// Makes its sockets, waits for the flag, and then says of each packet whether it left: those of an
/// agent that was there before Weir.
const OLD_SOCKETS: &str = r#"
import socket, struct, sys, os, time, errno
flag = sys.argv[1]
raw4 = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
raw6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(('10.77.0.1', 5432))
tcp = socket.create_connection(('10.77.0.1', 5432))
tcp.recv(4)
print('made', flush=True)
while not os.path.exists(flag):
    time.sleep(0.01)

def four(protocol, payload, address='10.77.0.1', fragment=0, options=b''):
    words = 5 + len(options) // 4
    header = struct.pack('!BBHHHBBH4s4s', 0x40 | words, 0, 0, 7, fragment, 64, protocol, 0,
                         socket.inet_aton('10.77.0.9'), socket.inet_aton(address))
    return raw4, header + options + payload, (address, 0)

def six(following, payload, address='fd77::1'):
    header = struct.pack('!IHBB16s16s', 6 << 28, len(payload), following, 64,
                         socket.inet_pton(socket.AF_INET6, 'fd77::9'), socket.inet_pton(socket.AF_INET6, address))
    return raw6, header + payload, (address, 0)

def ports(destination):
    return struct.pack('!HH', 40000, destination) + bytes(16)

lsrr = bytes([131, 7, 4]) + socket.inet_aton('10.77.0.1') + b'\1'
padding = bytes([1, 1, 1, 0])
def routing(left): return bytes([6, 2, 0, left]) + bytes(4) + socket.inet_pton(socket.AF_INET6, 'fd77::1')
def fragment(offset): return bytes([6, 0]) + struct.pack('!HI', offset << 3 | 1, 9)
def options(following): return bytes([following, 0, 1, 4, 0, 0, 0, 0])

packets = {
    'tcp': four(6, ports(5432)),
    'udp': four(17, ports(5432)),
    'dccp': four(33, ports(5432)),
    'sctp': four(132, ports(5432)),
    'udplite': four(136, ports(5432)),
    'ipip': four(4, four(6, ports(5432))[1]),
    'unknown': four(253, bytes(8)),
    'short': four(6, b'\0\1\2'),
    'later-fragment': four(17, bytes(8), fragment=1),
    'first-fragment': four(17, ports(5432), fragment=0x2000),
    'padded': four(6, ports(5432), options=padding),
    'loose-route': four(6, ports(5432), address='10.77.0.9', options=lsrr),
    'options-elsewhere': four(6, ports(80), address='10.77.0.9', options=padding),
    'tcp6': six(6, ports(5432)),
    'udp6': six(17, ports(5432)),
    'options6': six(0, options(6) + ports(5432)),
    'twice-options6': six(0, options(60) + options(6) + ports(5432)),
    'authenticated6': six(51, bytes([6, 1, 0, 0]) + bytes(8) + ports(5432)),
    'first-fragment6': six(44, fragment(0) + ports(5432)),
    'later-fragment6': six(44, fragment(1) + bytes(8)),
    'short6': six(60, options(6) + b'\0'),
    'unknown6': six(253, bytes(8)),
    'too-many-headers6': six(60, options(60) * 8 + ports(5432)),
    'route6': six(43, routing(1) + ports(5432), address='fd77::9'),
    'connected-udp': (udp, b'x', None),
    'connected-tcp': (tcp, b'x', None),
    'other-tcp': four(6, ports(80)),
    'other-host': four(6, ports(5432), address='10.77.0.9'),
    'other-host-fragment': four(17, bytes(8), fragment=1, address='10.77.0.9'),
    'joining': four(2, bytes(8), address='224.0.0.22', options=bytes([148, 4, 0, 0])),
    'ping': four(1, bytes(8)),
    'other-tcp6': six(6, ports(80)),
    'other-options6': six(0, options(6) + ports(80)),
    'routed6': six(43, routing(0) + ports(80)),
    'ping6': six(58, bytes(8)),
    'nothing6': six(59, b''),
}
for name, (sock, packet, address) in packets.items():
    try:
        sock.sendto(packet, address) if address else sock.send(packet)
        print('left', name)
    except OSError as e:
        print(errno.errorcode[e.errno], name)
tcp.settimeout(1)
try:
    print('answer', tcp.recv(10))
except OSError as e:
    print('answer', 'none')
"#;

/// Has all that is sent in this namespace go to another address and port.
const REWRITE: &str = r#"
import socket, struct, sys
def attribute(kind, value): return (struct.pack('=HH', len(value) + 4, kind) + value).ljust((len(value) + 7) // 4 * 4, b'\0')
def nested(kind, *values): return attribute(kind | 0x8000, b''.join(values))
def number(kind, value): return attribute(kind, struct.pack('!i', value))
def message(kind, flags, body, family=2, resource=0):
    payload = struct.pack('!BBH', family, 0, resource) + body
    return struct.pack('=IHHII', len(payload) + 16, kind, flags, 0, 0) + payload
def table(kind, body): return message(10 << 8 | kind, 0x405, body)
def expression(name, *values): return nested(1, attribute(1, name), nested(2, *values))
def load(register, value): return expression(b'immediate\0', number(1, register), nested(2, attribute(1, value)))
address, port = socket.inet_aton(sys.argv[1]), struct.pack('!H', int(sys.argv[2]))
rule = nested(4, load(1, address), load(2, port),
              expression(b'nat\0', number(1, 1), number(2, 2), number(3, 1), number(5, 2)))
batch = [
    message(0x10, 1, b'', 0, 10),
    table(0, attribute(1, b'w\0')),
    table(3, attribute(1, b'w\0') + attribute(3, b'o\0') + nested(4, number(1, 3), number(2, -100)) + attribute(7, b'nat\0')),
    message(10 << 8 | 6, 0xc05, attribute(1, b'w\0') + attribute(2, b'o\0') + rule),
    message(0x11, 1, b'', 0, 10),
]
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.bind((0, 0))
s.send(b''.join(batch))
for _ in range(3):
    code = struct.unpack('=i', s.recv(4096)[16:20])[0]
    assert code == 0, code
"#;

#[test]
fn no_socket_that_is_older_than_the_programs_reaches_a_protected_endpoint() {
    let stage = Stage::new();
    for address in ["10.77.0.1/32", "10.77.0.9/32", "fd77::1/128", "fd77::9/128"] {
        stage.ip(&["address", "add", address, "dev", "lo"]);
    }
    stage.ip(&["route", "add", "224.0.0.0/4", "dev", "lo"]);
    let _server = stage.server(ECHO, "10.77.0.1", "5432");
    let mut agent = stage.agent(OLD_SOCKETS, &[stage.flag().to_str().unwrap()]);
    agent.wait_for("made");
    let _daemon = Daemon::start(&stage, &[V4, V6]);
    fs::write(stage.flag(), "").unwrap();
    let output = agent.output();
    let (mut left, mut denied) = (Vec::new(), Vec::new());
    for (outcome, name) in output.lines().filter_map(|line| line.split_once(' ')) {
        match outcome {
            "left" => left.push(name),
            "EPERM" => denied.push(name),
            "answer" => assert_eq!(name, "none"),
            other => panic!("{name}: {other}"),
        }
    }
    assert_eq!(
        left.join(" "),
        "connected-tcp other-tcp other-host other-host-fragment joining ping other-tcp6 \
         other-options6 routed6 ping6 nothing6"
    );
    assert_eq!(denied.len(), 25, "{denied:?}");
}

/// Answers what it is sent.
const ECHO: &str = r#"
import socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2])))
print('ready', s.getsockname()[1], flush=True)
c, _ = s.accept()
c.sendall(b'real')
while True:
    c.sendall(c.recv(100))
"#;

#[test]
fn a_destination_that_the_agents_namespace_rewrites_is_no_way_in() {
    let stage = Stage::new();
    stage.ip(&["address", "add", "10.77.0.1/32", "dev", "lo"]);
    let _server = stage.server(SERVER, "10.77.0.1", "5432");
    let _daemon = Daemon::start(&stage, &[V4]);
    stage.outsider(REWRITE, &["10.77.0.1", "5432"]).output();
    let elsewhere = ["AF_INET", "127.0.0.1", "80", "tcp"];
    assert_eq!(
        stage.outsider(TRY, &elsewhere).output(),
        "real",
        "the rewriting works"
    );
    assert_eq!(stage.agent(TRY, &elsewhere).output(), "ETIMEDOUT");
    // Weir's own redirect, rewritten back.
    assert_eq!(
        stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp"),
        "ETIMEDOUT"
    );
}

#[test]
fn a_destination_rewritten_to_the_listener_has_no_origin() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    let _stays = stage.agent("import time; time.sleep(60)", &[]);
    assert_eq!(stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp"), "weir");
    let port = daemon.accepted().listener.port().to_string();
    stage.outsider(REWRITE, &["127.0.0.1", &port]).output();
    assert_eq!(stage.attempt("AF_INET", "127.0.0.1", "80", "tcp"), "closed");
    assert!(matches!(daemon.accepted().origin, Err(Miss::Unknown(_))));
    // What Weir redirects itself still arrives.
    assert_eq!(stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp"), "weir");
}
