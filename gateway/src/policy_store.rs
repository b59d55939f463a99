//! Loading policy files and following their changes.
//!
//! Hides the directory, the polling and the fetching of keys. Guarantees that there is always a
//! valid policy in force: opening fails without one, and files that become invalid, unreadable or
//! vanish keep the last one that was valid, with an error in the log and in [`Status`].
//!
//! Changes are found by content, each second: that works through symbolic links, bind mounts and
//! configuration maps, where watching an inode doesn't. Keys are read when files change and on
//! [`Handle::reload`], not each second.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use thiserror::Error;
use tokio::{
    sync::{Notify, watch},
    time::MissedTickBehavior,
};

use crate::{
    causes::chain,
    credential, files,
    mask::Key,
    policy::{self, Diagnostic, KeySource, Mode, Policy, Source},
};

pub mod review;

const POLL: Duration = Duration::from_secs(1);
/// Far above any policy written by people; below what hurts to read each second.
const MAX_FILE: u64 = 1024 * 1024;

/// Why there is no policy.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The directory or a file in it can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is larger than any policy.
    #[error("{} is larger than {MAX_FILE} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// Nothing to load; that would deny everything in silence.
    #[error("no policy files (*.toml) in {}", dir.display())]
    Empty {
        /// Where they should be.
        dir: PathBuf,
    },
    /// The files have mistakes.
    #[error("{}", lines(diagnostics))]
    Invalid {
        /// All of them.
        diagnostics: Vec<Diagnostic>,
    },
    /// The files are fine; keys that they ask for can't be had.
    #[error("{}", lines(diagnostics))]
    Keys {
        /// All of them, where they are asked for.
        diagnostics: Vec<Diagnostic>,
        /// Whether that is because they are credentials of the daemon's unit, and this isn't it.
        unseen: bool,
    },
}

/// The policy in force.
#[derive(Clone, Debug)]
pub struct Active {
    /// The policy.
    pub policy: Arc<Policy>,
    /// From 1, one more with each policy that comes into force.
    pub generation: u64,
}

/// What is in force, and whether it is what the files say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// See [`Active::generation`].
    pub generation: u64,
    /// The policy's SHA-256 in hex.
    pub sha256: String,
    /// How many rules it has.
    pub rules: usize,
    /// Whether the policy as a whole is only observed.
    pub observed: bool,
    /// What is wrong with the files as they are now; the policy in force is then an older one.
    pub problem: Option<String>,
}

/// Follows a directory of policy files.
#[derive(Debug)]
pub struct PolicyStore {
    dir: PathBuf,
    /// The files that were looked at last, valid or not.
    seen: Vec<Source>,
    active: watch::Sender<Arc<Active>>,
    handle: Handle,
}

/// The way to a running [`PolicyStore`] for the daemon and its control socket.
#[derive(Clone, Debug)]
pub struct Handle {
    reload: Arc<Notify>,
    looked: Arc<Notify>,
    status: Arc<Mutex<Status>>,
}

impl Handle {
    /// Has the store look at once, and read keys again even if no file has changed.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// The same, and waits until it has looked.
    pub async fn reloaded(&self) {
        let looked = self.looked.notified();
        self.reload();
        looked.await;
    }

    /// What is in force now.
    pub fn status(&self) -> Status {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl PolicyStore {
    /// Loads all `*.toml` files of a directory, not of those below it.
    pub async fn open(dir: &Path) -> Result<PolicyStore, Error> {
        let seen = read(dir.to_owned()).await?;
        let policy = load(&seen).await?;
        let active = Active {
            policy: Arc::new(policy),
            generation: 1,
        };
        let handle = Handle {
            reload: Arc::default(),
            looked: Arc::default(),
            status: Arc::new(Mutex::new(Status::of(&active))),
        };
        tracing::info!(dir = %dir.display(), rules = active.policy.rules.len(), "policy loaded");
        let (active, _) = watch::channel(Arc::new(active));
        Ok(PolicyStore {
            dir: dir.to_owned(),
            seen,
            active,
            handle,
        })
    }

    /// The policy in force, now and whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Active>> {
        self.active.subscribe()
    }

    /// The way to the store once it runs.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Follows the directory until it is dropped. Cancel safe: a policy is in force or isn't.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = ticks.tick() => false,
                () = self.handle.reload.notified() => true,
            };
            self.look(asked).await;
            if asked {
                self.handle.looked.notify_waiters();
            }
        }
    }

    /// Looks at the files once; `asked`: also where they are the same as before.
    async fn look(&mut self, asked: bool) {
        let outcome = match read(self.dir.clone()).await {
            Ok(files) if files == self.seen && !asked => return,
            Ok(files) => {
                let loaded = load(&files).await;
                self.seen = files;
                loaded
            }
            Err(error) => {
                // What comes back may be what was there: it is to be looked at again.
                self.seen.clear();
                Err(error)
            }
        };
        match outcome {
            Ok(policy) => self.take(policy),
            Err(error) => self.keep(&error, asked),
        }
    }

    fn take(&self, policy: Policy) {
        let generation = self.active.borrow().generation + 1;
        let active = Active {
            policy: Arc::new(policy),
            generation,
        };
        let status = Status::of(&active);
        tracing::info!(
            generation,
            sha256 = status.sha256,
            rules = status.rules,
            "policy changed"
        );
        self.set(status);
        self.active.send_replace(Arc::new(active));
    }

    fn keep(&self, error: &Error, asked: bool) {
        let problem = chain(error);
        let mut status = self.handle.status();
        // An unreadable directory stays so for many looks: it is told once, and to whoever asks.
        let known = status.problem.as_ref() == Some(&problem);
        if asked || !known {
            tracing::error!(
                problem,
                "policy files are not valid; the last valid policy stays in force"
            );
        }
        if !known {
            status.problem = Some(problem);
            self.set(status);
        }
    }

    fn set(&self, status: Status) {
        *self
            .handle
            .status
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = status;
    }
}

impl Status {
    fn of(active: &Active) -> Status {
        let policy = &active.policy;
        Status {
            generation: active.generation,
            sha256: policy
                .sha256
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            rules: policy.rules.len(),
            observed: policy.mode == Mode::Observe,
            problem: None,
        }
    }
}

/// Reads files, and for each directory the `*.toml` files in it, sorted by name. Blocks; for the
/// command line.
pub fn read_sources(path: &Path) -> Result<Vec<Source>, Error> {
    let at = |path: &Path| {
        let path = path.to_owned();
        |source| Error::Read { path, source }
    };
    if !path.is_dir() {
        return read_file(path).map(|source| vec![source]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(at(path))? {
        let file = entry.map_err(at(path))?.path();
        let hidden = file
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden
            && file
                .extension()
                .is_some_and(|extension| extension == "toml")
            && !file.is_dir()
        {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(Error::Empty {
            dir: path.to_owned(),
        });
    }
    files.sort();
    files.iter().map(|file| read_file(file)).collect()
}

fn read_file(path: &Path) -> Result<Source, Error> {
    let at = |source| Error::Read {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let length = files::open_regular(path)
        .map_err(at)?
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(at)?;
    if length as u64 > MAX_FILE {
        return Err(Error::TooLarge {
            path: path.to_owned(),
        });
    }
    let text = String::from_utf8(bytes)
        .map_err(|error| at(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    Ok(Source {
        name: path.display().to_string(),
        text,
    })
}

async fn read(dir: PathBuf) -> Result<Vec<Source>, Error> {
    let path = dir.clone();
    match tokio::task::spawn_blocking(move || read_sources(&dir)).await {
        Ok(sources) => sources,
        Err(panic) => Err(Error::Read {
            path,
            source: io::Error::other(panic),
        }),
    }
}

/// Parses files and fetches the keys that they ask for.
async fn load(files: &[Source]) -> Result<Policy, Error> {
    let wanted = Mutex::new(Vec::new());
    let policy = policy::parse_with(files, &|source| {
        wanted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(source.clone());
        Ok(Key::new(Vec::new()))
    });
    let policy = policy.map_err(|diagnostics| Error::Invalid { diagnostics })?;
    let wanted = wanted.into_inner().unwrap_or_else(PoisonError::into_inner);
    if wanted.is_empty() {
        return Ok(policy);
    }
    // Only what is parsed with the keys in hand goes out of here.
    let mut keys = Vec::new();
    for source in wanted {
        let key = fetch(&source).await;
        keys.push((source, key));
    }
    let find = |source: &KeySource| match keys.iter().find(|(of, _)| of == source) {
        Some((_, Ok(key))) => Ok(key.clone()),
        Some((_, Err(error))) => Err(chain(error)),
        None => Err("the key was not asked for".to_owned()),
    };
    policy::parse_with(files, &find).map_err(|diagnostics| {
        let missing: Vec<_> = keys
            .iter()
            .filter_map(|(_, key)| key.as_ref().err())
            .collect();
        // A key that is there and no good is a mistake to correct.
        let unseen = missing.len() == diagnostics.len()
            && missing
                .iter()
                .all(|e| matches!(e, credential::Error::NoCredentials { .. }));
        Error::Keys {
            diagnostics,
            unseen,
        }
    })
}

async fn fetch(source: &KeySource) -> Result<Key, credential::Error> {
    let source = match source.clone() {
        KeySource::File(path) => credential::Source::File { path },
        KeySource::Env(variable) => credential::Source::Env { variable },
        KeySource::Credential(name) => credential::Source::Systemd { name },
    };
    let secret = source.fetch().await?;
    Ok(Key::new(secret.expose().to_vec()))
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    diagnostics
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const GOOD: &str =
        "version = 1\n[[rule]]\nname = \"r\"\neffects = [\"read\"]\ndecision = \"allow\"\n";

    fn write(dir: &Path, name: &str, text: &str) {
        fs::write(dir.join(name), text).unwrap();
    }

    #[tokio::test]
    async fn a_directory_without_policies_or_with_invalid_ones_doesnt_open() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), ".hidden.toml", GOOD);
        write(dir.path(), "notes.txt", "x");
        assert!(matches!(
            PolicyStore::open(dir.path()).await,
            Err(Error::Empty { .. })
        ));
        assert!(matches!(
            PolicyStore::open(&dir.path().join("no")).await,
            Err(Error::Read { .. })
        ));
        write(dir.path(), "a.toml", "version = 7");
        let error = PolicyStore::open(dir.path()).await.unwrap_err();
        assert!(
            error.to_string().contains("a.toml:1:11: error: version 7"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_change_comes_into_force_and_a_broken_one_keeps_the_last_valid_policy() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.toml", GOOD);
        let mut store = PolicyStore::open(dir.path()).await.unwrap();
        let (active, handle) = (store.subscribe(), store.handle());
        let first = active.borrow().policy.sha256;

        store.look(false).await;
        assert_eq!(handle.status().generation, 1);

        write(dir.path(), "b.toml", &GOOD.replace("\"r\"", "\"s\""));
        store.look(false).await;
        assert_eq!(
            (
                active.borrow().generation,
                active.borrow().policy.rules.len()
            ),
            (2, 2)
        );
        assert_ne!(active.borrow().policy.sha256, first);

        write(dir.path(), "b.toml", "version = ");
        store.look(false).await;
        assert_eq!(
            (
                active.borrow().generation,
                active.borrow().policy.rules.len()
            ),
            (2, 2)
        );
        assert!(handle.status().problem.unwrap().contains("b.toml:1:"));

        write(dir.path(), "b.toml", &GOOD.replace("\"r\"", "\"s\""));
        store.look(false).await;
        assert_eq!(
            (active.borrow().generation, handle.status().problem),
            (3, None)
        );
    }

    #[tokio::test]
    async fn vanished_files_keep_the_policy_and_come_back_into_force_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.toml", GOOD);
        let mut store = PolicyStore::open(dir.path()).await.unwrap();
        let handle = store.handle();
        fs::remove_file(dir.path().join("a.toml")).unwrap();
        store.look(false).await;
        assert!(handle.status().problem.unwrap().contains("no policy files"));
        assert_eq!(handle.status().rules, 1);
        write(dir.path(), "a.toml", GOOD);
        store.look(false).await;
        assert_eq!(handle.status().problem, None);
    }

    /// What is logged on this thread.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn files_that_stay_wrong_are_logged_once_and_again_to_whoever_asks() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.toml", GOOD);
        let mut store = PolicyStore::open(dir.path()).await.unwrap();
        write(dir.path(), "a.toml", "version = ");
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .finish();
        let _logged = tracing::subscriber::set_default(subscriber);
        let told = || {
            let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            text.matches("are not valid").count()
        };
        store.look(false).await;
        store.look(false).await;
        assert_eq!(told(), 1);
        store.look(true).await;
        assert_eq!(told(), 2);
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_an_error_that_names_it_and_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.toml", GOOD);
        let fifo = dir.path().join("b.toml");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let opened = tokio::time::timeout(Duration::from_secs(10), PolicyStore::open(dir.path()));
        let error = opened.await.unwrap().unwrap_err();
        let text = chain(&error);
        assert!(text.contains("b.toml: it is no regular file"), "{text}");
    }

    #[test]
    fn a_file_beyond_all_measure_is_refused_and_one_that_is_no_text_is_unreadable() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.toml");
        fs::write(&file, vec![b'#'; MAX_FILE as usize + 1]).unwrap();
        assert!(matches!(read_file(&file), Err(Error::TooLarge { .. })));
        fs::write(&file, [0xff]).unwrap();
        assert!(matches!(read_file(&file), Err(Error::Read { .. })));
    }

    #[tokio::test]
    async fn a_running_store_looks_each_second_and_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.toml", GOOD);
        let store = PolicyStore::open(dir.path()).await.unwrap();
        let (mut active, handle) = (store.subscribe(), store.handle());
        let running = tokio::spawn(store.run());
        write(dir.path(), "a.toml", &format!("{GOOD}#"));
        active.changed().await.unwrap();
        assert_eq!(active.borrow_and_update().generation, 2);
        handle.reloaded().await;
        assert_eq!(active.borrow().generation, 3);
        running.abort();
    }

    #[tokio::test]
    async fn keys_are_fetched_and_a_missing_one_is_told_at_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        let mask = format!(
            "{GOOD}[[rule.mask]]\ncolumns = [\"c\"]\nwith = \"hmac\"\nkey = {{ file = \"{}\" }}\n",
            key.display()
        );
        write(dir.path(), "a.toml", &mask);
        let error = PolicyStore::open(dir.path()).await.unwrap_err();
        assert!(matches!(error, Error::Keys { unseen: false, .. }));
        let error = error.to_string();
        assert!(
            error.contains("a.toml:9:7: error: ") && error.contains("key"),
            "{error}"
        );
        fs::write(&key, "0123456789abcdef").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let store = PolicyStore::open(dir.path()).await.unwrap();
        let policy = Arc::clone(&store.subscribe().borrow().policy);
        let expected = Key::new(b"0123456789abcdef".to_vec());
        assert_eq!(
            policy.rules[0].masks[0].mask,
            crate::mask::Mask::Hmac {
                key: Arc::new(expected)
            }
        );
    }
}
