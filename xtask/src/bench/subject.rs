//! What stands between client and database in a measurement: nothing, pgbouncer, a bare relay, or
//! Weir.

use std::{
    fmt,
    os::unix::fs::{PermissionsExt as _, chown},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use nix::{sys::signal::Signal, unistd::User};
use xtask::world::{ADDRESS, Agent, PORT, Process, Setup, Weir, World};

pub(super) const POLICY: &str = include_str!("policy.toml");

/// What is measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Subject {
    /// Client and server alone
    Direct,
    /// pgbouncer, session pooling
    Pgbouncer,
    /// Bytes from one socket to the other by tokio
    Relay,
    /// Weir, recording all results
    WeirFull,
    /// Weir, recording a digest of each result
    WeirDigest,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Pgbouncer => "pgbouncer",
            Self::Relay => "bare relay",
            Self::WeirFull => "Weir, full",
            Self::WeirDigest => "Weir, digest",
        })
    }
}

impl Subject {
    pub(crate) fn is_weir(self) -> bool {
        matches!(self, Self::WeirFull | Self::WeirDigest)
    }
}

/// A subject that runs, with the way of a client to it.
pub(crate) enum Running<'w> {
    Direct(&'w World),
    Proxy {
        world: &'w World,
        process: Process,
        port: u16,
    },
    Weir {
        agent: &'w Agent,
        weir: Box<Weir>,
    },
}

impl<'w> Running<'w> {
    /// Starts a subject, of the programs in `binaries`. Weir's client is `agent`, all others' are
    /// outside of Weir's reach.
    pub(crate) fn start(
        subject: Subject,
        world: &'w World,
        agent: &'w Agent,
        binaries: &Path,
    ) -> Result<Self> {
        Ok(match subject {
            Subject::Direct => Self::Direct(world),
            Subject::Pgbouncer => {
                let process = pgbouncer(world)?;
                Self::Proxy {
                    world,
                    process,
                    port: 6432,
                }
            }
            Subject::Relay => {
                let mut command = world.outside(binaries.join("xtask"));
                command.args(["relay", "127.0.0.1:7432", &format!("{ADDRESS}:{PORT}")]);
                let process = listening(world, "relay", command, 7432)?;
                Self::Proxy {
                    world,
                    process,
                    port: 7432,
                }
            }
            Subject::WeirFull | Subject::WeirDigest => {
                let binary = binaries.join("weir");
                let results = if subject == Subject::WeirFull {
                    "full"
                } else {
                    "digest"
                };
                let setup = Setup {
                    results,
                    ..Setup::new(binary, POLICY)
                };
                Self::Weir {
                    agent,
                    weir: Box::new(world.weir(setup)?),
                }
            }
        })
    }

    /// A client's command, its environment pointing here.
    pub(crate) fn client(&self, program: &str) -> Command {
        match self {
            Self::Direct(world) => world.outside(program),
            Self::Proxy { world, port, .. } => {
                let mut command = world.outside(program);
                command
                    .env("PGHOST", "127.0.0.1")
                    .env("PGPORT", port.to_string());
                command
            }
            Self::Weir { agent, .. } => agent.command(program),
        }
    }

    /// The process in between.
    pub(crate) fn gateway(&self) -> Option<&Process> {
        match self {
            Self::Direct(_) => None,
            Self::Proxy { process, .. } => Some(process),
            Self::Weir { weir, .. } => Some(weir.process()),
        }
    }
}

fn pgbouncer(world: &World) -> Result<Process> {
    let configuration = world.dir().join("pgbouncer.ini");
    let text = format!(
        "[databases]\n\
         app = host={ADDRESS} port={PORT} user=weir_agents password=upstream-secret\n\
         [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = 6432\nauth_type = any\n\
         pool_mode = session\nmax_client_conn = 400\ndefault_pool_size = 300\n\
         unix_socket_dir =\nlog_connections = 0\nlog_disconnections = 0\n\
         ignore_startup_parameters = extra_float_digits\n"
    );
    std::fs::write(&configuration, text)?;
    own(&configuration)?;
    // It refuses to run as root.
    let mut command = world.outside("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    command
        .args(["--pdeathsig=TERM", "pgbouncer"])
        .arg(configuration);
    listening(world, "pgbouncer", command, 6432)
}

fn own(path: &Path) -> Result<()> {
    let account = User::from_name("postgres")?.context("there is no user postgres")?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(chown(
        path,
        Some(account.uid.as_raw()),
        Some(account.gid.as_raw()),
    )?)
}

/// Starts a proxy and waits until a client gets through it.
fn listening(world: &World, name: &str, command: Command, port: u16) -> Result<Process> {
    let log = world.dir().join(format!("{name}.log"));
    let mut process = Process::start(name, command, &log, Signal::SIGTERM)?;
    process.until(Duration::from_secs(10), || {
        let mut probe = world.outside("psql");
        probe
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", port.to_string());
        probe
            .args(["-Xqc", "SELECT 1"])
            .output()
            .is_ok_and(|output| output.status.success())
    })?;
    Ok(process)
}
