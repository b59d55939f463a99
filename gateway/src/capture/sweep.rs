//! Forgetting the origins of connections that never arrive: a client that was refused, or left while
//! nobody listened, has its origin in the kernel all the same. Whoever has its source port later on
//! must not be taken for it, not even after a restart.

use std::os::fd::AsFd;

use aya::maps::{HashMap, Map, MapData};
use gateway_ebpf::{MAX_ORIGINS, OriginKey, Socket};
use nix::poll::PollTimeout;
use nix::time::{ClockId, clock_gettime};

use super::worker::{Stop, Worker};
use super::{Error, kernel};

/// Seconds that a connection may take from its SYN to its accept: longer than any waits in a backlog
/// while there is a daemon.
const LIFE: u32 = 60;

/// Milliseconds between two looks. The first is as long after the start: what has waited for this
/// daemon, however long, is accepted by then.
const EVERY: u16 = 10_000;

/// Starts the thread that forgets.
pub(super) fn start(origins: impl AsFd) -> Result<Worker, Error> {
    let fd = origins.as_fd().try_clone_to_owned();
    let map = MapData::from_fd(fd.map_err(Error::io("the origins can't be shared"))?)?;
    let mut origins: Origins = Map::from_map_data(map)?.try_into()?;
    let body = move |stop: Stop| {
        while stop.wait(&[], PollTimeout::from(EVERY)) {
            sweep(&mut origins);
        }
    };
    let failed = Error::io("the thread that forgets old origins can't be started");
    Worker::spawn("weir-sweep", body).map_err(failed)
}

type Origins = HashMap<MapData, OriginKey, Socket>;

fn sweep(origins: &mut Origins) {
    // The kernel's `bpf_ktime_get_ns` is this clock.
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else {
        return;
    };
    let now = now.tv_sec() as u32;
    // Where elements go meanwhile, the kernel may begin again: hence an end to it.
    let all = origins.iter().take(2 * MAX_ORIGINS).filter_map(Result::ok);
    let old = all.filter(|(_, socket)| is_over(socket.connected, now));
    for key in old.map(|(key, _)| key).collect::<Vec<_>>() {
        if let Err(error) = kernel::delete_element(origins, &key) {
            tracing::warn!(%error, "an old origin stays in the kernel");
        }
    }
}

/// Whether a connection can't arrive any more.
fn is_over(connected: u32, now: u32) -> bool {
    // Both count on from 0 after 136 years; one that has just been made may be ahead.
    let age = now.wrapping_sub(connected).cast_signed();
    age > LIFE.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_over_after_its_life_and_not_before_it_began() {
        assert!(!is_over(1000, 1000));
        assert!(!is_over(1001, 1000));
        assert!(!is_over(1000, 1000 + LIFE));
        assert!(is_over(1000, 1001 + LIFE));
        assert!(!is_over(u32::MAX - 3, 5));
        assert!(is_over(u32::MAX - 3, LIFE));
    }
}
