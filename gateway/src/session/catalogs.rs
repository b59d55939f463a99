//! Snapshots of the catalogs of all databases that agents use, kept fresh.
//!
//! The first session of a database waits for its snapshot; without one it is refused, because
//! masks could not be resolved. Later ones share it. It is loaded anew every [`REFRESH`], and when
//! a session asks because it has changed the catalog. A failed load keeps the snapshot and is
//! logged: columns are masked by their numbers, which don't change meaning.
//!
//! Beside the snapshots is what went wrong on the way upstream the last time, for the operator.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{Notify, OnceCell, watch};

use crate::catalog::Catalog;
use crate::causes::chain;
use crate::policy_store::review::Snapshot;
use crate::record::show::escape;
use crate::upstream::{self, Target};

/// How old a snapshot gets.
const REFRESH: Duration = Duration::from_secs(30);
/// Between two loads that sessions asked for.
const PAUSE: Duration = Duration::from_millis(100);
/// Characters that are kept of what went wrong: a server may say more than anyone reads.
const PROBLEM_MOST: usize = 300;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The database couldn't be reached, or refused Weir.
    #[error("no connection for reading the catalog")]
    Connect(#[source] upstream::Error),
    /// The catalog couldn't be read.
    #[error("the catalog can't be read")]
    Load(#[source] upstream::catalog::Error),
}

/// A database's snapshot as sessions follow it.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    pub(super) catalog: watch::Receiver<Arc<Catalog>>,
    /// Asks for a new snapshot soon.
    pub(super) refresh: Arc<Notify>,
}

/// Which database of which datastore, seen by which role: each may see another catalog.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    datastore: Arc<str>,
    user: String,
    database: String,
}

/// What can fail, each with a last failure of its own: a log-in that works says nothing of whether
/// the catalog can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Task {
    LogIn,
    Read,
}

/// The last failures, by database and task; an entry goes with the next success.
#[derive(Debug, Clone, Default)]
struct Problems(Arc<Mutex<HashMap<(Key, Task), String>>>);

/// See the module.
#[derive(Debug, Clone)]
pub struct Catalogs {
    /// Where snapshots are kept fresh.
    runtime: Handle,
    snapshots: Arc<Mutex<HashMap<Key, Arc<OnceCell<Followed>>>>>,
    problems: Problems,
}

impl Catalogs {
    /// None yet. They are kept fresh on `runtime`, which isn't that of a session: a large catalog takes
    /// its time, and a pending timer costs at each of a busy thread's waits.
    pub fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            snapshots: Arc::default(),
            problems: Problems::default(),
        }
    }

    /// How many relations the snapshots of a datastore's databases have; `None` without any.
    pub fn relations(&self, datastore: &str) -> Option<usize> {
        let all = self.lock();
        let of_it = all.iter().filter(|(key, _)| *key.datastore == *datastore);
        let counts = of_it
            .filter_map(|(_, cell)| cell.get())
            .map(|followed| followed.catalog.borrow().relations().count());
        counts.reduce(|a, b| a + b)
    }

    /// All snapshots that there are, sorted by datastore and database.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let all = self.lock();
        let loaded = all
            .iter()
            .filter_map(|(key, cell)| Some((key, cell.get()?)));
        let mut snapshots: Vec<_> = loaded
            .map(|(key, followed)| Snapshot {
                datastore: Arc::clone(&key.datastore),
                database: key.database.clone(),
                catalog: Arc::clone(&followed.catalog.borrow()),
            })
            .collect();
        snapshots.sort_by(|a, b| (&a.datastore, &a.database).cmp(&(&b.datastore, &b.database)));
        snapshots
    }

    /// What went wrong the last time with each of a datastore's databases, unless it went well
    /// since. One line without control characters, and without secrets, which no error has.
    pub fn problem(&self, datastore: &str) -> Option<String> {
        self.problems.of(datastore)
    }

    /// How a session's own log-in went.
    pub(super) fn logged_in(
        &self,
        datastore: &Arc<str>,
        target: &Target,
        (database, outcome): (&str, Result<(), &upstream::Error>),
    ) {
        let key = Key::new(datastore, target, database);
        match outcome {
            Ok(()) => self.problems.clear(&key, Task::LogIn),
            Err(error) if is_clients(error) => {}
            Err(error) => self.problems.keep(&key, Task::LogIn, error),
        }
    }

    /// The snapshot of a database, loaded if this is its first session.
    ///
    /// # Errors
    /// It could not be loaded; the next session tries again.
    pub(super) async fn of(
        &self,
        datastore: &Arc<str>,
        target: &Arc<Target>,
        (address, database): (SocketAddr, &str),
    ) -> Result<Followed, Error> {
        let source = Source {
            key: Key::new(datastore, target, database),
            target: Arc::clone(target),
            address,
            problems: self.problems.clone(),
        };
        let cell = {
            let mut all = self.lock();
            Arc::clone(all.entry(source.key.clone()).or_default())
        };
        let followed = cell
            .get_or_try_init(|| async {
                let first = source.load().await?;
                Ok(source.follow(first, &self.runtime))
            })
            .await?;
        Ok(followed.clone())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Arc<OnceCell<Followed>>>> {
        self.snapshots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    fn new(datastore: &Arc<str>, target: &Target, database: &str) -> Self {
        Self {
            datastore: Arc::clone(datastore),
            user: target.login.user.clone(),
            database: database.to_owned(),
        }
    }
}

impl Problems {
    fn keep(&self, key: &Key, task: Task, error: &dyn std::error::Error) {
        let text = format!("database {}: {}", key.database, chain(error));
        let mut text = escape(&text).into_owned();
        if let Some((end, _)) = text.char_indices().nth(PROBLEM_MOST) {
            text.truncate(end);
            text.push('…');
        }
        self.lock().insert((key.clone(), task), text);
    }

    fn clear(&self, key: &Key, task: Task) {
        self.lock().remove(&(key.clone(), task));
    }

    /// One for each database: whoever can't log in can't read the catalog either.
    fn of(&self, datastore: &str) -> Option<String> {
        let all = self.lock();
        let of_it = all
            .iter()
            .filter(|((key, _), _)| *key.datastore == *datastore);
        let mut told: Vec<&String> = of_it
            .filter(|((key, task), _)| {
                *task == Task::LogIn || !all.contains_key(&(key.clone(), Task::LogIn))
            })
            .map(|(_, text)| text)
            .collect();
        told.sort();
        let told: Vec<&str> = told.into_iter().map(String::as_str).collect();
        (!told.is_empty()).then(|| told.join("; "))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Key, Task), String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it was the client's start-up parameters that the server didn't take. That is nothing an
/// operator has to look at.
fn is_clients(error: &upstream::Error) -> bool {
    matches!(error, upstream::Error::Parameter(_))
        || matches!(error.sqlstate(), Some("22023" | "42704"))
}

/// Where a database's snapshots come from.
struct Source {
    key: Key,
    target: Arc<Target>,
    address: SocketAddr,
    problems: Problems,
}

impl Source {
    async fn load(&self) -> Result<Catalog, Error> {
        let loaded = load(&self.target, self.address, &self.key.database).await;
        match &loaded {
            Ok(_) => {
                // It took a log-in.
                self.problems.clear(&self.key, Task::LogIn);
                self.problems.clear(&self.key, Task::Read);
            }
            Err(error) => self.problems.keep(&self.key, Task::Read, error),
        }
        loaded
    }

    /// Keeps a snapshot fresh for as long as the daemon runs.
    fn follow(self, first: Catalog, runtime: &Handle) -> Followed {
        let (sender, catalog) = watch::channel(Arc::new(first));
        let refresh = Arc::new(Notify::new());
        let asked = Arc::clone(&refresh);
        runtime.spawn(async move {
            loop {
                // Either way it is time for a new one.
                let _ = tokio::time::timeout(REFRESH, asked.notified()).await;
                match self.load().await {
                    Ok(new) => {
                        sender.send_if_modified(|old| {
                            let changed = old.generation() != new.generation();
                            if changed {
                                *old = Arc::new(new);
                            }
                            changed
                        });
                    }
                    Err(error) => {
                        tracing::warn!(
                            database = self.key.database,
                            error = &error as &dyn std::error::Error,
                            "the catalog could not be read again; the last snapshot stays in force"
                        );
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Followed { catalog, refresh }
    }
}

async fn load(target: &Target, address: SocketAddr, database: &str) -> Result<Catalog, Error> {
    let mut connection = upstream::Connection::open(target, address, database)
        .await
        .map_err(Error::Connect)?;
    let catalog = upstream::catalog::load(&mut connection)
        .await
        .map_err(Error::Load)?;
    connection.close().await;
    Ok(catalog)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credential;
    use crate::upstream::{AuthPolicy, Login, Step, Tls, TlsMode};

    fn target() -> Arc<Target> {
        Arc::new(Target {
            server_name: None,
            tls: Tls::new(&TlsMode::Disable).unwrap(),
            login: Login {
                user: "weir".into(),
                password: credential::Source::File {
                    path: "/nonexistent/secret".into(),
                },
                allow: AuthPolicy::default(),
            },
            connect_timeout: Duration::from_secs(2),
        })
    }

    fn catalogs() -> Catalogs {
        Catalogs::new(Handle::current())
    }

    fn server(sqlstate: &str, message: &str) -> upstream::Error {
        upstream::Error::Server {
            sqlstate: sqlstate.into(),
            message: message.into(),
        }
    }

    #[tokio::test]
    async fn a_failed_log_in_stays_told_until_the_next_that_works() {
        let (catalogs, target, appdb) = (catalogs(), target(), Arc::from("appdb"));
        let logged_in = |database, outcome| {
            catalogs.logged_in(&appdb, &target, (database, outcome));
        };
        let wrong = server("28P01", "no such role");
        logged_in("app", Err(&wrong));
        let told = "database app: server: no such role (28P01)";
        assert_eq!(catalogs.problem("appdb").as_deref(), Some(told));
        assert_eq!(catalogs.problem("other"), None);
        logged_in("other", Ok(()));
        assert_eq!(catalogs.problem("appdb").as_deref(), Some(told));
        logged_in("app", Ok(()));
        assert_eq!(catalogs.problem("appdb"), None);
    }

    #[tokio::test]
    async fn what_a_server_says_is_kept_short_and_without_control_characters() {
        let (catalogs, target, appdb) = (catalogs(), target(), Arc::from("appdb"));
        let error = server("XX000", &format!("a\nb\x1b[2J{}", "\u{202e}".repeat(5_000)));
        catalogs.logged_in(&appdb, &target, ("app", Err(&error)));
        let told = catalogs.problem("appdb").unwrap();
        assert!(told.contains("a\\nb\\x1b[2J"), "{told}");
        assert!(told.is_ascii() || told.ends_with('…'), "{told}");
        assert!(told.chars().count() <= PROBLEM_MOST + 1);
    }

    #[tokio::test]
    async fn a_start_up_parameter_of_a_clients_own_is_no_problem_of_the_datastore() {
        let (catalogs, target, appdb) = (catalogs(), target(), Arc::from("appdb"));
        for error in [
            server("22023", "invalid value"),
            server("42704", "unrecognized parameter"),
            upstream::Error::Parameter("user".into()),
        ] {
            catalogs.logged_in(&appdb, &target, ("app", Err(&error)));
        }
        assert_eq!(catalogs.problem("appdb"), None);
    }

    #[tokio::test]
    async fn a_catalog_that_cant_be_read_is_a_problem_that_a_log_in_doesnt_end() {
        let (catalogs, target, appdb) = (catalogs(), target(), Arc::from("appdb"));
        // Nothing listens there once the listener is gone.
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = gone.local_addr().unwrap();
        drop(gone);
        let read = catalogs.of(&appdb, &target, (address, "app")).await;
        assert!(matches!(read, Err(Error::Connect(_))));
        catalogs.logged_in(&appdb, &target, ("app", Ok(())));
        let told = catalogs.problem("appdb").unwrap();
        assert!(
            told.contains("reading the catalog: connecting failed"),
            "{told}"
        );
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let failed = upstream::Error::Io(Step::Dial, refused);
        catalogs.logged_in(&appdb, &target, ("app", Err(&failed)));
        let told = catalogs.problem("appdb").unwrap();
        assert!(!told.contains(';'), "once for one cause: {told}");
    }
}
