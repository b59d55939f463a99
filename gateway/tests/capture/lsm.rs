//! What the LSM programs refuse where BPF LSM is on, and what is open where it isn't: the gap that is
//! reported then has this consequence.

use weir::capture::Hook;

use crate::stage::{Daemon, Stage, V4};

/// What an agent is told, with the LSM programs and without.
fn expected(daemon: &Daemon, with: &str, without: &str) -> String {
    let lacks = daemon.lacks(Hook::Lsm);
    (if lacks { without } else { with }).to_owned()
}

#[test]
fn sockets_of_other_families_can_not_be_made() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    let script = r#"
import socket, errno
def attempt(family, kind):
    try:
        socket.socket(family, kind, 0)
        return 'made'
    except OSError as e:
        return errno.errorcode[e.errno]
# AF_PACKET, and a family that no kernel has a protocol for.
print(attempt(17, socket.SOCK_RAW), attempt(9, socket.SOCK_STREAM))
print(*(attempt(*kind) for kind in [(1, 1), (2, 1), (10, 2), (16, 3)]))
"#;
    let others = expected(&daemon, "EPERM EPERM", "made EAFNOSUPPORT");
    assert_eq!(
        stage.agent(script, &[]).output(),
        format!("{others}\nmade made made made")
    );
    assert!(
        stage
            .outsider(script, &[])
            .output()
            .starts_with("made EAFNOSUPPORT")
    );
}

#[test]
fn a_link_does_not_hide_a_databases_socket() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    let directory = stage.scratch("sockets");
    let server = r#"
import os, socket, sys, time
os.makedirs(sys.argv[1])
os.chdir(sys.argv[1])
listeners = []
for name in ('.s.PGSQL.5432', 'app.sock'):
    s = socket.socket(socket.AF_UNIX)
    s.bind(sys.argv[1] + '/' + name)
    s.listen()
    listeners.append(s)
os.symlink('.s.PGSQL.5432', 'symbolic')
os.link('.s.PGSQL.5432', 'hard')
print('ready', flush=True)
time.sleep(60)
"#;
    let client = r#"
import errno, os, socket, sys
os.chdir(sys.argv[1])
for name in ('symbolic', 'hard', 'app.sock'):
    try:
        socket.socket(socket.AF_UNIX).connect(name)
        print('connected')
    except OSError as e:
        print(errno.errorcode[e.errno])
a, b = socket.socketpair()
"#;
    let directory = directory.to_str().unwrap();
    let mut servers = stage.outsider(server, &[directory]);
    servers.wait_for("ready");
    let linked = expected(&daemon, "EPERM\nEPERM", "connected\nconnected");
    assert_eq!(
        stage.agent(client, &[directory]).output(),
        format!("{linked}\nconnected")
    );
}

#[test]
fn an_agent_has_no_programs_of_its_own() {
    let stage = Stage::new();
    let daemon = Daemon::start(&stage, &[V4]);
    let script = r#"
import ctypes, errno, struct
libc = ctypes.CDLL(None, use_errno=True)
# BPF_MAP_CREATE of an array with one element of four bytes.
attribute = struct.pack('=IIII', 2, 4, 4, 1) + bytes(56)
made = libc.syscall(321, 0, attribute, len(attribute))
print('made' if made >= 0 else errno.errorcode[ctypes.get_errno()])
"#;
    assert_eq!(
        stage.agent(script, &[]).output(),
        expected(&daemon, "EPERM", "made")
    );
    assert_eq!(stage.outsider(script, &[]).output(), "made");
}

#[test]
fn a_daemons_successor_replaces_its_lsm_programs() {
    let stage = Stage::new();
    let first = Daemon::start(&stage, &[V4]);
    let count = |daemon: &Daemon| if daemon.lacks(Hook::Lsm) { 0 } else { 3 };
    let pins = || {
        let all = std::fs::read_dir(stage.pins.join("layout-4")).unwrap();
        let names = all.map(|pin| pin.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("link_lsm_")).count()
    };
    assert_eq!(pins(), count(&first));
    first.die();
    let next = Daemon::start(&stage, &[V4]);
    assert_eq!(pins(), count(&next));
}
