//! The sessions that are open: who they are, and the keys that cancel their statements.
//!
//! A client gets a key that means nothing to the server. A CancelRequest counts only with the exact
//! key and from the same agent as the session's.

use std::collections::HashMap;
use std::collections::hash_map;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::responses::Cancel;
use crate::record::SessionId;
use crate::upstream::{self, BackendKey, Target};

/// See the module. Touched when a session opens or closes, never in between.
#[derive(Debug, Clone, Default)]
pub struct Directory(Arc<Mutex<HashMap<i32, Entry>>>);

#[derive(Debug)]
struct Entry {
    secret: Vec<u8>,
    who: OpenSession,
    at: Option<Arc<ServerSession>>,
}

/// Who a session is.
#[derive(Debug, Clone)]
pub struct OpenSession {
    /// Its id.
    pub id: SessionId,
    /// The agent's name.
    pub agent: Arc<str>,
    /// The datastore's name.
    pub datastore: Arc<str>,
    /// The database.
    pub database: String,
    /// The process that connected.
    pub pid: u32,
    /// When it opened.
    pub since: Instant,
}

/// What it takes to cancel a statement on the server.
#[derive(Debug)]
pub(super) struct ServerSession {
    pub(super) target: Arc<Target>,
    pub(super) address: SocketAddr,
    pub(super) key: BackendKey,
}

/// Bytes of a secret in protocol 3.0.
const SHORT: usize = 4;
/// Bytes of a secret in protocol 3.2.
const LONG: usize = 32;

/// A session's key; it stops working when this is dropped.
pub(super) struct Key {
    pub(super) pid: i32,
    pub(super) secret: Vec<u8>,
    at: Option<Arc<ServerSession>>,
    all: Directory,
}

impl Directory {
    /// The sessions that are open now.
    pub fn open_sessions(&self) -> Vec<OpenSession> {
        self.entries().values().map(|e| e.who.clone()).collect()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<i32, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a session and makes its key. `at` is `None` for a server that has no cancel keys.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(super) fn register(
        &self,
        who: OpenSession,
        at: Option<ServerSession>,
        minor: u16,
    ) -> Result<Key, getrandom::Error> {
        let mut secret = vec![0; if minor >= 2 { LONG } else { SHORT }];
        getrandom::fill(&mut secret)?;
        let at = at.map(Arc::new);
        let mut entries = self.entries();
        loop {
            // Positive, as a process id is.
            let pid = (getrandom::u32()? >> 1).cast_signed();
            if let hash_map::Entry::Vacant(free) = entries.entry(pid) {
                free.insert(Entry {
                    secret: secret.clone(),
                    who,
                    at: at.clone(),
                });
                return Ok(Key {
                    pid,
                    secret,
                    at,
                    all: self.clone(),
                });
            }
        }
    }

    /// Carries out a CancelRequest of an agent's; nothing tells the client whether it counted.
    pub(super) async fn request(&self, agent: &str, pid: i32, secret: &[u8]) {
        let found = {
            let entries = self.entries();
            entries
                .get(&pid)
                .filter(|e| same(&e.secret, secret) && *e.who.agent == *agent)
                .and_then(|e| e.at.clone())
        };
        match found {
            Some(session) => session.cancel().await,
            None => tracing::warn!(agent, "a cancel request without a session of this agent"),
        }
    }
}

/// Compares without telling by its time where the difference is.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

impl Cancel for ServerSession {
    async fn cancel(&self) {
        if let Err(error) = upstream::cancel(&self.target, self.address, &self.key).await {
            tracing::warn!(error = %error, "a statement could not be cancelled");
        }
    }
}

impl Cancel for Key {
    async fn cancel(&self) {
        if let Some(session) = &self.at {
            session.cancel().await;
        }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.all.entries().remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_with_its_session_and_long_ones_are_for_the_new_protocol() {
        let who = OpenSession {
            id: SessionId::now(),
            agent: "a".into(),
            datastore: "d".into(),
            database: "app".into(),
            pid: 1,
            since: Instant::now(),
        };
        let all = Directory::default();
        let short = all.register(who.clone(), None, 0).expect("randomness");
        let long = all.register(who, None, 2).expect("randomness");
        assert_eq!((short.secret.len(), long.secret.len()), (SHORT, LONG));
        assert!(short.pid > 0 && short.pid != long.pid);
        assert_eq!(all.open_sessions().len(), 2);
        drop((short, long));
        assert!(all.open_sessions().is_empty());
    }

    #[test]
    fn secrets_are_compared_whole() {
        assert!(same(b"abcd", b"abcd"));
        assert!(!same(b"abcd", b"abce"));
        assert!(!same(b"abcd", b"abc"));
    }
}
