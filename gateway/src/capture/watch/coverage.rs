//! Which ways out of agents' namespaces there are, and which of them the perimeter is on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::super::netlink::Device;
use super::super::perimeter::is_isolated;
use super::super::{kernel, netns};
use super::{Known, NetnsId, Watch};

/// Time until a namespace's devices are looked at again without a reason: the host isn't told of those
/// that have nothing to do with its own.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How many namespaces are looked into at one scan.
const LOOKS: usize = 16;

/// Which devices of an agents' own namespace the perimeter is on. Empty for the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// The host's ends of the devices with the perimeter.
    pub covered: Vec<String>,
    /// Devices in the namespace that lead out of it past the perimeter, or of which it isn't known that
    /// they don't.
    pub open: Vec<String>,
}

/// The [`Coverage`] of each namespace that agents live in.
#[derive(Clone, Default)]
pub struct Coverages(Arc<Mutex<HashMap<NetnsId, Coverage>>>);

impl Coverages {
    /// That of one namespace, as it was found last.
    #[must_use]
    pub fn of(&self, id: NetnsId) -> Coverage {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id).cloned().unwrap_or_default()
    }

    /// Whether nothing leads out of a namespace past the perimeter, as far as is known.
    pub(super) fn is_closed(&self, id: NetnsId) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&id)
            .is_some_and(|coverage| coverage.open.is_empty())
    }

    pub(super) fn set(&self, id: NetnsId, coverage: Option<Coverage>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match coverage {
            Some(coverage) => all.insert(id, coverage),
            None => all.remove(&id),
        };
    }
}

impl Watch {
    /// Puts the perimeter on each device that leads to a namespace of agents, the host's own aside.
    pub(super) fn cover(&mut self) {
        let Some(perimeter) = &mut self.perimeter else {
            return;
        };
        let host = self.host;
        let own = self.known.values_mut().filter(|known| known.id != host);
        let namespaces = own.map(|known| (&*known.namespace, &mut known.around));
        let complete = perimeter.cover(namespaces);
        if self.uncovered == complete {
            // Another look may come to something else.
            self.changed = Instant::now();
        }
        self.uncovered = !complete;
    }

    /// Finds out which devices of these namespaces lead out of them, and which of these past the
    /// perimeter, as far as it is time to.
    pub(super) fn look_inside(&mut self, which: impl Fn(NetnsId) -> bool) {
        let (host, changed) = (self.host, self.changed);
        let is_due = |known: &&mut Known| {
            known.id != host
                && which(known.id)
                && known
                    .looked
                    .is_none_or(|looked| looked < changed || looked.elapsed() >= LOOK_EVERY)
        };
        let mut due: Vec<&mut Known> = self.known.values_mut().filter(is_due).collect();
        // The host's devices can change more often than all can be looked into.
        due.sort_by_key(|known| known.looked);
        let mut found = Vec::new();
        for known in due.into_iter().take(LOOKS) {
            known.looked = Some(Instant::now());
            let devices = netns::devices(&known.namespace);
            let coverage = devices
                .as_ref()
                .map(|devices| known.around.coverage(devices));
            found.push((known.id, coverage.ok(), devices));
        }
        for (id, coverage, devices) in found {
            match devices {
                Ok(devices) => self.note_isolation(id, &devices),
                Err(error) => tracing::warn!(netns = id.0, %error,
                    "the devices of an agent's network namespace can't be listed"),
            }
            if self.perimeter.is_some() {
                self.note_coverage(id, coverage);
            }
        }
    }

    fn note_coverage(&mut self, id: NetnsId, coverage: Option<Coverage>) {
        let is_open = coverage.as_ref().is_none_or(|found| !found.open.is_empty());
        let is_news = coverage.as_ref() != Some(&self.coverages.of(id));
        if self.strict && is_open && is_news {
            tracing::warn!(
                netns = id.0,
                ?coverage,
                "a network namespace with a way past the perimeter, which is required, has no database"
            );
        }
        self.coverages.set(id, coverage);
    }

    /// Has the names that an open agent asks for answered by Weir, if nobody else can be asked.
    pub(super) fn note_isolation(&mut self, id: NetnsId, devices: &[Device]) {
        let noted = if is_isolated(devices) {
            self.isolated.insert(id.0, 1, 0)
        } else {
            kernel::delete_element(&mut self.isolated, &id.0)
        };
        if let Err(error) = noted {
            tracing::warn!(netns = id.0, %error, "whether a namespace is isolated can't be noted");
        }
    }
}
