//! What a process may and sees, from its files in `/proc`.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use super::mounts::Mounts;

/// `capabilities(7)`, by their numbers in `linux/capability.h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Capabilities(pub(super) u64);

impl Capabilities {
    pub(super) fn has(self, number: u32) -> bool {
        self.0 & (1 << number) != 0
    }
}

/// A process, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Process {
    /// Whether one of its user ids is the host's root.
    pub(super) root: bool,
    /// Its user on files.
    pub(super) uid: u32,
    /// Its groups.
    pub(super) gids: Vec<u32>,
    /// What it has, or gets by starting a program.
    pub(super) capabilities: Capabilities,
    /// Which namespaces it shares with the host.
    pub(super) shared: Shared,
    /// Whether its network namespace has more than `lo`.
    pub(super) has_network: bool,
    /// What it sees.
    pub(super) mounts: Mounts,
}

/// Which namespaces are the host's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) user: bool,
    pub(super) pid: bool,
    pub(super) net: bool,
}

/// When a process began, in clock ticks since the boot: with its id, which process it is.
pub(super) fn started(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name before the last `)` may hold anything.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest);
    let started = fields.and_then(|f| f.split_whitespace().nth(19)?.parse().ok());
    started.ok_or_else(|| io::Error::other("no start time"))
}

/// Reads all of it. The process has to be the same before and after; see [`started`].
pub(super) fn read(pid: u32) -> io::Result<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let shared = Shared {
        user: same(pid, "user")?,
        pid: same(pid, "pid")?,
        net: same(pid, "net")?,
    };
    Ok(Process {
        shared,
        has_network: has_network(&beginning(&format!("/proc/{pid}/net/dev"))?),
        mounts: Mounts::parse(&mountinfo(pid)?),
        ..credentials(&status, shared).ok_or_else(|| io::Error::other("no credentials"))?
    })
}

/// As much of a list of devices as has to be seen to know whether there is one beside `lo`: an agent
/// can make thousands.
fn beginning(path: &str) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(path)?.take(4096).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Some thousand mounts; an agent with more of them isn't looked at.
const MAX_MOUNTINFO: u64 = 1 << 20;

fn mountinfo(pid: u32) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(format!("/proc/{pid}/mountinfo"))?;
    file.take(MAX_MOUNTINFO + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_MOUNTINFO {
        return Err(io::Error::other("it has more mounts than can be looked at"));
    }
    Ok(text)
}

fn same(pid: u32, kind: &str) -> io::Result<bool> {
    let of = |who: &str| fs::metadata(format!("/proc/{who}/ns/{kind}")).map(|m| (m.dev(), m.ino()));
    Ok(of(&pid.to_string())? == of("self")?)
}

/// Credentials in `/proc/PID/status`, where user and group ids are the reader's.
fn credentials(status: &str, shared: Shared) -> Option<Process> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.strip_prefix(':'))
    };
    let ids = |name| -> Option<Vec<u32>> {
        let ids = field(name)?.split_whitespace();
        ids.map(|id| id.parse().ok()).collect()
    };
    let mask = |name| u64::from_str_radix(field(name)?.trim(), 16).ok();
    let (uids, mut gids) = (ids("Uid")?, ids("Gid")?);
    gids.extend(ids("Groups")?);
    let (permitted, bounding) = (mask("CapPrm")?, mask("CapBnd")?);
    let root = uids.contains(&0);
    // A program that root starts gets the whole bounding set, unless no_new_privs forbids it.
    let gains = root && shared.user && field("NoNewPrivs")?.trim() == "0";
    Some(Process {
        root,
        uid: *uids.get(3)?,
        gids,
        capabilities: Capabilities(permitted | if gains { bounding } else { 0 }),
        ..Process::default()
    })
}

/// Whether `/proc/PID/net/dev` lists a device that isn't `lo`.
fn has_network(dev: &str) -> bool {
    let names = dev.lines().filter_map(|line| line.split_once(':'));
    names.into_iter().any(|(name, _)| name.trim() != "lo")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tpsql\nUmask:\t0022\nUid:\t1000\t1000\t1000\t1000\n\
        Gid:\t1000\t1000\t1000\t1000\nGroups:\t27 998 \nCapInh:\t0000000000000000\n\
        CapPrm:\t0000000000001000\nCapEff:\t0000000000000000\nCapBnd:\t000001ffffffffff\n\
        CapAmb:\t0000000000000000\nNoNewPrivs:\t0\n";

    fn read(status: &str) -> Process {
        let shared = Shared {
            user: true,
            ..Shared::default()
        };
        credentials(status, shared).unwrap()
    }

    #[test]
    fn a_user_has_what_is_permitted_and_root_what_is_bounding() {
        let user = read(STATUS);
        assert_eq!((user.root, user.uid), (false, 1000));
        assert_eq!(user.gids, [1000, 1000, 1000, 1000, 27, 998]);
        assert!(user.capabilities.has(12) && !user.capabilities.has(21));
        let as_root = STATUS.replace("Uid:\t1000\t1000\t1000\t1000", "Uid:\t1000\t1000\t0\t1000");
        assert!(read(&as_root).root);
        assert!(read(&as_root).capabilities.has(21));
        let held = as_root.replace("NoNewPrivs:\t0", "NoNewPrivs:\t1");
        assert!(!read(&held).capabilities.has(21));
    }

    #[test]
    fn a_name_of_a_process_cant_forge_a_line() {
        let forged = STATUS.replace("psql", "x\\nUid:\\t0");
        assert_eq!(read(&forged), read(STATUS));
    }

    #[test]
    fn a_status_that_lacks_something_is_none() {
        for name in ["Uid", "Gid", "Groups", "CapPrm", "CapBnd", "NoNewPrivs"] {
            let lacking = STATUS.replace(&format!("{name}:"), "X:");
            let read = credentials(
                &lacking,
                Shared {
                    user: true,
                    ..Shared::default()
                },
            );
            let needed = name != "NoNewPrivs";
            assert_eq!(read.is_none(), needed, "{name}");
        }
    }

    #[test]
    fn lo_alone_is_no_network() {
        let head = "Inter-|   Receive\n face |bytes    packets\n";
        assert!(!has_network(&format!("{head}    lo: 0 0 0\n")));
        assert!(has_network(&format!("{head}    lo: 0 0\n  eth0: 1 2\n")));
    }

    #[test]
    fn this_process_shares_all_with_itself() {
        let pid = std::process::id();
        let own = super::read(pid).unwrap();
        let shared = own.shared;
        assert!(shared.user && shared.pid && shared.net);
        assert!(started(pid).unwrap() > 0);
        assert!(super::read(u32::MAX / 2).is_err());
    }
}
