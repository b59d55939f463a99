//! An agent that has the kernel tell the daemon more than it can read.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};
use weir::capture::{Hook, Settings};

use crate::stage::{Daemon, Stage, V4, host_ip};
use crate::wait_until;

/// In the environment of a process that plays such an agent: its cgroup, and its network namespace.
const FLOODER: &str = "WEIR_TEST_FLOODER";

/// More than there are processors to read what they say, at most.
const FLOODERS: usize = 4;

struct Flooder(Child);

impl Flooder {
    fn start(stage: &Stage, namespace: &str) -> Self {
        let role = format!("{}\n{namespace}", stage.slice_path().display());
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "flood::role_of_a_flooder", "--nocapture"])
            .env(FLOODER, role)
            .stdout(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Flooder {
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
        .map(|_| Flooder::start(&stage, &open.namespace))
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
            assert!(renice.output().unwrap().status.success());
        }
    }
}

/// Not a test by itself: a process of the test above.
#[test]
fn role_of_a_flooder() {
    let Some(role) = std::env::var_os(FLOODER) else {
        return;
    };
    let role = role.into_string().unwrap();
    let (cgroup, namespace) = role.split_once('\n').unwrap();
    fs::write(format!("{cgroup}/cgroup.procs"), "0").unwrap();
    let namespace = File::open(format!("/run/netns/{namespace}")).unwrap();
    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let address = V4.parse::<SocketAddr>().unwrap().into();
    loop {
        socket.connect(&address).unwrap_err();
    }
}
