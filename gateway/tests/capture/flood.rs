//! Agents that have the kernel tell the daemon more than it can read, or what isn't so any more.
#![expect(
    clippy::unwrap_used,
    reason = "a part of tests, which end at what they don't expect"
)]

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Socket, Type};
use weir::capture::{Hook, Settings};

use crate::stage::{Daemon, Stage, V4, host_ip};
use crate::wait_until;

/// In the environment of a process that plays such an agent: its cgroup, and its network namespace.
const FLOODER: &str = "WEIR_TEST_FLOODER";
const WANDERER: &str = "WEIR_TEST_WANDERER";

/// More than there are processors to read what they say, at most.
const FLOODERS: usize = 4;

/// Says how many listeners there are in the namespace.
const LISTENING: &str = r#"
lines = [line.split() for line in list(open('/proc/net/tcp'))[1:]]
print(sum(fields[3] == '0A' for fields in lines))
"#;

struct Role(Child);

impl Role {
    fn start(kind: &str, stage: &Stage, namespace: &str) -> Self {
        let role = format!("{}\n{namespace}", stage.slice_path().display());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "flood::role_of_an_agent", "--nocapture"])
            .env(kind, role)
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn agents_that_have_much_told_keep_nobody_else_waiting() {
    let (stage, open, beyond) = (Stage::new(), Stage::new(), Stage::new());
    // A namespace that is never served: every connect there is told of.
    host_ip(&format!(
        "link add eth1 netns {} type veth peer name eth1 netns {}",
        open.namespace, beyond.namespace
    ));
    let settings = Settings {
        require: vec![Hook::Perimeter],
        ..stage.settings()
    };
    let daemon = Daemon::start_with(&settings, &[V4]);
    let served = stage.agent("import time; time.sleep(600)", &[]);
    wait_until(|| stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp") == "weir");
    let namespace = daemon.accepted().namespace;
    hold_back("weir-watch");
    let flooders: Vec<_> = (0..FLOODERS)
        .map(|_| Role::start(FLOODER, &stage, &open.namespace))
        .collect();
    std::thread::sleep(Duration::from_secs(1));

    // Somebody new is served.
    let wait = stage.wait_of_a_newcomer();
    assert!(wait < Duration::from_secs(5), "{wait:?}");
    // A device that comes later is covered, and the end of the last agent seen.
    let device = format!("wkf{}", std::process::id());
    host_ip(&format!(
        "link add {device} type veth peer name eth0 netns {}",
        stage.namespace
    ));
    wait_until(|| daemon.coverage(namespace).covered == [device.clone()]);
    host_ip(&format!("link del {device}"));
    drop(served);
    daemon.wait_for_down(namespace);
    // And the daemon can end.
    daemon.die();
    drop(flooders);
}

/// Has threads of this process have less of the processor than the flooders: what many processors tell
/// one thread, few do to one that is slow.
fn hold_back(name: &str) {
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap();
        if fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name) {
            let mut renice = Command::new("renice");
            renice.args(["-n", "5", "-p"]).arg(task.file_name());
            let is_slower = renice.output().expect("renice runs").status.success();
            // That of another test's daemon may have ended meanwhile.
            assert!(is_slower || !task.path().exists());
        }
    }
}

#[test]
fn a_namespace_that_somebody_comes_back_to_has_no_second_listener() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    let _stays = stage.agent("import time; time.sleep(600)", &[]);
    wait_until(|| stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp") == "weir");
    let wanderer = Role::start(WANDERER, &stage, &stage.namespace);
    std::thread::sleep(Duration::from_secs(5));
    drop(wanderer);
    assert_eq!(stage.outsider(LISTENING, &[]).output(), "1");
    drop(daemon);
}

#[test]
fn a_namespace_for_which_there_is_no_room_has_no_database_until_there_is() {
    let stage = Stage::new();
    let _daemon = Daemon::start(&stage, &[V4]);
    let layout = fs::read_dir(&stage.pins).unwrap().next().unwrap().unwrap();
    let map = MapData::from_pin(layout.path().join("LISTENERS")).unwrap();
    let mut listeners: HashMap<_, u64, u32> = Map::HashMap(map).try_into().unwrap();
    // The kernel counts its cookies up from 1.
    let others: Vec<u64> = (0..u64::MAX)
        .map(|number| u64::MAX - number)
        .take_while(|cookie| listeners.insert(cookie, 1, 0).is_ok())
        .collect();

    let _stays = stage.agent("import time; time.sleep(600)", &[]);
    let refused = stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp");
    assert_eq!(refused, "EPERM");
    assert_eq!(stage.outsider(LISTENING, &[]).output(), "0");

    for cookie in others {
        listeners.remove(&cookie).unwrap();
    }
    wait_until(|| stage.attempt("AF_INET", "10.77.0.1", "5432", "tcp") == "weir");
    assert_eq!(stage.outsider(LISTENING, &[]).output(), "1");
}

/// Not a test by itself: a process of the tests above.
#[test]
fn role_of_an_agent() {
    let connect = || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let address = V4.parse::<SocketAddr>().unwrap().into();
        move || drop(socket.connect(&address))
    };
    if let Some(role) = std::env::var_os(FLOODER) {
        enter(&role.into_string().unwrap());
        let connect = connect();
        loop {
            connect();
        }
    }
    if let Some(role) = std::env::var_os(WANDERER) {
        let home = enter(&role.into_string().unwrap());
        for round in 0.. {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            drop(Socket::new(Domain::IPV4, Type::STREAM, None));
            // Until somebody is about to look.
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(round % 300) {}
            setns(&home, CloneFlags::CLONE_NEWNET).unwrap();
        }
    }
}

/// Goes into the cgroup and the network namespace of a role.
fn enter(role: &str) -> File {
    let (cgroup, namespace) = role.split_once('\n').unwrap();
    fs::write(format!("{cgroup}/cgroup.procs"), "0").unwrap();
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
    namespace
}
