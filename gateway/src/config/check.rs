//! From what is written to what can be run on. All errors are collected, not only the first.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use toml::Spanned;

use super::host::Refused;
use super::raw::{self, Later};
use super::{ClientTls, Config, Datastore, Host, Journal, Paths, TlsMode};
use crate::capture;
use crate::credential::Source;
use crate::identity::{Agent, Matcher, Pattern};
use crate::policy::{Diagnostic, did_you_mean};
use crate::record::Durability;
use crate::session::Results;
use crate::upstream::{AuthPolicy, Login};

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A name that makes both a file name and a metric's label without quoting.
const NAME_RULE: &str = "names are 1 to 63 letters, digits, '-' and '_'";

type Text = Spanned<String>;

/// Reads and checks `text`.
pub(super) fn check(file: &Path, text: &str) -> Result<Config, Vec<Diagnostic>> {
    let name = file.display().to_string();
    let raw = toml::from_str::<raw::File>(text).map_err(|e| vec![syntax(&name, text, &e)])?;
    let mut check = Check {
        file: name,
        text,
        found: Vec::new(),
    };
    let config = check.file(file, &raw);
    match config {
        Some(config) if check.found.is_empty() => Ok(config),
        _ => {
            check.found.sort_by_key(|d| (d.line, d.column));
            Err(check.found)
        }
    }
}

/// What toml or serde found. Their messages list the known keys; the nearest one is what people
/// want to hear.
fn syntax(file: &str, text: &str, error: &toml::de::Error) -> Diagnostic {
    let at = error.span().unwrap_or(0..0);
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (key, known) = (quoted.next(), quoted);
    let unknown = message.starts_with("unknown field");
    match key {
        Some(key) if unknown => {
            let known: Vec<&str> = known.collect();
            let help = did_you_mean(key, known.iter().copied())
                .map(|near| format!("did you mean `{near}`?"))
                .unwrap_or_else(|| format!("known here: {}", known.join(", ")));
            Diagnostic::error(file, text, at, format!("unknown key `{key}`")).help(help)
        }
        Some(key) if message.starts_with("missing field") => {
            Diagnostic::error(file, text, at, format!("key `{key}` is missing"))
        }
        _ => Diagnostic::error(file, text, at, message.trim().replace('\n', ": ")),
    }
}

struct Check<'a> {
    file: String,
    text: &'a str,
    found: Vec<Diagnostic>,
}

impl Check<'_> {
    fn file(&mut self, path: &Path, raw: &raw::File) -> Option<Config> {
        for later in [
            &raw.state,
            &raw.export,
            &raw.approval,
            &raw.grants,
            &raw.web,
        ] {
            self.later(later);
        }
        let capture = self.capture(&raw.capture);
        let paths = self.paths(&raw.paths);
        let journal = self.journal(&raw.journal);
        let datastores = self.datastores(&raw.datastore);
        let agents = self.agents(&raw.agent, capture.as_ref());
        Some(Config {
            file: path.to_owned(),
            capture: capture?,
            paths: paths?,
            journal: journal?,
            datastores,
            agents,
        })
    }

    fn capture(&mut self, raw: &raw::Capture) -> Option<capture::Settings> {
        let slice = match &raw.slice {
            None => Some(PathBuf::from(super::DEFAULT_SLICE)),
            Some(slice) => self.slice(slice),
        };
        let pin_dir = self.path_or(raw.pin_dir.as_ref(), super::DEFAULT_PIN_DIR);
        let cgroup_root = match &raw.cgroup_root {
            None => Some(None),
            Some(root) => self.path(root).map(Some),
        };
        Some(capture::Settings {
            slice: slice?,
            pin_dir: pin_dir?,
            cgroup_root: cgroup_root?,
        })
    }

    fn slice(&mut self, slice: &Text) -> Option<PathBuf> {
        let text = slice.get_ref();
        if text.starts_with('/') {
            return self.error(slice, "the slice must be relative to the cgroup2 mount").help(
                "the root itself can't be captured: Weir's own connections would come back to it",
            );
        }
        if text.split('/').any(|c| matches!(c, "" | "." | "..")) || text.contains(['*', '\0']) {
            return self
                .error(slice, "the slice must be the path of one cgroup")
                .none();
        }
        Some(PathBuf::from(text))
    }

    fn paths(&mut self, raw: &raw::Paths) -> Option<Paths> {
        let state_dir = self.path_or(raw.state_dir.as_ref(), "/var/lib/weir");
        let run_dir = self.path_or(raw.run_dir.as_ref(), "/run/weir");
        let policies = self.path_or(raw.policies.as_ref(), "/etc/weir/policies");
        Some(Paths {
            state_dir: state_dir?,
            run_dir: run_dir?,
            policies: policies?,
        })
    }

    fn journal(&mut self, raw: &raw::Journal) -> Option<Journal> {
        self.later(&raw.retention);
        let durability = self.choice(
            raw.durability.as_ref(),
            &[("os", Durability::Os), ("disk", Durability::Disk)],
        );
        let results = self.choice(
            raw.results.as_ref(),
            &[
                ("full", Results::Full),
                ("digest", Results::Digest),
                ("none", Results::None),
            ],
        );
        Some(Journal {
            durability: durability?,
            results: results?,
        })
    }

    fn datastores(&mut self, raw: &BTreeMap<Text, raw::Datastore>) -> Vec<Arc<Datastore>> {
        if raw.is_empty() {
            let help = "add a [datastore.NAME] with protocol, hosts, tls, databases and login";
            self.error_at(0..0, "there is no datastore")
                .help::<()>(help);
        }
        let mut datastores = Vec::new();
        let mut endpoints = HashMap::new();
        for (name, raw) in raw {
            self.name(name);
            let hosts = self.hosts(name.get_ref(), &raw.hosts, &mut endpoints);
            if let Some(datastore) = self.datastore(name, raw, hosts) {
                datastores.push(Arc::new(datastore));
            }
        }
        datastores
    }

    fn datastore(
        &mut self,
        name: &Text,
        raw: &raw::Datastore,
        hosts: Vec<Host>,
    ) -> Option<Datastore> {
        self.protocol(&raw.protocol);
        let tls = self.tls(&raw.tls, &hosts);
        let databases = self.databases(&raw.databases);
        let login = self.login(&raw.login);
        let client_tls = self.choice(
            raw.client_tls.as_ref(),
            &[
                ("optional", ClientTls::Optional),
                ("require", ClientTls::Require),
            ],
        );
        let connect_timeout = match &raw.connect_timeout {
            None => Some(DEFAULT_CONNECT_TIMEOUT),
            Some(text) => self.duration(text),
        };
        let (tls, server_name) = tls?;
        Some(Datastore {
            name: name.get_ref().as_str().into(),
            hosts,
            tls,
            server_name,
            databases: databases?,
            login: login?,
            client_tls: client_tls?,
            connect_timeout: connect_timeout?,
        })
    }

    fn protocol(&mut self, protocol: &Text) {
        match protocol.get_ref().as_str() {
            "postgres" => {}
            "mysql" => {
                let message = "protocol \"mysql\" is not in this version yet";
                self.error(protocol, message).none::<()>();
            }
            other => {
                let message = format!("unknown protocol {other:?}");
                self.error(protocol, message)
                    .help::<()>("\"postgres\" is the one there is");
            }
        }
    }

    /// The hosts of one datastore; `endpoints` holds those of all of them so far.
    fn hosts(
        &mut self,
        datastore: &str,
        raw: &Spanned<Vec<Text>>,
        endpoints: &mut HashMap<Host, String>,
    ) -> Vec<Host> {
        if raw.get_ref().is_empty() {
            self.error_at(raw.span(), "a datastore needs at least one host")
                .none::<()>();
        }
        let mut hosts = Vec::new();
        for text in raw.get_ref() {
            let host = match Host::parse(text.get_ref()) {
                Ok(host) => host,
                Err(Refused { message, help }) => {
                    self.error(text, message).help::<()>(help);
                    continue;
                }
            };
            if let Some(other) = endpoints.insert(host.clone(), datastore.to_owned()) {
                let message = format!("{host} is already a host of datastore {other:?}");
                let help = "Weir tells datastores apart by the address an agent connects to";
                self.error(text, message).help::<()>(help);
            }
            hosts.push(host);
        }
        hosts
    }

    fn tls(
        &mut self,
        raw: &Spanned<raw::Tls>,
        hosts: &[Host],
    ) -> Option<(TlsMode, Option<String>)> {
        let tls = raw.get_ref();
        let server_name = match &tls.server_name {
            Some(name) if ServerName::try_from(name.get_ref().as_str()).is_err() => {
                let message = format!("{:?} is neither a host name nor an address", name.get_ref());
                return self.error(name, message).none();
            }
            Some(name) => Some(name.get_ref().clone()),
            None => None,
        };
        let ca = match &tls.ca {
            Some(ca) => Some((ca, self.path(ca)?)),
            None => None,
        };
        let mode = match (tls.mode.get_ref().as_str(), ca) {
            ("disable", None) => TlsMode::Disable,
            ("require", None) => TlsMode::Require,
            ("verify-full", Some((_, ca))) => TlsMode::VerifyFull { ca },
            ("verify-full", None) => {
                let help =
                    "add ca = \"/path/to/ca.pem\": the authority of the server's certificate";
                return self
                    .error_at(raw.span(), "verify-full needs a ca")
                    .help(help);
            }
            (mode @ ("disable" | "require"), Some((ca, _))) => {
                let message = format!("mode {mode:?} verifies nothing and has no use for a ca");
                return self
                    .error(ca, message)
                    .help("mode = \"verify-full\" is the one that does");
            }
            (mode, _) => {
                return self.unknown(&tls.mode, mode, &["disable", "require", "verify-full"]);
            }
        };
        let server_name = match server_name {
            Some(name) => Some(name),
            None => self.only_name(&mode, raw, hosts)?,
        };
        Some((mode, server_name))
    }

    /// The name to verify where none is set: the host's, if there is no choice.
    fn only_name(
        &mut self,
        mode: &TlsMode,
        raw: &Spanned<raw::Tls>,
        hosts: &[Host],
    ) -> Option<Option<String>> {
        let mut names: Vec<&str> = hosts
            .iter()
            .filter_map(|host| match host {
                Host::Name(name, _) => Some(name.as_str()),
                Host::Addr(_) => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        if names.len() > 1 && matches!(mode, TlsMode::VerifyFull { .. }) {
            let message = "verify-full needs a server_name: the hosts have several names";
            let help = "set server_name in tls to the name in the servers' certificates";
            return self.error_at(raw.span(), message).help(help);
        }
        Some(names.first().map(|name| (*name).to_owned()))
    }

    fn databases(&mut self, raw: &Spanned<Vec<Text>>) -> Option<Vec<String>> {
        if raw.get_ref().is_empty() {
            let message = "a datastore needs at least one database";
            return self.error_at(raw.span(), message).none();
        }
        for database in raw.get_ref() {
            let text = database.get_ref();
            // NAMEDATALEN: the server would cut a longer name and open another database.
            if text.is_empty() || text.len() > 63 || text.contains('\0') {
                let message = format!("{text:?} can't be a database's name");
                return self.error(database, message).none();
            }
        }
        Some(raw.get_ref().iter().map(|d| d.get_ref().clone()).collect())
    }

    fn login(&mut self, raw: &raw::Login) -> Option<Login> {
        let mut allow = AuthPolicy::default();
        for way in &raw.allow_auth {
            match way.get_ref().as_str() {
                "md5" => allow.md5 = true,
                "cleartext" => allow.cleartext = true,
                "scram-sha-256" => {
                    return self
                        .error(way, "SCRAM is always allowed")
                        .help("leave it out");
                }
                other => return self.unknown(way, other, &["md5", "cleartext"]),
            }
        }
        let user = raw.user.get_ref();
        if user.is_empty() || user.len() > 63 || user.contains('\0') {
            let message = format!("{user:?} can't be a role's name");
            return self.error(&raw.user, message).none();
        }
        Some(Login {
            user: user.clone(),
            password: self.password(&raw.password)?,
            allow,
        })
    }

    fn password(&mut self, raw: &Spanned<raw::Password>) -> Option<Source> {
        let raw::Password {
            credential,
            file,
            env,
            command,
        } = raw.get_ref();
        match (credential, file, env, command) {
            (Some(name), None, None, None) => {
                if name.get_ref().is_empty() || name.get_ref().contains('/') {
                    let message = "a systemd credential's name has no slash and isn't empty";
                    return self.error(name, message).none();
                }
                Some(Source::Systemd {
                    name: name.get_ref().clone(),
                })
            }
            (None, Some(path), None, None) => Some(Source::File {
                path: self.path(path)?,
            }),
            (None, None, Some(variable), None) => {
                if variable.get_ref().is_empty() || variable.get_ref().contains(['=', '\0']) {
                    return self
                        .error(variable, "this can't be a variable's name")
                        .none();
                }
                Some(Source::Env {
                    variable: variable.get_ref().clone(),
                })
            }
            (None, None, None, Some(argv)) => {
                if !argv
                    .get_ref()
                    .first()
                    .is_some_and(|p| p.get_ref().starts_with('/'))
                {
                    let message = "the command must begin with a program's absolute path";
                    let help = "for example command = [\"/usr/bin/vault\", \"read\", …]; no shell reads it";
                    return self.error_at(argv.span(), message).help(help);
                }
                let argv = argv.get_ref().iter().map(|a| a.get_ref().clone()).collect();
                Some(Source::Command { argv })
            }
            _ => self
                .error_at(raw.span(), "a password comes from exactly one source")
                .help("one of credential, file, env or command"),
        }
    }

    fn agents(
        &mut self,
        raw: &BTreeMap<Text, raw::Agent>,
        capture: Option<&capture::Settings>,
    ) -> Matcher {
        if raw.is_empty() {
            let help = "add an [agent.NAME] with match = { cgroup = \"weir-agents.slice/NAME-*\" }";
            self.error_at(0..0, "there is no agent").help::<()>(help);
        }
        let mut agents: Vec<(Agent, Pattern)> = Vec::new();
        for (name, raw) in raw {
            self.name(name);
            self.later(&raw.identity);
            self.later(&raw.login);
            let groups: Vec<Arc<str>> = raw.groups.iter().filter_map(|g| self.name(g)).collect();
            let Some((pattern, at)) = self.pattern(&raw.matches, capture) else {
                continue;
            };
            if let Some((other, _)) = agents.iter().find(|(_, p)| *p == pattern) {
                let message = format!("agent {:?} has the same match", other.name);
                let help = "a connection that matches two agents is refused";
                self.error_at(at, message).help::<()>(help);
            }
            let agent = Agent {
                name: name.get_ref().as_str().into(),
                groups: groups.into(),
            };
            agents.push((agent, pattern));
        }
        Matcher::new(agents)
    }

    fn pattern(
        &mut self,
        raw: &Spanned<raw::Match>,
        capture: Option<&capture::Settings>,
    ) -> Option<(Pattern, Range<usize>)> {
        let raw::Match {
            cgroup,
            unit,
            label,
            kubernetes,
        } = raw.get_ref();
        for later in [unit, label, kubernetes] {
            self.later(later);
        }
        let Some(cgroup) = cgroup else {
            let help = "for example match = { cgroup = \"weir-agents.slice/coder-*\" }";
            return self
                .error_at(raw.span(), "the match needs a cgroup")
                .help(help);
        };
        let pattern = match Pattern::new(cgroup.get_ref()) {
            Ok(pattern) => pattern,
            Err(e) => return self.error(cgroup, e.to_string()).none(),
        };
        let slice = capture.and_then(|c| c.slice.to_str());
        if let Some(slice) = slice.filter(|slice| !pattern.reaches(slice)) {
            let message = "this can never match: it is outside the slice that Weir captures";
            let help = format!("begin it with {slice}/, or set slice in [capture]");
            return self.error(cgroup, message).help(help);
        }
        Some((pattern, cgroup.span()))
    }

    fn name(&mut self, name: &Text) -> Option<Arc<str>> {
        let text = name.get_ref();
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if (1..=63).contains(&text.len()) && text.bytes().all(good) {
            return Some(text.as_str().into());
        }
        self.error(name, format!("{text:?} can't be a name"))
            .help(NAME_RULE)
    }

    fn path_or(&mut self, path: Option<&Text>, default: &str) -> Option<PathBuf> {
        path.map_or_else(|| Some(PathBuf::from(default)), |path| self.path(path))
    }

    fn path(&mut self, path: &Text) -> Option<PathBuf> {
        let text = path.get_ref();
        if text.starts_with('/') && !text.contains('\0') {
            return Some(PathBuf::from(text));
        }
        let help = "the daemon has no working directory to start from";
        self.error(path, format!("path {text:?} must be absolute"))
            .help(help)
    }

    fn duration(&mut self, text: &Text) -> Option<Duration> {
        match parse_duration(text.get_ref()) {
            Some(duration) => Some(duration),
            None => self
                .error(text, format!("{:?} is not a time", text.get_ref()))
                .help("a number and a unit, from \"1ms\" to \"10m\", for example \"5s\""),
        }
    }

    fn choice<T: Copy + Default>(
        &mut self,
        text: Option<&Text>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let Some(text) = text else {
            return Some(T::default());
        };
        match choices.iter().find(|(name, _)| name == text.get_ref()) {
            Some((_, value)) => Some(*value),
            None => {
                let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
                self.unknown(text, text.get_ref(), &names)
            }
        }
    }

    fn unknown<T>(&mut self, at: &Text, value: &str, known: &[&str]) -> Option<T> {
        let help = match did_you_mean(value, known.iter().copied()) {
            Some(near) => format!("did you mean {near:?}?"),
            None => format!("one of {}", known.join(", ")),
        };
        self.error(at, format!("unknown value {value:?}"))
            .help(help)
    }

    fn later(&mut self, later: &Later) {
        if let Some(value) = later {
            let message = "this setting is not in this version yet";
            let help = "remove it: ignored, it would promise what isn't there";
            self.error_at(value.span(), message).help::<()>(help);
        }
    }

    fn error(&mut self, at: &Text, message: impl Into<String>) -> Found<'_> {
        self.error_at(at.span(), message)
    }

    fn error_at(&mut self, at: Range<usize>, message: impl Into<String>) -> Found<'_> {
        self.found
            .push(Diagnostic::error(&self.file, self.text, at, message.into()));
        Found(&mut self.found)
    }
}

/// The error that was just found: lets a check end in `return self.error(…).help(…)`.
struct Found<'a>(&'a mut Vec<Diagnostic>);

impl Found<'_> {
    fn help<T>(self, help: impl Into<String>) -> Option<T> {
        if let Some(last) = self.0.pop() {
            self.0.push(last.help(help));
        }
        None
    }

    fn none<T>(self) -> Option<T> {
        None
    }
}

/// From a millisecond to ten minutes.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let duration = match &text[digits..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.checked_mul(60)?),
        _ => return None,
    };
    (Duration::from_millis(1)..=Duration::from_secs(600))
        .contains(&duration)
        .then_some(duration)
}

#[cfg(test)]
mod tests;
