//! The kernel side against a real kernel: own cgroups, own network namespaces, python as the agent.
//! Needs root; nothing here leaves the machine.

mod detect;
mod egress;
mod flood;
mod load;
mod local;
mod lsm;
mod outlets;
mod perimeter;
mod pins;
mod setup;
mod stage;
mod unix;
mod wire;

use std::fs;
use std::time::{Duration, Instant};

use stage::{Daemon, ROLE, Stage, V4, V6};
use weir::capture::{Capture, Error, Hook, Miss, Settings};

/// Connects to `{address}` with family `{family}`, then says who it thinks it talks to.
const DIAL: &str = r#"
import socket, sys
s = socket.socket(getattr(socket, sys.argv[1]))
s.connect((sys.argv[2], int(sys.argv[3])))
print(s.recv(100).decode().strip(), *s.getpeername()[:2])
"#;

/// As DIAL, but prints the errno's name if it fails.
const TRY: &str = r#"
import socket, sys, errno
kind = {'tcp': (socket.SOCK_STREAM, 0), 'udp': (socket.SOCK_DGRAM, 0), 'mptcp': (socket.SOCK_STREAM, 262)}
try:
    s = socket.socket(getattr(socket, sys.argv[1]), *kind[sys.argv[4]])
    s.settimeout(2)
    if len(sys.argv) > 5:
        s.bind((sys.argv[5], 0))
    # With the scope that a link-local address has.
    s.connect(socket.getaddrinfo(sys.argv[2], int(sys.argv[3]), s.family)[0][4])
    print(s.recv(100).decode().strip() or 'closed')
except TimeoutError:
    print('ETIMEDOUT')
except OSError as e:
    print(errno.errorcode[e.errno])
"#;

/// Sends one line to each client, outside of the slice: a database that must not be reached.
const SERVER: &str = r#"
import socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=100)
print('ready', s.getsockname()[1], flush=True)
while True:
    c, _ = s.accept()
    c.sendall(b'real')
    c.close()
"#;

#[test]
fn each_family_arrives_with_its_origin_from_a_namespace_with_only_lo() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4, V6]);
    let cases = [
        ("AF_INET", "10.77.0.1", V4),
        ("AF_INET6", "fd77::1", V6),
        ("AF_INET6", "::ffff:10.77.0.1", V4),
    ];
    for (family, name, destination) in cases {
        let client = stage.agent(DIAL, &[family, name, "5432"]);
        let pid = client.pid;
        assert_eq!(client.output(), format!("weir {name} 5432"));
        let accepted = daemon.accepted();
        let origin = accepted.origin.unwrap();
        assert_eq!(origin.dst.0, destination.parse().unwrap());
        assert_eq!(origin.cgroup_path, stage.slice);
        assert_eq!(origin.comm, "python3");
        assert_eq!(origin.uid, 0);
        assert_eq!(origin.pid, pid);
        assert!(
            matches!(accepted.again, Err(Miss::Unknown(_))),
            "an origin was given out twice"
        );
    }
}

#[test]
fn an_agent_in_the_hosts_namespace_is_captured() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    let client = stage.agent_on_host(DIAL, &["AF_INET", "10.77.0.1", "5432"]);
    assert_eq!(client.output(), "weir 10.77.0.1 5432");
    assert_eq!(daemon.accepted().origin.unwrap().dst.0, V4.parse().unwrap());
}

#[test]
fn a_child_cgroup_is_covered_and_named() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    let client = stage.agent_in("coder/1", DIAL, &["AF_INET", "10.77.0.1", "5432"]);
    assert_eq!(client.output(), "weir 10.77.0.1 5432");
    let origin = daemon.accepted().origin.unwrap();
    assert_eq!(origin.cgroup_path, format!("{}/coder/1", stage.slice));
}

#[test]
fn other_names_of_loopback_reach_the_listener_too() {
    let stage = Stage::new();
    let _daemon = Daemon::start(&stage, &["127.0.0.1:5432", "[::1]:5432"]);
    for (family, name) in [
        ("AF_INET", "0.0.0.0"),
        ("AF_INET", "127.0.0.1"),
        ("AF_INET", "127.9.9.9"),
        ("AF_INET6", "::"),
        ("AF_INET6", "::1"),
        ("AF_INET6", "::ffff:0.0.0.0"),
        ("AF_INET6", "::ffff:127.0.0.1"),
    ] {
        assert_eq!(stage.attempt(family, name, "5432", "tcp"), "weir", "{name}");
    }
}

#[test]
fn a_wildcard_destination_from_a_bound_socket_is_denied() {
    let stage = Stage::new();
    stage.ip(&["address", "add", "10.77.0.9/32", "dev", "lo"]);
    let _server = stage.server(SERVER, "10.77.0.9", "5432");
    let _daemon = Daemon::start(&stage, &["10.77.0.9:5432"]);
    let client = stage.agent(TRY, &["AF_INET", "0.0.0.0", "5432", "tcp", "10.77.0.9"]);
    assert_eq!(client.output(), "EPERM");
}

#[test]
fn what_is_not_protected_passes() {
    let stage = Stage::new();
    let server = stage.server(SERVER, "127.0.0.1", "0");
    let mut daemon = Daemon::start(&stage, &[V4]);
    assert_eq!(
        stage.attempt("AF_INET", "127.0.0.1", &server.port, "tcp"),
        "real"
    );
    // The same address becomes protected, and free again.
    let address = format!("127.0.0.1:{}", server.port);
    daemon.set_endpoints(&[V4, &address]);
    assert_eq!(
        stage.attempt("AF_INET", "127.0.0.1", &server.port, "tcp"),
        "weir"
    );
    daemon.set_endpoints(&[V4]);
    assert_eq!(
        stage.attempt("AF_INET", "127.0.0.1", &server.port, "tcp"),
        "real"
    );
}

#[test]
fn the_listener_can_not_be_dialled_directly() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    assert_eq!(stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp"), "weir");
    let _stays = stage.agent("import time; time.sleep(60)", &[]);
    let port = daemon.accepted().listener.port().to_string();
    for (family, name) in [
        ("AF_INET", "127.0.0.1"),
        ("AF_INET", "0.0.0.0"),
        ("AF_INET6", "::1"),
        ("AF_INET6", "::ffff:127.0.0.1"),
    ] {
        assert_eq!(stage.attempt(family, name, &port, "tcp"), "EPERM", "{name}");
    }
    // From outside of the slice nothing stops the call, but there is no origin.
    assert_eq!(
        stage
            .outsider(TRY, &["AF_INET", "127.0.0.1", &port, "tcp"])
            .output(),
        "closed"
    );
    assert!(matches!(daemon.accepted().origin, Err(Miss::Unknown(_))));
}

#[test]
fn only_tcp_mptcp_and_udp_sockets_can_be_made() {
    let stage = Stage::new();
    // Otherwise the kernel itself refuses ping sockets.
    let range = "open('/proc/sys/net/ipv4/ping_group_range', 'w').write('0 100')";
    stage.outsider(range, &[]).output();
    let _daemon = Daemon::start(&stage, &[V4]);
    let script = r#"
import socket, errno
for kind, protocol in [(1, 6), (1, 0), (1, 262), (2, 17), (2, 0), (3, 6), (3, 255), (1, 132), (5, 132), (2, 136), (2, 1), (2, 58)]:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.socket(family, kind, protocol)
            print('ok', end=' ')
        except OSError as e:
            # A protocol that this kernel lacks fails before the program is asked.
            print({'EPROTONOSUPPORT': 'EPERM', 'ESOCKTNOSUPPORT': 'EPERM'}.get(errno.errorcode[e.errno], errno.errorcode[e.errno]), end=' ')
"#;
    let expected = [["ok"; 10].as_slice(), &["EPERM"; 14]].concat().join(" ");
    assert_eq!(stage.agent(script, &[]).output(), expected);
}

#[test]
fn what_a_program_denies_reaches_the_log() {
    let log = stage::log();
    let stage = Stage::new();
    let _daemon = Daemon::start(&stage, &[V4]);
    let raw = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 253)";
    stage.agent(raw, &[]).output();
    wait_until(|| log.contains("denied a socket of type 3 and protocol 253"));
}

#[test]
fn a_namespace_whose_loopback_comes_up_late_has_a_listener() {
    let stage = Stage::new();
    stage.ip(&["link", "set", "lo", "down"]);
    let _daemon = Daemon::start(&stage, &[V4, V6]);
    let client = stage.agent(
        r#"
import socket, subprocess
subprocess.run(['ip', 'link', 'set', 'lo', 'up'])
for family, address in ((socket.AF_INET, '10.77.0.1'), (socket.AF_INET6, 'fd77::1')):
    s = socket.socket(family)
    s.connect((address, 5432))
    print(s.recv(100).decode())
"#,
        &[],
    );
    assert_eq!(client.output(), "weir\nweir");
}

#[test]
fn a_socket_that_connects_again_is_what_it_connects_to_last() {
    let stage = Stage::new();
    let server = stage.server(SERVER, "127.0.0.1", "0");
    let daemon = Daemon::start(&stage, &[V4]);
    let client = stage.agent(
        r#"
import ctypes, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
s = socket.socket()
s.connect(('10.77.0.1', 5432))
print(s.recv(100).decode(), s.getpeername()[0])
unspecified = struct.pack('=H14x', socket.AF_UNSPEC)
assert libc.connect(s.fileno(), unspecified, len(unspecified)) == 0
s.connect(('127.0.0.1', int(sys.argv[1])))
print(s.recv(100).decode(), s.getpeername()[0])
"#,
        &[&server.port],
    );
    assert_eq!(client.output(), "weir 10.77.0.1\nreal 127.0.0.1");
    assert!(daemon.accepted().origin.is_ok());
}

#[test]
fn udp_and_mptcp_do_not_reach_a_protected_endpoint() {
    let stage = Stage::new();
    stage.ip(&["address", "add", "10.77.0.1/32", "dev", "lo"]);
    let _server = stage.server(SERVER, "10.77.0.1", "5432");
    let _daemon = Daemon::start(&stage, &[V4]);
    assert_eq!(
        stage.attempt("AF_INET", "10.77.0.1", "5432", "udp"),
        "EPERM"
    );
    assert_eq!(
        stage.attempt("AF_INET", "10.77.0.1", "5432", "mptcp"),
        "EPERM"
    );
}

#[test]
fn a_namespace_goes_down_when_it_is_empty_and_comes_up_again() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    assert_eq!(stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp"), "weir");
    let first = daemon.accepted();
    daemon.wait_for_down(first.namespace);
    assert_eq!(stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp"), "weir");
    let second = daemon.accepted();
    assert_eq!(second.namespace, first.namespace);
    assert_ne!(second.listener, first.listener);
}

#[test]
fn a_second_daemon_on_the_same_pins_is_refused() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    assert!(matches!(
        Capture::start(&stage.settings()),
        Err(Error::Locked(_))
    ));
    drop(daemon);
    Capture::start(&stage.settings()).unwrap();
}

#[test]
fn pins_of_another_version_are_refused() {
    let stage = Stage::new();
    drop(Capture::start(&stage.settings()).unwrap());
    fs::create_dir(stage.pins.join("layout-0")).unwrap();
    assert!(matches!(
        Capture::start(&stage.settings()),
        Err(Error::ForeignPins { .. })
    ));
    fs::remove_dir(stage.pins.join("layout-0")).unwrap();
    fs::remove_file(stage.pins.join("layout-4/ENDPOINTS")).unwrap();
    assert!(matches!(
        Capture::start(&stage.settings()),
        Err(Error::ForeignPins { .. })
    ));
}

#[test]
fn a_program_of_another_tool_that_allows_no_second_stops_the_start() {
    let stage = Stage::new();
    let attach = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attribute):
    result = libc.syscall(321, command, attribute, len(attribute))
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result
code = ctypes.create_string_buffer(struct.pack('=QQ', 0x1000000b7, 0x95))
license = ctypes.create_string_buffer(b'GPL')
# A cgroup_skb program that lets all pass, attached as was done before there were links.
load = struct.pack('=IIQQ', 8, 2, ctypes.addressof(code), ctypes.addressof(license))
program = bpf(5, load + bytes(44) + struct.pack('=I', 1))
bpf(8, struct.pack('=IIII', os.open(sys.argv[1], os.O_RDONLY), program, 1, 0))
"#;
    stage
        .outsider_on_host(attach, &[stage.slice_path().to_str().unwrap()])
        .output();
    let started = Capture::start(&stage.settings());
    assert!(
        matches!(
            started,
            Err(Error::Occupied {
                program: "egress",
                ..
            })
        ),
        "{:?}",
        started.err()
    );
}

#[test]
fn a_slice_that_was_removed_and_made_again_is_covered_anew() {
    let stage = Stage::new();
    drop(Capture::start(&stage.settings()).unwrap());
    fs::remove_dir(stage.slice_path()).unwrap();
    let daemon = Daemon::start(&stage, &[V4]);
    assert_eq!(stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp"), "weir");
    assert!(daemon.accepted().origin.is_ok());
}

#[test]
fn a_killed_daemon_leaves_the_way_shut_and_its_successor_takes_over_without_a_gap() {
    let stage = Stage::new();
    stage.ip(&["address", "add", "10.77.0.1/32", "dev", "lo"]);
    let _server = stage.server(SERVER, "10.77.0.1", "5432");
    let mut first = stage.daemon_process();
    let dialler = stage.agent(
        r#"
import socket, collections, errno, os, sys
seen = collections.Counter()
while not os.path.exists(sys.argv[1]):
    s = socket.socket()
    s.settimeout(5)
    try:
        s.connect(('10.77.0.1', 5432))
        seen[s.recv(100).decode() or 'closed'] += 1
    except TimeoutError:
        seen['timeout'] += 1
    except OSError as e:
        seen[errno.errorcode[e.errno]] += 1
    s.close()
print(*sorted(seen))
print(seen, file=sys.stderr)
"#,
        &[stage.flag().to_str().unwrap()],
    );
    std::thread::sleep(Duration::from_millis(500));
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(
        stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp"),
        "ECONNREFUSED"
    );
    for _ in 0..5 {
        // Takes over, and dies in its turn.
        let mut next = stage.daemon_process();
        std::thread::sleep(Duration::from_millis(150));
        next.kill().unwrap();
        next.wait().unwrap();
    }
    let last = Daemon::resume(&stage);
    wait_until(|| stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp") == "weir");
    fs::write(stage.flag(), "").unwrap();
    let seen = dialler.output();
    drop(last);
    assert!(
        !seen.contains("real"),
        "an agent reached the database past Weir: {seen}"
    );
    for outcome in seen.split_whitespace() {
        let shut = ["ECONNREFUSED", "ECONNRESET", "EPERM", "closed", "weir"];
        assert!(
            shut.contains(&outcome),
            "{outcome} is no way to fail closed"
        );
    }
    assert!(
        seen.contains("weir") && seen.contains("ECONNREFUSED"),
        "{seen}"
    );
}

#[test]
fn every_probe_finds_what_it_looks_for_here() {
    let stage = Stage::new();
    let checks = Capture::probe(&stage.settings());
    let gaps = stage::expected_gaps()
        .into_iter()
        .map(|hook| format!("hook {}", hook.name()));
    let gaps: Vec<String> = gaps.collect();
    for check in &checks {
        assert_eq!(
            check.outcome.is_err(),
            gaps.contains(&check.name.to_owned()),
            "{}: {:?}",
            check.name,
            check.outcome
        );
    }
    assert_eq!(checks.len(), 9);
}

#[test]
fn a_gap_is_reported_and_one_that_is_required_closed_stops_the_start() {
    let stage = Stage::new();
    let capture = Capture::start(&stage.settings()).unwrap();
    let gaps: Vec<Hook> = capture.gaps().iter().map(|gap| gap.hook).collect();
    assert_eq!(gaps, stage::expected_gaps());
    drop(capture);

    let other = Stage::new();
    let settings = Settings {
        require: vec![Hook::ConnectUnix, Hook::Perimeter, Hook::Lsm],
        ..other.settings()
    };
    let check = |settings: &Settings| {
        let mut checks = Capture::probe(settings);
        checks.pop().unwrap().outcome
    };
    match Capture::start(&settings) {
        Ok(_) => assert!(gaps.is_empty() && check(&settings).is_ok()),
        Err(error) => {
            assert!(
                matches!(&error, Error::Required(gap) if gap.hook == gaps[0]),
                "{error}"
            );
            let name = gaps[0].name();
            let text = format!("the hook {name} is required, and this host lacks it: ");
            assert!(error.to_string().starts_with(&text), "{error}");
            let lacks_lsm = gaps.contains(&Hook::Lsm);
            assert_eq!(check(&settings).is_err_and(|p| p.fatal), lacks_lsm);
            assert_eq!(check(&stage.settings()).is_err_and(|p| !p.fatal), lacks_lsm);
            // Nothing was begun.
            let pins = settings.pin_dir.join("layout-4");
            let links = fs::read_dir(pins).unwrap().flatten();
            let links = links.filter(|pin| pin.file_name().to_string_lossy().starts_with("link_"));
            assert_eq!(links.count(), 0);
        }
    }
}

#[test]
fn a_new_namespace_has_its_listener_within_20_ms_of_its_first_process() {
    let stage = Stage::new();
    let _daemon = Daemon::start(&stage, &[V4]);
    let mut waits: Vec<Duration> = (0..15).map(|_| stage.wait_of_a_newcomer()).collect();
    waits.sort();
    println!("until a first connect: {waits:?}");
    // The slower ones tell of this machine's other work. Without an event, the scan would take 50 ms
    // on average.
    assert!(
        waits[waits.len() / 4] < Duration::from_millis(20),
        "{waits:?}"
    );
}

/// Not a test by itself: a first process of a new namespace, see above.
#[test]
fn role_of_a_newcomer() {
    if std::env::var_os(stage::NEWCOMER).is_some() {
        stage::dial_until_served();
    }
}

/// Not a test by itself: the process that the tests above start in order to kill it.
#[test]
fn role_of_a_daemon() {
    if std::env::var_os(ROLE).is_some() {
        stage::serve_until_killed();
    }
}

fn wait_until(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "waited for 10 seconds");
    }
}
