//! `[datastore.*]`: hosts, TLS, log-in.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use toml::Spanned;

use super::{Check, Text};
use crate::config::host::Refused;
use crate::config::{ClientTls, Datastore, Host, OnDetect, TlsMode, raw};
use crate::credential::Source;
use crate::upstream::{AuthPolicy, Login};

const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Check<'_> {
    pub(super) fn datastores(
        &mut self,
        raw: &BTreeMap<Text, raw::Datastore>,
    ) -> Vec<Arc<Datastore>> {
        if raw.is_empty() {
            let help = "add a [datastore.NAME] with protocol, hosts, tls, databases and login";
            self.error_at(0..0, "there is no datastore")
                .help::<()>(help);
        }
        let mut datastores: Vec<Arc<Datastore>> = Vec::new();
        let mut endpoints = HashMap::new();
        for (name, raw) in raw {
            self.name(name);
            let hosts = self.hosts(name.get_ref(), &raw.hosts, &mut endpoints);
            if let Some(datastore) = self.datastore(name, raw, hosts) {
                let govern = |d: &Datastore| d.on_detect == OnDetect::Govern;
                let other = datastores.iter().find(|other| govern(other));
                if let (true, Some(other)) = (govern(&datastore), other) {
                    let message = format!(
                        "datastore {:?} governs what is detected already",
                        other.name
                    );
                    let help =
                        "which of two is meant by an endpoint that isn't listed, nobody can tell";
                    let at = raw.on_detect.as_ref().unwrap_or(name);
                    self.error(at, message).help::<()>(help);
                }
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
        let on_detect = self.choice(
            raw.on_detect.as_ref(),
            &[("deny", OnDetect::Deny), ("govern", OnDetect::Govern)],
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
            on_detect: on_detect?,
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

    fn duration(&mut self, text: &Text) -> Option<Duration> {
        match parse_duration(text.get_ref()) {
            Some(duration) => Some(duration),
            None => self
                .error(text, format!("{:?} is not a time", text.get_ref()))
                .help("a number and a unit, from \"1ms\" to \"10m\", for example \"5s\""),
        }
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
