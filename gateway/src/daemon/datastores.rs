//! The datastores as sessions and the kernel see them: names resolved, certificates made.
//!
//! A datastore's addresses are the union of all that its names have resolved to: an address that a
//! name loses stays protected until the daemon restarts, because an agent may have kept it.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use tokio::sync::watch;

use crate::config::{self, Config, Host};
use crate::listener::Endpoints;
use crate::names;
use crate::session::Datastore;
use crate::startup::ClientTls;
use crate::tls::Authority;

/// See the module.
pub(super) struct Datastores {
    endpoints: watch::Sender<Arc<Endpoints>>,
    /// The addresses of their names, as they were resolved last.
    resolved: Mutex<names::Datastores>,
    /// The same, once these addresses are protected.
    names: watch::Sender<Arc<names::Datastores>>,
    /// Why the last look at a datastore's names failed.
    problems: Mutex<HashMap<Arc<str>, String>>,
}

impl Datastores {
    /// Resolves all names.
    ///
    /// # Errors
    /// A host that resolves to nothing, an address of two datastores, or a certificate that can't
    /// be made.
    pub(super) async fn resolve(config: &Config, authority: &Authority) -> anyhow::Result<Self> {
        let mut endpoints = Endpoints::new();
        let mut resolved = names::Datastores::new();
        for settings in &config.datastores {
            let found = addresses(&settings.hosts)
                .await
                .with_context(|| format!("datastore {}", settings.name))?;
            add_names(&mut resolved, &found);
            add(&mut endpoints, settings, authority, all(found))?;
        }
        Ok(Self {
            endpoints: watch::channel(Arc::new(endpoints)).0,
            resolved: Mutex::new(resolved),
            names: watch::channel(Arc::default()).0,
            problems: Mutex::default(),
        })
    }

    /// Resolves all names again and adds what is new. What fails stays as it was, and is logged.
    pub(super) async fn resolve_again(&self, config: &Config, authority: &Authority) {
        let mut endpoints = (**self.endpoints.borrow()).clone();
        let mut resolved = names::Datastores::new();
        for settings in &config.datastores {
            let found = addresses(&settings.hosts).await;
            if let Ok(found) = &found {
                add_names(&mut resolved, found);
            }
            let added = match found.map(all) {
                Ok(found) if found.iter().all(|a| endpoints.contains_key(a)) => {
                    self.problems
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .remove(&settings.name);
                    continue;
                }
                Ok(found) => add(&mut endpoints, settings, authority, found),
                Err(error) => Err(error),
            };
            let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
            match added {
                Ok(()) => {
                    problems.remove(&settings.name);
                    tracing::info!(datastore = &*settings.name, "new addresses");
                }
                Err(error) => {
                    tracing::warn!(datastore = &*settings.name, "its addresses stay: {error:#}");
                    problems.insert(Arc::clone(&settings.name), format!("{error:#}"));
                }
            }
        }
        self.endpoints.send_replace(Arc::new(endpoints));
        self.resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(resolved);
    }

    /// Which datastore is where, now and later.
    pub(super) fn endpoints(&self) -> watch::Receiver<Arc<Endpoints>> {
        self.endpoints.subscribe()
    }

    /// What the datastores' names are, now and later.
    pub(super) fn names(&self) -> watch::Receiver<Arc<names::Datastores>> {
        self.names.subscribe()
    }

    /// Has the names told with the addresses that they have now, which must be protected.
    pub(super) fn publish_names(&self) {
        let resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        self.names.send_replace(Arc::new(resolved.clone()));
    }

    /// The addresses of each datastore.
    pub(super) fn addresses(&self) -> Vec<BTreeSet<SocketAddr>> {
        self.by_name().into_values().collect()
    }

    /// Where the connections go that agents have tried to make elsewhere: to an address of the datastore
    /// that governs such, if one does.
    pub(super) fn governing(&self, config: &Config) -> Option<SocketAddr> {
        let mut all = config.datastores.iter();
        let governing = all.find(|d| d.on_detect == config::OnDetect::Govern)?;
        self.by_name().remove(&governing.name)?.pop_first()
    }

    /// Why a datastore's names could not be resolved again, if so.
    pub(super) fn problem(&self, datastore: &str) -> Option<String> {
        self.problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(datastore)
            .cloned()
    }

    /// The addresses of each datastore, sorted.
    pub(super) fn by_name(&self) -> HashMap<Arc<str>, BTreeSet<SocketAddr>> {
        let mut all: HashMap<Arc<str>, BTreeSet<SocketAddr>> = HashMap::new();
        for (address, datastore) in self.endpoints.borrow().iter() {
            all.entry(Arc::clone(&datastore.name))
                .or_default()
                .insert(*address);
        }
        all
    }
}

/// What each host resolves to.
type Found<'a> = Vec<(&'a Host, Vec<SocketAddr>)>;

async fn addresses(hosts: &[Host]) -> anyhow::Result<Found<'_>> {
    let mut found = Vec::new();
    for host in hosts {
        let addresses = match host {
            Host::Addr(address) => vec![*address],
            Host::Name(name, port) => tokio::net::lookup_host((name.as_str(), *port))
                .await
                .with_context(|| format!("host {name} doesn't resolve"))?
                .collect(),
        };
        found.push((host, addresses));
    }
    let is_none = found.iter().all(|(_, addresses)| addresses.is_empty());
    anyhow::ensure!(!is_none, "its hosts resolve to no address");
    Ok(found)
}

fn all(found: Found<'_>) -> BTreeSet<SocketAddr> {
    found
        .into_iter()
        .flat_map(|(_, addresses)| addresses)
        .collect()
}

/// Adds what was found to what names have.
fn add_names(names: &mut names::Datastores, found: &Found<'_>) {
    for (host, addresses) in found {
        if let Host::Name(name, _) = host {
            let own = names.entry(name.clone()).or_default();
            own.extend(addresses.iter().map(SocketAddr::ip));
        }
    }
}

fn add(
    endpoints: &mut Endpoints,
    settings: &Arc<config::Datastore>,
    authority: &Authority,
    mut found: BTreeSet<SocketAddr>,
) -> anyhow::Result<()> {
    found.extend(
        endpoints
            .iter()
            .filter(|(_, d)| d.name == settings.name)
            .map(|(address, _)| *address),
    );
    let mut names = settings.names();
    names.extend(found.iter().map(|address| address.ip().to_string()));
    names.sort();
    names.dedup();
    let datastore = Arc::new(Datastore {
        name: Arc::clone(&settings.name),
        target: Arc::new(settings.target()?),
        databases: settings.databases.clone(),
        client_tls: ClientTls {
            config: authority.server_config(&names)?,
            required: settings.client_tls == config::ClientTls::Require,
        },
    });
    for address in found {
        if let Some(other) = endpoints.get(&address)
            && other.name != settings.name
        {
            anyhow::bail!(
                "{address} is an address of datastore {} already",
                other.name
            );
        }
        endpoints.insert(address, Arc::clone(&datastore));
    }
    Ok(())
}
