//! The host's end of an agent's veth: what no hook on a cgroup sees.

use std::fs;
use std::process::Command;
use std::time::Duration;

use weir::capture::{Coverage, Hook, Settings};

use crate::stage::{self, Daemon, Stage, host_ip};
use crate::{SERVER, TRY, wait_until};

/// A stage whose namespace has a veth, with 10.<net>.<number>.1 on the host and .2 inside.
pub(crate) struct Bridged {
    pub(crate) stage: Stage,
    pub(crate) device: String,
    pub(crate) host: String,
    pub(crate) inside: String,
}

impl Bridged {
    pub(crate) fn new(net: u8) -> Self {
        let stage = Stage::new();
        let number = stage::number();
        let device = format!("wkv{net}x{}", std::process::id());
        let bridged = Self {
            device,
            host: format!("10.{net}.{number}.1"),
            inside: format!("10.{net}.{number}.2"),
            stage,
        };
        let Self { device, host, .. } = &bridged;
        let namespace = &bridged.stage.namespace;
        host_ip(&format!(
            "link add {device} type veth peer name eth0 netns {namespace}"
        ));
        host_ip(&format!("address add {host}/24 dev {device}"));
        host_ip(&format!("link set {device} up"));
        let address = format!("{}/24", bridged.inside);
        bridged
            .stage
            .ip(&["address", "add", &address, "dev", "eth0"]);
        bridged.stage.ip(&["link", "set", "eth0", "up"]);
        bridged
    }
}

impl Drop for Bridged {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["link", "del", &self.device])
            .status();
    }
}

/// Counts the datagrams that arrive at two ports, by their text, until one says "end".
const RECEIVER: &str = r#"
import select, socket, sys
sockets = []
for port in sys.argv[2].split(','):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((sys.argv[1], int(port)))
    sockets.append(s)
print('ready', *(s.getsockname()[1] for s in sockets), flush=True)
seen = set()
while 'end' not in seen:
    ready = select.select(sockets, [], [], 10)[0]
    if not ready: break
    for s in ready:
        seen.add(s.recv(100).decode().strip('\0'))
print(*sorted(seen))
"#;

/// Sends datagrams as whole frames through a packet socket: as no other socket, and as no protocol
/// that the hooks know.
const FRAMES: &str = r#"
import socket, struct, sys
source, target, closed, open_ = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(('eth0', 0))
def ask(): # The host's hardware address, by having the kernel find it.
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.sendto(b'hello', (target, open_))
    for _ in range(200):
        for line in open('/proc/net/arp'):
            fields = line.split()
            if fields[0] == target and fields[2] != '0x0':
                return bytes.fromhex(fields[3].replace(':', ''))
own = bytes.fromhex(open('/sys/class/net/eth0/address').read().strip().replace(':', ''))
peer = ask()
def checksum(data):
    total = sum(struct.unpack('!%dH' % (len(data) // 2), data))
    while total >> 16: total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff
def packet(port, text, fragment=0, options=b'', whole=True):
    payload = struct.pack('!HHHH', 9, port, 8 + len(text), 0) + text if whole else text
    def header(check):
        return struct.pack('!BBHHHBBH4s4s', 0x45 + len(options) // 4, 0, 20 + len(options) + len(payload), 7, fragment, 64, 17,
                           check, socket.inet_aton(source), socket.inet_aton(target)) + options
    return header(checksum(header(0))) + payload
def send(kind, data): s.send(peer + own + struct.pack('!H', kind) + data)
send(0x0800, packet(closed, b'frame'))
send(0x0800, packet(closed, b'options', options=b'\1\1\1\1'))
send(0x0800, packet(closed, b'fragments.......', fragment=0x2000))
send(0x0800, packet(closed, b'', fragment=3, whole=False))
send(0x8100, struct.pack('!HH', 0, 0x8100) + struct.pack('!HH', 0, 0x0800) + packet(closed, b'tagged'))
send(0x0800, packet(open_, b'other'))
send(0x0800, packet(open_, b'end'))
"#;

#[test]
fn nothing_crosses_the_veth_to_a_protected_endpoint() {
    let bridged = Bridged::new(78);
    let stage = &bridged.stage;
    let (host, inside) = (&*bridged.host, &*bridged.inside);
    let _server = stage.server_on_host(SERVER, host, "5432");
    let free = stage.server_on_host(SERVER, host, "0");
    let outside = |port: &str| {
        stage
            .outsider(TRY, &["AF_INET", host, port, "tcp"])
            .output()
    };
    assert_eq!(outside("5432"), "real");
    let daemon = Daemon::start(stage, &[&format!("{host}:5432")]);
    assert_eq!(stage.attempt("AF_INET", host, "5432", "tcp"), "weir");
    let namespace = daemon.accepted().namespace;
    assert_eq!(
        daemon.coverage(namespace),
        Coverage {
            covered: vec![bridged.device.clone()],
            open: vec![]
        }
    );
    // A socket of no agent, in the agent's namespace.
    assert_eq!(outside("5432"), "ETIMEDOUT");
    assert_eq!(outside(&free.port), "real");
    assert_eq!(stage.attempt("AF_INET", host, &free.port, "tcp"), "real");
    // Frames of somebody's own making. (Where BPF LSM is on, an agent couldn't even try.)
    let mut receiver = stage.outsider_on_host(RECEIVER, &[host, "5432,0"]);
    let ports = receiver.line();
    let open = ports.split(' ').nth(2).unwrap();
    stage
        .outsider(FRAMES, &[inside, host, "5432", open])
        .output();
    assert_eq!(receiver.output(), "end hello other");
    // The daemon's end, and that of the last agent, change nothing.
    daemon.wait_for_down(namespace);
    assert_eq!(outside("5432"), "ETIMEDOUT");
    daemon.die();
    assert_eq!(outside("5432"), "ETIMEDOUT");
    // Its successor takes the perimeter over, without a second one.
    let next = Daemon::start(stage, &[&format!("{host}:5433")]);
    assert_eq!(outside("5432"), "real");
    next.die();
}

#[test]
fn a_device_that_comes_later_is_covered_and_one_that_can_not_be_is_told() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &["10.77.0.1:5432"]);
    let _stays = stage.agent("import time; time.sleep(60)", &[]);
    assert_eq!(stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp"), "weir");
    let namespace = daemon.accepted().namespace;
    assert_eq!(daemon.coverage(namespace), Coverage::default());
    let device = format!("wkl{}", std::process::id());
    host_ip(&format!(
        "link add {device} type veth peer name eth0 netns {}",
        stage.namespace
    ));
    wait_until(|| daemon.coverage(namespace).covered == [device.clone()]);
    // A second one, whose other end isn't on the host.
    let other = Stage::new();
    let peer = format!(
        "link add eth1 netns {} type veth peer name eth1 netns {}",
        stage.namespace, other.namespace
    );
    host_ip(&peer);
    host_ip(&format!("link set {device} up"));
    wait_until(|| daemon.coverage(namespace).open == ["eth1"]);
    host_ip(&format!("link del {device}"));
    wait_until(|| daemon.coverage(namespace).covered.is_empty());
}

#[test]
fn a_required_perimeter_leaves_a_namespace_with_a_way_past_it_without_a_database() {
    let stage = Stage::new();
    let settings = Settings {
        require: vec![Hook::Perimeter],
        ..stage.settings()
    };
    let daemon = Daemon::start_with(&settings, &["10.77.0.1:5432"]);
    let _stays = stage.agent("import time; time.sleep(60)", &[]);
    let attempt = || stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp");
    wait_until(|| attempt() == "weir");
    let other = Stage::new();
    host_ip(&format!(
        "link add eth1 netns {} type veth peer name eth1 netns {}",
        stage.namespace, other.namespace
    ));
    wait_until(|| attempt() == "EPERM");
    stage.ip(&["link", "del", "eth1"]);
    wait_until(|| attempt() == "weir");
    // What is sent to a process leads to wherever that is; a bridge only to its ports.
    stage.ip(&["tuntap", "add", "mode", "tun", "name", "tun0"]);
    wait_until(|| attempt() == "EPERM");
    stage.ip(&["link", "del", "tun0"]);
    wait_until(|| attempt() == "weir");
    let namespace = daemon.accepted().namespace;
    stage.ip(&["link", "add", "br0", "type", "bridge"]);
    // Looked at again after a second.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(daemon.coverage(namespace), Coverage::default());
    assert_eq!(attempt(), "weir");
}

#[test]
fn a_device_counts_as_covered_once_the_perimeter_is_on_it_and_not_before() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &["10.77.0.1:5432"]);
    let _stays = stage.agent("import time; time.sleep(60)", &[]);
    wait_until(|| stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp") == "weir");
    let namespace = daemon.accepted().namespace;
    let device = format!("wkc{}", std::process::id());
    host_ip(&format!("link add {device} type veth peer name {device}p"));
    let index = fs::read_to_string(format!("/sys/class/net/{device}/ifindex")).unwrap();
    // What the link's pin can't be put in place of.
    let pin = format!("layout-4/perimeter_{}", index.trim());
    let obstacle = stage.pins.join(pin);
    fs::create_dir(&obstacle).unwrap();
    host_ip(&format!(
        "link set {device}p netns {} name eth0",
        stage.namespace
    ));
    let open = Coverage {
        covered: vec![],
        open: vec!["eth0".to_owned()],
    };
    wait_until(|| daemon.coverage(namespace) == open);
    fs::remove_dir(&obstacle).unwrap();
    let covered = Coverage {
        covered: vec![device.clone()],
        open: vec![],
    };
    wait_until(|| daemon.coverage(namespace) == covered);
    host_ip(&format!("link del {device}"));
}
