//! What agents may reach beside the datastores: the configuration's lists in the kernel with their
//! names resolved, and whose cgroup has which.
//!
//! A list's addresses are the union of all that its names have resolved to since the daemon started.
//! A cgroup gets the policy of the agent that a connection from it would have; one of no agent, or of
//! two, gets none of it. While a container runtime doesn't say whose a cgroup is, it stays a stranger,
//! and the kernel asks again.

mod lookups;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::agents::Agents;
use crate::capture::{self, CgroupId, Cgroups, EgressPolicy, Network, Reach, Stranger, Strangers};
use crate::config::{self, Config, Listed, Place};
use crate::identity::{Process, Unknown};
use crate::names::{Answer, is_searched_for};
use lookups::LookUps;

/// See the module.
pub(super) struct Egress {
    agents: Agents,
    cgroups: Cgroups,
    policies: HashMap<Arc<str>, EgressPolicy>,
    names: Vec<ListedName>,
    lookups: LookUps,
    state: Mutex<State>,
}

/// A name in an agent's list.
struct ListedName {
    policy: EgressPolicy,
    name: String,
    port: Option<u16>,
}

struct State {
    kernel: capture::Egress,
    assigned: HashSet<CgroupId>,
    /// Cgroups that are being asked about.
    asking: HashSet<CgroupId>,
    /// Names that didn't resolve the last time: said once.
    unresolved: HashSet<String>,
    room: Room,
}

/// When room was last made for more cgroups.
#[derive(Default)]
struct Room(Option<Instant>);

/// More often, cgroups that are too many wait for [`Egress::refresh`].
const MAKE_ROOM_EVERY: Duration = Duration::from_secs(10);

impl Room {
    /// Whether it may be made `now`; if so, it counts as made.
    fn may_be_made(&mut self, now: Instant) -> bool {
        let may = self.0.is_none_or(|made| now - made >= MAKE_ROOM_EVERY);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

impl State {
    /// Lets these addresses of a listed name be reached.
    fn add(&mut self, listed: &ListedName, found: &HashSet<IpAddr>) -> Result<(), capture::Error> {
        let reach = |address: &IpAddr| (Network::host(*address), listed.port);
        let reach: Vec<Reach> = found.iter().map(reach).collect();
        self.kernel.add(listed.policy, &reach)
    }
}

impl Egress {
    /// Brings the lists into the kernel, as yet without their names.
    ///
    /// # Errors
    /// The lists are too long for the kernel's map.
    pub(super) fn new(
        config: &Config,
        agents: Agents,
        mut kernel: capture::Egress,
        strangers: &Strangers,
    ) -> anyhow::Result<Self> {
        let mut policies = HashMap::new();
        let mut names = Vec::new();
        for (agent, egress) in &config.egress {
            let policy = match egress {
                config::Egress::Open => EgressPolicy::OPEN,
                config::Egress::Only(list) if list.is_empty() => EgressPolicy::NOTHING,
                config::Egress::Only(list) => {
                    let policy = kernel.list();
                    kernel
                        .add(policy, &networks(list))
                        .with_context(|| format!("egress of agent {agent}"))?;
                    names.extend(listed_names(policy, list));
                    policy
                }
            };
            policies.insert(Arc::clone(agent), policy);
        }
        Ok(Self {
            agents,
            cgroups: strangers.cgroups(),
            policies,
            names,
            lookups: LookUps::default(),
            state: Mutex::new(State {
                kernel,
                assigned: HashSet::new(),
                asking: HashSet::new(),
                unresolved: HashSet::new(),
                room: Room::default(),
            }),
        })
    }

    /// Gives cgroups their policies until there are no more.
    pub(super) async fn welcome(self: Arc<Self>, mut strangers: Strangers) {
        while let Some(stranger) = strangers.next().await {
            if self.is_asked_about(stranger.cgroup) {
                continue;
            }
            // A container runtime may have to be asked, and others don't wait for it.
            let own = Arc::clone(&self);
            tokio::spawn(async move { own.settle(stranger).await });
        }
        tracing::error!("new cgroups are no longer noticed: they send nothing");
    }

    /// What an agent is told of a name: the addresses of one that is in its list, which it then reaches.
    pub(super) async fn answer(&self, agent: &str, name: &str) -> Answer {
        let policy = self.policies.get(agent);
        let own = || self.names.iter().filter(|n| Some(&n.policy) == policy);
        if !own().any(|listed| listed.name == name) {
            let searched = own().any(|listed| is_searched_for(&listed.name, name));
            return if searched {
                Answer::Nonexistent
            } else {
                Answer::Refused
            };
        }
        let Ok(found) = self.lookups.resolve(name).await else {
            return Answer::Failed;
        };
        let mut state = self.state();
        for listed in own().filter(|listed| listed.name == name) {
            if let Err(error) = state.add(listed, &found) {
                tracing::error!(
                    name,
                    error = &error as &dyn std::error::Error,
                    "new addresses of a listed name can't be reached"
                );
                return Answer::Failed;
            }
        }
        Answer::Addresses(found.into_iter().collect())
    }

    /// Resolves the lists' names and adds what is new; what fails stays as it was. Forgets cgroups that
    /// are gone.
    pub(super) async fn refresh(&self) {
        for listed in &self.names {
            let found = self.lookups.resolve(&listed.name).await;
            let mut state = self.state();
            match found {
                Ok(found) => {
                    state.unresolved.remove(&listed.name);
                    if let Err(error) = state.add(listed, &found) {
                        tracing::error!(
                            name = listed.name,
                            error = &error as &dyn std::error::Error,
                            "new addresses of a listed name can't be reached"
                        );
                    }
                }
                Err(error) if state.unresolved.insert(listed.name.clone()) => {
                    tracing::warn!(name = listed.name, %error, "a listed name doesn't resolve");
                }
                Err(_) => {}
            }
        }
        if let Err(error) = self.tidy() {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "cgroups that are gone stay in the kernel's map"
            );
        }
    }

    /// Forgets cgroups that are gone, unless that was done just now: an agent may have made more of
    /// them than there is room for, and looking at all takes half a second.
    fn make_room(&self) -> Result<(), capture::Error> {
        if !self.state().room.may_be_made(Instant::now()) {
            return Err(capture::Error::TooManyCgroups);
        }
        self.tidy()
    }

    fn tidy(&self) -> Result<(), capture::Error> {
        let is_there = |cgroup| self.cgroups.path(cgroup).is_ok();
        let mut state = self.state();
        state.assigned.retain(|cgroup| is_there(*cgroup));
        state.kernel.tidy(is_there)
    }

    /// Whether a cgroup has its policy or will soon; if not, it is now being asked about.
    fn is_asked_about(&self, cgroup: CgroupId) -> bool {
        let mut state = self.state();
        state.assigned.contains(&cgroup) || !state.asking.insert(cgroup)
    }

    async fn settle(&self, Stranger { cgroup, path }: Stranger) {
        let policy = self.policy(&path).await;
        let assigned = policy.map(|policy| (policy, self.state().kernel.assign(cgroup, policy)));
        let assigned = match assigned {
            // Those that are gone make room.
            Some((policy, Err(capture::Error::TooManyCgroups))) => {
                let room = self.make_room();
                room.and_then(|()| self.state().kernel.assign(cgroup, policy))
                    .map(|()| true)
            }
            Some((_, result)) => result.map(|()| true),
            None => Ok(false),
        };
        let mut state = self.state();
        state.asking.remove(&cgroup);
        match assigned {
            Ok(true) => {
                state.assigned.insert(cgroup);
            }
            Ok(false) => {}
            Err(error) => {
                tracing::error!(cgroup = ?path, error = &error as &dyn std::error::Error,
                    "a cgroup sends nothing: it can't be given its egress policy");
            }
        }
    }

    /// The policy of the agent whose cgroup this is; `None` if that can't be told now.
    async fn policy(&self, path: &str) -> Option<EgressPolicy> {
        let process = Process {
            pid: 0,
            uid: 0,
            comm: String::new(),
            exe: None,
        };
        match self.agents.identify(path, process).await {
            Ok(identity) => self.policies.get(&identity.agent.name).copied(),
            Err(error @ Unknown::Unresolved { .. }) => {
                tracing::warn!(%error, "a cgroup sends nothing as yet");
                None
            }
            Err(error) => {
                tracing::debug!(%error, "a cgroup sends nothing");
                Some(EgressPolicy::NOTHING)
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn networks(list: &[Listed]) -> Vec<Reach> {
    let network = |listed: &Listed| match &listed.place {
        Place::Network(network) => Some((*network, listed.port)),
        Place::Name(_) => None,
    };
    list.iter().filter_map(network).collect()
}

fn listed_names(policy: EgressPolicy, list: &[Listed]) -> impl Iterator<Item = ListedName> {
    list.iter().filter_map(move |listed| match &listed.place {
        Place::Network(_) => None,
        Place::Name(name) => Some(ListedName {
            policy,
            name: name.clone(),
            port: listed.port,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_at_once_and_then_after_a_pause() {
        let start = Instant::now();
        let mut room = Room::default();
        assert!(room.may_be_made(start));
        let pause = MAKE_ROOM_EVERY - Duration::from_millis(1);
        assert!(!room.may_be_made(start + pause));
        assert!(!room.may_be_made(start + pause));
        assert!(room.may_be_made(start + MAKE_ROOM_EVERY));
        assert!(!room.may_be_made(start + MAKE_ROOM_EVERY + pause));
    }
}
