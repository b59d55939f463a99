//! The record of questions: a journal for each group of processes that asks, as that of a session with
//! the datastore [`NAMES`].
//!
//! Guarantees:
//! - whoever is given a [`Recorded`] has its question and the answer on record, as durable as any
//!   statement; without one there is nothing to tell;
//! - a journal is open from its first question until there was none for [`IDLE`], for [`AGE`] at most,
//!   and there are at most [`OPEN`]: agents choose how many questions they ask, and from where;
//! - once [`Journals::close`] was called, nothing is recorded, and so nothing told.

use std::collections::{HashMap, hash_map};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::limits::AT_ONCE;
use crate::identity::{Identity, Matcher};
use crate::policy_store;
use crate::record::{
    CloseReason, Entry, Error, Question, Recorded, Recorder, SessionId, SessionOpen,
    UnpinnedJournal, Written,
};

/// In the place of a datastore's name, which can't have parentheses.
const NAMES: &str = "(names)";
/// How long a journal is open without a question.
const IDLE: Duration = Duration::from_secs(60);
/// How long a journal is open at most. What one agent asks by then takes less than
/// [`crate::record::RESERVE`], which is there when a journal begins.
const AGE: Duration = Duration::from_secs(600);
/// Journals that are open at most.
const OPEN: usize = 256;
/// How often journals are looked at.
const TIDY: Duration = Duration::from_secs(5);
/// How often the log has that questions can't be recorded.
const SAID: Duration = Duration::from_secs(10);

/// Who asks, and whom.
pub(super) struct Asker {
    pub(super) identity: Identity,
    pub(super) resolver: SocketAddr,
}

pub(super) struct Journals {
    recorder: Recorder,
    policy: policy_store::Handle,
    state: Mutex<State>,
}

/// The agent, and the outermost cgroup that is all its own.
type Key = (Arc<str>, String);

#[derive(Default)]
struct State {
    open: HashMap<Key, Open>,
    closed: bool,
    /// When the log last had that a question can't be recorded.
    said: Option<Instant>,
}

struct Open {
    journal: UnpinnedJournal,
    since: Instant,
    last: Instant,
}

/// A journal that is no longer open, and why.
type Over = (UnpinnedJournal, CloseReason);

impl Journals {
    pub(super) fn new(recorder: Recorder, policy: policy_store::Handle) -> Self {
        Self {
            recorder,
            policy,
            state: Mutex::default(),
        }
    }

    /// Records a question with its answer, and first how many before it had none. `None` if that can't
    /// be: the agent must not be told then.
    pub(super) async fn record(
        &self,
        asker: &Asker,
        question: &Question<'_>,
        unanswered: u64,
    ) -> Option<Recorded> {
        let now = Instant::now();
        let (id, written) = self.write(asker, question, unanswered, now)?;
        match written.durable().await {
            Ok(recorded) => Some(recorded),
            Err(error) => {
                let mut state = self.state();
                state.open.retain(|_, open| open.journal.id() != id);
                state.say(&error, now);
                None
            }
        }
    }

    fn write(
        &self,
        asker: &Asker,
        question: &Question<'_>,
        unanswered: u64,
        now: Instant,
    ) -> Option<(SessionId, Written)> {
        let mut state = self.state();
        if state.closed {
            return None;
        }
        let key = key(&asker.identity);
        state.make_room(&key, now).into_iter().for_each(|over| {
            tokio::spawn(end(over));
        });
        let open = match state.open.entry(key.clone()) {
            hash_map::Entry::Occupied(open) => Ok(open.into_mut()),
            hash_map::Entry::Vacant(place) => self.begin(asker, now).map(|open| place.insert(open)),
        };
        let written = open.and_then(|open| open.write(question, unanswered, now));
        if let Err(error) = &written {
            // What failed is at its end.
            state.open.remove(&key);
            state.say(error, now);
        }
        written.ok()
    }

    fn begin(&self, asker: &Asker, now: Instant) -> Result<Open, Error> {
        Ok(Open {
            journal: self.recorder.unpinned_session(&self.opening(asker))?,
            since: now,
            last: now,
        })
    }

    fn opening(&self, asker: &Asker) -> SessionOpen {
        let identity = &asker.identity;
        let process = &identity.process;
        // It may have exited or run something else since.
        let exe = std::fs::read_link(format!("/proc/{}/exe", process.pid)).ok();
        SessionOpen {
            id: SessionId::now(),
            at: micros(),
            agent: Arc::clone(&identity.agent.name),
            groups: identity.agent.groups.to_vec(),
            datastore: NAMES.into(),
            destination: asker.resolver.to_string(),
            cgroup: identity.cgroup.clone(),
            container: identity.container.clone(),
            pid: process.pid,
            uid: process.uid,
            comm: process.comm.clone(),
            exe: exe.map(|exe| exe.display().to_string()),
            claimed_user: String::new(),
            database: String::new(),
            parameters: Vec::new(),
            client_tls: None,
            upstream: None,
            policy: self.policy.status().sha256,
            weir: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Closes journals whose time is over, until the task is dropped.
    pub(super) async fn tidy(&self) {
        loop {
            tokio::time::sleep(TIDY).await;
            let over = self.state().over(Instant::now());
            for over in over {
                end(over).await;
            }
        }
    }

    /// Closes all, for good.
    pub(super) async fn close(&self) {
        let open = self.state().close();
        for open in open.into_values() {
            end((open.journal, CloseReason::Drained)).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn close(&mut self) -> HashMap<Key, Open> {
        self.closed = true;
        std::mem::take(&mut self.open)
    }

    /// Takes out the journals whose time is over.
    fn over(&mut self, now: Instant) -> Vec<Over> {
        let over = self.open.extract_if(|_, open| open.why_over(now).is_some());
        over.map(|(_, open)| {
            let why = open.why_over(now).unwrap_or_default();
            (open.journal, CloseReason::Questions(why))
        })
        .collect()
    }

    /// Takes out what is in the way of a journal of `key`: its own whose time is over; the one that has
    /// had no question for the longest, if there are too many.
    fn make_room(&mut self, key: &Key, now: Instant) -> Option<Over> {
        let (key, why) = match self.open.get(key) {
            Some(open) => (key.clone(), open.why_over(now)?),
            None if self.open.len() < OPEN => return None,
            None => {
                let idlest = self.open.iter().min_by_key(|(_, open)| open.last)?;
                (idlest.0.clone(), format!("{OPEN} others ask"))
            }
        };
        let open = self.open.remove(&key)?;
        Some((open.journal, CloseReason::Questions(why)))
    }

    /// Agents choose how often they ask: the log has it now and then.
    fn say(&mut self, error: &Error, now: Instant) {
        let said = |then: Instant| now.saturating_duration_since(then) < SAID;
        if self.said.is_some_and(said) {
            return;
        }
        self.said = Some(now);
        tracing::error!(
            error = error as &dyn std::error::Error,
            "questions for names can't be recorded: they have no answer"
        );
    }
}

impl Open {
    fn write(
        &mut self,
        question: &Question<'_>,
        unanswered: u64,
        now: Instant,
    ) -> Result<(SessionId, Written), Error> {
        self.last = now;
        let journal = &mut self.journal;
        if unanswered > 0 {
            let text = format!("{unanswered} questions: more than {AT_ONCE} at once");
            journal.append(&Entry::Note {
                at: question.at,
                kind: "unanswered",
                text: &text,
            });
        }
        journal.append(&Entry::Question(question.clone()));
        Ok((journal.id(), journal.write()?))
    }

    fn why_over(&self, now: Instant) -> Option<String> {
        if now.saturating_duration_since(self.since) >= AGE {
            return Some(format!("open for {} s", AGE.as_secs()));
        }
        let idle = now.saturating_duration_since(self.last) >= IDLE;
        idle.then(|| format!("none for {} s", IDLE.as_secs()))
    }
}

fn key(identity: &Identity) -> Key {
    let cgroup = Matcher::own_cgroup(&identity.cgroup);
    (Arc::clone(&identity.agent.name), cgroup.to_owned())
}

async fn end((journal, reason): Over) {
    if let Err(error) = journal.close(micros(), reason).await {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the end of a journal of questions can't be recorded"
        );
    }
}

/// Microseconds since the Unix epoch.
pub(super) fn micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

#[cfg(test)]
mod tests;
