//! The agents' network namespaces, open, for those that have to act in one.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

/// By cookie. Cloning shares them. Whoever watches the namespaces keeps this up to date.
#[derive(Clone, Default)]
pub(super) struct Namespaces(Arc<Mutex<HashMap<u64, Arc<File>>>>);

impl Namespaces {
    pub(super) fn insert(&self, cookie: u64, namespace: Arc<File>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(cookie, namespace);
    }

    pub(super) fn remove(&self, cookie: u64) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(&cookie);
    }

    /// The one with this cookie; all of them for 0, which is nobody's.
    pub(super) fn of(&self, cookie: u64) -> Vec<Arc<File>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cookie == 0 {
            return all.values().cloned().collect();
        }
        all.get(&cookie).into_iter().cloned().collect()
    }
}
