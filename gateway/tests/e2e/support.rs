//! What the tests share: Weir in front of the world's database, and an agent behind it.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use xtask::{
    cache,
    world::{Agent, Finished, Network, Process, Settings, Setup, Weir, World},
};

pub(crate) const POLICY: &str = include_str!("policy.toml");

/// The tests' daemon: the policy above, everything else as it comes.
pub(crate) fn setup() -> Setup {
    Setup::new(env!("CARGO_BIN_EXE_weir"), POLICY)
}

/// A world in which all is in place. Its parts end in this order.
pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) weir: Weir,
    pub(crate) world: World,
}

impl Stage {
    /// The agent `coder`, whose namespace has only `lo`.
    pub(crate) fn new() -> Result<Self> {
        Self::with(&Settings::default(), |_, setup| Ok(setup))
    }

    /// The same with settings of the server, and changes to the daemon's.
    pub(crate) fn with(
        server: &Settings,
        change: impl FnOnce(&World, Setup) -> Result<Setup>,
    ) -> Result<Self> {
        let world = World::with(server)?;
        let weir = world.weir(change(&world, setup())?)?;
        let mut agent = world.agent("coder", Network::OnlyLo)?;
        agent.settle()?;
        Ok(Self { agent, weir, world })
    }

    /// A server that logs every statement that reaches it.
    pub(crate) fn watched() -> Result<Self> {
        let extra = "log_statement = 'all'".to_owned();
        let settings = Settings {
            extra,
            ..Settings::default()
        };
        Self::with(&settings, |_, setup| Ok(setup))
    }
}

/// A script of `clients/`.
pub(crate) fn script(name: &str) -> String {
    format!("{}/tests/e2e/clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// The Python that has the drivers.
pub(crate) fn python() -> String {
    cache::python().display().to_string()
}

/// Runs a Python client to its end.
pub(crate) fn client(agent: &Agent, name: &str, variables: &[(&str, &str)]) -> Result<Finished> {
    agent.run_with(&python(), &["-B", &script(name)], variables)
}

/// Starts a Python client in the background.
pub(crate) fn client_in_background(agent: &Agent, name: &str, args: &[&str]) -> Result<Process> {
    let script = script(name);
    agent.start(&python(), &[&["-B", &script], args].concat())
}

/// How a session is refused: severity, SQLSTATE and message, or `accepted`.
pub(crate) fn refusal(agent: &Agent, variables: &[(&str, &str)]) -> Result<String> {
    let finished = client(agent, "refused.py", variables)?;
    if !finished.ok() {
        bail!("{finished:?}");
    }
    Ok(finished.stdout)
}

/// A file system of 80 MiB, unmounted when dropped. No session opens with less than 64 MiB free.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn mount(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path)?;
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", "size=80m,mode=700", "tmpfs"])
            .arg(&path);
        ensure!(mount.status()?.success(), "could not mount a tmpfs");
        Ok(Self(path))
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut filler = fs::File::create(self.0.join("filler"))?;
        let zeros = vec![0; 1 << 20];
        while filler.write_all(&zeros).is_ok() {}
        Ok(())
    }

    /// Makes room again.
    pub(crate) fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }

    /// Where a daemon's state can be.
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the daemon may still hold its journals open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Waits until something holds; a minute is too long.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<()> {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > Duration::from_secs(60) {
            bail!("still not so after a minute: {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
