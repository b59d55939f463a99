//! How much of Weir agents have for their questions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many questions, and connections for questions, an agent has open at most.
pub(super) const AT_ONCE: usize = 32;
/// The same for a cgroup, whose agent isn't known yet: while a container runtime keeps Weir waiting, one
/// container doesn't have all the room. More than an agent has, which counts those beyond.
const OF_A_CGROUP: usize = 2 * AT_ONCE;
/// The same for all together, and those who turn out to be no agent.
const ALL_AT_ONCE: usize = 512;
/// From one answer of an agent to its next: what it asks is all recorded, and may not fill the disk.
const EACH: Duration = Duration::from_millis(20);
/// Answers that an agent may have at once after a while without, as the time of so many.
const BURST: Duration = Duration::from_secs(1);

pub(super) struct Limits {
    all: Arc<Semaphore>,
    by_cgroup: Arc<Mutex<ByCgroup>>,
    by_agent: Mutex<HashMap<Arc<str>, OfAgent>>,
}

/// How much of the room each cgroup has that has any.
type ByCgroup = HashMap<String, usize>;

/// Room, until it is dropped.
pub(super) struct Entered {
    by_cgroup: Arc<Mutex<ByCgroup>>,
    cgroup: String,
    _of_all: OwnedSemaphorePermit,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut by_cgroup = lock(&self.by_cgroup);
        if let Some(open) = by_cgroup.get_mut(&self.cgroup) {
            *open -= 1;
            if *open == 0 {
                by_cgroup.remove(&self.cgroup);
            }
        }
    }
}

struct OfAgent {
    open: Arc<Semaphore>,
    /// When the last turn that was given is.
    due: Instant,
    /// Questions that were turned away, and not told of yet.
    unanswered: u64,
}

impl Limits {
    pub(super) fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL_AT_ONCE)),
            by_cgroup: Arc::default(),
            by_agent: Mutex::default(),
        }
    }

    /// Room for whoever asks from a cgroup; `None` if there is none.
    pub(super) fn enter(&self, cgroup: &str) -> Option<Entered> {
        let of_all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let mut by_cgroup = lock(&self.by_cgroup);
        let open = by_cgroup.get(cgroup).copied().unwrap_or_default();
        if open >= OF_A_CGROUP {
            return None;
        }
        by_cgroup.insert(cgroup.to_owned(), open + 1);
        Some(Entered {
            by_cgroup: Arc::clone(&self.by_cgroup),
            cgroup: cgroup.to_owned(),
            _of_all: of_all,
        })
    }

    /// Room for an agent; `None` if it is one too many, which is counted.
    pub(super) fn admit(&self, agent: &Arc<str>) -> Option<OwnedSemaphorePermit> {
        self.of_agent(agent, |of| {
            let open = Arc::clone(&of.open).try_acquire_owned();
            of.unanswered += u64::from(open.is_err());
            open.ok()
        })
    }

    /// Waits until an answer is the agent's turn: with [`AT_ONCE`] open, less than a second.
    pub(super) async fn turn(&self, agent: &Arc<str>) {
        let now = Instant::now();
        let due = self.of_agent(agent, |of| of.next(now));
        tokio::time::sleep(due.saturating_duration_since(now)).await;
    }

    /// How many questions of the agent were turned away since this was last asked.
    pub(super) fn unanswered(&self, agent: &Arc<str>) -> u64 {
        self.of_agent(agent, |of| std::mem::take(&mut of.unanswered))
    }

    fn of_agent<T>(&self, agent: &Arc<str>, body: impl FnOnce(&mut OfAgent) -> T) -> T {
        let mut all = lock(&self.by_agent);
        body(all.entry(Arc::clone(agent)).or_insert_with(OfAgent::new))
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OfAgent {
    fn new() -> Self {
        Self {
            open: Arc::new(Semaphore::new(AT_ONCE)),
            due: Instant::now(),
            unanswered: 0,
        }
    }

    /// When the next turn is: `now`, as long as turns of [`BURST`] are left.
    fn next(&mut self, now: Instant) -> Instant {
        let saved = now.checked_sub(BURST).unwrap_or(now);
        self.due = self.due.max(saved) + EACH;
        self.due.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_has_fifty_answers_at_once_and_fifty_a_second_from_then_on() {
        let mut agent = OfAgent::new();
        let mut now = agent.due + Duration::from_secs(60);
        for second in 0..3 {
            for _ in 0..50 {
                let due = agent.next(now);
                if second == 0 {
                    assert_eq!(due, now);
                }
                now = due;
            }
        }
        let waited = now.duration_since(agent.due);
        assert_eq!(waited, Duration::ZERO);
        let begin = now;
        for _ in 0..50 {
            now = agent.next(now);
        }
        assert_eq!(now.duration_since(begin), BURST);
    }

    #[test]
    fn questions_that_are_too_many_at_once_are_counted_and_another_agents_are_not() {
        let limits = Limits::new();
        let (busy, other) = ("busy".into(), "other".into());
        let held: Vec<_> = (0..AT_ONCE).map(|_| limits.admit(&busy).unwrap()).collect();
        assert!(limits.admit(&busy).is_none() && limits.admit(&busy).is_none());
        assert!(limits.admit(&other).is_some());
        drop(held);
        assert!(limits.admit(&busy).is_some());
        assert_eq!(
            (limits.unanswered(&busy), limits.unanswered(&other)),
            (2, 0)
        );
        assert_eq!(limits.unanswered(&busy), 0);
    }

    #[test]
    fn a_cgroup_whose_agent_is_not_known_leaves_room_for_others() {
        let limits = Limits::new();
        let mut held: Vec<_> = (0..OF_A_CGROUP).map(|_| limits.enter("/busy")).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(limits.enter("/busy").is_none());
        assert!(limits.enter("/other").is_some());
        held.pop();
        assert!(limits.enter("/busy").is_some());
        drop(held);
        assert!(lock(&limits.by_cgroup).is_empty());
        assert_eq!(limits.all.available_permits(), ALL_AT_ONCE);
    }
}
