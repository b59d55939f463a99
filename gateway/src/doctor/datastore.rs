//! Whether Weir can log in to a datastore: each of its hosts, as the daemon would.

use std::net::SocketAddr;

use super::{Check, chain};
use crate::config::{Datastore, Host};
use crate::upstream::{Connection, Error, Step, Target, TlsMode};

/// Dials all addresses of `datastore`, logs in, and looks at what it got.
pub(super) async fn examine(datastore: &Datastore) -> Vec<Check> {
    let target = match datastore.target() {
        Ok(target) => target,
        Err(e) => {
            let name = format!("datastore {}", datastore.name);
            return vec![Check::fail(name, chain(&e), fix(&e, datastore))];
        }
    };
    let mut checks = Vec::new();
    for host in &datastore.hosts {
        let name = format!("datastore {} at {host}", datastore.name);
        match resolve(host).await {
            Ok(addresses) => {
                for address in addresses {
                    checks.push(log_in(&name, datastore, &target, address).await);
                }
            }
            Err(problem) => {
                let fix = "correct the name in hosts, or this host's resolver";
                checks.push(Check::fail(name, problem, fix));
            }
        }
    }
    checks
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

async fn log_in(name: &str, datastore: &Datastore, target: &Target, dst: SocketAddr) -> Check {
    // The configuration has at least one.
    let database = datastore.databases.first().map_or("", String::as_str);
    let mut connection = match Connection::open(target, dst, database).await {
        Ok(connection) => connection,
        Err(e) => return Check::fail(name, chain(&e), fix(&e, datastore)),
    };
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
    match superuser {
        Err(e) => Check::fail(name, chain(&e), fix(&e, datastore)),
        Ok(rows) if rows.iter().flatten().any(|v| v.as_deref() == Some("t")) => Check::warn(
            name,
            format!("{found}; the role is a superuser"),
            format!(
                "use a role with the rights that agents need, or ALTER ROLE {user} NOSUPERUSER"
            ),
        ),
        Ok(_) => transport(name, found, datastore, dst),
    }
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
