//! What is left in the kernel and in the daemon when all agents are gone.
//!
//! The records of sockets (the map SOCKETS) can't be listed: the kernel keeps each in its socket, and
//! frees it with that. So sockets are counted.

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};
use gateway_ebpf::{OriginKey, Socket};
use xtask::world::{Weir, World};

/// What there is of things that come and go with agents and their connections.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Left {
    origins: usize,
    listeners: usize,
    /// Listeners that the service manager keeps.
    kept: usize,
    /// Descriptors of the daemon.
    descriptors: usize,
    /// TCP sockets in the host's network.
    sockets: usize,
}

impl Left {
    /// Waits until no agent's network is left, and says what else is.
    pub(super) fn quiet(weir: &Weir, world: &World, patience: Duration) -> Result<Self> {
        let start = Instant::now();
        loop {
            let left = Self::now(weir, world)?;
            if left.listeners + left.kept + left.origins == 0 || start.elapsed() > patience {
                return Ok(left);
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits until no more is left than `before`, and says what is if that doesn't come.
    pub(super) fn settled(
        weir: &Weir,
        world: &World,
        before: &Self,
        patience: Duration,
    ) -> Result<Self> {
        let start = Instant::now();
        loop {
            let left = Self::now(weir, world)?;
            if left.check(before).is_ok() || start.elapsed() > patience {
                return Ok(left);
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    fn now(weir: &Weir, world: &World) -> Result<Self> {
        let pid = weir.process().pid();
        Ok(Self {
            origins: elements::<OriginKey, Socket>(&pin(world, "ORIGINS")?)?,
            listeners: elements::<u64, u32>(&pin(world, "LISTENERS")?)?,
            kept: weir.stored().len(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
            sockets: sockets(&fs::read_to_string(format!("/proc/{pid}/net/sockstat"))?)?,
        })
    }

    /// An error if more is left than `before`.
    pub(super) fn check(&self, before: &Self) -> Result<()> {
        for (what, before, after) in before.beside(self) {
            ensure!(after <= before, "{what}: {after}, and {before} before");
        }
        Ok(())
    }

    /// What there is now, beside what there is `after`.
    pub(super) fn beside(&self, after: &Self) -> [(&'static str, usize, usize); 5] {
        [
            ("origins in the kernel", self.origins, after.origins),
            (
                "listeners in the kernel's map",
                self.listeners,
                after.listeners,
            ),
            (
                "listeners kept by the service manager",
                self.kept,
                after.kept,
            ),
            (
                "descriptors of the daemon",
                self.descriptors,
                after.descriptors,
            ),
            (
                "TCP sockets in the host's network",
                self.sockets,
                after.sockets,
            ),
        ]
    }
}

/// The pin of a map.
fn pin(world: &World, map: &str) -> Result<std::path::PathBuf> {
    let layout = fs::read_dir(world.pins())?
        .next()
        .context("the daemon has pins")??;
    Ok(layout.path().join(map))
}

fn elements<K: Pod, V: Pod>(pin: &Path) -> Result<usize> {
    let data = MapData::from_pin(pin).with_context(|| pin.display().to_string())?;
    let map = HashMap::<_, K, V>::try_from(Map::from_map_data(data)?)?;
    Ok(map.keys().count())
}

/// The TCP sockets of both families in a `/proc/<pid>/net/sockstat`: all that are held by anybody.
fn sockets(sockstat: &str) -> Result<usize> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP: "));
    let mut words = line.context("a line about TCP")?.split(' ');
    let inuse = words
        .position(|word| word == "inuse")
        .and_then(|_| words.next());
    Ok(inuse.context("how many are in use")?.parse()?)
}
