//! Weir's own credentials for the datastores: where they come from, and how they are held.
//!
//! A secret is fetched anew for each log-in, so that rotation needs no restart. It lives in memory
//! that is wiped when it is dropped, can't be copied, printed or serialized, and never appears in
//! an error.

use std::fmt;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use zeroize::Zeroizing;

use crate::files;

/// The longest secret in bytes. Cloud tokens take one or two KiB.
const MAX_SECRET: usize = 16 * 1024;
/// How long a credential command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Where systemd keeps the daemon's credentials while it runs.
const UNIT_CREDENTIALS: &str = "/run/credentials/weir.service";

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A systemd credential (`LoadCredential=`), by its name in `$CREDENTIALS_DIRECTORY`. Without
    /// that, as in root's shell, in the directory of the running unit.
    Systemd {
        /// The credential's name, without a slash.
        name: String,
    },
    /// A file that nobody but its owner may read.
    File {
        /// The file's path.
        path: PathBuf,
    },
    /// An environment variable of the daemon.
    Env {
        /// The variable's name.
        variable: String,
    },
    /// The standard output of a program, run without a shell.
    Command {
        /// The program's absolute path and its arguments.
        argv: Vec<String>,
    },
}

/// Why a secret couldn't be had. Never holds any of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The daemon wasn't started by systemd with credentials.
    #[error(
        "no systemd credentials: $CREDENTIALS_DIRECTORY is not set (add LoadCredential={name} to the unit)"
    )]
    NoCredentials {
        /// The credential that was asked for.
        name: String,
    },
    /// The name could lead out of the credentials' directory.
    #[error("{0:?} is not a credential's name")]
    Name(String),
    /// The file can't be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others than the file's owner may read or change it.
    #[error("{} is open to others (mode {mode:o}); run: chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The variable isn't set.
    #[error("environment variable {0} is not set")]
    NotSet(String),
    /// The command is empty or can't be started.
    #[error("cannot run {program}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The command failed.
    #[error("{program} failed: {status}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
    },
    /// The command took too long and was killed.
    #[error("{program} took more than {} s", COMMAND_TIMEOUT.as_secs())]
    Timeout {
        /// The program.
        program: String,
    },
    /// Nothing there.
    #[error("the secret is empty")]
    Empty,
    /// More than any password or token.
    #[error("the secret is longer than {MAX_SECRET} bytes")]
    TooLong,
    /// A zero byte can't be part of a password in PostgreSQL's protocol.
    #[error("the secret holds a zero byte")]
    ZeroByte,
}

/// A secret in memory that is wiped when dropped.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The secret's bytes, for the one place that sends or hashes them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// Takes what a source gave: one newline at the end goes, and what can't be a secret is
    /// refused.
    fn check(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, Error> {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
        }
        if bytes.is_empty() {
            return Err(Error::Empty);
        }
        if bytes.len() > MAX_SECRET {
            return Err(Error::TooLong);
        }
        if bytes.contains(&0) {
            return Err(Error::ZeroByte);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Source {
    /// Fetches the secret.
    ///
    /// Cancel safe: a command that still runs is killed when the future is dropped.
    pub async fn fetch(&self) -> Result<Secret, Error> {
        match self {
            Self::Systemd { name } => systemd(name).await,
            Self::File { path } => from_file(path.clone(), Permissions::OwnerOnly).await,
            Self::Env { variable } => env(variable),
            Self::Command { argv } => command(argv, COMMAND_TIMEOUT).await,
        }
    }
}

/// Says where the secret comes from, for messages: never the secret.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Systemd { name } => write!(f, "systemd credential {name}"),
            Self::File { path } => write!(f, "file {}", path.display()),
            Self::Env { variable } => write!(f, "environment variable {variable}"),
            // Arguments could be telling; the program is enough to find it.
            Self::Command { argv } => {
                write!(f, "command {}", argv.first().map_or("", String::as_str))
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Permissions {
    OwnerOnly,
    /// systemd puts its credentials where only the unit can get at them, with a mode of its own.
    Systemd,
}

async fn systemd(name: &str) -> Result<Secret, Error> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(Error::Name(name.to_owned()));
    }
    let own = std::env::var_os("CREDENTIALS_DIRECTORY");
    let path = match own {
        Some(dir) => Path::new(&dir).join(name),
        None => of_unit(Path::new(UNIT_CREDENTIALS), name)?,
    };
    from_file(path, Permissions::Systemd).await
}

/// A credential of the unit, for whoever may see it, which is root.
fn of_unit(dir: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = dir.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::NoCredentials {
        name: name.to_owned(),
    })
}

async fn from_file(path: PathBuf, permissions: Permissions) -> Result<Secret, Error> {
    let for_error = path.clone();
    // Not tokio's File: that one reads through a buffer which nobody wipes.
    tokio::task::spawn_blocking(move || read_file(&path, permissions))
        .await
        .unwrap_or_else(|e| {
            Err(Error::Read {
                path: for_error,
                source: io::Error::other(e),
            })
        })
}

fn read_file(path: &Path, permissions: Permissions) -> Result<Secret, Error> {
    let failed = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let file = files::open_regular(path).map_err(failed)?;
    // Asked of the open file, so that the answer is about the file that is read.
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if matches!(permissions, Permissions::OwnerOnly) && mode & 0o077 != 0 {
        return Err(Error::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut bytes = buffer();
    file.take(LIMIT).read_to_end(&mut bytes).map_err(failed)?;
    Secret::check(bytes)
}

fn env(variable: &str) -> Result<Secret, Error> {
    use std::os::unix::ffi::OsStringExt;
    let value = std::env::var_os(variable).ok_or_else(|| Error::NotSet(variable.to_owned()))?;
    Secret::check(Zeroizing::new(value.into_vec()))
}

async fn command(argv: &[String], limit: Duration) -> Result<Secret, Error> {
    let Some((program, arguments)) = argv.split_first() else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "the command is empty");
        return Err(Error::Run {
            program: String::new(),
            source,
        });
    };
    let run = |source| Error::Run {
        program: program.clone(),
        source,
    };
    // Standard error goes to the daemon's log: it is where such programs say what is wrong.
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(run)?;
    let mut running = Running(child);
    let (bytes, status) = tokio::time::timeout(limit, running.finish())
        .await
        .map_err(|_| Error::Timeout {
            program: program.clone(),
        })?
        .map_err(run)?;
    if bytes.len() > MAX_SECRET + 1 {
        return Err(Error::TooLong);
    }
    if !status.success() {
        return Err(Error::Failed {
            program: program.clone(),
            status,
        });
    }
    Secret::check(bytes)
}

/// A command that is killed if it is dropped before its end.
///
/// Not tokio's: with that feature each of the workers' threads looks for children each time it sleeps,
/// under a lock that all of them share.
struct Running(Child);

impl Running {
    /// Its output, as far as that may be a secret, and how it ended.
    async fn finish(&mut self) -> io::Result<(Zeroizing<Vec<u8>>, ExitStatus)> {
        /// A program that has said all it has to say ends at once.
        const LOOK: Duration = Duration::from_millis(2);
        let mut bytes = buffer();
        if let Some(stdout) = self.0.stdout.take() {
            let stdout = pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?;
            stdout.take(LIMIT).read_to_end(&mut bytes).await?;
        }
        // The pipe's reading end is closed by now: a program with more to say ends by SIGPIPE.
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok((bytes, status));
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(Some(_))) {
            let _ = self.0.kill();
            // It ends when the kernel can have it end, and nobody should wait for that here.
            let pid = Pid::from_raw(self.0.id().cast_signed());
            let _ = thread::Builder::new().spawn(move || waitpid(pid, None));
        }
    }
}

/// A secret, its newline, and one byte to notice that there is more.
const LIMIT: u64 = MAX_SECRET as u64 + 2;

/// Large enough to never move: a `Vec` that grows leaves its old content behind unwiped.
fn buffer() -> Zeroizing<Vec<u8>> {
    Zeroizing::new(Vec::with_capacity(2 * MAX_SECRET))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn sh(script: &str) -> Source {
        Source::Command {
            argv: vec!["/bin/sh".into(), "-c".into(), script.into()],
        }
    }

    fn secret_file(dir: &Path, content: &[u8], mode: u32) -> PathBuf {
        let path = dir.join("secret");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_file_gives_its_content_without_the_last_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = secret_file(dir.path(), b" s3cret \n\n", 0o600);
        let secret = block_on(Source::File { path }.fetch()).unwrap();
        assert_eq!(secret.expose(), b" s3cret \n");
    }

    #[test]
    fn a_file_that_others_may_read_or_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602] {
            let path = secret_file(dir.path(), b"s3cret", mode);
            let error = block_on(Source::File { path }.fetch()).unwrap_err();
            assert!(matches!(error, Error::Exposed { .. }), "{mode:o}: {error}");
        }
    }

    #[test]
    fn a_file_that_could_keep_the_login_waiting_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let error = block_on(Source::File { path }.fetch()).unwrap_err();
        assert!(
            crate::causes::chain(&error).ends_with("it is no regular file"),
            "{error:?}"
        );
    }

    #[test]
    fn a_command_runs_without_a_shell_and_gives_its_output() {
        let argv = ["/bin/echo", "$HOME;", "x"].map(String::from).to_vec();
        let secret = block_on(Source::Command { argv }.fetch()).unwrap();
        assert_eq!(secret.expose(), b"$HOME; x");
    }

    #[test]
    fn a_command_that_fails_gives_no_secret_and_no_output_in_its_error() {
        let error = block_on(sh("echo s3cret; exit 3").fetch()).unwrap_err();
        assert!(matches!(&error, Error::Failed { .. }));
        assert!(!format!("{error} {error:?}").contains("s3cret"));
    }

    /// Runs a script that says its pid into a file and takes too long; until nothing is left of it.
    fn hangs(script: &str) {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("echo $$ > {}; {script}", pid_file.display());
        let Source::Command { argv } = sh(&script) else {
            unreachable!()
        };
        block_on(async {
            let error = command(&argv, Duration::from_millis(300))
                .await
                .unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }));
            let pid = fs::read_to_string(&pid_file).unwrap();
            // Killed at once; reaped by a thread a moment later.
            let process = PathBuf::from(format!("/proc/{}", pid.trim()));
            for _ in 0..100 {
                if !process.exists() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let stat = fs::read_to_string(process.join("stat"));
            panic!("it is still there: {stat:?}");
        });
    }

    #[test]
    fn a_command_that_hangs_is_killed_and_reaped() {
        hangs("exec sleep 60");
    }

    #[test]
    fn a_command_that_closes_its_output_and_stays_is_killed_and_reaped() {
        hangs("echo s3cret; exec sleep 60 >&-");
    }

    #[test]
    fn output_without_end_is_refused() {
        assert!(matches!(block_on(sh("yes").fetch()), Err(Error::TooLong)));
        let argv = vec!["/nonexistent/program".to_owned()];
        assert!(matches!(
            block_on(Source::Command { argv }.fetch()),
            Err(Error::Run { .. })
        ));
        assert!(matches!(
            block_on(Source::Command { argv: vec![] }.fetch()),
            Err(Error::Run { .. })
        ));
    }

    #[test]
    fn what_cannot_be_a_password_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let fetch = |content: &[u8]| {
            block_on(
                Source::File {
                    path: secret_file(dir.path(), content, 0o600),
                }
                .fetch(),
            )
        };
        assert!(matches!(fetch(b""), Err(Error::Empty)));
        assert!(matches!(fetch(b"\n"), Err(Error::Empty)));
        assert!(matches!(fetch(b"a\0b"), Err(Error::ZeroByte)));
        assert!(matches!(
            fetch(&[b'x'; MAX_SECRET + 1]),
            Err(Error::TooLong)
        ));
        assert!(matches!(
            fetch(&[b'x'; 3 * MAX_SECRET]),
            Err(Error::TooLong)
        ));
        assert_eq!(
            fetch(&[b'x'; MAX_SECRET]).unwrap().expose().len(),
            MAX_SECRET
        );
    }

    #[test]
    fn a_systemd_credential_cannot_leave_its_directory() {
        for name in ["", "..", ".", "../shadow", "/etc/shadow"] {
            let source = Source::Systemd { name: name.into() };
            assert!(
                matches!(block_on(source.fetch()), Err(Error::Name(_))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_running_units_credential_is_found_and_another_one_is_not_to_be_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = secret_file(dir.path(), b"s3cret", 0o440);
        assert_eq!(of_unit(dir.path(), "secret").unwrap(), path);
        for (dir, name) in [(dir.path(), "other"), (Path::new("/nonexistent"), "secret")] {
            let error = of_unit(dir, name).unwrap_err();
            assert!(matches!(error, Error::NoCredentials { .. }), "{error}");
        }
    }

    #[test]
    fn an_environment_variable_that_is_not_set_is_an_error() {
        let source = Source::Env {
            variable: "WEIR_TEST_SURELY_NOT_SET".into(),
        };
        assert!(matches!(block_on(source.fetch()), Err(Error::NotSet(_))));
        // Set by cargo for every test.
        let source = Source::Env {
            variable: "CARGO_PKG_NAME".into(),
        };
        assert_eq!(block_on(source.fetch()).unwrap().expose(), b"weir");
    }

    #[test]
    fn a_secret_prints_as_nothing() {
        let secret = Secret::check(Zeroizing::new(b"s3cret".to_vec())).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        let source = sh("echo s3cret");
        assert_eq!(source.to_string(), "command /bin/sh");
    }
}
