//! A throw-away PostgreSQL: real, private to its world, gone with it.
//!
//! Making a data directory takes seconds, copying one takes a moment: a template with the schema
//! and pgbench's tables is made once, kept under the target directory, and copied for each world.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::Signal,
    unistd::{self, User as Account},
};

use super::{
    namespace::Namespace,
    process::{Place, Process, User},
};
use crate::cache;

/// The port of every world's server: each has its namespace for itself.
pub const PORT: u16 = 5432;

const SCHEMA: &str = include_str!("schema.sql");

/// What a server can be asked for beyond the usual.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// PEM of a certificate and its key; without it the server has no TLS.
    pub tls: Option<(String, String)>,
    /// Further lines of postgresql.conf.
    pub extra: String,
    /// Lines of pg_hba.conf before the usual ones.
    pub hba: String,
    /// Directories for further unix sockets; `@name` is an abstract one.
    pub sockets: Vec<String>,
}

/// A running server, listening on the world's addresses and on a unix socket for `sql`.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    socket: PathBuf,
}

impl Postgres {
    /// Starts one in `namespace`, its files under `dir`.
    pub(super) fn start(namespace: &Namespace, dir: &Path, settings: &Settings) -> Result<Self> {
        let data = dir.join("pg");
        copy(&template(namespace)?, &data)?;
        configure(&data, settings)?;
        launch(namespace, &data, &settings.sockets)
    }

    /// Runs SQL in the database `app` as the superuser, past Weir, and returns the rows
    /// unaligned, without a header.
    pub fn sql(&self, sql: &str) -> Result<String> {
        let output = self.psql("app").arg("-c").arg(sql).output()?;
        text_of(output)
    }

    /// Process id of the postmaster.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The server's log so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.output()
    }

    fn psql(&self, database: &str) -> Command {
        let mut command = Command::new("psql");
        command.args([
            "-X",
            "-At",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            "postgres",
            "-d",
            database,
        ]);
        command.arg("-h").arg(&self.socket).stdin(Stdio::null());
        command
    }
}

fn launch(namespace: &Namespace, data: &Path, sockets: &[String]) -> Result<Postgres> {
    let place = Place {
        cgroup: None,
        netns: namespace.path(),
        user: User::Postgres,
    };
    let mut command = place.command(bin()?.join("postgres"), Signal::SIGQUIT);
    let own = data.display().to_string();
    let sockets = [std::slice::from_ref(&own), sockets].concat().join(",");
    command.arg("-D").arg(data).arg("-k").arg(sockets);
    // Immediate shutdown: whatever is in there is thrown away anyway.
    let log = data.join("server.log");
    let mut process = Process::start("PostgreSQL", command, &log, Signal::SIGQUIT)?;
    process.until(Duration::from_secs(90), || {
        let mut probe = Command::new("pg_isready");
        probe.arg("-q").arg("-h").arg(data);
        probe.status().is_ok_and(|status| status.success())
    })?;
    Ok(Postgres {
        process,
        socket: data.to_path_buf(),
    })
}

fn configure(data: &Path, settings: &Settings) -> Result<()> {
    let mut conf = format!(
        "listen_addresses = '*'\nport = {PORT}\nmax_connections = 400\n\
         fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n\
         password_encryption = 'scram-sha-256'\ntimezone = 'UTC'\n{}\n",
        settings.extra
    );
    if let Some((certificate, key)) = &settings.tls {
        own(&data.join("server.crt"), certificate)?;
        own(&data.join("server.key"), key)?;
        conf.push_str("ssl = on\n");
    }
    own(&data.join("postgresql.auto.conf"), &conf)?;
    let hba = format!(
        "{}\nlocal all postgres trust\nhost all all all scram-sha-256\n",
        settings.hba
    );
    own(&data.join("pg_hba.conf"), &hba)
}

/// Writes a file that belongs to `postgres` and that only it can read.
fn own(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    give(path)
}

/// Makes `postgres` the owner of `path`.
fn give(path: &Path) -> Result<()> {
    let account = Account::from_name("postgres")?.context("there is no user postgres")?;
    Ok(unistd::chown(path, Some(account.uid), Some(account.gid))?)
}

/// The template's data directory, made if it isn't there. Tests run in parallel: one makes it,
/// the others wait.
fn template(namespace: &Namespace) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (SCHEMA, bin()?).hash(&mut hasher);
    let kept = cache::target()
        .join("world")
        .join(format!("pg-{:016x}", hasher.finish()));
    fs::create_dir_all(&kept)?;
    let lock = File::create(kept.join("lock"))?;
    lock.lock()?;
    let data = kept.join("data");
    if !data.exists() {
        let half = kept.join("half");
        if half.exists() {
            fs::remove_dir_all(&half)?;
        }
        make_template(namespace, &half)?;
        fs::rename(&half, &data)?;
    }
    Ok(data)
}

fn make_template(namespace: &Namespace, kept: &Path) -> Result<()> {
    // Not below the target directory, which `postgres` may not be able to enter.
    let dir = tempfile::Builder::new()
        .prefix("weir-template-")
        .tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let data = dir.path().join("pg");
    fs::create_dir(&data)?;
    give(&data)?;
    let place = Place {
        cgroup: None,
        netns: namespace.path(),
        user: User::Postgres,
    };
    let mut initdb = place.command(bin()?.join("initdb"), Signal::SIGTERM);
    initdb.args([
        "--no-sync",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
        "--auth=trust",
        "-D",
    ]);
    text_of(initdb.arg(&data).output()?)?;
    configure(&data, &Settings::default())?;

    let mut server = launch(namespace, &data, &[])?;
    let schema = dir.path().join("schema.sql");
    fs::write(&schema, SCHEMA)?;
    text_of(
        server
            .psql("postgres")
            .arg("-q")
            .arg("-f")
            .arg(&schema)
            .output()?,
    )?;
    let mut pgbench = Command::new("pgbench");
    pgbench
        .args(["-i", "-q", "-s", "1", "-U", "postgres", "-h"])
        .arg(&data)
        .arg("app");
    text_of(pgbench.output()?)?;
    let names = ["accounts", "branches", "tellers", "history"];
    for name in names {
        server.sql(&format!("ALTER TABLE pgbench_{name} OWNER TO weir_agents"))?;
    }
    server.sql("VACUUM ANALYZE")?;
    // Fast shutdown: a template must not need recovery.
    server.process.signal(Signal::SIGINT)?;
    server.process.wait(Duration::from_secs(30))?;
    copy(&data, kept)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let output = Command::new("cp")
        .arg("-a")
        .arg("--reflink=auto")
        .arg(from)
        .arg(to)
        .output()?;
    text_of(output).map(drop)
}

/// The folder of the newest installed server's programs.
fn bin() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let newest = versions.filter_map(|entry| {
        let version = entry.file_name().to_str()?.parse::<u32>().ok()?;
        Some((version, entry.path().join("bin")))
    });
    let (_, path) = newest
        .filter(|(_, path)| path.join("postgres").exists())
        .max()
        .context("no PostgreSQL server below /usr/lib/postgresql: run `cargo xtask setup`")?;
    Ok(path)
}

/// A finished program's stdout, or an error with its stderr.
fn text_of(output: Output) -> Result<String> {
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        error.trim()
    );
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}
