use super::*;
use process::{Capabilities, Shared};

const OWN: &str = "weir-agents.slice/docker-x.scope";
const ROOTFS: &str = "1 0 0:90 / / rw - overlay overlay rw\n";

/// A process as a well-made container has it: no capability, nothing shared, only `lo`.
fn confined() -> Process {
    Process {
        uid: 1000,
        gids: vec![1000],
        mounts: Mounts::parse(ROOTFS.as_bytes()),
        shared: Shared {
            user: true,
            ..Shared::default()
        },
        ..Process::default()
    }
}

fn with(change: impl FnOnce(&mut Process)) -> Vec<(Severity, String)> {
    with_closed(Closed::default(), change)
}

fn with_closed(closed: Closed, change: impl FnOnce(&mut Process)) -> Vec<(Severity, String)> {
    let mut process = confined();
    change(&mut process);
    let host = Host {
        sockets: vec![docker()],
        closed,
        etc: Mounts::parse(b"1 0 8:1 / / rw - ext4 x rw\n").locate(Path::new("/etc")),
    };
    let found = judge(&process, OWN, &host);
    found.into_iter().map(|f| (f.severity, f.what)).collect()
}

fn mounts(more: &str) -> Mounts {
    Mounts::parse(format!("{ROOTFS}{more}").as_bytes())
}

fn docker() -> Socket {
    let host = Mounts::parse(b"24 22 0:22 / /run rw - tmpfs tmpfs rw\n");
    Socket {
        name: "Docker",
        location: host.locate(Path::new("/run/docker.sock")).unwrap(),
        uid: 0,
        gid: 998,
        mode: 0o140_660,
        root_only: false,
    }
}

fn capability(number: u32) -> Capabilities {
    Capabilities(1 << number)
}

#[track_caller]
fn only(found: &[(Severity, String)], severity: Severity, what: &str) {
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].0, severity);
    assert!(found[0].1.contains(what), "{found:?}");
}

#[test]
fn a_confined_process_has_nothing_that_would_let_it_out() {
    assert_eq!(with(|_| ()), []);
    let with_network = with(|p| p.has_network = true);
    assert_eq!(with_network, []);
}

#[test]
fn each_capability_that_undoes_the_boundary_is_found() {
    for (number, name) in UNDOING {
        only(
            &with(|p| p.capabilities = capability(number)),
            Severity::Defeats,
            name,
        );
        let contained = with(|p| {
            p.capabilities = capability(number);
            p.shared.user = false;
        });
        assert_eq!(contained, [], "{name} in its own user namespace");
    }
}

#[test]
fn ptrace_counts_with_the_hosts_processes() {
    assert_eq!(with(|p| p.capabilities = capability(SYS_PTRACE)), []);
    let found = with(|p| {
        p.capabilities = capability(SYS_PTRACE);
        p.shared.pid = true;
    });
    only(&found, Severity::Defeats, "CAP_SYS_PTRACE");
    only(&with(|p| p.shared.pid = true), Severity::Weakens, "trace");
}

#[test]
fn raw_sockets_count_where_they_lead_somewhere() {
    let raw = |change: fn(&mut Process)| {
        with(|p| {
            p.capabilities = capability(NET_RAW);
            change(p);
        })
    };
    assert_eq!(raw(|_| ()), [], "only lo");
    only(&raw(|p| p.has_network = true), Severity::Weakens, "NET_RAW");
    let on_host = raw(|p| {
        p.shared.net = true;
        p.has_network = true;
    });
    only(&on_host, Severity::Defeats, "NET_RAW");
    let contained = with(|p| {
        p.capabilities = capability(NET_ADMIN);
        p.shared.user = false;
        p.has_network = true;
    });
    only(&contained, Severity::Weakens, "NET_ADMIN");
}

#[test]
fn what_an_optional_hook_closes_is_no_weakness() {
    let seen = |closed, number, user| {
        with_closed(closed, |p| {
            p.capabilities = capability(number);
            p.shared.user = user;
            p.has_network = true;
        })
    };
    let packets = Closed {
        packets: true,
        ways_out: false,
    };
    let ways_out = Closed {
        packets: false,
        ways_out: true,
    };
    assert_eq!(seen(packets, NET_RAW, true), []);
    assert_eq!(seen(ways_out, NET_RAW, true), []);
    only(
        &seen(packets, NET_ADMIN, false),
        Severity::Weakens,
        "NET_ADMIN",
    );
    assert_eq!(seen(ways_out, NET_ADMIN, false), []);
    only(
        &seen(ways_out, NET_ADMIN, true),
        Severity::Defeats,
        "NET_ADMIN",
    );
}

#[test]
fn cgroups_that_are_not_its_own_must_not_be_writable() {
    let seen = |uid_root: bool, line: &str| {
        with(|p| {
            p.root = uid_root;
            p.mounts = mounts(line);
        })
    };
    let all = "2 1 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
    only(&seen(true, all), Severity::Defeats, "cgroups");
    assert_eq!(seen(false, all), [], "a user may not write them");
    assert_eq!(seen(true, &all.replace("cgroup rw", "cgroup ro")), []);
    let own = all.replace(" / /sys", &format!(" /{OWN} /sys"));
    assert_eq!(seen(true, &own), [], "its own");
    let other = all.replace(" / /sys", &format!(" /{OWN}x /sys"));
    only(&seen(true, &other), Severity::Defeats, "cgroups");
}

#[test]
fn a_socket_counts_where_it_is_seen_and_may_be_used() {
    let bound = "2 1 0:22 /docker.sock /x rw - tmpfs tmpfs rw\n";
    let seen = |change: fn(&mut Process)| {
        with(|p| {
            p.mounts = mounts(bound);
            change(p);
        })
    };
    assert_eq!(seen(|_| ()), [], "not of its user or group");
    only(&seen(|p| p.gids.push(998)), Severity::Defeats, "Docker");
    only(&seen(|p| p.root = true), Severity::Defeats, "Docker");
    only(
        &seen(|p| p.capabilities = capability(DAC_OVERRIDE)),
        Severity::Defeats,
        "Docker",
    );
    assert_eq!(with(|p| p.gids.push(998)), [], "not seen");
}

#[test]
fn root_in_the_hosts_files_is_out_already() {
    let seen = |root: bool, line: &str| {
        with(|p| {
            p.root = root;
            p.mounts = mounts(line);
        })
    };
    let all = "2 1 8:1 / /host rw - ext4 x rw\n";
    only(&seen(true, all), Severity::Defeats, "files");
    assert_eq!(seen(false, all), [], "as a user");
    assert_eq!(seen(true, &all.replace("host rw", "host ro")), []);
    let part = all.replace(" / /host", " /srv/data /data");
    assert_eq!(seen(true, &part), [], "a folder of the host");
}

#[test]
fn what_becomes_of_it_is_as_the_agents_setting_says() {
    let preflight = Preflight::new(Vec::new(), Closed::default());
    let gone = u32::MAX / 2;
    let refused = |mode| preflight.check(mode, "s/x", gone).refusal;
    assert!(
        refused(PreflightMode::Reasonable)
            .unwrap()
            .contains("looked at")
    );
    assert!(refused(PreflightMode::Refuse).is_some());
    assert_eq!(refused(PreflightMode::Warn), None);
    assert_eq!(preflight.findings("s/x", gone).len(), 1);
}

#[test]
fn processes_that_live_take_no_more_memory_than_others() {
    let preflight = Preflight::new(Vec::new(), Closed::default());
    let pid = std::process::id();
    let start = process::started(pid).unwrap();
    let full = (0..REMEMBERED).map(|n| ((format!("a{n}"), pid, start), [].into()));
    preflight.0.lock().extend(full);
    let _ = preflight.findings("weir-agents.slice/a", pid);
    assert_eq!(preflight.0.lock().len(), 1);
}
