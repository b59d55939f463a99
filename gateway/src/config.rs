//! weir.toml: what the operator wrote, checked, or a list of what is wrong with it and where.
//!
//! A [`Config`] that exists is one the daemon can run on: files that are missing on this machine
//! aside, every value in it was checked. Unknown keys, values that can never apply and keys of a
//! later version are errors, with file, line and column.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

mod check;
mod egress;
mod host;
mod raw;

pub use egress::{Egress, Listed, Place};
pub use host::Host;

use crate::agents;
use crate::capture;
use crate::identity::Matcher;
use crate::policy::Diagnostic;
use crate::record::{self, Durability};
use crate::session::Results;
use crate::upstream::{self, Login, Target, Tls, TlsMode};

/// Where the configuration is, unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/weir/weir.toml";

/// The agents' cgroup, unless `[capture]` says otherwise.
pub const DEFAULT_SLICE: &str = "weir-agents.slice";
/// Where eBPF is pinned, unless `[capture]` says otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/weir";

/// Everything in weir.toml.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// `[capture]`.
    pub capture: capture::Settings,
    /// `[paths]`.
    pub paths: Paths,
    /// `[journal]`.
    pub journal: Journal,
    /// `[datastore.*]`, by name; at least one. No two have an endpoint in common, and at most one
    /// governs what is detected.
    pub datastores: Vec<Arc<Datastore>>,
    /// `[runtimes]`.
    pub runtimes: agents::Settings,
    /// `[agent.*]`; at least one.
    pub agents: Matcher,
    /// By agent, its `egress`.
    pub egress: BTreeMap<Arc<str>, Egress>,
}

/// Where the daemon keeps what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// What survives a restart: journals, index, certificate authority.
    pub state_dir: PathBuf,
    /// The control socket.
    pub run_dir: PathBuf,
    /// The directory of policy files.
    pub policies: PathBuf,
}

impl Paths {
    /// The directory of the sessions' journals.
    pub fn journal(&self) -> PathBuf {
        self.state_dir.join("journal")
    }

    /// The SQLite file of the index.
    pub fn index(&self) -> PathBuf {
        self.state_dir.join("index.db")
    }

    /// Both, for reading them back.
    pub fn record(&self) -> record::Paths {
        record::Paths {
            journal: self.journal(),
            index: self.index(),
        }
    }

    /// The directory of the certificate authority.
    pub fn ca(&self) -> PathBuf {
        self.state_dir.join("ca")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("weir.sock")
    }
}

/// How sessions are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Journal {
    /// How far a record must be before its statement is forwarded.
    pub durability: Durability,
    /// What of the results is recorded.
    pub results: Results,
}

/// A database server, or several that hold the same data.
#[derive(Debug, Clone)]
pub struct Datastore {
    /// Its name, which rules use.
    pub name: Arc<str>,
    /// Where agents find it; not empty.
    pub hosts: Vec<Host>,
    /// How connections to it are protected.
    pub tls: TlsMode,
    /// The name its certificate must bear; `None` for the address that is dialled.
    pub server_name: Option<String>,
    /// What a client may name as its database; not empty.
    pub databases: Vec<String>,
    /// Who Weir is there.
    pub login: Login,
    /// Whether agents must use TLS towards Weir.
    pub client_tls: ClientTls,
    /// What becomes of an endpoint that speaks its protocol and is nobody's.
    pub on_detect: OnDetect,
    /// The limit of dialling and logging in.
    pub connect_timeout: Duration,
}

impl Datastore {
    /// What [`upstream::connect`] needs. Reads the file of authorities.
    pub fn target(&self) -> Result<Target, upstream::Error> {
        Ok(Target {
            server_name: self.server_name.clone(),
            tls: Tls::new(&self.tls)?,
            login: self.login.clone(),
            connect_timeout: self.connect_timeout,
        })
    }

    /// The names and addresses of its hosts, without their ports: what the certificate that agents
    /// see must bear. Addresses that a name resolves to come on top.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.hosts.iter().map(Host::without_port).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// Whether agents must use TLS towards Weir.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientTls {
    /// As the client likes: it never leaves the host.
    #[default]
    Optional,
    /// A client without TLS is refused.
    Require,
}

/// What becomes of an endpoint at which an agent was found to speak a datastore's protocol, without
/// it being listed. The connection itself is ended in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnDetect {
    /// The next one is ended too.
    #[default]
    Deny,
    /// The agent's next one is a session with this datastore, at the datastore's own hosts.
    Govern,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file can't be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is wrong; one line for each thing, or two where there is advice.
    #[error("{}", lines(.0))]
    Invalid(Vec<Diagnostic>),
}

impl Config {
    /// Reads and checks the file at `path`.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// Checks `text` as the content of `file`.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        check::check(file, text).map_err(Error::Invalid)
    }
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    diagnostics
        .iter()
        .map(Diagnostic::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
