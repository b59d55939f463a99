//! The container engine: what stands between `docker run` and the attacker's first instruction.
//!
//! `contain` joins the agent's cgroup and network, makes the other namespaces, hides the host's files
//! and devices, gives up all capabilities but the case's, and becomes the attacker. No seccomp
//! filter: each attack has the system calls that it wants.

use std::{
    cell::RefCell,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        prctl::set_pdeathsig,
        signal::Signal,
        wait::{WaitStatus, waitpid},
    },
};
use xtask::world::{Agent, Process};

use crate::{scenario::Place, sys};

/// Where the attacker's own folder is inside the container.
pub(crate) const HOME: &str = "/run/home";
/// The host's folders that scenarios mount into the container are below here.
pub(crate) const MOUNTED: &str = "/run/mounted";

const PROGRAM: &str = "/run/battery";
const LIMIT: Duration = Duration::from_secs(60);

/// What `contain` is told.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Plan {
    /// The cgroup that it joins
    #[arg(long)]
    cgroup: PathBuf,
    /// The network namespace
    #[arg(long)]
    netns: PathBuf,
    /// The attacker's folder on the host
    #[arg(long)]
    home: PathBuf,
    /// Capabilities that it keeps
    #[arg(long, value_delimiter = ',')]
    caps: Vec<String>,
    /// A folder of the host that is mounted into the container, as a mistaken operator would
    #[arg(long)]
    mounted: Option<PathBuf>,
    /// Whether /dev/net/tun is handed in
    #[arg(long)]
    tun: bool,
    /// Whether it sees the host's processes
    #[arg(long)]
    host_pids: bool,
    /// Milliseconds in which it is there, and its program isn't yet
    #[arg(long, default_value_t = 0)]
    created: u64,
    scenario: String,
}

/// A container with an attacker in it, from the outside.
pub(crate) struct Contained {
    child: Child,
    lines: Receiver<String>,
    kept: RefCell<Vec<Process>>,
    pub(crate) agent: Agent,
    pub(crate) place: Place,
}

/// What the attacker is given on its way in.
pub(crate) struct Parcel {
    pub(crate) place: Place,
    pub(crate) caps: Vec<&'static str>,
    pub(crate) mounted: Option<PathBuf>,
    pub(crate) tun: bool,
    pub(crate) host_pids: bool,
    pub(crate) created: Duration,
    pub(crate) variables: Vec<(&'static str, String)>,
}

impl Contained {
    /// Starts the attacker of `scenario` as `agent`.
    pub(crate) fn start(agent: Agent, scenario: &str, parcel: &Parcel) -> Result<Self> {
        let cgroup = agent.cgroup().context("a container has a cgroup")?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("contain").arg("--home").arg(agent.home());
        command
            .arg("--cgroup")
            .arg(cgroup)
            .arg("--netns")
            .arg(agent.netns());
        command.arg("--caps").arg(parcel.caps.join(","));
        if let Some(mounted) = &parcel.mounted {
            command.arg("--mounted").arg(mounted);
        }
        if parcel.tun {
            command.arg("--tun");
        }
        if parcel.host_pids {
            command.arg("--host-pids");
        }
        let created = parcel.created.as_millis().to_string();
        command.args(["--created", &created, scenario]);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.envs(parcel.variables.iter().map(|(name, value)| (name, value)));
        let errors = File::create(agent.home().join("stderr"))?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .context("could not start a container")?;
        let stdout = child.stdout.take().context("stdout is a pipe")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            // Nobody listens any more when the case is over.
            lines.for_each(|line| drop(sender.send(line)));
        });
        Ok(Self {
            child,
            lines,
            kept: RefCell::default(),
            agent,
            place: parcel.place,
        })
    }

    /// The attacker's next line.
    pub(crate) fn line(&self) -> Result<String> {
        self.lines.recv_timeout(LIMIT).map_err(|error| {
            let said = fs::read_to_string(self.agent.home().join("stderr")).unwrap_or_default();
            anyhow::anyhow!("the attacker said nothing ({error}): {}", said.trim())
        })
    }

    /// Ends a process when the container ends.
    pub(crate) fn keep(&self, process: Process) {
        self.kept.borrow_mut().push(process);
    }

    /// Lets a waiting attacker go on.
    pub(crate) fn go_on(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Result<Agent> {
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > LIMIT {
                self.child.kill()?;
                self.child.wait()?;
                bail!("the attacker still ran after {LIMIT:?}");
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(self.agent)
    }

    /// The attacker's processes, as the host numbers them.
    pub(crate) fn pids(&self) -> Result<Vec<String>> {
        let cgroup = self.agent.cgroup().context("a container has a cgroup")?;
        let pids = fs::read_to_string(cgroup.join("cgroup.procs"))?;
        Ok(pids.lines().map(str::to_owned).collect())
    }
}

/// From `docker run` to the attacker.
pub(crate) fn contain(plan: &Plan) -> Result<()> {
    // Nothing outlives the battery.
    set_pdeathsig(Signal::SIGKILL)?;
    fs::write(plan.cgroup.join("cgroup.procs"), "0").context("the cgroup can't be joined")?;
    setns(File::open(&plan.netns)?, CloneFlags::CLONE_NEWNET).context("the network")?;
    let mut kinds = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    if !plan.host_pids {
        kinds |= CloneFlags::CLONE_NEWPID;
    }
    unshare(kinds).context("could not make namespaces")?;
    // The next child is process 1 of the new namespace, if there is one.
    let Some(first) = sys::fork()? else {
        set_pdeathsig(Signal::SIGKILL)?;
        return inside(plan);
    };
    let ended = waitpid(first, None)?;
    ensure!(
        matches!(ended, WaitStatus::Exited(_, 0)),
        "the container: {ended:?}"
    );
    Ok(())
}

/// Process 1 of the container.
fn inside(plan: &Plan) -> Result<()> {
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).context("private mounts")?;
    let program = std::env::current_exe()?;
    tmpfs("/run")?;
    fs::write(PROGRAM, "")?;
    bind(&program, Path::new(PROGRAM))?;
    fs::create_dir(HOME)?;
    bind(&plan.home, Path::new(HOME))?;
    if let Some(mounted) = &plan.mounted {
        fs::create_dir(MOUNTED)?;
        bind(mounted, Path::new(MOUNTED))?;
    }
    devices(plan.tun)?;
    tmpfs("/tmp")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).context("proc")?;
    let sealed = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("sysfs"), "/sys", Some("sysfs"), sealed, none).context("sysfs")?;
    let cgroups = "/sys/fs/cgroup";
    mount(Some("cgroup2"), cgroups, Some("cgroup2"), sealed, none).context("cgroups")?;

    std::env::set_current_dir(HOME)?;
    let kept = plan.caps.iter().map(|name| capability(name));
    sys::bound_capabilities(&kept.collect::<Result<Vec<_>>>()?)?;
    thread::sleep(Duration::from_millis(plan.created));
    // Root that runs a program has what is in its bounding set.
    let mut attacker = Command::new(PROGRAM);
    attacker.args(["attack", &plan.scenario]);
    Err(attacker.exec()).context("could not become the attacker")
}

/// A capability's number in linux/capability.h.
fn capability(name: &str) -> Result<u32> {
    const NAMES: [&str; 41] = [
        "chown",
        "dac_override",
        "dac_read_search",
        "fowner",
        "fsetid",
        "kill",
        "setgid",
        "setuid",
        "setpcap",
        "linux_immutable",
        "net_bind_service",
        "net_broadcast",
        "net_admin",
        "net_raw",
        "ipc_lock",
        "ipc_owner",
        "sys_module",
        "sys_rawio",
        "sys_chroot",
        "sys_ptrace",
        "sys_pacct",
        "sys_admin",
        "sys_boot",
        "sys_nice",
        "sys_resource",
        "sys_time",
        "sys_tty_config",
        "mknod",
        "lease",
        "audit_write",
        "audit_control",
        "setfcap",
        "mac_override",
        "mac_admin",
        "syslog",
        "wake_alarm",
        "block_suspend",
        "audit_read",
        "perfmon",
        "bpf",
        "checkpoint_restore",
    ];
    let number = NAMES.iter().position(|known| *known == name);
    let number = number.with_context(|| format!("there is no capability {name:?}"))?;
    Ok(u32::try_from(number)?)
}

/// The few devices that a container has.
fn devices(tun: bool) -> Result<()> {
    let mut names = vec!["null", "zero", "random", "urandom"];
    if tun {
        names.push("net/tun");
    }
    let kept = names.iter().map(|name| {
        let device = File::open(Path::new("/dev").join(name));
        device.map(|device| (*name, device))
    });
    let kept = kept.collect::<Result<Vec<_>, _>>().context("devices")?;
    tmpfs("/dev")?;
    fs::create_dir(Path::new("/dev/net"))?;
    for (name, device) in kept {
        use std::os::fd::AsRawFd as _;
        let place = Path::new("/dev").join(name);
        fs::write(&place, "")?;
        let held = format!("/proc/self/fd/{}", device.as_raw_fd());
        bind(Path::new(&held), &place)?;
    }
    Ok(())
}

fn tmpfs(place: &str) -> Result<()> {
    let options = Some("mode=755");
    mount(
        Some("tmpfs"),
        place,
        Some("tmpfs"),
        MsFlags::empty(),
        options,
    )
    .with_context(|| format!("a tmpfs at {place}"))
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("{} at {}", from.display(), to.display()))
}
