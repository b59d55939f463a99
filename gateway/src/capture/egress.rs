//! Egress policies in the kernel: which cgroup has which, and what those that are lists hold.
//!
//! A cgroup without a policy is a stranger, whose sockets send nothing. The kernel reports strangers
//! as they begin to do something; [`Strangers`] says where they are in the slice, and whoever knows
//! whose they are assigns a policy. Policies are numbered anew by each daemon, above the numbers of
//! the one before: what that one has assigned stays until it is assigned anew.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{self, MapData, MapError, RingBuf};
use gateway_ebpf::{ALL_PORTS, Destination, FIRST_LIST, NOTHING, OPEN};
use nix::errno::Errno;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::generation::Generation;
use super::origin::endpoint;
use super::outlets::Outlets;
use super::place::{Cgroups, Slice};
use super::watch::turn::told;
use super::watch::until;
use super::worker::{Stop, Worker};
use super::{CgroupId, Error, kernel, programs};

/// Time until the same stranger is reported again.
const AGAIN: Duration = Duration::from_millis(50);

/// Time between two looks at which cgroups are there.
const SCAN_EVERY: Duration = Duration::from_secs(1);

/// Addresses that have their first bits in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// All addresses, of both families.
    pub const ALL: Self = Self {
        address: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        length: 0,
    };

    /// The network of the first `length` bits of an address; `None` if there aren't so many, or if
    /// others are set.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let beyond = match address {
            IpAddr::V4(v4) if length <= 32 => {
                v4.to_bits().checked_shl(length.into()).unwrap_or(0) != 0
            }
            IpAddr::V6(v6) if length <= 128 => {
                v6.to_bits().checked_shl(length.into()).unwrap_or(0) != 0
            }
            _ => return None,
        };
        (!beyond).then_some(Self { address, length })
    }

    /// One address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        let address = address.to_canonical();
        let length = if address.is_ipv4() { 32 } else { 128 };
        Self { address, length }
    }

    /// Its entry in the lists, for a policy and one port or all.
    fn entry(self, policy: u32, port: Option<u16>) -> (u32, Destination) {
        let endpoint = endpoint(&(self.address, 0).into());
        let mapped = if self.address.is_ipv4() { 96 } else { 0 };
        let bits = Destination::FIXED_BITS + mapped + u32::from(self.length);
        let destination = Destination {
            policy,
            port: port.map_or(ALL_PORTS, u32::from),
            address: endpoint.address,
        };
        (bits, destination)
    }
}

/// A network, and one of its ports or all.
pub type Reach = (Network, Option<u16>);

/// An egress policy that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EgressPolicy(u32);

impl EgressPolicy {
    /// Anything but protected endpoints.
    pub const OPEN: Self = Self(OPEN);
    /// The namespace's own loopback and Weir.
    pub const NOTHING: Self = Self(NOTHING);
}

/// The kernel's maps of egress policies.
pub struct Egress {
    cgroups: maps::HashMap<MapData, u64, u32>,
    lists: LpmTrie<MapData, Destination, u8>,
    generation: Generation,
    outlets: Outlets,
    next: u32,
    /// What each list of this daemon holds.
    held: HashMap<u32, HashSet<(u32, Destination)>>,
}

/// Sets whether cgroups have to have a policy. Before the programs are attached, so that a slice that
/// comes under them is never freer than it should be.
pub(super) fn govern(
    loaded: &mut programs::Loaded,
    governed: bool,
    generation: &Generation,
) -> Result<(), Error> {
    let mut all_open: maps::Array<_, u32> = loaded.map("ALL_OPEN")?.try_into()?;
    all_open.set(0, u32::from(!governed), 0)?;
    Ok(generation.advance()?)
}

impl Egress {
    pub(super) fn new(
        loaded: &mut programs::Loaded,
        generation: Generation,
        outlets: Outlets,
    ) -> Result<Self, Error> {
        let cgroups: maps::HashMap<_, u64, u32> = loaded.map("CGROUPS")?.try_into()?;
        let lists: LpmTrie<_, Destination, u8> = loaded.map("DESTINATIONS")?.try_into()?;
        let assigned = cgroups.iter().map(|entry| Ok(entry?.1));
        let listed = lists.keys().map(|key| Ok(key?.data().policy));
        let highest = assigned
            .chain(listed)
            .chain([Ok(outlets.highest())])
            .try_fold(FIRST_LIST, |highest, policy: Result<u32, MapError>| {
                policy.map(|policy| highest.max(policy))
            })?;
        Ok(Self {
            cgroups,
            lists,
            generation,
            outlets,
            next: highest + 1,
            held: HashMap::new(),
        })
    }

    /// A new policy that is a list, as yet empty.
    pub fn list(&mut self) -> EgressPolicy {
        let policy = self.next;
        self.next += 1;
        self.held.insert(policy, HashSet::new());
        EgressPolicy(policy)
    }

    /// Adds to a list. What it holds already stays.
    ///
    /// # Errors
    /// Too many in all lists together, or the kernel's refusal; some may have been added then.
    pub fn add(
        &mut self,
        EgressPolicy(policy): EgressPolicy,
        reach: &[Reach],
    ) -> Result<(), Error> {
        for (network, port) in reach {
            let (bits, destination) = network.entry(policy, *port);
            let held = self.held.entry(policy).or_default();
            if held.contains(&(bits, destination)) {
                continue;
            }
            self.lists
                .insert(&Key::new(bits, destination), 1, 0)
                .map_err(full(Error::TooManyDestinations))?;
            held.insert((bits, destination));
        }
        Ok(())
    }

    /// Gives a cgroup its policy, in place of any other. What its sockets send to where they did is
    /// judged anew.
    ///
    /// # Errors
    /// Too many cgroups, or the kernel's refusal; the cgroup has the policy that it had.
    pub fn assign(&mut self, cgroup: CgroupId, policy: EgressPolicy) -> Result<(), Error> {
        if self.cgroups.get(&cgroup.0, 0).is_ok_and(|p| p == policy.0) {
            return Ok(());
        }
        self.cgroups
            .insert(cgroup.0, policy.0, 0)
            .map_err(full(Error::TooManyCgroups))?;
        self.outlets.assign(cgroup, policy.0);
        Ok(self.generation.advance()?)
    }

    /// Forgets cgroups of which `is_there` says no, and the lists of earlier daemons that no cgroup has
    /// any more.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn tidy(&mut self, is_there: impl Fn(CgroupId) -> bool) -> Result<(), Error> {
        let mut used: HashSet<u32> = self.held.keys().copied().collect();
        let all: Vec<(u64, u32)> = self.cgroups.iter().collect::<Result<_, _>>()?;
        for (cgroup, policy) in all {
            if is_there(CgroupId(cgroup)) {
                used.insert(policy);
            } else {
                kernel::delete_element(&mut self.cgroups, &cgroup)?;
            }
        }
        self.outlets.tidy(&is_there);
        let keys: Vec<Key<Destination>> = self.lists.keys().collect::<Result<_, _>>()?;
        for key in keys {
            if !used.contains(&key.data().policy) {
                self.lists.remove(&key)?;
            }
        }
        Ok(())
    }
}

/// For `map_err`: what is meant if a map has no room.
fn full(error: Error) -> impl FnOnce(MapError) -> Error {
    move |source| match &source {
        MapError::SyscallError(call)
            if [Errno::E2BIG, Errno::ENOSPC]
                .iter()
                .any(|errno| call.io_error.raw_os_error() == Some(*errno as i32)) =>
        {
            error
        }
        _ => Error::Map(source),
    }
}

/// A cgroup below the slice that something happened in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its id.
    pub cgroup: CgroupId,
    /// Its path, relative to the cgroup v2 mount.
    pub path: String,
}

/// The stream of cgroups that may have no policy: all that are there at the start, later those that
/// the kernel or a look at the slice found, again and again until they have one.
pub struct Strangers {
    found: UnboundedReceiver<Stranger>,
    cgroups: Cgroups,
    _worker: Worker,
}

impl Strangers {
    pub(super) fn start(events: RingBuf<MapData>, slice: &Slice) -> Result<Self, Error> {
        let cgroups = Cgroups::open(slice)?;
        let (sender, found) = unbounded_channel();
        let watch = Watch {
            cgroups: cgroups.clone(),
            sender,
            seen: HashMap::new(),
        };
        let worker = Worker::spawn("weir-cgroups", move |stop| watch.run(events, &stop)).map_err(
            Error::io("the thread that watches cgroups can't be started"),
        )?;
        Ok(Self {
            found,
            cgroups,
            _worker: worker,
        })
    }

    /// The next one; `None` if the thread behind it died.
    ///
    /// Cancel safe: none is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Stranger> {
        self.found.recv().await
    }

    /// The cgroups of the slice.
    #[must_use]
    pub fn cgroups(&self) -> Cgroups {
        self.cgroups.clone()
    }
}

struct Watch {
    cgroups: Cgroups,
    sender: UnboundedSender<Stranger>,
    /// When a cgroup was reported last.
    seen: HashMap<u64, Instant>,
}

impl Watch {
    fn run(mut self, mut events: RingBuf<MapData>, stop: &Stop) {
        if let Err(error) = kernel::hurry() {
            tracing::debug!(%error, "the watch has no priority");
        }
        self.scan();
        let mut next_scan = Instant::now() + SCAN_EVERY;
        while stop.wait(&[events.as_fd()], until(next_scan)) && !self.sender.is_closed() {
            for id in told(&mut events) {
                self.report(id);
            }
            if Instant::now() >= next_scan {
                self.seen.retain(|_, at| at.elapsed() < AGAIN);
                self.scan();
                next_scan = Instant::now() + SCAN_EVERY;
            }
        }
    }

    fn report(&mut self, id: u64) {
        if self.seen.get(&id).is_some_and(|at| at.elapsed() < AGAIN) {
            return;
        }
        self.seen.insert(id, Instant::now());
        // One that is gone by now needs nothing.
        if let Ok(path) = self.cgroups.path(CgroupId(id)) {
            let cgroup = CgroupId(id);
            let _ = self.sender.send(Stranger { cgroup, path });
        }
    }

    /// Reports every cgroup below the slice, so that the processes of one are known before they start
    /// anything.
    fn scan(&mut self) {
        let mut pending = vec![self.cgroups.slice().to_owned()];
        while let Some(dir) = pending.pop() {
            let Ok(meta) = fs::metadata(&dir) else {
                continue;
            };
            self.report(meta.ino());
            let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
            let is_dir = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
            pending.extend(entries.filter(is_dir).map(|entry| entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str, length: u8) -> Option<Network> {
        Network::new(address.parse().unwrap(), length)
    }

    #[test]
    fn a_network_has_no_bits_beyond_its_length() {
        assert!(network("10.0.0.0", 8).is_some());
        assert!(network("10.0.0.1", 32).is_some());
        assert!(network("0.0.0.0", 0).is_some());
        assert!(network("2001:db8::", 32).is_some());
        assert!(network("::", 0).is_some());
        for (address, length) in [
            ("10.0.0.1", 8),
            ("10.0.0.0", 33),
            ("128.0.0.0", 0),
            ("2001:db8::1", 32),
            ("2001:db8::", 129),
        ] {
            assert_eq!(network(address, length), None, "{address}/{length}");
        }
    }

    #[test]
    fn an_ipv4_network_is_the_same_v4_mapped() {
        let (bits, entry) = network("10.0.0.0", 8).unwrap().entry(7, Some(443));
        assert_eq!(bits, 64 + 96 + 8);
        assert_eq!((entry.policy, entry.port), (7, 443));
        let mapped = endpoint(&"[::ffff:10.0.0.0]:443".parse().unwrap());
        assert_eq!(entry.address, mapped.address);
        let (bits, entry) = Network::ALL.entry(7, None);
        assert_eq!((bits, entry.port, entry.address), (64, ALL_PORTS, [0; 4]));
        assert_eq!(
            Network::host("::ffff:10.1.2.3".parse().unwrap()),
            network("10.1.2.3", 32).unwrap()
        );
    }
}
