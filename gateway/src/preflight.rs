//! What would let an agent's process get round Weir, looked at before its first session opens.
//!
//! This finds mistakes in how an agent is run; it isn't the boundary, which is the kernel's. A
//! process is looked at once, by its files in `/proc` and nothing in its own file systems. What
//! can't be looked at counts as what would be worst.

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::identity::{Matcher, PreflightMode};

mod mounts;
mod process;

use mounts::Mounts;
use process::Process;

/// Processes that are remembered; then all are forgotten, and looked at again.
const REMEMBERED: usize = 4096;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It helps with some ways round, or would be one together with something else.
    Weakens,
    /// It is a way round by itself.
    Defeats,
}

/// Something that would let a process out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is, such as `it has CAP_NET_ADMIN`.
    pub what: String,
}

/// What becomes of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// All that was found.
    pub findings: Arc<[Finding]>,
    /// Why it is refused, in words for the client; `None` if it is not.
    pub refusal: Option<String>,
}

/// A socket on the host whose owner does what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guarded {
    /// Whose it is, for people.
    pub name: &'static str,
    /// Where it is on the host.
    pub path: PathBuf,
    /// Whether its owner listens to root alone, whatever the socket's mode.
    pub root_only: bool,
}

/// What a process can't do from a network namespace of its own, whatever it may there, as Weir's
/// optional hooks are in the way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closed {
    /// Make packets by itself.
    pub packets: bool,
    /// Send any to a protected endpoint.
    pub ways_out: bool,
}

/// Looks at processes. Cloning shares what is known.
#[derive(Debug, Clone)]
pub struct Preflight(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    guarded: Vec<Guarded>,
    closed: Closed,
    known: Mutex<HashMap<Key, Arc<[Finding]>>>,
}

/// A process in a cgroup: the cgroup's path, the process's id and its start.
type Key = (String, u32, u64);

/// What of the host an agent should not reach, as it is now.
#[derive(Default)]
struct Host {
    sockets: Vec<Socket>,
    closed: Closed,
    /// Where its configuration is: whoever writes that has the host.
    etc: Option<mounts::Location>,
}

/// A socket as it is now.
struct Socket {
    name: &'static str,
    location: mounts::Location,
    uid: u32,
    gid: u32,
    mode: u32,
    root_only: bool,
}

impl Preflight {
    /// Guards these sockets, those that aren't there (yet) included.
    #[must_use]
    pub fn new(guarded: Vec<Guarded>, closed: Closed) -> Self {
        Self(Arc::new(Shared {
            guarded,
            closed,
            known: Mutex::default(),
        }))
    }

    /// What becomes of a process in `cgroup` (the path below the cgroup2 mount) by `mode`.
    #[must_use]
    pub fn check(&self, mode: PreflightMode, cgroup: &str, pid: u32) -> Outcome {
        let findings = self.findings(cgroup, pid);
        let from = match mode {
            PreflightMode::Reasonable => Some(Severity::Defeats),
            PreflightMode::Refuse => Some(Severity::Weakens),
            PreflightMode::Warn => None,
        };
        let refused = from.is_some_and(|from| findings.iter().any(|f| f.severity >= from));
        let refusal = refused.then(|| {
            let all: Vec<&str> = findings.iter().map(|f| f.what.as_str()).collect();
            format!("this process could get round Weir: {}", all.join("; "))
        });
        Outcome { findings, refusal }
    }

    /// All that would let a process out. Logged when it is found.
    #[must_use]
    pub fn findings(&self, cgroup: &str, pid: u32) -> Arc<[Finding]> {
        let own = Matcher::own_cgroup(cgroup);
        let found = self.0.findings(own, pid);
        found.unwrap_or_else(|error| {
            let what = format!("it can't be looked at ({error})");
            tracing::warn!(cgroup, pid, what, "preflight");
            let severity = Severity::Defeats;
            [Finding { severity, what }].into()
        })
    }
}

impl Shared {
    fn findings(&self, own: &str, pid: u32) -> std::io::Result<Arc<[Finding]>> {
        let key = (own.to_owned(), pid, process::started(pid)?);
        if let Some(known) = self.lock().get(&key) {
            return Ok(Arc::clone(known));
        }
        let process = process::read(pid)?;
        if process::started(pid)? != key.2 {
            return Err(std::io::Error::other("it has just ended"));
        }
        let findings: Arc<[Finding]> = judge(&process, own, &self.host()?).into();
        for Finding { severity, what } in findings.iter() {
            tracing::warn!(cgroup = own, pid, ?severity, what, "preflight");
        }
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            // To ask which of them have ended would have all sessions wait.
            known.clear();
        }
        known.insert(key, Arc::clone(&findings));
        Ok(findings)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<[Finding]>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self) -> std::io::Result<Host> {
        let host = Mounts::parse(&std::fs::read("/proc/self/mountinfo")?);
        let there = self.guarded.iter().filter_map(|guarded| {
            let path = std::fs::canonicalize(&guarded.path).ok()?;
            let meta = std::fs::metadata(&path).ok()?;
            meta.file_type().is_socket().then(|| {
                Some(Socket {
                    name: guarded.name,
                    location: host.locate(&path)?,
                    uid: meta.uid(),
                    gid: meta.gid(),
                    mode: meta.mode(),
                    root_only: guarded.root_only,
                })
            })?
        });
        Ok(Host {
            sockets: there.collect(),
            closed: self.closed,
            etc: host.locate(Path::new("/etc")),
        })
    }
}

/// Each capability of the host with which the boundary can be undone.
const UNDOING: [(u32, &str); 6] = [
    (21, "CAP_SYS_ADMIN"),
    (12, "CAP_NET_ADMIN"),
    (39, "CAP_BPF"),
    (16, "CAP_SYS_MODULE"),
    (17, "CAP_SYS_RAWIO"),
    // Opens files of the host by their handles.
    (2, "CAP_DAC_READ_SEARCH"),
];
const DAC_OVERRIDE: u32 = 1;
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
const SYS_PTRACE: u32 = 19;

/// What would let a process out whose own cgroup is `own`.
fn judge(process: &Process, own: &str, host: &Host) -> Vec<Finding> {
    let mut found = Vec::new();
    of_capabilities(process, host.closed, &mut found);
    of_files(process, own, host, &mut found);
    let usable = host.sockets.iter().filter(|s| may_connect(process, s));
    for socket in usable {
        if process.mounts.shows(&socket.location) {
            defeats(
                &mut found,
                format!("it reaches the socket of {}", socket.name),
            );
        }
    }
    found
}

/// Those of a user namespace below the host's count only for what that namespace owns: a network
/// namespace, in which addresses can be rewritten and packets made.
fn of_capabilities(process: &Process, closed: Closed, found: &mut Vec<Finding>) {
    let Process {
        capabilities,
        shared,
        has_network,
        ..
    } = process;
    let on_host = |number| shared.user && capabilities.has(number);
    for (number, name) in UNDOING {
        if on_host(number) {
            defeats(found, format!("it has {name}"));
        }
    }
    if shared.pid && on_host(SYS_PTRACE) {
        let what = "it has CAP_SYS_PTRACE and sees the host's processes";
        defeats(found, what.to_owned());
    }
    if shared.net && on_host(NET_RAW) {
        let what = "it has CAP_NET_RAW in the host's network";
        defeats(found, what.to_owned());
    }
    if !shared.net && *has_network && !closed.ways_out {
        let raw = (NET_RAW, "CAP_NET_RAW", !closed.packets);
        // That of the host was found above.
        let admin = (NET_ADMIN, "CAP_NET_ADMIN", !shared.user);
        for (number, name, open) in [raw, admin] {
            if open && capabilities.has(number) {
                let what = format!("it has {name} in a network that leads out");
                weakens(found, what);
            }
        }
    }
    if shared.pid && !process.root && !on_host(SYS_PTRACE) {
        let what = "it sees the host's processes, and may trace those of its user";
        weakens(found, what.to_owned());
    }
}

fn of_files(process: &Process, own: &str, host: &Host, found: &mut Vec<Finding>) {
    if !writes_as_root(process) {
        return;
    }
    let etc = host.etc.as_ref();
    if etc.is_some_and(|etc| process.mounts.shows_writable(etc)) {
        defeats(found, "it may write the host's files as root".to_owned());
    }
    // Below its own cgroup it can only make more that are governed as it is.
    let own = Path::new("/").join(own);
    let mut writable = process.mounts.writable("cgroup2");
    if writable.any(|root| !root.starts_with(&own)) {
        let what = "it may write cgroups that are not its own";
        defeats(found, what.to_owned());
    }
}

fn writes_as_root(process: &Process) -> bool {
    process.root || process.shared.user && process.capabilities.has(DAC_OVERRIDE)
}

fn may_connect(process: &Process, socket: &Socket) -> bool {
    if socket.root_only {
        return process.root;
    }
    let granted = |shift: u32| socket.mode >> shift & 0o2 != 0;
    writes_as_root(process)
        || if process.uid == socket.uid {
            granted(6)
        } else if process.gids.contains(&socket.gid) {
            granted(3)
        } else {
            granted(0)
        }
}

fn weakens(found: &mut Vec<Finding>, what: String) {
    found.push(Finding {
        severity: Severity::Weakens,
        what,
    });
}

fn defeats(found: &mut Vec<Finding>, what: String) {
    found.push(Finding {
        severity: Severity::Defeats,
        what,
    });
}

#[cfg(test)]
mod tests;
