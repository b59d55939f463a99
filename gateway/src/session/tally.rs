//! Counters that the status page and the metrics read.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts of one worker thread's sessions. Written by that thread alone, so that counting never
/// makes two cores share a cache line; read by anyone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Tally {
    open: AtomicU64,
    sessions: AtomicU64,
    refused: AtomicU64,
    allowed: AtomicU64,
    denied: AtomicU64,
}

/// What tallies add up to.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Sessions that are open.
    pub open: u64,
    /// Sessions that were opened.
    pub sessions: u64,
    /// Connections that were refused.
    pub refused: u64,
    /// Decisions to allow.
    pub allowed: u64,
    /// Decisions to deny.
    pub denied: u64,
}

impl Tally {
    /// A session opens; it closes when the guard is dropped.
    pub(super) fn open(&self) -> OpenGuard<'_> {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenGuard(self)
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn allowed(&self) {
        self.allowed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn denied(&self) {
        self.denied.fetch_add(1, Ordering::Relaxed);
    }

    /// The sum of many.
    pub fn sum<'a>(tallies: impl IntoIterator<Item = &'a Self>) -> Counts {
        tallies
            .into_iter()
            .fold(Counts::default(), |sum, t| Counts {
                open: sum.open + t.open.load(Ordering::Relaxed),
                sessions: sum.sessions + t.sessions.load(Ordering::Relaxed),
                refused: sum.refused + t.refused.load(Ordering::Relaxed),
                allowed: sum.allowed + t.allowed.load(Ordering::Relaxed),
                denied: sum.denied + t.denied.load(Ordering::Relaxed),
            })
    }
}

/// An open session.
pub(super) struct OpenGuard<'a>(&'a Tally);

impl Drop for OpenGuard<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_opened_and_refused_adds_up_over_the_threads() {
        let (one, other) = (Tally::default(), Tally::default());
        let open = one.open();
        drop(other.open());
        one.refused();
        other.refused();
        let expected = Counts {
            open: 1,
            sessions: 2,
            refused: 2,
            ..Counts::default()
        };
        assert_eq!(Tally::sum([&one, &other]), expected);
        drop(open);
    }
}
