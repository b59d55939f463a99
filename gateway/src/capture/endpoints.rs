//! The protected endpoints: what is configured, and under which other addresses of this host a
//! database that runs on it can be reached.
//!
//! A database on this host may listen at all of its addresses, so each of them with its port is
//! protected as well, and means the datastore that is configured. Where two datastores of this host
//! share a port, the other addresses mean neither: a connection there is redirected, and closed.
//! Loopback addresses that nobody configured count in the host's own namespace only; in another one
//! they are that one's.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use aya::Pod;
use aya::maps::{self, MapData};
use gateway_ebpf::{ANYWHERE, Address, Endpoint, MAX_ENDPOINTS, ON_HOST, PORT_WORDS};
use nix::ifaddrs::getifaddrs;
use nix::poll::PollTimeout;

use super::generation::Generation;
use super::netlink::{self, Netlink};
use super::origin::endpoint;
use super::worker::{Stop, Worker};
use super::{Error, programs};

/// Which configured address another one means. Shared with those that look origins up.
#[derive(Clone, Default)]
pub(super) struct Aliases(Arc<RwLock<Meanings>>);

#[derive(Default)]
struct Meanings {
    /// Of this host's addresses.
    local: HashMap<SocketAddr, SocketAddr>,
    /// Of endpoints that agents tried, and that aren't configured.
    learned: HashMap<SocketAddr, SocketAddr>,
}

impl Aliases {
    /// The configured address that is meant by one that was dialled; itself, if it is neither one of
    /// this host's nor learned.
    pub(super) fn resolve(&self, dialled: SocketAddr) -> SocketAddr {
        let meanings = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let meant = meanings.local.get(&dialled);
        let meant = meant.or_else(|| meanings.learned.get(&dialled));
        meant.copied().unwrap_or(dialled)
    }

    /// Says what is meant by an endpoint that isn't configured.
    pub(super) fn learn(&self, endpoint: SocketAddr, meant: SocketAddr) {
        let mut meanings = self.0.write().unwrap_or_else(PoisonError::into_inner);
        meanings.learned.insert(endpoint, meant);
    }

    /// Forgets what was learned of all other endpoints.
    pub(super) fn keep_learned(&self, endpoints: &HashSet<SocketAddr>) {
        let mut meanings = self.0.write().unwrap_or_else(PoisonError::into_inner);
        meanings
            .learned
            .retain(|endpoint, _| endpoints.contains(endpoint));
    }

    fn set_local(
        &self,
        local: HashMap<SocketAddr, SocketAddr>,
        configured: &[BTreeSet<SocketAddr>],
    ) {
        let mut meanings = self.0.write().unwrap_or_else(PoisonError::into_inner);
        meanings.local = local;
        // These mean themselves now.
        configured.iter().flatten().for_each(|endpoint| {
            meanings.learned.remove(endpoint);
        });
    }
}

/// The kernel's maps of what is protected.
pub(super) struct Endpoints {
    shared: Arc<Mutex<Table>>,
    _watch: Worker,
}

impl Endpoints {
    /// Takes the maps over, and begins to follow this host's addresses.
    pub(super) fn new(
        loaded: &mut programs::Loaded,
        generation: Generation,
        aliases: Aliases,
    ) -> Result<Self, Error> {
        let table = Table {
            endpoints: loaded.map("ENDPOINTS")?.try_into()?,
            addresses: loaded.map("ADDRESSES")?.try_into()?,
            ports: loaded.map("LOCAL_PORTS")?.try_into()?,
            generation,
            aliases,
            configured: None,
        };
        let shared = Arc::new(Mutex::new(table));
        let changes = Netlink::listen(netlink::ADDRESSES).map_err(Error::io(
            "changes of this host's addresses can't be followed",
        ))?;
        let followed = Arc::clone(&shared);
        let watch = Worker::spawn("weir-addresses", move |stop| {
            follow(&changes, &followed, &stop)
        })
        .map_err(Error::io(
            "the thread that follows addresses can't be started",
        ))?;
        Ok(Self {
            shared,
            _watch: watch,
        })
    }

    /// Makes exactly these the configured endpoints, datastore by datastore. Those that stay are never
    /// absent in between.
    pub(super) fn set(&self, configured: &[BTreeSet<SocketAddr>]) -> Result<(), Error> {
        let mut table = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        table.apply(configured)?;
        table.configured = Some(configured.to_vec());
        Ok(())
    }
}

/// Applies the configured endpoints again whenever the host's addresses change.
fn follow(changes: &Netlink, table: &Mutex<Table>, stop: &Stop) {
    while stop.wait(&[changes.as_fd()], PollTimeout::NONE) {
        changes.drain();
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(configured) = table.configured.clone() else {
            continue;
        };
        if let Err(error) = table.apply(&configured) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a new address of this host can't be protected"
            );
        }
    }
}

struct Table {
    endpoints: maps::HashMap<MapData, Endpoint, u8>,
    addresses: maps::HashMap<MapData, Address, u8>,
    ports: maps::Array<MapData, u64>,
    generation: Generation,
    aliases: Aliases,
    /// `None` until the daemon has said; until then what an earlier one said stays.
    configured: Option<Vec<BTreeSet<SocketAddr>>>,
}

impl Table {
    fn apply(&mut self, configured: &[BTreeSet<SocketAddr>]) -> Result<(), Error> {
        let local =
            local_addresses().map_err(Error::io("this host's addresses can't be listed"))?;
        let plan = Plan::new(configured, &local);
        if plan.endpoints.len() > MAX_ENDPOINTS {
            return Err(Error::TooManyEndpoints);
        }
        let written = self.write(plan, configured);
        // What is there now counts, even if that is a part.
        self.generation.advance()?;
        written
    }

    fn write(&mut self, plan: Plan, configured: &[BTreeSet<SocketAddr>]) -> Result<(), Error> {
        // What is new first, what is meant by it before that; what is over last.
        self.aliases.set_local(plan.aliases, configured);
        let mut words = vec![0_u64; PORT_WORDS];
        for port in plan.local_ports {
            words[usize::from(port / 64)] |= 1 << (port % 64);
        }
        for (index, word) in (0..).zip(words) {
            self.ports.set(index, word, 0)?;
        }
        replace(&mut self.addresses, &plan.addresses)?;
        replace(&mut self.endpoints, &plan.endpoints)
    }
}

/// Makes these a map's elements; what stays is never absent.
fn replace<K: Pod + Eq + std::hash::Hash>(
    map: &mut maps::HashMap<MapData, K, u8>,
    wanted: &HashMap<K, u8>,
) -> Result<(), Error> {
    for (key, value) in wanted {
        map.insert(key, value, 0)?;
    }
    let present: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    for key in present.iter().filter(|key| !wanted.contains_key(key)) {
        map.remove(key)?;
    }
    Ok(())
}

fn local_addresses() -> std::io::Result<BTreeSet<IpAddr>> {
    let found = getifaddrs()?.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    let mut all: BTreeSet<IpAddr> = found.collect();
    all.extend([
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ]);
    Ok(all)
}

/// What the maps shall have.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    endpoints: HashMap<Endpoint, u8>,
    addresses: HashMap<Address, u8>,
    local_ports: BTreeSet<u16>,
    aliases: HashMap<SocketAddr, SocketAddr>,
}

impl Plan {
    fn new(configured: &[BTreeSet<SocketAddr>], local: &BTreeSet<IpAddr>) -> Self {
        let mut plan = Self::default();
        // By port, an endpoint on this host of each datastore that has one.
        let mut here: BTreeMap<u16, BTreeMap<usize, SocketAddr>> = BTreeMap::new();
        for (datastore, addresses) in configured.iter().enumerate() {
            for address in addresses {
                plan.protect(address, ANYWHERE);
                let ip = address.ip().to_canonical();
                if ip.is_loopback() || local.contains(&ip) {
                    let databases = here.entry(address.port()).or_default();
                    databases.entry(datastore).or_insert(*address);
                }
            }
        }
        for (port, databases) in here {
            plan.local_ports.insert(port);
            let mut databases = databases.into_values();
            let only = databases.next().filter(|_| databases.next().is_none());
            for other in local.iter().map(|ip| SocketAddr::new(*ip, port)) {
                if configured
                    .iter()
                    .any(|addresses| addresses.contains(&other))
                {
                    continue;
                }
                let scope = if other.ip().is_loopback() {
                    ON_HOST
                } else {
                    ANYWHERE
                };
                plan.protect(&other, scope);
                if let Some(database) = only {
                    plan.aliases.insert(other, database);
                }
            }
        }
        plan
    }

    fn protect(&mut self, address: &SocketAddr, scope: u8) {
        let endpoint = endpoint(address);
        self.endpoints.insert(endpoint, scope);
        let whole = self.addresses.entry(endpoint.address).or_insert(scope);
        if scope == ANYWHERE {
            *whole = ANYWHERE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> BTreeSet<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// The plan for these datastores.
    fn plan_of(datastores: &[&[&str]]) -> Plan {
        let local = ["127.0.0.1", "::1", "192.0.2.7", "fe80::7"];
        let local = local.iter().map(|ip| ip.parse().unwrap()).collect();
        let configured: Vec<_> = datastores.iter().map(|texts| addresses(texts)).collect();
        Plan::new(&configured, &local)
    }

    /// The plan for one datastore.
    fn plan(configured: &[&str]) -> Plan {
        plan_of(&[configured])
    }

    fn scope(plan: &Plan, text: &str) -> Option<u8> {
        plan.endpoints
            .get(&endpoint(&text.parse().unwrap()))
            .copied()
    }

    #[test]
    fn a_database_elsewhere_is_protected_where_it_is() {
        let plan = plan(&["10.0.0.1:5432", "[2001:db8::1]:5432"]);
        assert_eq!(plan.endpoints.len(), 2);
        assert_eq!(scope(&plan, "10.0.0.1:5432"), Some(ANYWHERE));
        assert!(plan.local_ports.is_empty() && plan.aliases.is_empty());
        let address = endpoint(&"10.0.0.1:0".parse().unwrap()).address;
        assert_eq!(plan.addresses.get(&address), Some(&ANYWHERE));
    }

    #[test]
    fn a_database_on_this_host_is_protected_at_all_its_addresses() {
        for configured in ["127.0.0.1:5432", "192.0.2.7:5432", "[::1]:5432"] {
            let plan = plan(&[configured]);
            assert_eq!(scope(&plan, configured), Some(ANYWHERE));
            assert_eq!(plan.local_ports, [5432].into());
            let meant = configured.parse().unwrap();
            for (other, expected) in [
                ("127.0.0.1:5432", ON_HOST),
                ("[::1]:5432", ON_HOST),
                ("192.0.2.7:5432", ANYWHERE),
                ("[fe80::7]:5432", ANYWHERE),
            ] {
                if other != configured {
                    assert_eq!(scope(&plan, other), Some(expected), "{other}");
                    assert_eq!(plan.aliases.get(&other.parse().unwrap()), Some(&meant));
                }
            }
        }
    }

    #[test]
    fn an_address_that_could_be_either_databases_is_nobodys() {
        let plan = plan_of(&[&["127.0.0.1:5432"], &["192.0.2.7:5432", "127.0.0.1:5433"]]);
        assert_eq!(scope(&plan, "[::1]:5432"), Some(ON_HOST));
        assert!(!plan.aliases.contains_key(&"[::1]:5432".parse().unwrap()));
        assert!(plan.aliases.contains_key(&"[::1]:5433".parse().unwrap()));
        assert!(
            !plan
                .aliases
                .contains_key(&"192.0.2.7:5432".parse().unwrap())
        );
    }

    #[test]
    fn a_database_that_is_configured_twice_is_still_one() {
        let plan = plan(&["127.0.0.1:5432", "[::1]:5432", "10.0.0.1:5432"]);
        let meant = "127.0.0.1:5432".parse().unwrap();
        for other in ["192.0.2.7:5432", "[fe80::7]:5432"] {
            assert_eq!(plan.aliases.get(&other.parse().unwrap()), Some(&meant));
        }
        assert_eq!(plan.aliases.len(), 2);
    }

    #[test]
    fn this_hosts_loopback_addresses_are_known() {
        let local = local_addresses().unwrap();
        assert!(local.contains(&"127.0.0.1".parse().unwrap()));
        assert!(local.contains(&"::1".parse().unwrap()));
    }
}
