//! A real PostgreSQL, thrown away with the last test that uses it.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use weir::credential::Source;
use weir::upstream::{Connection, Target, TlsMode};

use crate::{PASSWORD, block_on, secret, target};

/// A throw-away PostgreSQL with TLS and one role for each way to log in.
pub(crate) struct Postgres {
    /// Holds the authorities and the roles' password.
    pub(crate) dir: TempDir,
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Postgres {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        let data = dir.path().join("data");
        fs::create_dir(&data).expect("data directory");
        own(&data);
        run(as_postgres("initdb")
            .args(["-A", "trust", "-E", "UTF8", "--no-sync", "-D"])
            .arg(&data));
        write_certificates(dir.path(), &data);
        // pg_hba's first match decides, so each role has its one way in.
        let hba = "local all all trust\n\
                   host all postgres all trust\n\
                   host all scram all scram-sha-256\n\
                   host all odd all scram-sha-256\n\
                   host all md5 all md5\n\
                   host all cleartext all password\n\
                   hostssl all tlsonly all scram-sha-256\n";
        fs::write(data.join("pg_hba.conf"), hba).expect("pg_hba.conf");

        let port = free_port();
        let child = as_postgres("postgres")
            .arg("-D")
            .arg(&data)
            .args([
                "-c",
                &format!("port={port}"),
                "-c",
                "listen_addresses=127.0.0.1",
            ])
            .args([
                "-c",
                "unix_socket_directories=",
                "-c",
                "fsync=off",
                "-c",
                "ssl=on",
            ])
            .stderr(fs::File::create(dir.path().join("log")).expect("log"))
            .spawn()
            .expect("postgres starts");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let server = Self {
            dir,
            child,
            address,
        };
        // Once: a test that reads it must never see another write it.
        secret(server.dir.path(), PASSWORD);
        server.prepare();
        server
    }

    fn prepare(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        let target = self.target("postgres", TlsMode::Disable);
        block_on(async {
            let mut connection = loop {
                match Connection::open(&target, self.address, "postgres").await {
                    Ok(connection) => break connection,
                    Err(e) if Instant::now() > deadline => panic!("PostgreSQL doesn't start: {e}"),
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            let password = PASSWORD.replace('\'', "''");
            for (role, encryption) in [
                ("scram", "scram-sha-256"),
                ("odd", "scram-sha-256"),
                ("tlsonly", "scram-sha-256"),
                ("md5", "md5"),
                ("cleartext", "scram-sha-256"),
            ] {
                let sql = format!(
                    "SET password_encryption = '{encryption}'; \
                     CREATE ROLE {role} LOGIN PASSWORD '{password}'"
                );
                connection.query(&sql).await.expect("role");
            }
            let sql = "ALTER ROLE odd SET standard_conforming_strings = off";
            connection.query(sql).await.expect("setting");
            let sql = "CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0";
            connection
                .query(sql)
                .await
                .expect("a database of another encoding");
            connection.close().await;
        });
    }

    pub(crate) fn target(&self, user: &str, tls: TlsMode) -> Target {
        let path = self.dir.path().join("password");
        target(user, Source::File { path }, tls)
    }

    pub(crate) fn verify_full(&self) -> TlsMode {
        TlsMode::VerifyFull {
            ca: self.dir.path().join("ca.pem"),
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT: at once, without waiting for clients. The data is thrown away.
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, Signal::SIGQUIT).expect("postgres is ours to stop");
        self.child.wait().expect("postgres ends");
    }
}

/// One server for all tests that run at the same time; the last of them stops it.
pub(crate) fn postgres() -> Arc<Postgres> {
    static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Postgres::start());
        *shared = Arc::downgrade(&server);
        server
    })
}

/// An authority, a certificate of it for 127.0.0.1 and db.internal, and another authority.
fn write_certificates(dir: &Path, data: &Path) {
    let ca = |name: &str| {
        let key = KeyPair::generate().expect("key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        let certificate = params.self_signed(&key).expect("authority");
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).expect("authority's file");
        Issuer::new(params, key)
    };
    let issuer = ca("ca");
    ca("other");
    let key = KeyPair::generate().expect("key");
    let names = ["127.0.0.1".to_owned(), "db.internal".to_owned()];
    let certificate = CertificateParams::new(names)
        .expect("names")
        .signed_by(&key, &issuer)
        .expect("leaf");
    for (file, pem) in [
        ("server.crt", certificate.pem()),
        ("server.key", key.serialize_pem()),
    ] {
        let path = data.join(file);
        fs::write(&path, pem).expect("certificate");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
        own(&path);
    }
}

fn as_postgres(program: &str) -> Command {
    let user = User::from_name("postgres")
        .expect("users")
        .expect("a user named postgres");
    let bin = Path::new("/usr/lib/postgresql")
        .read_dir()
        .expect("PostgreSQL is installed");
    let newest = bin
        .filter_map(|e| Some(e.ok()?.path().join("bin")))
        .max()
        .expect("a version");
    let mut command = Command::new(newest.join(program));
    command
        .uid(user.uid.as_raw())
        .gid(user.gid.as_raw())
        .current_dir("/");
    command
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

fn own(path: &Path) {
    let user = User::from_name("postgres")
        .expect("users")
        .expect("a user named postgres");
    chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown needs root");
}

fn run(command: &mut Command) {
    let status = command.status().expect("it starts");
    assert!(status.success(), "{command:?}: {status}");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("its address").port()
}
