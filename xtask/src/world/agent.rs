//! An agent as Weir meets it: processes in a cgroup of its own, in some network namespace,
//! root without a single capability, with a database address and any password.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::{
    ADDRESS,
    cgroup::Cgroup,
    namespace::{Link, Namespace},
    process::{Place, Process, User},
};
use crate::cache;

/// A command that takes longer than this is stopped, so that a hang is a failure.
const LIMIT_SECONDS: &str = "120";

/// Which network an agent has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Network {
    /// A namespace of its own that has `lo` and nothing else: no route to any database.
    OnlyLo,
    /// The host's namespace, in which the database listens too.
    Host,
    /// A namespace of its own with a veth pair to the host, which routes: what `docker run` makes.
    Bridge,
    /// As `Bridge`, but on a macvlan interface: the host has no end of it.
    Macvlan,
}

/// How a command ended and what it wrote.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output, without the last line's end.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Whether the exit status is 0.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.status.success()
    }
}

/// Whether Weir listens, by a `/proc/<pid>/net/tcp`: a socket with an address on loopback, the second
/// field, in state 0A, the fourth. In the host's namespace others listen too, at addresses that can be
/// reached.
fn listens(table: &str) -> bool {
    table.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [_, local, _, "0A", ..] if local.starts_with("0100007F:"))
    })
}

/// An agent. Dropping it ends its processes and removes its cgroup and namespace.
#[derive(Debug)]
pub struct Agent {
    place: Place,
    home: PathBuf,
    count: u32,
    /// The process that stays, see [`Agent::settle`].
    init: Option<Process>,
    // Before the namespace: its processes must be gone first.
    _cgroup: Cgroup,
    _own: Option<Namespace>,
    _host: Arc<Namespace>,
}

impl Agent {
    /// The `count`th of its world.
    pub(super) fn new(
        cgroup: PathBuf,
        host: &Arc<Namespace>,
        network: Network,
        home: PathBuf,
        count: u32,
    ) -> Result<Self> {
        fs::create_dir_all(&home)?;
        let cgroup = Cgroup::new(cgroup)?;
        let own = match network {
            Network::Host => None,
            Network::OnlyLo | Network::Bridge | Network::Macvlan => Some(Namespace::new(&[])?),
        };
        if let Some(own) = &own {
            match network {
                Network::Bridge => own.join(host, count, Link::Veth)?,
                Network::Macvlan => own.join(host, count, Link::Macvlan)?,
                Network::OnlyLo | Network::Host => {}
            }
        }
        let netns = own.as_ref().map_or_else(|| host.path(), Namespace::path);
        let place = Place {
            cgroup: Some(cgroup.path().to_path_buf()),
            netns,
            user: User::Confined,
        };
        Ok(Self {
            place,
            home,
            count,
            init: None,
            _cgroup: cgroup,
            _own: own,
            _host: Arc::clone(host),
        })
    }

    /// Lets the agent live as a container does that has been up for a while: a process of it stays,
    /// and Weir listens in its namespace. In a namespace that Weir hasn't noticed yet a connect is
    /// refused, and one without a process is forgotten. Weir has to run.
    pub fn settle(&mut self) -> Result<()> {
        let namespace = fs::metadata(self.netns())?.ino();
        let mut sleep = self.place.command("sleep", Signal::SIGTERM);
        sleep.arg("infinity");
        let log = self.home.join("init.log");
        let init = Process::start("init", sleep, &log, Signal::SIGTERM)?;
        let init = self.init.insert(init);
        let folder = PathBuf::from(format!("/proc/{}", init.pid()));
        init.until(Duration::from_secs(60), || {
            let arrived = fs::metadata(folder.join("ns/net")).is_ok_and(|m| m.ino() == namespace);
            arrived && fs::read_to_string(folder.join("net/tcp")).is_ok_and(|t| listens(&t))
        })
    }

    /// Its working directory.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A command that will run as this agent. libpq's environment points at the database's own
    /// address; user and password are what an agent would make up.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        client(self.place.command(program, Signal::SIGTERM), &self.home)
    }

    /// Where its network namespace can be entered.
    #[must_use]
    pub fn netns(&self) -> &Path {
        &self.place.netns
    }

    /// Its cgroup's folder.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Path> {
        self.place.cgroup.as_deref()
    }

    /// Which agent of its world this is: with [`Network::Bridge`] and [`Network::Macvlan`] its
    /// addresses are 10.79.`count`.2 and fd79:`count`::2.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Runs a program to its end.
    pub fn run<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Result<Finished> {
        self.run_with(program, args, &[])
    }

    /// Runs a program with further environment variables.
    pub fn run_with<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: &[S],
        variables: &[(&str, &str)],
    ) -> Result<Finished> {
        let mut command = self.command("timeout");
        command
            .args(["--kill-after=5", LIMIT_SECONDS, program])
            .args(args);
        finish(command.envs(variables.iter().copied()), program)
    }

    /// Runs psql on one script, given on its standard input, so that each statement is sent by
    /// itself and an error doesn't end it. Rows come unaligned, without header and footer;
    /// errors come with their SQLSTATE.
    pub fn psql(&self, script: &str) -> Result<Finished> {
        self.psql_with(script, &[])
    }

    /// The same with further environment variables (`PGSSLMODE`, `PGHOST`, ..).
    pub fn psql_with(&self, script: &str, variables: &[(&str, &str)]) -> Result<Finished> {
        let file = tempfile::NamedTempFile::new_in(&self.home)?;
        fs::write(file.path(), script)?;
        let path = file.path().to_string_lossy();
        let args = ["-X", "-q", "-At", "-v", "VERBOSITY=verbose", "-f", &path];
        self.run_with("psql", &args, variables)
    }

    /// Runs a program in the background.
    pub fn start<S: AsRef<OsStr>>(&self, program: &str, args: &[S]) -> Result<Process> {
        let mut command = self.command(program);
        command.args(args);
        let log = tempfile::Builder::new()
            .suffix(".log")
            .tempfile_in(&self.home)?;
        let (_, log) = log.keep()?;
        Process::start(program, command, &log, Signal::SIGTERM)
    }
}

/// Runs a command to its end and takes in what it wrote.
pub(super) fn finish(command: &mut Command, name: &str) -> Result<Finished> {
    let output = command
        .output()
        .with_context(|| format!("could not run {name}"))?;
    Ok(Finished {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned(),
        stderr: String::from_utf8_lossy(&output.stderr)
            .trim_end()
            .to_owned(),
    })
}

/// The environment of every database client.
pub(super) fn client(mut command: Command, home: &Path) -> Command {
    command.env("HOME", home).current_dir(home);
    command
        .env("PGHOST", ADDRESS)
        .env("PGPORT", super::PORT.to_string());
    command
        .env("PGUSER", "alice")
        .env("PGDATABASE", "app")
        .env("PGPASSWORD", "whatever");
    command
        .env("PGSSLMODE", "disable")
        .env("PGCONNECT_TIMEOUT", "10");
    command.env("NODE_PATH", cache::node_modules());
    command
}
