//! How much of Weir agents have for their questions.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many questions, and connections for questions, an agent has open at most.
pub(super) const AT_ONCE: usize = 32;
/// The same for all agents together, and those who turn out to be none.
const ALL_AT_ONCE: usize = 512;
/// From one answer of an agent to its next: what it asks is all recorded, and may not fill the disk.
const EACH: Duration = Duration::from_millis(20);
/// Answers that an agent may have at once after a while without, as the time of so many.
const BURST: Duration = Duration::from_secs(1);

pub(super) struct Limits {
    all: Arc<Semaphore>,
    by_agent: Mutex<HashMap<Arc<str>, OfAgent>>,
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
            by_agent: Mutex::default(),
        }
    }

    /// Room for whoever asks; `None` if there is none.
    pub(super) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).try_acquire_owned().ok()
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
        let mut all = self.by_agent.lock().unwrap_or_else(PoisonError::into_inner);
        body(all.entry(Arc::clone(agent)).or_insert_with(OfAgent::new))
    }
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
}
