//! What a loop reads in one turn of what the kernel tells it.
//!
//! Agents decide how much there is to tell, and can have more told than anybody reads: whatever else
//! the loop has to do comes after so much, and not once nothing is left.

use std::iter;
use std::time::{Duration, Instant};

use aya::Pod;
use aya::maps::{MapData, RingBuf};

use super::super::kernel;

/// How many items of a ring are one turn's.
const ITEMS: usize = 256;

/// The next items of a ring, as far as they are this turn's. The others make the next wait a short
/// one.
pub(in super::super) fn told<T: Pod>(ring: &mut RingBuf<MapData>) -> impl Iterator<Item = T> {
    iter::from_fn(|| ring.next().map(|item| kernel::value(&item)))
        .take(ITEMS)
        .flatten()
}

/// Time between two scans.
const SCAN_EVERY: Duration = Duration::from_millis(100);

/// For how long after a change of the host's devices, such as the one by which an engine joins a container
/// that it is about to start, the slice is looked through for newcomers, and how often: the perimeter
/// should be there before the container's program.
const EXPECT_FOR: Duration = Duration::from_secs(2);
const EXPECT_EVERY: Duration = Duration::from_millis(10);

/// What is due when, whatever is told meanwhile.
pub(super) struct Agenda {
    scan: Instant,
    look: Instant,
    /// Until when newcomers are expected.
    expected: Instant,
}

impl Agenda {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            scan: now + SCAN_EVERY,
            look: now,
            expected: now,
        }
    }

    /// The time of what is due first.
    pub(super) fn next(&self) -> Instant {
        if self.look < self.expected {
            self.look.min(self.scan)
        } else {
            self.scan
        }
    }

    /// From now on, newcomers are expected.
    pub(super) fn expect(&mut self) {
        self.expected = Instant::now() + EXPECT_FOR;
    }

    /// Whether the slice is to be looked through for newcomers.
    pub(super) fn is_time_to_look(&self) -> bool {
        self.look < self.expected && Instant::now() >= self.look
    }

    pub(super) fn looked(&mut self) {
        self.look = Instant::now() + EXPECT_EVERY;
    }

    pub(super) fn is_time_to_scan(&self) -> bool {
        Instant::now() >= self.scan
    }

    pub(super) fn scanned(&mut self) {
        self.scan = Instant::now() + SCAN_EVERY;
    }
}
