//! Whether Weir can log in to a datastore: each of its hosts, as the daemon would.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Check, chain};
use crate::config::{Datastore, Host};
use crate::credential;
use crate::policy_store::review::Snapshot;
use crate::upstream::{self, Connection, Error, Step, Target, TlsMode};

/// Dials all addresses of `datastore`, logs in, and looks at what it got. Where that works it also
/// reads the catalogs, from the first of them.
pub(super) async fn examine(datastore: &Datastore) -> (Vec<Check>, Vec<Snapshot>) {
    let target = match datastore.target() {
        Ok(target) => target,
        Err(e) => {
            let name = format!("datastore {}", datastore.name);
            let check = Check::fail(name, chain(&e), fix(&e, datastore));
            return (vec![check], Vec::new());
        }
    };
    let mut checks = Vec::new();
    let mut working = None;
    for host in &datastore.hosts {
        let name = format!("datastore {} at {host}", datastore.name);
        match resolve(host).await {
            Ok(addresses) => {
                for address in addresses {
                    match log_in(&name, datastore, &target, address).await {
                        Ok(check) => {
                            working = working.or(Some(address));
                            checks.push(check);
                        }
                        Err(check) => checks.push(check),
                    }
                }
            }
            Err(problem) => {
                let fix = "correct the name in hosts, or this host's resolver";
                checks.push(Check::fail(name, problem, fix));
            }
        }
    }
    let mut snapshots = Vec::new();
    if let Some(address) = working {
        for database in &datastore.databases {
            match read(datastore, &target, (address, database)).await {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(check) => checks.push(check),
            }
        }
    }
    (checks, snapshots)
}

/// Reads a database's catalog, without which the daemon opens no session.
async fn read(
    datastore: &Datastore,
    target: &Target,
    (address, database): (SocketAddr, &str),
) -> Result<Snapshot, Check> {
    let name = format!("catalog of {database} in datastore {}", datastore.name);
    let mut connection = Connection::open(target, address, database)
        .await
        .map_err(|e| failed(&name, &e, datastore))?;
    let catalog = upstream::catalog::load(&mut connection).await;
    connection.close().await;
    let catalog = catalog.map_err(|e| {
        let fix = "see that the role may read pg_catalog, and look at the server's log";
        Check::fail(name, chain(&e), fix)
    })?;
    Ok(Snapshot {
        datastore: Arc::clone(&datastore.name),
        database: database.to_owned(),
        catalog: Arc::new(catalog),
    })
}

async fn resolve(host: &Host) -> Result<Vec<SocketAddr>, String> {
    match host {
        Host::Addr(address) => Ok(vec![*address]),
        Host::Name(name, port) => match tokio::net::lookup_host((name.as_str(), *port)).await {
            Ok(addresses) => Ok(addresses.collect()),
            Err(e) => Err(format!("the name can't be resolved: {e}")),
        },
    }
}

/// What was found once logged in, or else why that failed.
async fn log_in(
    name: &str,
    datastore: &Datastore,
    target: &Target,
    dst: SocketAddr,
) -> Result<Check, Check> {
    // The configuration has at least one.
    let database = datastore.databases.first().map_or("", String::as_str);
    let mut connection = Connection::open(target, dst, database)
        .await
        .map_err(|e| failed(name, &e, datastore))?;
    let user = &datastore.login.user;
    let version = connection
        .parameter("server_version")
        .unwrap_or("of unknown version")
        .to_owned();
    let found = format!("logged in as {user} to {database}, PostgreSQL {version}");
    let superuser = connection
        .query("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")
        .await;
    connection.close().await;
    let rows = superuser.map_err(|e| failed(name, &e, datastore))?;
    if rows.iter().flatten().any(|v| v.as_deref() == Some("t")) {
        let found = format!("{found}; the role is a superuser");
        let fix = format!(
            "use a role with the rights that agents need, or ALTER ROLE {user} NOSUPERUSER"
        );
        return Ok(Check::warn(name, found, fix));
    }
    Ok(transport(name, found, datastore, dst))
}

fn failed(name: &str, error: &Error, datastore: &Datastore) -> Check {
    let Error::Credential(credential::Error::NoCredentials { name: secret }) = error else {
        return Check::fail(name, chain(error), fix(error, datastore));
    };
    // The server was reached. What the unit has is the daemon's alone.
    Check::warn(
        name,
        format!("the server answers; the systemd credential {secret} can't be seen from here"),
        format!(
            "run weir doctor as root while the unit runs; the unit needs \
             LoadCredential={secret}:PATH"
        ),
    )
}

/// A log-in that works may still be one that others can read or take over.
fn transport(name: &str, found: String, datastore: &Datastore, dst: SocketAddr) -> Check {
    let advice = "tls = { mode = \"verify-full\", ca = … }";
    match datastore.tls {
        _ if dst.ip().is_loopback() => Check::ok(name, found),
        TlsMode::VerifyFull { .. } => Check::ok(name, format!("{found}, over verified TLS")),
        TlsMode::Require => Check::warn(
            name,
            format!("{found}, over TLS that verifies nothing"),
            advice,
        ),
        TlsMode::Disable => Check::warn(name, format!("{found}, in the clear"), advice),
    }
}

fn fix(error: &Error, datastore: &Datastore) -> String {
    let Datastore { name, login, .. } = datastore;
    match error {
        Error::Io(Step::Dial, _)
        | Error::Timeout {
            step: Step::Dial, ..
        } => "see that the server runs, and that this host may reach it (address, firewall)".into(),
        Error::Tls(_) => format!(
            "see that ca is the authority of the server's certificate and that the certificate \
             bears its name; server_name in tls of datastore {name} sets another"
        ),
        Error::TlsRefused => "switch TLS on in the server (ssl = on)".into(),
        Error::Ca { .. } | Error::TlsSettings(_) | Error::ServerName(_) => {
            format!("correct tls of datastore {name} in the configuration")
        }
        Error::Credential(_) => format!("make the password available: {}", login.password),
        Error::AuthNotAllowed(_) => {
            "store the role's password as scram-sha-256 and ask for that in pg_hba.conf".into()
        }
        Error::Server { sqlstate, .. } if sqlstate.starts_with("28") => format!(
            "see that role {} may log in from here (pg_hba.conf) with the password from {}",
            login.user, login.password
        ),
        Error::Server { sqlstate, .. } if sqlstate == "3D000" => {
            format!("correct databases of datastore {name}")
        }
        Error::Setting {
            name: setting,
            wanted,
            ..
        } => {
            format!("ALTER ROLE {} SET {setting} = '{wanted}'", login.user)
        }
        _ => "look at the server's log".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Status;
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_credential_of_the_unit_is_no_failure_where_it_cant_be_seen() {
        let config = "[datastore.appdb]\nprotocol = \"postgres\"\nhosts = [\"10.0.3.7:5432\"]\n\
                      tls = { mode = \"require\" }\ndatabases = [\"app\"]\n\
                      login = { user = \"w\", password = { credential = \"appdb\" } }\n\
                      [agent.coder]\nmatch = { cgroup = \"weir-agents.slice/coder-*\" }\n";
        let config = Config::parse(Path::new("weir.toml"), config).unwrap();
        let datastore = &config.datastores[0];
        let unseen = credential::Error::NoCredentials {
            name: "appdb".into(),
        };
        let check = failed("x", &Error::Credential(unseen), datastore);
        assert_eq!(check.status, Status::Warn);
        assert!(check.fix.unwrap().contains("LoadCredential=appdb:"));
        let empty = Error::Credential(credential::Error::Empty);
        assert_eq!(failed("x", &empty, datastore).status, Status::Fail);
    }
}
