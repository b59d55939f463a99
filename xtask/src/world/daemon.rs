//! Weir itself: a `weir run` in the world's host namespace, with every path of its own, so that
//! many can run side by side.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::{
    ADDRESS, ADDRESS6,
    agent::{Finished, finish},
    manager::Manager,
    postgres::PORT,
    process::{Place, Process, User},
};

/// How a daemon is set up. The defaults suit the world's database.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The `weir` binary.
    pub binary: PathBuf,
    /// Text of the policy file.
    pub policy: String,
    /// `results` of the journal: full, digest or none.
    pub results: &'static str,
    /// `durability` of the journal: os or disk.
    pub durability: &'static str,
    /// Whether clients must use TLS: optional or require.
    pub client_tls: &'static str,
    /// What becomes of its protocol elsewhere: deny or govern. `None` leaves it at the default.
    pub on_detect: Option<&'static str>,
    /// The `tls` table of the datastore, towards the upstream.
    pub upstream_tls: String,
    /// Addresses of the datastore.
    pub hosts: Vec<String>,
    /// The password that Weir logs in with.
    pub password: String,
    /// What becomes of agents that could get round Weir: these can, being root among the host's
    /// files. `None` leaves it at the default.
    pub preflight: Option<&'static str>,
    /// Hooks without which it doesn't start.
    pub require: Vec<&'static str>,
    /// The `egress` of the agent `coder`, as the configuration has it. `None` leaves it at the default.
    pub egress: Option<String>,
    /// More of the configuration, behind the agents `coder` and `analyst`.
    pub more: String,
    /// Where the journal and the index go, if not below the world's folder.
    pub state: Option<PathBuf>,
    /// Whether it runs under a service manager that keeps its listeners over a restart.
    pub managed: bool,
}

impl Setup {
    /// A daemon in front of the world's database that judges by `policy`.
    #[must_use]
    pub fn new(binary: impl Into<PathBuf>, policy: impl Into<String>) -> Self {
        Self {
            binary: binary.into(),
            policy: policy.into(),
            results: "full",
            durability: "os",
            client_tls: "optional",
            on_detect: None,
            upstream_tls: r#"{ mode = "disable" }"#.to_owned(),
            hosts: vec![format!("{ADDRESS}:{PORT}"), format!("[{ADDRESS6}]:{PORT}")],
            password: "upstream-secret".to_owned(),
            preflight: Some("warn"),
            require: Vec::new(),
            egress: None,
            more: String::new(),
            state: None,
            managed: false,
        }
    }
}

/// What of the world a daemon needs.
#[derive(Clone, Debug)]
pub(super) struct Site {
    pub(super) netns: PathBuf,
    /// The slice, relative to the cgroup mount.
    pub(super) slice: String,
    pub(super) pins: PathBuf,
    pub(super) dir: PathBuf,
}

/// A running daemon. Dropping it asks it to drain and waits for its end.
#[derive(Debug)]
pub struct Weir {
    process: Process,
    manager: Option<Manager>,
    setup: Setup,
    site: Site,
}

impl Weir {
    pub(super) fn start(site: Site, setup: Setup) -> Result<Self> {
        fs::create_dir_all(site.dir.join("policies"))?;
        fs::write(site.dir.join("policies/policy.toml"), &setup.policy)?;
        let password = site.dir.join("upstream-password");
        fs::write(&password, &setup.password)?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        fs::write(site.dir.join("weir.toml"), configuration(&site, &setup))?;
        let manager = setup
            .managed
            .then(|| Manager::new(&place(&site), &site.dir))
            .transpose()?;
        let process = launch(&site, &setup, manager.as_ref())?;
        let mut weir = Self {
            process,
            manager,
            setup,
            site,
        };
        weir.ready()?;
        Ok(weir)
    }

    /// Runs a command of Weir's CLI against this daemon.
    pub fn cli(&self, args: &[&str]) -> Result<Finished> {
        cli(&self.site, &self.setup, args)
    }

    /// Replaces the policy file, as an operator would, in one step.
    pub fn replace_policy(&self, text: &str) -> Result<()> {
        let path = self.site.dir.join("policies/policy.toml");
        let new = self.site.dir.join("policy.new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, path)?)
    }

    /// The daemon's process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Asks it to drain, waits for its end, and says how it ended.
    pub fn drain(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(limit)
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// The folder of its journals and index.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        state(&self.site, &self.setup)
    }

    /// Kills it without warning, as the kernel would when memory runs out.
    pub fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(Duration::from_secs(10)).map(drop)
    }

    /// Starts a new daemon on what an ended one left behind.
    pub fn restart(&mut self) -> Result<()> {
        self.process = launch(&self.site, &self.setup, self.manager.as_ref())?;
        self.ready()
    }

    /// Has the next start, and the CLI, be of another binary.
    pub fn replace_binary(&mut self, binary: PathBuf) {
        self.setup.binary = binary;
    }

    /// The names of what its service manager keeps for it now.
    #[must_use]
    pub fn stored(&self) -> Vec<String> {
        let told = self.told();
        let last = told
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("stored"));
        let names = last.into_iter().flat_map(str::split_whitespace);
        names.map(str::to_owned).collect()
    }

    /// What its service manager has heard: each line, and after each message one line `stored` with
    /// the names of what is kept then.
    #[must_use]
    pub fn told(&self) -> String {
        self.manager
            .as_ref()
            .map(Manager::heard)
            .unwrap_or_default()
    }

    fn ready(&mut self) -> Result<()> {
        let Self {
            process,
            setup,
            site,
            ..
        } = self;
        let mut told = String::new();
        let socket = site.dir.join("run/weir.sock");
        // On an emulated machine that isn't alone, it takes 5 to 10 s.
        let ready = process.until(Duration::from_secs(90), || {
            // To ask takes a process, whose time the daemon lacks where all is emulated.
            if !socket.exists() {
                return false;
            }
            let finished = cli(site, setup, &["status", "--json"]);
            finished.is_ok_and(|finished| {
                told = finished.stderr.clone();
                finished.ok()
            })
        });
        ready.with_context(|| format!("weir status said last: {told:?}"))
    }
}

fn launch(site: &Site, setup: &Setup, manager: Option<&Manager>) -> Result<Process> {
    let place = place(site);
    let mut command = match manager {
        None => place.command(&setup.binary, Signal::SIGTERM),
        Some(manager) => manager.command(&place, &setup.binary),
    };
    command
        .args(["run", "--config"])
        .arg(site.dir.join("weir.toml"));
    command.env("RUST_LOG", "info");
    Process::start("weir", command, &site.dir.join("weir.log"), Signal::SIGTERM)
}

fn cli(site: &Site, setup: &Setup, args: &[&str]) -> Result<Finished> {
    let mut command = place(site).command("timeout", Signal::SIGTERM);
    command.arg("60").arg(&setup.binary).args(args);
    command.arg("--config").arg(site.dir.join("weir.toml"));
    finish(&mut command, "weir")
}

fn place(site: &Site) -> Place {
    Place {
        cgroup: None,
        netns: site.netns.clone(),
        user: User::Root,
    }
}

fn state(site: &Site, setup: &Setup) -> PathBuf {
    setup
        .state
        .clone()
        .unwrap_or_else(|| site.dir.join("state"))
}

fn configuration(site: &Site, setup: &Setup) -> String {
    let Site {
        slice, pins, dir, ..
    } = site;
    let quoted = |path: &Path| format!("{:?}", path.display().to_string());
    let hosts: Vec<_> = setup.hosts.iter().map(|host| format!("{host:?}")).collect();
    let mut text = format!(
        r#"[capture]
slice = "{slice}"
pin_dir = {pins}
require = {require:?}

[paths]
state_dir = {state}
run_dir = {run}
policies = {policies}

[journal]
durability = "{durability}"
results = "{results}"

[datastore.appdb]
protocol = "postgres"
hosts = [{hosts}]
tls = {tls}
databases = ["app"]
login = {{ user = "weir_agents", password = {{ file = {password} }} }}
client_tls = "{client_tls}"
{on_detect}"#,
        pins = quoted(pins),
        require = setup.require,
        state = quoted(&state(site, setup)),
        run = quoted(&dir.join("run")),
        policies = quoted(&dir.join("policies")),
        durability = setup.durability,
        results = setup.results,
        hosts = hosts.join(", "),
        tls = setup.upstream_tls,
        password = quoted(&dir.join("upstream-password")),
        client_tls = setup.client_tls,
        on_detect = setup
            .on_detect
            .map(|word| format!("on_detect = {word:?}\n"))
            .unwrap_or_default(),
    );
    let preflight = setup
        .preflight
        .map(|mode| format!("preflight = {mode:?}\n"));
    let preflight = preflight.unwrap_or_default();
    let egress = setup.egress.as_ref();
    let egress = egress.map(|egress| format!("egress = {egress}\n"));
    for (agent, egress) in [
        ("coder", egress.unwrap_or_default()),
        ("analyst", String::new()),
    ] {
        // Writing to a String doesn't fail.
        let _ = write!(
            text,
            "\n[agent.{agent}]\nmatch = {{ cgroup = \"{slice}/{agent}-*\" }}\n{preflight}{egress}"
        );
    }
    text + &setup.more
}
