//! What an agent may do with its sockets beside connecting them.

use crate::stage::{Daemon, Stage, V4, V6};

/// Sends a datagram from a socket that isn't connected.
const DATAGRAM: &str = r#"
import socket, sys, errno
for family, address, port in (arg.split(' ') for arg in sys.argv[1:]):
    s = socket.socket(getattr(socket, family), socket.SOCK_DGRAM)
    try:
        s.sendto(b'x', (address, int(port)))
        print('sent')
    except OSError as e:
        print(errno.errorcode[e.errno])
"#;

#[test]
fn a_datagram_to_a_protected_endpoint_is_refused() {
    let stage = Stage::new();
    stage.ip(&["address", "add", "10.77.0.1/32", "dev", "lo"]);
    stage.ip(&["address", "add", "fd77::1/128", "dev", "lo"]);
    let _daemon = Daemon::start(&stage, &[V4, V6, "127.0.0.1:5432", "[::1]:5432"]);
    let datagrams = [
        "AF_INET 10.77.0.1 5432",
        "AF_INET6 fd77::1 5432",
        "AF_INET6 ::ffff:10.77.0.1 5432",
        "AF_INET 0.0.0.0 5432",
        "AF_INET6 :: 5432",
        "AF_INET 127.5.5.5 5432",
        "AF_INET 10.77.0.1 53",
        "AF_INET6 fd77::1 53",
    ];
    let output = stage.agent(DATAGRAM, &datagrams).output();
    assert_eq!(output, ["EPERM"; 6].join("\n") + "\nsent\nsent");
}

#[test]
fn source_routes_can_not_be_set() {
    let stage = Stage::new();
    let _daemon = Daemon::start(&stage, &[V4]);
    let script = r#"
import socket, struct, errno
loose = bytes([131, 7, 4, 10, 77, 0, 1, 1])
header = bytes([0, 2, 0, 1]) + bytes(20)
hop = struct.pack('=HBB', 0, 0, 0)
for family, kind, level, option, value in [
    (socket.AF_INET, socket.SOCK_STREAM, 0, 4, loose),
    (socket.AF_INET, socket.SOCK_DGRAM, 0, 4, loose),
    (socket.AF_INET6, socket.SOCK_STREAM, 0, 4, loose),
    (socket.AF_INET6, socket.SOCK_STREAM, 41, 57, header),
    (socket.AF_INET6, socket.SOCK_DGRAM, 41, 6, bytes(32)),
    (socket.AF_INET6, socket.SOCK_DGRAM, 41, 5, struct.pack('=i', 1)),
    (socket.AF_INET, socket.SOCK_STREAM, 6, 1, struct.pack('=i', 1)),
    (socket.AF_INET6, socket.SOCK_STREAM, 41, 26, struct.pack('=i', 1)),
    # More than the kernel shows to a program.
    (socket.AF_INET, socket.SOCK_STREAM, 1, 8, struct.pack('=i', 4096) + bytes(8192)),
]:
    s = socket.socket(family, kind)
    try:
        s.setsockopt(level, option, value)
        print('set')
    except OSError as e:
        print(errno.errorcode[e.errno])
assert s.getsockopt(0, 4, 40) == b''
"#;
    let expected = [["EPERM"; 6].as_slice(), &["set"; 3]].concat().join("\n");
    assert_eq!(stage.agent(script, &[]).output(), expected);
}

#[test]
fn the_listeners_port_stays_free_while_the_daemon_is_dead() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    let _stays = stage.agent("import time; time.sleep(60)", &[]);
    // Not learnt by a connection: what is left of one keeps the port taken for a minute.
    let listening = r#"
import time
def ports():
    lines = [line.split() for line in list(open('/proc/net/tcp'))[1:]]
    return [int(fields[1].split(':')[1], 16) for fields in lines if fields[3] == '0A']
while not ports():
    time.sleep(0.01)
print(*ports())
"#;
    let port: u16 = stage.outsider(listening, &[]).output().parse().unwrap();
    let automatic = "print(open('/proc/sys/net/ipv4/ip_local_port_range').read())";
    let range = stage.outsider(automatic, &[]).output();
    let range: Vec<u16> = range
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    assert!(
        port < range[0] || port > range[1],
        "{port} is one that listen() can get"
    );
    daemon.die();
    assert_eq!(
        stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp"),
        "ECONNREFUSED"
    );
    let script = r#"
import socket, sys, errno
port = int(sys.argv[1])
for family, kind, address, port in [
    (socket.AF_INET, socket.SOCK_STREAM, '127.0.0.1', port),
    (socket.AF_INET, socket.SOCK_STREAM, '0.0.0.0', port),
    (socket.AF_INET6, socket.SOCK_STREAM, '::1', port),
    (socket.AF_INET6, socket.SOCK_STREAM, '::', port),
    (socket.AF_INET6, socket.SOCK_STREAM, '::ffff:127.0.0.1', port),
    (socket.AF_INET, socket.SOCK_DGRAM, '127.0.0.1', port),
    (socket.AF_INET, socket.SOCK_STREAM, '127.0.0.1', port - 1),
]:
    s = socket.socket(family, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        s.bind((address, port))
        print('bound')
    except OSError as e:
        print(errno.errorcode[e.errno])
# The port that the kernel chooses, if the namespace leaves it no other.
open('/proc/sys/net/ipv4/ip_local_port_range', 'w').write('%d %d' % (port + 1, port + 1))
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    s.bind(('127.0.0.1', 0))
    print('bound', s.getsockname()[1])
except OSError as e:
    print(errno.errorcode[e.errno])
"#;
    let output = stage.agent(script, &[&port.to_string()]).output();
    assert_eq!(output, ["EPERM"; 6].join("\n") + "\nbound\nEPERM");
}
