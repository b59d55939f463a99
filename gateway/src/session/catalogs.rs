//! Snapshots of the catalogs of all databases that agents use, kept fresh.
//!
//! The first session of a database waits for its snapshot; without one it is refused, because
//! masks could not be resolved. Later ones share it. It is loaded anew every [`REFRESH`], and when
//! a session asks because it has changed the catalog. A failed load keeps the snapshot and is
//! logged: columns are masked by their numbers, which don't change meaning.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OnceCell, watch};

use crate::catalog::Catalog;
use crate::upstream::{self, Target};

/// How old a snapshot gets.
const REFRESH: Duration = Duration::from_secs(30);
/// Between two loads that sessions asked for.
const PAUSE: Duration = Duration::from_millis(100);

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

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Catalogs(Arc<Mutex<HashMap<Key, Arc<OnceCell<Followed>>>>>);

impl Catalogs {
    /// How many relations the snapshots of a datastore's databases have; `None` without any.
    pub fn relations(&self, datastore: &str) -> Option<usize> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = all.iter().filter(|(key, _)| *key.datastore == *datastore);
        let counts = of_it
            .filter_map(|(_, cell)| cell.get())
            .map(|followed| followed.catalog.borrow().relations().count());
        counts.reduce(|a, b| a + b)
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
        let key = Key {
            datastore: Arc::clone(datastore),
            user: target.login.user.clone(),
            database: database.to_owned(),
        };
        let cell = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(key).or_default())
        };
        let followed = cell
            .get_or_try_init(|| async {
                let first = load(target, address, database).await?;
                Ok(follow(
                    Arc::clone(target),
                    address,
                    database.to_owned(),
                    first,
                ))
            })
            .await?;
        Ok(followed.clone())
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

/// Keeps a snapshot fresh for as long as the daemon runs.
fn follow(target: Arc<Target>, address: SocketAddr, database: String, first: Catalog) -> Followed {
    let (sender, catalog) = watch::channel(Arc::new(first));
    let refresh = Arc::new(Notify::new());
    let asked = Arc::clone(&refresh);
    tokio::spawn(async move {
        loop {
            // Either way it is time for a new one.
            let _ = tokio::time::timeout(REFRESH, asked.notified()).await;
            match load(&target, address, &database).await {
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
                        database,
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
