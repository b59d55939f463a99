//! Cancel keys: the client gets one that means nothing to the server.
//!
//! A CancelRequest counts only with the exact key and from the same agent as the session's.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::responses::Cancel;
use crate::upstream::{self, BackendKey, Target};

/// The sessions that can be cancelled. Touched when a session opens or closes, never in between.
#[derive(Debug, Clone, Default)]
pub struct Cancels(Arc<Mutex<HashMap<i32, Session>>>);

#[derive(Debug)]
struct Session {
    secret: Vec<u8>,
    agent: Arc<str>,
    at: Option<Arc<ServerSession>>,
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
    all: Cancels,
}

impl Cancels {
    /// Makes a key for a session. `at` is `None` for a server that has no cancel keys.
    ///
    /// # Errors
    /// The system has no randomness.
    pub(super) fn register(
        &self,
        agent: Arc<str>,
        at: Option<ServerSession>,
        minor: u16,
    ) -> Result<Key, getrandom::Error> {
        let mut secret = vec![0; if minor >= 2 { LONG } else { SHORT }];
        getrandom::fill(&mut secret)?;
        let at = at.map(Arc::new);
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // Positive, as a process id is.
            let pid = (getrandom::u32()? >> 1).cast_signed();
            if let Entry::Vacant(free) = sessions.entry(pid) {
                free.insert(Session {
                    secret: secret.clone(),
                    agent,
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
            let sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            sessions
                .get(&pid)
                .filter(|s| same(&s.secret, secret) && *s.agent == *agent)
                .and_then(|s| s.at.clone())
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
        self.all
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_with_its_session_and_long_ones_are_for_the_new_protocol() {
        let all = Cancels::default();
        let short = all.register("a".into(), None, 0).expect("randomness");
        let long = all.register("a".into(), None, 2).expect("randomness");
        assert_eq!((short.secret.len(), long.secret.len()), (SHORT, LONG));
        assert!(short.pid > 0 && short.pid != long.pid);
        assert_eq!(all.0.lock().expect("lock").len(), 2);
        drop((short, long));
        assert!(all.0.lock().expect("lock").is_empty());
    }

    #[test]
    fn secrets_are_compared_whole() {
        assert!(same(b"abcd", b"abcd"));
        assert!(!same(b"abcd", b"abce"));
        assert!(!same(b"abcd", b"abc"));
    }
}
