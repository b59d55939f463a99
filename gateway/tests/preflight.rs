//! Preflight with real processes, in namespaces and with capabilities that `unshare` and `setpriv`
//! give them. Needs root; `cargo xtask test` runs it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weir::preflight::{Closed, Guarded, Preflight, Severity};

const CGROUP: &str = "weir-agents.slice/coder-1";

/// `sleep` in namespaces of its own, as a user and with capabilities.
struct Sleeper {
    helper: Child,
    pid: u32,
}

/// How it is run.
#[derive(Clone, Copy)]
struct How<'a> {
    /// Arguments of unshare.
    unshare: &'a [&'a str],
    /// Run as root within the namespaces, before anything is given up.
    before: &'a str,
    /// Arguments of setpriv.
    setpriv: &'a [&'a str],
}

const ALL: &[&str] = &["--mount", "--pid", "--fork", "--kill-child", "--net"];
const USER: &[&str] = &[
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=-all",
    "--bounding-set=-all",
    "--no-new-privs",
];
const ROOT: &[&str] = &["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"];
/// A well-made container's process.
const CONFINED: How<'_> = How {
    unshare: ALL,
    before: "true",
    setpriv: USER,
};

impl Sleeper {
    fn start(how: How<'_>) -> Self {
        let script = format!(r#"{} && exec "$@""#, how.before);
        let mut command = Command::new("unshare");
        command
            .args(how.unshare)
            .args(["--", "sh", "-c", &script, "sh", "setpriv"]);
        command.args(how.setpriv).args(["--", "sleep", "60"]);
        let helper = command.stdin(Stdio::null()).spawn();
        let mut sleeper = Self {
            helper: helper.expect("unshare can be run"),
            pid: 0,
        };
        let start = Instant::now();
        loop {
            let found = descendants(sleeper.helper.id()).into_iter().find(|pid| {
                fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "sleep\n")
            });
            if let Some(pid) = found {
                sleeper.pid = pid;
                return sleeper;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{command:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.helper.kill();
        let _ = self.helper.wait();
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let children = children.unwrap_or_default();
    for child in children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
    {
        all.extend(descendants(child));
    }
    all
}

fn found_by(preflight: &Preflight, how: How<'_>) -> Vec<(Severity, String)> {
    let sleeper = Sleeper::start(how);
    let findings = preflight.findings(CGROUP, sleeper.pid);
    findings
        .iter()
        .map(|f| (f.severity, f.what.clone()))
        .collect()
}

fn found(how: How<'_>) -> Vec<(Severity, String)> {
    found_by(&Preflight::new(Vec::new(), Closed::default()), how)
}

#[track_caller]
fn only(found: &[(Severity, String)], severity: Severity, what: &str) {
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, severity, "{found:?}");
    assert!(found[0].1.contains(what), "{found:?}");
}

/// The user with one capability.
fn with_capability(name: &str, unshare: &[&str], before: &str) -> Vec<(Severity, String)> {
    let sets: Vec<String> = ["inh-caps", "ambient-caps", "bounding-set"]
        .iter()
        .map(|set| format!("--{set}=-all,+{name}"))
        .collect();
    let mut setpriv = vec!["--reuid=65534", "--regid=65534", "--clear-groups"];
    setpriv.extend(sets.iter().map(String::as_str));
    found(How {
        unshare,
        before,
        setpriv: &setpriv,
    })
}

#[test]
fn a_confined_process_has_no_way_out() {
    assert_eq!(found(CONFINED), []);
}

#[test]
fn a_capability_that_undoes_the_boundary_is_found() {
    for (name, shown) in [
        ("net_admin", "CAP_NET_ADMIN"),
        ("sys_admin", "CAP_SYS_ADMIN"),
    ] {
        let found = with_capability(name, ALL, "true");
        only(&found, Severity::Defeats, shown);
    }
}

#[test]
fn root_that_can_gain_capabilities_by_starting_a_program_has_them() {
    let setpriv = &["--inh-caps=-all"];
    let all = found(How {
        setpriv,
        ..CONFINED
    });
    assert!(all.iter().any(|f| f.1.contains("CAP_NET_ADMIN")), "{all:?}");
}

#[test]
fn raw_sockets_count_by_where_they_lead() {
    assert_eq!(with_capability("net_raw", ALL, "true"), [], "only lo");
    let cable = "ip link add weir0 type veth peer name weir1";
    let out = with_capability("net_raw", ALL, cable);
    only(&out, Severity::Weakens, "CAP_NET_RAW");
    let on_host = with_capability("net_raw", &ALL[..4], "true");
    only(&on_host, Severity::Defeats, "host's network");
}

#[test]
fn the_hosts_processes_are_a_weakness_and_with_ptrace_a_way_out() {
    let unshare = &["--mount", "--net"];
    let seen = found(How {
        unshare,
        ..CONFINED
    });
    only(&seen, Severity::Weakens, "trace");
    let traced = with_capability("sys_ptrace", unshare, "true");
    only(&traced, Severity::Defeats, "CAP_SYS_PTRACE");
    assert_eq!(with_capability("sys_ptrace", ALL, "true"), []);
}

#[test]
fn roots_own_files_and_cgroups_are_those_that_it_can_write() {
    let root = How {
        setpriv: ROOT,
        ..CONFINED
    };
    let all = found(root);
    let texts: Vec<&str> = all.iter().map(|f| f.1.as_str()).collect();
    assert!(texts.iter().any(|t| t.contains("host's files")), "{all:?}");
    assert!(texts.iter().any(|t| t.contains("cgroups")), "{all:?}");
    let closed = "mount -o remount,bind,ro / && \
        awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts | while read at; do \
        mount -o remount,bind,ro $at || exit 1; done && \
        mount -t tmpfs tmpfs /run";
    let read_only = found(How {
        before: closed,
        ..root
    });
    assert_eq!(read_only, []);
}

#[test]
fn root_of_a_user_namespace_is_no_root_of_the_host() {
    let contained = found(How {
        unshare: &[&["--user", "--map-root-user"], ALL].concat(),
        before: "true",
        setpriv: &["--inh-caps=-all"],
    });
    let has = contained.iter().any(|f| f.1.contains("CAP_"));
    assert!(!has, "{contained:?}");
}

/// The list of mounts has each place twice, and each space as four characters.
#[test]
fn a_process_with_more_mounts_than_are_looked_at_counts_as_the_worst() {
    let before = r#"mount -t tmpfs none /mnt && cd /mnt &&
        folder=$(printf '%250s' '')x &&
        for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do mkdir "$folder" && cd "$folder" || exit; done &&
        for _ in $(seq 50); do mount --bind . . || exit; done &&
        cd /"#;
    let found = found(How { before, ..CONFINED });
    only(
        &found,
        Severity::Defeats,
        "more mounts than can be looked at",
    );
}

#[test]
fn a_socket_is_found_where_it_is_seen_and_may_be_used() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("runtime.sock");
    let _listening = UnixListener::bind(&path).unwrap();
    let open_to = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    let guard = |path: &Path| Guarded {
        name: "the runtime",
        path: path.to_owned(),
        root_only: false,
    };
    let preflight = Preflight::new(vec![guard(&path)], Closed::default());
    open_to(0o666);
    only(
        &found_by(&preflight, CONFINED),
        Severity::Defeats,
        "the runtime",
    );
    open_to(0o660);
    assert_eq!(found_by(&preflight, CONFINED), []);
    let of_group = &[
        &["--reuid=65534", "--regid=0", "--clear-groups"],
        &USER[3..],
    ]
    .concat();
    let of_group = How {
        setpriv: of_group,
        ..CONFINED
    };
    only(
        &found_by(&preflight, of_group),
        Severity::Defeats,
        "the runtime",
    );
    let hide = format!("mount -t tmpfs tmpfs {}", dir.path().display());
    let hidden = How {
        before: &hide,
        ..of_group
    };
    assert_eq!(found_by(&preflight, hidden), []);
}

#[test]
fn a_process_is_looked_at_once_and_soon() {
    let preflight = Preflight::new(Vec::new(), Closed::default());
    let sleeper = Sleeper::start(CONFINED);
    let start = Instant::now();
    let found = preflight.findings(CGROUP, sleeper.pid);
    let first = start.elapsed();
    let start = Instant::now();
    for _ in 0..100 {
        assert_eq!(preflight.findings(CGROUP, sleeper.pid), found);
    }
    let again = start.elapsed() / 100;
    println!("first {first:?}, then {again:?}");
    assert!(first < Duration::from_millis(50), "{first:?}");
    assert!(again < first, "{again:?} after {first:?}");
}
