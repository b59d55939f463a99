//! What may leave agents' own network namespaces by the devices that the perimeter is on.
//!
//! The perimeter sees no socket, so it can't tell whose a packet is. What passes a device is what the
//! egress policy of any cgroup permits that has a process in the namespace behind it; nothing, if none
//! of them has a policy, or nobody lives there. That isn't written before the namespaces of all who
//! live have been seen: until then, what an earlier daemon wrote counts.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aya::maps::{self, MapData};
use gateway_ebpf::{FIRST_LIST, MAX_SHARED, NOTHING, OPEN, Outlet};

use super::{CgroupId, Error, kernel, programs};

/// The cgroups that live behind each device, by the device's index.
pub(super) type Residents = HashMap<u32, BTreeSet<u64>>;

/// See the module. Cloning shares it: who lives where and who may do what is known to different
/// threads, and each change counts at once.
#[derive(Clone)]
pub(super) struct Outlets(Arc<Mutex<State>>);

struct State {
    map: maps::HashMap<MapData, u32, Outlet>,
    /// What the map holds.
    held: HashMap<u32, Outlet>,
    /// As the kernel's map of cgroups has them.
    policies: HashMap<u64, u32>,
    /// `None` until everybody has been seen.
    residents: Option<Residents>,
}

impl Outlets {
    /// Takes the map over from an earlier daemon, and the policies that it has given to cgroups.
    pub(super) fn new(loaded: &mut programs::Loaded) -> Result<Self, Error> {
        let map: maps::HashMap<_, u32, Outlet> = loaded.map("OUTLETS")?.try_into()?;
        let held = map.iter().collect::<Result<_, _>>()?;
        let cgroups = loaded.ebpf.map("CGROUPS");
        let cgroups = cgroups.ok_or(Error::Incomplete("CGROUPS"))?;
        let cgroups: maps::HashMap<_, u64, u32> = cgroups.try_into()?;
        let policies = cgroups.iter().collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Mutex::new(State {
            map,
            held,
            policies,
            residents: None,
        }))))
    }

    /// The highest number of a policy that any device has.
    pub(super) fn highest(&self) -> u32 {
        let state = self.state();
        let policies = state.held.values().flatten();
        policies.copied().max().unwrap_or(NOTHING)
    }

    /// Says who lives behind which device.
    pub(super) fn set_residents(&self, residents: Residents) {
        let mut state = self.state();
        if state.residents.as_ref() != Some(&residents) {
            state.residents = Some(residents);
            state.settle();
        }
    }

    /// Says what a cgroup may do.
    pub(super) fn assign(&self, cgroup: CgroupId, policy: u32) {
        let mut state = self.state();
        state.policies.insert(cgroup.0, policy);
        state.settle();
    }

    /// Forgets cgroups of which `is_there` says no.
    pub(super) fn tidy(&self, is_there: impl Fn(CgroupId) -> bool) {
        let mut state = self.state();
        state
            .policies
            .retain(|cgroup, _| is_there(CgroupId(*cgroup)));
        state.settle();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Brings the map up to date; what goes first makes room.
    fn settle(&mut self) {
        let Some(residents) = &self.residents else {
            return;
        };
        let map = &mut self.map;
        self.held
            .retain(|index, _| residents.contains_key(index) || !is_removed(map, *index));
        for (index, cgroups) in residents {
            let policies = cgroups
                .iter()
                .filter_map(|cgroup| self.policies.get(cgroup));
            let (outlet, left_out) = joint(policies.copied());
            if self.held.get(index) == Some(&outlet) {
                continue;
            }
            if left_out > 0 {
                tracing::warn!(
                    device = index,
                    left_out,
                    "too many agents with egress lists share a network namespace: what only some of \
                     these lists permit doesn't leave it"
                );
            }
            match self.map.insert(index, outlet, 0) {
                Ok(()) => drop(self.held.insert(*index, outlet)),
                Err(error) => {
                    tracing::error!(device = index, %error, "what may leave by a device stays as it was");
                }
            }
        }
    }
}

/// Has nothing leave by a device; false if that can't be said.
fn is_removed(map: &mut maps::HashMap<MapData, u32, Outlet>, device: u32) -> bool {
    match kernel::delete_element(map, &device) {
        Ok(()) => true,
        Err(error) => {
            tracing::error!(device, %error, "what may leave by a device stays as it was");
            false
        }
    }
}

/// What permits what any of these policies does, and how many lists have no room in it: a list less
/// permits less.
fn joint(policies: impl Iterator<Item = u32>) -> (Outlet, usize) {
    let policies: BTreeSet<u32> = policies.collect();
    let mut outlet = [NOTHING; MAX_SHARED];
    if policies.contains(&OPEN) {
        outlet[0] = OPEN;
        return (outlet, 0);
    }
    let mut lists = policies.into_iter().filter(|policy| *policy >= FIRST_LIST);
    for (place, list) in outlet.iter_mut().zip(&mut lists) {
        *place = list;
    }
    (outlet, lists.count())
}

#[cfg(test)]
mod tests {
    use gateway_ebpf::STRANGER;

    use super::*;

    #[test]
    fn an_outlet_permits_what_any_of_its_policies_does_and_no_list_too_many() {
        let cases: [(&[u32], _); 8] = [
            (&[], ([NOTHING; 4], 0)),
            (&[STRANGER], ([NOTHING; 4], 0)),
            (&[NOTHING], ([NOTHING; 4], 0)),
            (&[NOTHING, OPEN, 9], ([OPEN, NOTHING, NOTHING, NOTHING], 0)),
            (&[9, NOTHING, 9], ([9, NOTHING, NOTHING, NOTHING], 0)),
            (&[3, 5, 4, 6], ([3, 4, 5, 6], 0)),
            (&[3, 5, 4, 6, 7, 8], ([3, 4, 5, 6], 2)),
            (
                &[3, 5, 4, 6, 7, OPEN],
                ([OPEN, NOTHING, NOTHING, NOTHING], 0),
            ),
        ];
        for (policies, expected) in cases {
            assert_eq!(joint(policies.iter().copied()), expected, "{policies:?}");
        }
    }
}
