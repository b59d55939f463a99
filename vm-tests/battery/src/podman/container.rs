//! One `podman run` of the agents' image.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xtask::world::{ADDRESS, PORT};

use super::host::{HOST, IMAGE};

/// What nobody waits for any longer.
const LIMIT: Duration = Duration::from_secs(120);
const ERRORS: &str = "/run/container.stderr";

/// Whose cgroup it is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Parent {
    /// An agent with the preflight that everybody has.
    Coder,
    /// An agent whom preflight only warns of: the boundary itself is what is tried.
    Tester,
    /// An agent by its container's label.
    Labelled,
    /// Nobody's agent.
    Outside,
}

/// `podman run`'s `--network`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Network {
    None,
    /// The bridge of this number, whose addresses are 10.79.`number`.0/24.
    Bridge(u8),
    Host,
}

/// What podman is told.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) parent: Parent,
    pub(super) network: Network,
    pub(super) options: Vec<String>,
}

impl Container {
    pub(super) fn new(parent: Parent, network: Network) -> Self {
        Self {
            parent,
            network,
            options: Vec::new(),
        }
    }

    /// With further options of `podman run`.
    pub(super) fn with<S: AsRef<str>>(mut self, options: &[S]) -> Self {
        let options = options.iter().map(|option| option.as_ref().to_owned());
        self.options.extend(options);
        self
    }

    fn command(&self, program: &[&str]) -> Command {
        let mut command = Command::new("podman");
        command.args(["run", "--rm", "--interactive", "--cgroup-parent"]);
        match self.parent {
            Parent::Coder => command.arg("weir-agents-coder.slice"),
            Parent::Tester => command.arg("weir-agents-tester.slice"),
            Parent::Labelled => {
                command.args(["weir-agents.slice", "--label", "com.example.agent=labelled"])
            }
            Parent::Outside => command.arg("outside.slice"),
        };
        let (count, place) = match self.network {
            Network::None => {
                command.args(["--network", "none"]);
                (0, "OnlyLo")
            }
            Network::Bridge(number) => {
                command.arg(format!("--network=agents{number}"));
                command.arg(format!("--ip=10.79.{number}.2"));
                command.arg(format!("--ip6=fd79:{number}::2"));
                (number, "Bridge")
            }
            Network::Host => {
                command.args(["--network", "host"]);
                command.arg(format!("--env=BATTERY_OWN={HOST}"));
                (0, "Host")
            }
        };
        let variables = [
            ("BATTERY_COUNT", count.to_string()),
            ("BATTERY_PLACE", place.to_owned()),
            ("BATTERY_SLOW", "1".to_owned()),
            ("PGHOST", ADDRESS.to_owned()),
            ("PGPORT", PORT.to_string()),
            ("PGUSER", "alice".to_owned()),
            ("PGPASSWORD", "whatever".to_owned()),
            ("PGDATABASE", "app".to_owned()),
            ("PGSSLMODE", "disable".to_owned()),
            ("PGCONNECT_TIMEOUT", "20".to_owned()),
        ];
        for (name, value) in variables {
            command.arg(format!("--env={name}={value}"));
        }
        command.args(&self.options).arg(IMAGE).args(program);
        command
    }

    /// Runs a program to its end.
    pub(super) fn output(&self, program: &[&str]) -> Result<Output> {
        let mut command = self.command(program);
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// Starts a program that is talked with.
    pub(super) fn start(&self, program: &[&str]) -> Result<Running> {
        let mut child = self
            .command(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(ERRORS)?)
            .spawn()
            .context("could not run podman")?;
        let stdout = child.stdout.take().context("stdout is a pipe")?;
        let stdin = child.stdin.take();
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            // Nobody listens any more when the case is over.
            lines.for_each(|line| drop(sender.send(line)));
        });
        Ok(Running {
            child,
            stdin,
            lines,
        })
    }
}

/// A container with a program in it, from the outside.
pub(super) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Running {
    /// The program's next line.
    pub(super) fn line(&self) -> Result<String> {
        self.lines.recv_timeout(LIMIT).map_err(|error| {
            let said = fs::read_to_string(ERRORS).unwrap_or_default();
            anyhow::anyhow!("the container said nothing ({error}): {}", said.trim())
        })
    }

    /// Lets it do the next thing.
    pub(super) fn go_on(&mut self) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its input is open")?;
        Ok(stdin.write_all(b"\n")?)
    }

    /// Ends its input: it has to end.
    pub(super) fn close(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end.
    pub(super) fn end(mut self) -> Result<()> {
        self.close();
        let status = self.child.wait()?;
        let said = fs::read_to_string(ERRORS).unwrap_or_default();
        ensure!(status.success(), "podman: {status}: {}", said.trim());
        Ok(())
    }
}
