//! Whose processes live in which namespace: what may leave it depends on that.

use std::collections::HashMap;

use super::super::outlets;
use super::{IDLE_SCANS, Watch};

/// The cgroups of those who live in a namespace, with the number of the scan by which each was seen
/// last.
#[derive(Default)]
pub(super) struct Residents(HashMap<u64, u32>);

impl Residents {
    pub(super) fn insert(&mut self, cgroup: u64, scan: u32) {
        self.0.insert(cgroup, scan);
    }

    /// Forgets those of whom this many scans in a row saw nobody: one alone can miss a process that
    /// moves.
    pub(super) fn forget_before(&mut self, scan: u32) {
        self.0
            .retain(|_, seen| scan.wrapping_sub(*seen) < IDLE_SCANS);
    }

    fn cgroups(&self) -> impl Iterator<Item = u64> {
        self.0.keys().copied()
    }
}

impl Watch {
    /// Has what may leave by each device be what those may send who live behind it. Not before
    /// everybody has been seen.
    pub(super) fn tell_residents(&self) {
        let mut residents = outlets::Residents::new();
        for known in self.known.values() {
            for device in known.around.devices() {
                let cgroups = known.residents.cgroups();
                residents.entry(device).or_default().extend(cgroups);
            }
        }
        self.outlets.set_residents(residents);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_missed_by_a_scan_still_lives_there() {
        let mut residents = Residents::default();
        residents.insert(7, 1);
        residents.insert(8, IDLE_SCANS);
        residents.forget_before(IDLE_SCANS);
        assert_eq!(residents.0.len(), 2);
        residents.forget_before(IDLE_SCANS + 1);
        assert_eq!(residents.cgroups().collect::<Vec<_>>(), [8]);
    }
}
