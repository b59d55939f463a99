//! Egress at the host's end of an agent's veth: what leaves a namespace, whoever sent it, by those who
//! live there.
#![expect(
    clippy::unwrap_used,
    reason = "a part of tests, which end at what they don't expect"
)]

use std::fs;

use weir::capture::{CgroupId, EgressPolicy, Reach};

use crate::egress::{Policies, network, port};
use crate::perimeter::Bridged;
use crate::stage::{Agent, Daemon, Server, Stage, V4, host_ip};
use crate::{SERVER, TRY, wait_until};

const STAY: &str = "import time; time.sleep(60)";

/// A stage whose namespace has a veth, with a server on the host that is nobody's database, and a daemon
/// that governs what reaches it.
struct Governed {
    daemon: Daemon,
    policies: Policies,
    server: Server,
    bridged: Bridged,
}

impl Governed {
    fn new(net: u8) -> Self {
        let bridged = Bridged::new(net);
        let server = bridged.stage.server_on_host(SERVER, &bridged.host, "0");
        let mut daemon = Daemon::start_governing(&bridged.stage, &[V4]);
        Self {
            policies: Policies::of(&mut daemon),
            daemon,
            server,
            bridged,
        }
    }

    fn stage(&self) -> &Stage {
        &self.bridged.stage
    }

    /// Somebody who lives in the namespace until it is dropped, of a cgroup of its own.
    fn resident(&mut self, name: &str) -> (Agent, CgroupId) {
        let agent = self.stage().agent_in(name, STAY, &[]);
        let path = format!("{}/{name}", self.stage().slice);
        (agent, self.policies.stranger(&path).cgroup)
    }

    fn assign(&mut self, cgroup: CgroupId, policy: EgressPolicy) {
        self.policies.egress.assign(cgroup, policy).unwrap();
    }

    /// The server at its port, or at all of its host's.
    fn server(&self, port: Option<u16>) -> Reach {
        (network(&self.bridged.host, 32), port)
    }

    /// What becomes of a connection of nobody's from the namespace to the server.
    fn outside(&self) -> String {
        dial(self.stage(), &self.bridged.host, &self.server.port)
    }
}

/// A socket that no hook on a cgroup governs, in the agents' namespace.
fn dial(stage: &Stage, host: &str, port: &str) -> String {
    stage
        .outsider(TRY, &["AF_INET", host, port, "tcp"])
        .output()
}

#[test]
fn what_leaves_a_namespace_is_what_somebody_there_may_send() {
    let mut governed = Governed::new(72);
    let at = port(&governed.server);
    assert_eq!(governed.outside(), "real");
    let (first, cgroup) = governed.resident("first");
    // Nobody knows whose that is.
    wait_until(|| governed.outside() == "ETIMEDOUT");
    governed.assign(cgroup, EgressPolicy::NOTHING);
    assert_eq!(governed.outside(), "ETIMEDOUT");
    governed.assign(cgroup, EgressPolicy::OPEN);
    assert_eq!(governed.outside(), "real");
    let there = governed.policies.list(&[governed.server(at)]);
    let elsewhere = governed.policies.list(&[governed.server(Some(9))]);
    governed.assign(cgroup, there);
    assert_eq!(governed.outside(), "real");
    governed.assign(cgroup, elsewhere);
    assert_eq!(governed.outside(), "ETIMEDOUT");

    // Two who live there.
    let (second, other) = governed.resident("second");
    governed.assign(other, there);
    wait_until(|| governed.outside() == "real");
    governed.assign(other, EgressPolicy::NOTHING);
    assert_eq!(governed.outside(), "ETIMEDOUT");
    governed.assign(other, EgressPolicy::OPEN);
    assert_eq!(governed.outside(), "real");
    drop(second);
    wait_until(|| governed.outside() == "ETIMEDOUT");
    governed.assign(cgroup, there);
    assert_eq!(governed.outside(), "real");
    // And nobody.
    drop(first);
    wait_until(|| governed.outside() == "ETIMEDOUT");
}

#[test]
fn lists_beyond_those_that_count_permit_nothing() {
    let mut governed = Governed::new(73);
    let at = port(&governed.server);
    let others: Vec<_> = (0..4)
        .map(|number| {
            let (agent, cgroup) = governed.resident(&format!("other{number}"));
            let list = governed.policies.list(&[governed.server(Some(9))]);
            governed.assign(cgroup, list);
            agent
        })
        .collect();
    let (_last, cgroup) = governed.resident("last");
    let list = governed.policies.list(&[governed.server(at)]);
    governed.assign(cgroup, list);
    wait_until(|| governed.outside() == "ETIMEDOUT");
    drop(others);
    wait_until(|| governed.outside() == "real");
}

#[test]
fn what_may_leave_outlives_the_daemon_and_goes_with_those_who_lived_there() {
    let mut governed = Governed::new(74);
    let at = port(&governed.server);
    let (agent, cgroup) = governed.resident("first");
    let list = governed.policies.list(&[governed.server(at)]);
    governed.assign(cgroup, list);
    let Governed {
        daemon,
        policies,
        server,
        bridged,
    } = governed;
    let Bridged { stage, host, .. } = &bridged;
    let free = stage.server_on_host(SERVER, host, "0");
    let outside = |port: &str| dial(stage, host, port);
    wait_until(|| outside(&free.port) == "ETIMEDOUT");
    assert_eq!(outside(&server.port), "real");
    drop(policies);
    daemon.die();
    assert_eq!(outside(&server.port), "real");
    assert_eq!(outside(&free.port), "ETIMEDOUT");

    let mut daemon = Daemon::start_governing(stage, &[V4]);
    let mut policies = Policies::of(&mut daemon);
    // A list of the next daemon means nothing to those who have one of the last.
    let list = policies.list(&[(network(host, 32), port(&free))]);
    assert_eq!(outside(&server.port), "real");
    assert_eq!(outside(&free.port), "ETIMEDOUT");
    policies.egress.assign(cgroup, list).unwrap();
    assert_eq!(outside(&server.port), "ETIMEDOUT");
    assert_eq!(outside(&free.port), "real");

    drop(policies);
    daemon.die();
    drop(agent);
    let _next = Daemon::start_governing(stage, &[V4]);
    wait_until(|| outside(&free.port) == "ETIMEDOUT");
}

#[test]
fn a_device_with_the_index_of_one_that_is_gone_lets_out_nothing_of_its() {
    let mut governed = Governed::new(75);
    let (agent, cgroup) = governed.resident("first");
    governed.assign(cgroup, EgressPolicy::OPEN);
    wait_until(|| governed.outside() == "real");
    let Bridged { device, host, .. } = &governed.bridged;
    let index = fs::read_to_string(format!("/sys/class/net/{device}/ifindex")).unwrap();
    let (device, host) = (device.clone(), host.clone());
    host_ip(&format!("link del {device}"));

    let other = Stage::new();
    let namespace = &other.namespace;
    let index = index.trim();
    host_ip(&format!(
        "link add {device} index {index} type veth peer name eth0 netns {namespace}"
    ));
    host_ip(&format!("address add {host}/24 dev {device}"));
    host_ip(&format!("link set {device} up"));
    let inside = format!("{}/24", governed.bridged.inside);
    other.ip(&["address", "add", &inside, "dev", "eth0"]);
    other.ip(&["link", "set", "eth0", "up"]);
    let outside = || dial(&other, &host, &governed.server.port);
    assert_eq!(outside(), "real");
    // It lives under the first one's daemon, in the second one's namespace.
    let path = governed.stage().slice_path().join("second");
    fs::create_dir_all(&path).unwrap();
    let second = other.outsider(STAY, &[]);
    fs::write(path.join("cgroup.procs"), second.pid.to_string()).unwrap();
    wait_until(|| outside() == "ETIMEDOUT");
    drop(agent);
}

/// Sends IPv6 packets and another protocol's frame through a packet socket, each with its name in it.
const FRAMES: &str = r#"
import socket, struct, sys
peer = bytes.fromhex(sys.argv[1].replace(':', ''))
own6, host6 = (socket.inet_pton(socket.AF_INET6, a) for a in sys.argv[2:4])
all_nodes = socket.inet_pton(socket.AF_INET6, 'ff02::1')
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
own = bytes.fromhex(open('/sys/class/net/eth0/address').read().strip().replace(':', ''))
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def send(kind, data): s.send(peer + own + struct.pack('!H', kind) + data)
def icmp(to, kind, text):
    text = text.encode().ljust(32, b'\0')
    body = struct.pack('!BBHI', kind, 0, 0, 0) + text
    sum = checksum(own6 + to + struct.pack('!II', len(body), 58) + body)
    body = body[:2] + struct.pack('!H', sum) + body[4:]
    send(0x86dd, struct.pack('!IHBB', 6 << 28, len(body), 58, 255) + own6 + to + body)
icmp(all_nodes, 135, 'question on the link')
icmp(all_nodes, 128, 'echo on the link')
icmp(host6, 135, 'question')
icmp(host6, 128, 'echo')
send(0x88b5, b'other protocol'.ljust(46, b'\0'))
"#;

/// What of that arrived by the time it is told to stop.
const HEARD: &str = r#"
import select, socket, sys
icmp = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
other = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x88b5))
other.bind((sys.argv[1], 0x88b5))
print('ready', flush=True)
sys.stdin.readline()
seen = set()
while ready := select.select([icmp, other], [], [], 0.3)[0]:
    for s in ready:
        data, sender = s.recvfrom(100)
        if s is other: seen.add(data)
        elif data[8:].startswith((b'question', b'echo')): seen.add(data[8:])
print(*sorted(text.decode().strip('\0') for text in seen), sep=', ')
"#;

#[test]
fn neighbours_are_found_and_are_no_way_further() {
    let mut governed = Governed::new(76);
    let Bridged { device, stage, .. } = &governed.bridged;
    let (device, net) = (device.clone(), crate::stage::number());
    let (host, inside) = (format!("fd76:{net}::1"), format!("fd76:{net}::2"));
    host_ip(&format!("address add {host}/64 dev {device} nodad"));
    let address = format!("{inside}/64");
    stage.ip(&["address", "add", &address, "dev", "eth0", "nodad"]);
    let station = fs::read_to_string(format!("/sys/class/net/{device}/address")).unwrap();
    let (_agent, cgroup) = governed.resident("first");
    wait_until(|| governed.outside() == "ETIMEDOUT");
    let heard = |governed: &Governed| {
        let stage = governed.stage();
        let mut heard = stage.outsider_on_host(HEARD, &[&device]);
        heard.wait_for("ready");
        let frames = [station.trim(), &inside, &host];
        stage.outsider(FRAMES, &frames).output();
        heard.tell("stop");
        heard.output()
    };
    assert_eq!(heard(&governed), "question on the link");
    governed.assign(cgroup, EgressPolicy::NOTHING);
    assert_eq!(heard(&governed), "question on the link");
    let list = governed.policies.list(&[(network(&host, 128), None)]);
    governed.assign(cgroup, list);
    assert_eq!(heard(&governed), "echo, question, question on the link");
    governed.assign(cgroup, EgressPolicy::OPEN);
    assert_eq!(
        heard(&governed),
        "echo, echo on the link, other protocol, question, question on the link"
    );
    // What is listed is reached over IPv6 by whoever knows none of its neighbours yet.
    stage_forgets_its_neighbours(&governed);
    let six = crate::egress::SIX;
    let server = governed.stage().server_on_host(six, &host, "0");
    let list = governed
        .policies
        .list(&[(network(&host, 128), port(&server))]);
    governed.assign(cgroup, list);
    let dial = |port: &str| {
        let arguments = ["AF_INET6", &host, port, "tcp"];
        governed.stage().outsider(TRY, &arguments).output()
    };
    assert_eq!(dial(&server.port), "real");
    assert_eq!(dial("9"), "ETIMEDOUT");
}

fn stage_forgets_its_neighbours(governed: &Governed) {
    governed.stage().ip(&["neighbour", "flush", "dev", "eth0"]);
    host_ip(&format!("neighbour flush dev {}", governed.bridged.device));
}

#[test]
fn questions_for_names_leave_only_where_everything_does() {
    let mut governed = Governed::new(77);
    let (_agent, cgroup) = governed.resident("first");
    let host = governed.bridged.host.clone();
    let resolver = governed.stage().server_on_host(SERVER, &host, "53");
    let all = governed.policies.list(&[governed.server(None)]);
    governed.assign(cgroup, all);
    let ask = |governed: &Governed| dial(governed.stage(), &host, &resolver.port);
    wait_until(|| ask(&governed) == "ETIMEDOUT");
    assert_eq!(governed.outside(), "real");
    governed.assign(cgroup, EgressPolicy::OPEN);
    assert_eq!(ask(&governed), "real");
}
