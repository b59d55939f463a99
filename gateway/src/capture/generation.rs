//! Which generation of endpoints and policies the kernel's maps hold.
//!
//! The programs remember of a socket that its packets may pass, and in which generation that was
//! found. Whoever has changed what that depends on counts on, and all sockets are looked at again.

use std::sync::{Arc, Mutex, PoisonError};

use aya::maps::{Array, MapData, MapError};

use super::{Error, programs};

/// The count. Cloning shares it.
#[derive(Clone)]
pub(super) struct Generation(Arc<Mutex<Array<MapData, u32>>>);

impl Generation {
    /// Takes the map over, with the count of an earlier daemon.
    pub(super) fn new(loaded: &mut programs::Loaded) -> Result<Self, Error> {
        let map = loaded.map("GENERATION")?.try_into()?;
        Ok(Self(Arc::new(Mutex::new(map))))
    }

    /// To be called after a change, and never before it is whole.
    pub(super) fn advance(&self) -> Result<(), MapError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // 0 would keep the programs from remembering anything.
        let next = map.get(&0, 0)?.wrapping_add(1).max(1);
        map.set(0, next, 0)
    }
}
