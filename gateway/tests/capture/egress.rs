//! Egress policies: what a socket may send beside databases, by the cgroup that it was made in.
#![expect(
    clippy::unwrap_used,
    reason = "a part of tests, which end at what they don't expect"
)]

use std::time::Duration;

use tokio::runtime::Runtime;
use weir::capture::{Egress, EgressPolicy, Network, Reach, Stranger, Strangers};

use crate::SERVER;
use crate::stage::{Agent, Daemon, Server, Stage, V4};

/// Says of each `KIND ADDRESS PORT` what becomes of it.
const SEND: &str = r#"
import socket, sys, errno
def attempt(kind, address, port):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    at = (address, int(port))
    if kind in ('tcp', 'mptcp'):
        s = socket.socket(family, socket.SOCK_STREAM, 262 if kind == 'mptcp' else 0)
        s.settimeout(1)
        s.connect(at)
        return s.recv(100).decode() or 'closed'
    s = socket.socket(family, socket.SOCK_DGRAM)
    if kind == 'sendto':
        s.sendto(b'x', at)
    else:
        s.connect(at)
        s.send(b'x')
    return 'sent'
for arg in sys.argv[1:]:
    try:
        print(attempt(*arg.split(' ')))
    except TimeoutError:
        print('ETIMEDOUT')
    except OSError as e:
        print(errno.errorcode[e.errno])
"#;

/// A stage with a server at an address of each family that is nobody's database, and a daemon that
/// governs what reaches them.
struct Governed {
    stage: Stage,
    policies: Policies,
    daemon: Daemon,
    v4: Server,
    v6: Server,
}

/// The daemon's part in it.
pub(crate) struct Policies {
    pub(crate) egress: Egress,
    strangers: Strangers,
    runtime: Runtime,
}

impl Policies {
    pub(crate) fn of(daemon: &mut Daemon) -> Self {
        let (egress, strangers) = daemon.egress();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        Self {
            egress,
            strangers,
            runtime,
        }
    }

    /// Waits until this cgroup is reported.
    pub(crate) fn stranger(&mut self, path: &str) -> Stranger {
        let find = async {
            loop {
                let stranger = self.strangers.next().await.unwrap();
                if stranger.path == path {
                    return stranger;
                }
            }
        };
        let limited = async { tokio::time::timeout(Duration::from_secs(20), find).await };
        let found = self.runtime.block_on(limited);
        found.expect("the cgroup is reported")
    }

    fn assign(&mut self, path: &str, policy: EgressPolicy) {
        let cgroup = self.stranger(path).cgroup;
        self.egress.assign(cgroup, policy).unwrap();
    }

    pub(crate) fn list(&mut self, reach: &[Reach]) -> EgressPolicy {
        let policy = self.egress.list();
        self.egress.add(policy, reach).unwrap();
        policy
    }
}

impl Governed {
    fn new() -> Self {
        let stage = Stage::new();
        stage.ip(&["address", "add", "10.77.0.9/32", "dev", "lo"]);
        stage.ip(&["address", "add", "fd77::9/128", "dev", "lo", "nodad"]);
        let v4 = stage.server(SERVER, "0.0.0.0", "0");
        let v6 = stage.server(SIX, "::", "0");
        let mut daemon = Daemon::start_governing(&stage, &[V4]);
        Self {
            policies: Policies::of(&mut daemon),
            daemon,
            stage,
            v4,
            v6,
        }
    }

    /// Every way to both servers.
    fn ways(&self) -> Vec<String> {
        let (v4, v6) = (&self.v4.port, &self.v6.port);
        [
            format!("tcp 10.77.0.9 {v4}"),
            format!("mptcp 10.77.0.9 {v4}"),
            format!("udp 10.77.0.9 {v4}"),
            format!("sendto 10.77.0.9 {v4}"),
            format!("tcp ::ffff:10.77.0.9 {v4}"),
            format!("udp ::ffff:10.77.0.9 {v4}"),
            format!("sendto ::ffff:10.77.0.9 {v4}"),
            format!("tcp fd77::9 {v6}"),
            format!("udp fd77::9 {v6}"),
            format!("sendto fd77::9 {v6}"),
        ]
        .into()
    }

    fn send(&self, attempts: &[String]) -> Vec<String> {
        self.send_from("", attempts)
    }

    fn send_from(&self, child: &str, attempts: &[String]) -> Vec<String> {
        let attempts: Vec<&str> = attempts.iter().map(String::as_str).collect();
        let output = self.stage.agent_in(child, SEND, &attempts).output();
        output.lines().map(str::to_owned).collect()
    }

    /// Gives the slice itself a policy.
    fn assign(&mut self, policy: EgressPolicy) {
        let slice = self.stage.slice.clone();
        self.policies.assign(&slice, policy);
    }
}

/// As `SERVER`, for IPv6.
pub(crate) const SIX: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
s.bind((sys.argv[1], int(sys.argv[2])))
s.listen(100)
print('ready', s.getsockname()[1], flush=True)
while True:
    c, _ = s.accept()
    c.sendall(b'real')
    c.close()
"#;

const EVERYTHING: [&str; 10] = [
    "real", "real", "sent", "sent", "real", "sent", "sent", "real", "sent", "sent",
];

/// The kernel makes MPTCP's sockets itself, so their packets are dropped rather than their connects
/// refused.
const NOTHING: [&str; 10] = [
    "EPERM",
    "ETIMEDOUT",
    "EPERM",
    "EPERM",
    "EPERM",
    "EPERM",
    "EPERM",
    "EPERM",
    "EPERM",
    "EPERM",
];

pub(crate) fn network(address: &str, length: u8) -> Network {
    Network::new(address.parse().unwrap(), length).unwrap()
}

pub(crate) fn port(server: &Server) -> Option<u16> {
    Some(server.port.parse().unwrap())
}

#[test]
fn an_open_agent_reaches_everything_and_one_without_egress_nothing() {
    let mut governed = Governed::new();
    governed.assign(EgressPolicy::OPEN);
    assert_eq!(governed.send(&governed.ways()), EVERYTHING);
    governed.assign(EgressPolicy::NOTHING);
    assert_eq!(governed.send(&governed.ways()), NOTHING);
}

#[test]
fn a_list_has_networks_of_both_families_with_and_without_ports() {
    let mut governed = Governed::new();
    let (v4, v6) = (port(&governed.v4), port(&governed.v6));
    let closed = NOTHING.map(str::to_owned).to_vec();
    let mut expected = |reach: &[Reach], range: std::ops::Range<usize>| {
        let policy = governed.policies.list(reach);
        governed.assign(policy);
        let mut wanted = closed.clone();
        for index in range {
            wanted[index] = EVERYTHING[index].into();
        }
        assert_eq!(governed.send(&governed.ways()), wanted, "{reach:?}");
    };
    expected(&[(network("10.77.0.0", 24), v4)], 0..7);
    expected(&[(network("10.77.0.9", 32), None)], 0..7);
    expected(&[(network("fd77::", 16), v6)], 7..10);
    expected(&[(Network::ALL, None)], 0..10);
    // One port of one family, beside a longer network that doesn't hold it.
    expected(
        &[(Network::ALL, v4), (network("10.77.0.9", 32), Some(1))],
        0..7,
    );
    expected(&[(network("0.0.0.0", 0), None)], 0..7);
    expected(&[(network("10.77.0.8", 32), None)], 0..0);
    expected(&[(network("10.77.0.9", 32), Some(1))], 0..0);
}

#[test]
fn without_egress_the_database_and_its_own_loopback_are_there() {
    let mut governed = Governed::new();
    governed.assign(EgressPolicy::NOTHING);
    let (v4, v6) = (governed.v4.port.clone(), governed.v6.port.clone());
    let attempts = [
        "tcp 10.77.0.1 5432".to_owned(),
        "tcp ::ffff:10.77.0.1 5432".into(),
        "mptcp 10.77.0.1 5432".into(),
        format!("tcp 127.0.0.1 {v4}"),
        format!("tcp 0.0.0.0 {v4}"),
        format!("tcp ::1 {v6}"),
        format!("udp 127.0.0.1 {v4}"),
        format!("sendto ::1 {v6}"),
    ];
    assert_eq!(
        governed.send(&attempts),
        [
            "weir", "weir", "EPERM", "real", "real", "real", "sent", "sent"
        ]
    );
}

#[test]
fn on_the_hosts_network_loopback_is_egress_and_the_database_is_there() {
    let mut governed = Governed::new();
    governed.assign(EgressPolicy::NOTHING);
    let server = governed.stage.server_on_host(SERVER, "127.0.0.1", "0");
    let attempts = [
        "tcp 10.77.0.1 5432".to_owned(),
        "mptcp 10.77.0.1 5432".into(),
        format!("tcp 127.0.0.1 {}", server.port),
        format!("tcp 0.0.0.0 {}", server.port),
        format!("tcp ::ffff:127.0.0.1 {}", server.port),
        format!("sendto 127.0.0.1 {}", server.port),
    ];
    let attempts: Vec<&str> = attempts.iter().map(String::as_str).collect();
    let send = || governed.stage.agent_on_host(SEND, &attempts).output();
    assert_eq!(send(), "weir\nEPERM\nEPERM\nEPERM\nEPERM\nEPERM");
    let loopback = [(network("127.0.0.0", 8), port(&server))];
    let list = governed.policies.list(&loopback);
    governed.assign(list);
    let send = || governed.stage.agent_on_host(SEND, &attempts).output();
    assert_eq!(send(), "weir\nEPERM\nreal\nreal\nreal\nsent");
}

#[test]
fn an_unknown_cgroup_sends_nothing_and_is_reported_at_its_first_socket() {
    let mut governed = Governed::new();
    governed.assign(EgressPolicy::OPEN);
    assert_eq!(governed.send_from("new", &governed.ways()), NOTHING);
    let path = format!("{}/new", governed.stage.slice);
    governed.policies.assign(&path, EgressPolicy::OPEN);
    assert_eq!(governed.send_from("new", &governed.ways()), EVERYTHING);
}

#[test]
fn a_new_cgroup_is_reported_within_milliseconds_of_its_first_process() {
    let mut governed = Governed::new();
    let slice = governed.stage.slice.clone();
    governed.policies.stranger(&slice);
    // Says when it began to dial, until it gets through.
    let script = r#"
import socket, sys, time
begin = time.monotonic()
while True:
    try:
        socket.create_connection(('10.77.0.9', int(sys.argv[1]))).recv(4)
        break
    except PermissionError:
        pass
print(int((time.monotonic() - begin) * 1e6))
"#;
    let port = governed.v4.port.clone();
    let agent = governed.stage.agent_in("newcomer", script, &[&port]);
    let path = format!("{slice}/newcomer");
    governed.policies.assign(&path, EgressPolicy::OPEN);
    let micros: u64 = agent.output().parse().unwrap();
    println!("a new cgroup was served after {micros} µs");
    // Far below the look at the slice each second; mostly it is known before python runs.
    assert!(micros < 500_000, "{micros} µs");
}

/// Connects while it may, then says what becomes of the connections once it may not.
const HOLD: &str = r#"
import socket, sys, errno
tcp = socket.create_connection(('10.77.0.9', int(sys.argv[1])))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.connect(('10.77.0.9', 9))
free = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print('connected', flush=True)
sys.stdin.readline()
while True:
    try:
        udp.send(b'x')
    except ConnectionRefusedError:
        continue
    except OSError as e:
        print(errno.errorcode[e.errno])
        break
for send in (lambda: free.sendto(b'x', ('10.77.0.9', 9)),):
    try:
        print('sent', send())
    except OSError as e:
        print(errno.errorcode[e.errno])
tcp.settimeout(1)
try:
    tcp.sendall(b'echo')
    print(tcp.recv(10))
except OSError as e:
    print(type(e).__name__)
"#;

/// Sends back what it gets.
const ECHO: &str = r#"
import socket, sys, threading
s = socket.create_server((sys.argv[1], int(sys.argv[2])))
print('ready', s.getsockname()[1], flush=True)
def serve(c):
    while data := c.recv(100): c.sendall(data)
while True:
    threading.Thread(target=serve, args=(s.accept()[0],), daemon=True).start()
"#;

#[test]
fn a_policy_that_closes_counts_for_open_connections() {
    let mut governed = Governed::new();
    governed.assign(EgressPolicy::OPEN);
    let echo = governed.stage.server(ECHO, "10.77.0.9", "0");
    let mut agent: Agent = governed.stage.agent(HOLD, &[&echo.port]);
    agent.wait_for("connected");
    governed.assign(EgressPolicy::NOTHING);
    agent.tell("go");
    assert_eq!(agent.output(), "EPERM\nEPERM\nTimeoutError");
}

#[test]
fn a_child_cgroup_is_a_stranger_of_its_own() {
    let mut governed = Governed::new();
    governed.assign(EgressPolicy::OPEN);
    let way = [format!("tcp 10.77.0.9 {}", governed.v4.port)];
    assert_eq!(governed.send_from("coder/deep/er", &way), ["EPERM"]);
    let path = format!("{}/coder/deep/er", governed.stage.slice);
    governed.policies.assign(&path, EgressPolicy::NOTHING);
    assert_eq!(governed.send_from("coder/deep/er", &way), ["EPERM"]);
    assert_eq!(governed.send(&way), ["real"]);
}

#[test]
fn policies_outlive_the_daemon_and_the_next_ones_replaces_them() {
    let mut governed = Governed::new();
    let (v4, v6) = (port(&governed.v4), port(&governed.v6));
    let way = [
        format!("tcp 10.77.0.9 {}", governed.v4.port),
        format!("tcp fd77::9 {}", governed.v6.port),
    ];
    let list = governed.policies.list(&[(network("10.77.0.9", 32), v4)]);
    governed.assign(list);
    let Governed {
        stage,
        policies,
        daemon,
        v4: server4,
        v6: server6,
    } = governed;
    drop(policies);
    daemon.die();
    let send = |stage: &Stage, child| {
        let attempts: Vec<&str> = way.iter().map(String::as_str).collect();
        stage.agent_in(child, SEND, &attempts).output()
    };
    assert_eq!(send(&stage, ""), "real\nEPERM");
    assert_eq!(send(&stage, "new"), "EPERM\nEPERM");

    let mut daemon = Daemon::start_governing(&stage, &[V4]);
    let mut policies = Policies::of(&mut daemon);
    // A list of the next daemon means nothing to cgroups that have one of the last.
    let list = policies.list(&[(network("fd77::9", 128), v6)]);
    assert_eq!(send(&stage, ""), "real\nEPERM");
    policies.assign(&stage.slice, list);
    assert_eq!(send(&stage, ""), "EPERM\nreal");
    // Lists that nobody has any more go, and those that are in use stay.
    policies.egress.tidy(|_| true).unwrap();
    assert_eq!(send(&stage, ""), "EPERM\nreal");
    policies.egress.tidy(|_| false).unwrap();
    assert_eq!(send(&stage, ""), "EPERM\nEPERM");
    drop((server4, server6));
}
