//! A small, real host to try Weir on, made in about a second and gone without a trace.
//!
//! ```text
//!   World                namespace with the database's addresses, a slice, a folder
//!    +- Postgres         a real server on 10.77.0.1 and fd77::1, port 5432
//!    +- Weir             `weir run`, everything it writes below the world's folder
//!    +- Agent            a cgroup below the slice; its own namespace (only `lo`), or the host's
//! ```
//!
//! Worlds have unique names and share nothing, so any number can run at once. Each value undoes
//! what it did when it is dropped, by path and by pid. What an owner that was killed left behind
//! (cgroups, pins and files; processes and namespaces end with it) is removed by the next world.

mod agent;
mod cgroup;
mod daemon;
mod manager;
mod namespace;
mod postgres;
mod process;

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{self as this_process, Command},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use nix::{sys::signal::Signal, unistd};
use tempfile::TempDir;

pub use self::{
    agent::{Agent, Finished, Network},
    daemon::{Setup, Weir},
    postgres::{PORT, Postgres, Settings},
    process::Process,
};
use self::{
    cgroup::Cgroup,
    daemon::Site,
    namespace::Namespace,
    process::{Place, User},
};

/// The database's address. An agent that has only `lo` has no route to it.
pub const ADDRESS: &str = "10.77.0.1";
/// The database's IPv6 address.
pub const ADDRESS6: &str = "fd77::1";

const PREFIX: &str = "weir-world-";

/// A host with a database. See the module's documentation.
#[derive(Debug)]
pub struct World {
    // In the order in which they go: server, slice, pins, namespace, folder.
    postgres: Postgres,
    slice: Cgroup,
    outside: Cgroup,
    pins: Pins,
    namespace: Arc<Namespace>,
    dir: TempDir,
    agents: AtomicU32,
}

impl World {
    /// A world with the usual database.
    pub fn new() -> Result<Self> {
        Self::with(&Settings::default())
    }

    /// A world whose server has further settings.
    pub fn with(settings: &Settings) -> Result<Self> {
        ensure!(
            unistd::geteuid().is_root(),
            "network namespaces, cgroups and eBPF programs need root: run this as root"
        );
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{count}", this_process::id());
        let (cgroups, bpffs) = (cgroup::root()?, cgroup::bpffs()?);
        for folder in [&cgroups, &bpffs, &env::temp_dir()] {
            sweep(folder);
        }

        let dir = tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir()?;
        // The user `postgres` passes through to its data; nothing secret is open to all below.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
        let namespace = Arc::new(Namespace::new(&["10.77.0.1/32", "fd77::1/128"])?);
        let postgres = Postgres::start(&namespace, dir.path(), settings)?;
        let slice = Cgroup::new(cgroups.join(format!("{name}.slice")))?;
        let outside = Cgroup::new(cgroups.join(format!("{name}-outside")))?;
        let pins = Pins(bpffs.join(name));
        Ok(Self {
            postgres,
            slice,
            outside,
            pins,
            namespace,
            dir,
            agents: AtomicU32::new(0),
        })
    }

    /// The database, reached past Weir.
    #[must_use]
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The world's folder, removed with it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The cgroup that Weir governs.
    #[must_use]
    pub fn slice(&self) -> &Path {
        self.slice.path()
    }

    /// The cgroup of those whom nothing governs.
    #[must_use]
    pub fn strangers(&self) -> &Path {
        self.outside.path()
    }

    /// Where Weir pins its programs and maps.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins.0
    }

    /// Starts Weir and waits until it answers.
    pub fn weir(&self, setup: Setup) -> Result<Weir> {
        let slice = self
            .slice
            .path()
            .file_name()
            .context("a slice has a name")?;
        let dir = self.dir.path().join("weir");
        fs::create_dir_all(&dir)?;
        let site = Site {
            netns: self.namespace.path(),
            slice: slice.to_string_lossy().into_owned(),
            pins: self.pins.0.clone(),
            dir,
        };
        Weir::start(site, setup)
    }

    /// A new process group of the agent `name`: the configuration knows `coder` and `analyst`,
    /// anybody else is a stranger.
    pub fn agent(&self, name: &str, network: Network) -> Result<Agent> {
        self.container(self.slice.path(), name, network)
    }

    /// The same outside of the slice: nothing governs it.
    pub fn stranger(&self, name: &str, network: Network) -> Result<Agent> {
        self.container(self.outside.path(), name, network)
    }

    fn container(&self, parent: &Path, name: &str, network: Network) -> Result<Agent> {
        let count = self.agents.fetch_add(1, Ordering::Relaxed);
        let name = format!("{name}-{count}");
        let home = self.dir.path().join(&name);
        Agent::new(parent.join(&name), &self.namespace, network, home, count)
    }

    /// A command in the host's namespace that no slice governs: its connections go straight to
    /// the database. It needs the real user and password.
    pub fn outside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let place = Place {
            cgroup: None,
            netns: self.namespace.path(),
            user: User::Root,
        };
        let command = place.command(program, Signal::SIGTERM);
        let mut command = agent::client(command, self.dir.path());
        command
            .env("PGUSER", "weir_agents")
            .env("PGPASSWORD", "upstream-secret");
        command
    }
}

/// The folder of pinned programs and maps. Removing it detaches them: while it is there, an
/// agent without a daemon is refused.
#[derive(Debug)]
struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        // Not there if no daemon ran.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what worlds of dead processes left in a folder: cgroups, pins, files.
fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        let dead = owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        if dead {
            cgroup::remove(&entry.path());
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
