//! Child processes that never outlive their owner.
//!
//! A `Place` says where a program runs (cgroup, network namespace, as whom); a `Process` is one
//! that runs in the background and is ended, by its own pid, when it is dropped. Should the owner
//! itself be killed, the kernel ends the child (`PR_SET_PDEATHSIG`): it follows the *thread* that
//! started it, so a `Process` belongs to the thread of its world.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How long a process may take to follow its signal before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// As whom a program runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum User {
    /// Root with everything root has: the daemon.
    Root,
    /// Root as a container has it: no capability, none to be gained.
    Confined,
    /// The user `postgres`, since the server refuses to run as root.
    Postgres,
}

/// Where and as whom a program runs.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The cgroup that it joins before it starts, or the owner's own.
    pub(super) cgroup: Option<PathBuf>,
    /// Path of the network namespace.
    pub(super) netns: PathBuf,
    /// As whom.
    pub(super) user: User,
}

impl Place {
    /// A command that starts `program` here, with a clean environment. `end` is the signal that
    /// it gets when its owner dies.
    pub(super) fn command(&self, program: impl AsRef<OsStr>, end: Signal) -> Command {
        let mut command = if let Some(cgroup) = &self.cgroup {
            let mut command = Command::new("sh");
            command.args(["-c", r#"echo 0 > "$0" && exec "$@""#]);
            command.arg(cgroup.join("cgroup.procs")).arg("nsenter");
            command
        } else {
            Command::new("nsenter")
        };
        // Only the network namespace: `ip netns exec` would also hide bpffs and the cgroups
        // behind a fresh /sys.
        command.arg(format!("--net={}", self.netns.display()));
        command.args(["--", "setpriv"]);
        match self.user {
            User::Root => {}
            User::Confined => {
                command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]);
            }
            User::Postgres => {
                command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
            }
        }
        command.arg(format!(
            "--pdeathsig={}",
            end.as_str().trim_start_matches("SIG")
        ));
        command.arg("--").arg(program);
        command.env_clear().env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        );
        command.env("LANG", "C.UTF-8").stdin(Stdio::null());
        command
    }
}

/// A background process, its output in a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
    end: Signal,
}

impl Process {
    /// Starts `command`; stdout and stderr go to `log`. `end` is how it is asked to stop.
    pub fn start(name: &str, mut command: Command, log: &Path, end: Signal) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        let child = command
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("could not start {name}"))?;
        Ok(Self {
            child,
            name: name.to_owned(),
            log: log.to_path_buf(),
            end,
        })
    }

    /// Its process id. The helpers in front of the program replace themselves by it.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid().cast_signed()), signal)
            .with_context(|| format!("{signal} to {}", self.name))
    }

    /// The exit status, if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
        bail!("{} still runs after {limit:?}", self.name)
    }

    /// Waits until it has written `text`.
    pub fn until_says(&mut self, text: &str, limit: Duration) -> Result<()> {
        let log = self.log.clone();
        self.until(limit, || {
            fs::read(&log).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
        })
    }

    /// Resident memory, bytes.
    pub fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("a process has a VmRSS")?.parse::<u64>()? * 1024)
    }

    /// Polls `ready` until it holds. An early death or the limit is an error that carries the
    /// end of the output.
    pub fn until(&mut self, limit: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} ended with {status}:\n{}",
                    self.name,
                    tail(&self.output())
                );
            }
            if ready() {
                return Ok(());
            }
            if start.elapsed() > limit {
                bail!(
                    "{} isn't ready after {limit:?}:\n{}",
                    self.name,
                    tail(&self.output())
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) && self.signal(self.end).is_ok() {
            // An error means that patience is over; the kill below settles it.
            let _ = self.wait(PATIENCE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
