//! `weir attach`: brings processes that already run below the agents' slice.
//!
//! It can only add what Weir governs. It takes nothing out of the slice and moves nothing between
//! agents; it goes only to a cgroup that belongs to exactly one agent, while the daemon runs. The
//! processes stand still from the first look to the last move, so that none is forked away. Either
//! all of them are moved, or those that were are put back.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::agents::count;
use crate::agents::cgroup_root;
use crate::config::Config;
use crate::control::Client;
use crate::identity::Process;
use crate::record::show::escape;

const HELP: &str = "\
Moves all processes of the cgroup PATH, and of those below it, into a cgroup NAME below the agents'
slice, from where the kernel sends their connections to Weir. NAME has to belong to one agent by its
cgroup (match = { cgroup = … }): units and containers are told apart by where they were started, so
start those in the slice (Slice=, --cgroup-parent=).

A socket keeps the cgroup that it was made in. Those that the processes have open already, connected
or not, stay outside of Weir: they are counted, and without --keep-sockets nothing is moved then.
Restart what can be restarted.

The daemon has to run, the caller has to be root, and neither may be in PATH. A cgroup that is in
the slice already is governed, and is left alone.

Examples:
  sudo weir attach /sys/fs/cgroup/system.slice/old-agent.service --as coder-old
  sudo weir attach user.slice/agent --as coder-2 --keep-sockets";

/// How long processes may take to stand still.
const PATIENCE: Duration = Duration::from_secs(5);

/// Move the processes of a cgroup below the agents' slice.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// The cgroup, absolute or below the cgroup2 mount
    path: PathBuf,
    /// The cgroup to make below the slice
    #[arg(long = "as", value_name = "NAME")]
    name: String,
    /// Move even with sockets that stay outside of Weir
    #[arg(long)]
    keep_sockets: bool,
}

pub(super) fn run(args: &Args, config: &Config) -> anyhow::Result<ExitCode> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "only root may move processes between cgroups"
    );
    let root = cgroup_root(config.capture.cgroup_root.as_deref())?;
    let plan = Plan::new(args, config, &root)?;
    // Without a daemon nobody says that programs are on the slice.
    let status = super::block_on(async { Client::new(&config.paths.socket()).status().await })??;
    let moved = plan.run(status.pid, args.keep_sockets)?;
    let mut out = io::stdout().lock();
    let (from, to) = (plan.from.display(), plan.to.display());
    writeln!(
        out,
        "{} moved from {} to {}, agent {}",
        count(moved.processes, "process"),
        escape(&from.to_string()),
        escape(&to.to_string()),
        plan.agent
    )?;
    if moved.sockets > 0 {
        let sockets = count(moved.sockets, "socket");
        writeln!(
            out,
            "{sockets} that they had open: OUTSIDE of Weir until closed"
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What will be done, once it was found to be harmless.
#[derive(Debug)]
struct Plan {
    from: PathBuf,
    to: PathBuf,
    agent: String,
}

/// What was done.
struct Moved {
    processes: usize,
    sockets: usize,
}

impl Plan {
    fn new(args: &Args, config: &Config, root: &Path) -> anyhow::Result<Self> {
        let name = &args.name;
        ensure!(
            !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != "..",
            "{name:?} can't be a cgroup's name"
        );
        let slice = root.join(&config.capture.slice);
        let from = if args.path.is_absolute() && args.path.starts_with(root) {
            args.path.clone()
        } else {
            root.join(args.path.strip_prefix("/").unwrap_or(&args.path))
        };
        let from = fs::canonicalize(&from)
            .with_context(|| format!("there is no cgroup {}", from.display()))?;
        let slice = fs::canonicalize(&slice)
            .with_context(|| format!("there is no slice {}", slice.display()))?;
        ensure!(from.starts_with(root), "{} is no cgroup", from.display());
        ensure!(
            !from.starts_with(&slice),
            "{} is in the slice already: weir agents says whose it is",
            from.display()
        );
        ensure!(
            !slice.starts_with(&from),
            "{} holds the slice itself",
            from.display()
        );
        let to = slice.join(name);
        let path = to.strip_prefix(root)?.to_string_lossy().into_owned();
        let process = Process {
            pid: 0,
            uid: 0,
            comm: String::new(),
            exe: None,
        };
        let identity = config.agents.identify(&path, process, None)?;
        Ok(Self {
            agent: identity.agent.name.to_string(),
            from,
            to,
        })
    }

    fn run(&self, daemon: u32, keep_sockets: bool) -> anyhow::Result<Moved> {
        // Before they stand still: this program could not go on with them.
        spare(&members(&self.from), daemon)?;
        let frozen = Frozen::new(&self.from)?;
        let processes = members(&self.from);
        ensure!(!processes.is_empty(), "there is no process in it");
        spare(&processes, daemon)?;
        let sockets = processes.iter().map(|(pid, _)| sockets(*pid)).sum();
        if sockets > 0 && !keep_sockets {
            bail!(
                "its processes have {} open, which would stay outside of Weir: restart them in \
                 the slice, or say --keep-sockets",
                count(sockets, "socket")
            );
        }
        match fs::create_dir(&self.to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).context("the cgroup can't be made in the slice"),
        }
        self.move_all(&processes)?;
        drop(frozen);
        Ok(Moved {
            processes: processes.len(),
            sockets,
        })
    }

    /// They stand still: none can fork, and those that are killed meanwhile needn't be moved.
    fn move_all(&self, processes: &[(u32, PathBuf)]) -> anyhow::Result<()> {
        let to = self.to.join("cgroup.procs");
        for (number, (pid, _)) in processes.iter().enumerate() {
            let Err(error) = fs::write(&to, pid.to_string()) else {
                continue;
            };
            if error.raw_os_error() == Some(nix::libc::ESRCH) {
                continue;
            }
            for (pid, home) in &processes[..number] {
                // What ended meanwhile needn't go back.
                let _ = fs::write(home.join("cgroup.procs"), pid.to_string());
            }
            return Err(error).with_context(|| format!("process {pid} can't be moved"));
        }
        ensure!(
            members(&self.from).is_empty(),
            "processes came into {} from outside meanwhile: say it again",
            self.from.display()
        );
        Ok(())
    }
}

/// Refuses to touch those that nothing would work without.
fn spare(processes: &[(u32, PathBuf)], daemon: u32) -> anyhow::Result<()> {
    for (pid, what) in [
        (std::process::id(), "this program"),
        (daemon, "Weir itself"),
        (1, "the host's first process"),
    ] {
        let there = processes.iter().any(|(member, _)| *member == pid);
        ensure!(!there, "it holds {what}");
    }
    Ok(())
}

/// A cgroup whose processes stand still until this is dropped.
struct Frozen(PathBuf);

impl Frozen {
    fn new(cgroup: &Path) -> anyhow::Result<Self> {
        let freeze = cgroup.join("cgroup.freeze");
        fs::write(&freeze, "1").with_context(|| format!("{} can't be frozen", cgroup.display()))?;
        let frozen = Self(freeze);
        let start = Instant::now();
        loop {
            let events = fs::read_to_string(cgroup.join("cgroup.events"))?;
            if events.lines().any(|line| line == "frozen 1") {
                return Ok(frozen);
            }
            ensure!(
                start.elapsed() < PATIENCE,
                "its processes don't stand still within {PATIENCE:?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = fs::write(&self.0, "0") {
            let file = self.0.display();
            let _ = writeln!(io::stderr(), "weir: 0 can't be written to {file}: {error}");
        }
    }
}

/// The processes in a cgroup and below it, each with its own cgroup.
fn members(cgroup: &Path) -> Vec<(u32, PathBuf)> {
    let mut found = Vec::new();
    let mut pending = vec![cgroup.to_owned()];
    while let Some(dir) = pending.pop() {
        let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let pids = text.lines().filter_map(|pid| pid.parse().ok());
        found.extend(pids.map(|pid| (pid, dir.clone())));
        let children = fs::read_dir(&dir).into_iter().flatten().flatten();
        let children = children.filter(|c| c.file_type().is_ok_and(|kind| kind.is_dir()));
        pending.extend(children.map(|child| child.path()));
    }
    found
}

/// How many sockets a process has that could lead to a database: all but those that are known to
/// be of another family. A TCP socket that was never bound is in no table of the kernel's.
fn sockets(pid: u32) -> usize {
    let harmless: HashSet<String> = [("unix", 6), ("netlink", 9)]
        .into_iter()
        .flat_map(|(table, column)| {
            let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
            let inode = move |line: &str| line.split_whitespace().nth(column).map(str::to_owned);
            text.lines().filter_map(inode).collect::<Vec<_>>()
        })
        .collect();
    let files = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten();
    let links = files
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok());
    let inodes: HashSet<String> = links
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    inodes.difference(&harmless).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(root: &Path, path: &str, name: &str) -> anyhow::Result<Plan> {
        let text = r#"
[datastore.appdb]
protocol  = "postgres"
hosts     = ["10.0.3.7:5432"]
tls       = { mode = "disable" }
databases = ["app"]
login     = { user = "weir_agents", password = { credential = "appdb" } }

[agent.coder]
match  = { cgroup = "weir-agents.slice/coder-*" }
"#;
        let config = Config::parse(Path::new("weir.toml"), text).unwrap();
        let args = Args {
            path: path.into(),
            name: name.into(),
            keep_sockets: false,
        };
        Plan::new(&args, &config, root)
    }

    #[test]
    fn only_what_adds_an_agents_processes_is_planned() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for cgroup in ["weir-agents.slice/coder-1", "old/agent"] {
            fs::create_dir_all(root.join(cgroup)).unwrap();
        }
        let good = plan(&root, "old/agent", "coder-2").unwrap();
        assert_eq!(good.agent, "coder");
        assert_eq!(good.to, root.join("weir-agents.slice/coder-2"));
        let absolute = root.join("old");
        assert!(plan(&root, absolute.to_str().unwrap(), "coder-2").is_ok());
        for (path, name, why) in [
            ("old", "stranger", "belongs to no agent"),
            ("old", "../coder-2", "can't be a cgroup's name"),
            ("old", "", "can't be a cgroup's name"),
            ("gone", "coder-2", "no cgroup"),
            ("/etc", "coder-2", "no cgroup"),
            ("../", "coder-2", "no cgroup"),
            (
                "weir-agents.slice/coder-1",
                "coder-2",
                "in the slice already",
            ),
            ("weir-agents.slice", "coder-2", "in the slice already"),
            ("", "coder-2", "holds the slice"),
        ] {
            let error = format!("{:#}", plan(&root, path, name).unwrap_err());
            assert!(error.contains(why), "{path}: {error}");
        }
    }

    #[test]
    fn what_nothing_works_without_is_left_where_it_is() {
        let with = |pid| vec![(10, PathBuf::new()), (pid, PathBuf::new())];
        assert!(spare(&with(11), 12).is_ok());
        for pid in [std::process::id(), 12, 1] {
            assert!(spare(&with(pid), 12).is_err(), "{pid}");
        }
    }

    #[test]
    fn sockets_that_could_lead_to_a_database_are_counted_connected_or_not() {
        use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
        let open = |family| socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let mut child = std::process::Command::new("sleep");
        // What the child inherits is all that it has.
        let (tcp, unix) = (open(AddressFamily::Inet), open(AddressFamily::Unix));
        child
            .stdin(tcp.try_clone().unwrap())
            .stdout(unix.try_clone().unwrap());
        let mut child = child
            .arg("60")
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let counted = sockets(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(counted, 1, "the unix socket leads to no database");
    }
}
