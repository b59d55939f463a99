//! Which agent a process is: by the cgroup that the kernel says it runs in, and by what the
//! container runtime, which made that cgroup, says of its container.
//!
//! An agent's conditions are held against the path below the cgroup2 mount, from its root and
//! component by component, so that nothing an agent can name (a child cgroup, its own program)
//! makes it another agent. No match, more than one, and a runtime that would have to be asked and
//! doesn't answer are all [`Unknown`]: the connection is refused.

use std::path::PathBuf;
use std::sync::Arc;

mod pattern;
mod place;
mod selector;

pub use pattern::{Pattern, PatternError};
pub use place::{ContainerRef, Runtime, Unit, container, unit};
pub use selector::{
    Container, Labels, MIN_CONTAINER_DIGITS, Pod, PodSelector, Selector, UnitPattern,
};

/// An agent as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The name, which rules use.
    pub name: Arc<str>,
    /// The groups, which rules use too.
    pub groups: Arc<[Arc<str>]>,
    /// What becomes of a process that could get round Weir.
    pub preflight: PreflightMode,
}

/// What becomes of a process that could get round Weir, found before its session opens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PreflightMode {
    /// Refused where that defeats the boundary, warned of where it only weakens it.
    #[default]
    Reasonable,
    /// Refused in both cases.
    Refuse,
    /// Warned of in both cases.
    Warn,
}

/// The process that connected, in the kernel's words at the moment of its `connect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id in the host's namespace.
    pub pid: u32,
    /// The user it ran as, in the host's namespace.
    pub uid: u32,
    /// The first 15 bytes of its name. A process chooses it itself: for people, never for rules.
    pub comm: String,
    /// Its program, where it could still be read.
    pub exe: Option<PathBuf>,
}

/// Who a connection belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The agent.
    pub agent: Agent,
    /// The cgroup's path below the cgroup2 mount, without a slash at its ends.
    pub cgroup: String,
    /// The container's id (64 hexadecimal digits), where a container runtime made the cgroup.
    pub container: Option<String>,
    /// The Kubernetes pod, where the agent is known by it.
    pub pod: Option<Pod>,
    /// The process.
    pub process: Process,
}

/// Why a connection belongs to nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unknown {
    /// No agent's pattern matches.
    #[error("cgroup {cgroup:?} belongs to no agent")]
    Unmatched {
        /// The cgroup's path.
        cgroup: String,
    },
    /// Several agents' patterns match: which one it is can't be told.
    #[error("cgroup {cgroup:?} matches agents {first:?} and {second:?}")]
    Ambiguous {
        /// The cgroup's path.
        cgroup: String,
        /// One of the agents.
        first: Arc<str>,
        /// Another.
        second: Arc<str>,
    },
    /// Agents are told apart by their containers, and the runtime's word on this one isn't there.
    #[error("container {container} of cgroup {cgroup:?} can't be told: {why}")]
    Unresolved {
        /// The cgroup's path.
        cgroup: String,
        /// The container's id.
        container: String,
        /// What went wrong.
        why: String,
    },
}

/// The agents and their conditions.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    agents: Vec<(Agent, Selector)>,
}

impl Matcher {
    /// A matcher for `agents`. The order doesn't matter.
    pub fn new(agents: Vec<(Agent, Selector)>) -> Self {
        Self { agents }
    }

    /// The agents, in the order in which they were given.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter().map(|(agent, _)| agent)
    }

    /// The agents with their conditions.
    pub fn selectors(&self) -> impl Iterator<Item = &(Agent, Selector)> {
        self.agents.iter()
    }

    /// The container that a runtime must be asked about before a process in `cgroup` can be
    /// identified; `None` where the path says all that any agent needs.
    pub fn asks(&self, cgroup: &str) -> Option<ContainerRef> {
        let container = container(cgroup)?;
        let asks = |(_, s): &(Agent, Selector)| s.asks() && s.may_cover(cgroup, Some(&container));
        self.agents.iter().any(asks).then_some(container)
    }

    /// Tells whose process in `cgroup` (the path below the cgroup2 mount) this is. `told` is the
    /// runtime's word on the container of [`Matcher::asks`]; without one, no agent that needs it
    /// matches.
    pub fn identify(
        &self,
        cgroup: &str,
        process: Process,
        told: Option<&Container>,
    ) -> Result<Identity, Unknown> {
        let cgroup = cgroup.trim_matches('/').to_owned();
        let container = container(&cgroup);
        let mut found: Option<(&Agent, &Selector)> = None;
        for (agent, selector) in &self.agents {
            let runtime = || told.is_some_and(|told| selector.covers(told));
            if !selector.may_cover(&cgroup, container.as_ref()) || selector.asks() && !runtime() {
                continue;
            }
            match found {
                Some((first, _)) if first.name != agent.name => {
                    let (first, second) = (Arc::clone(&first.name), Arc::clone(&agent.name));
                    return Err(Unknown::Ambiguous {
                        cgroup,
                        first,
                        second,
                    });
                }
                _ => found = Some((agent, selector)),
            }
        }
        let Some((agent, _)) = found else {
            return Err(Unknown::Unmatched { cgroup });
        };
        Ok(Identity {
            agent: agent.clone(),
            cgroup,
            container: container.map(|c| c.id),
            pod: told.and_then(|told| told.pod.clone()),
            process,
        })
    }

    /// The path of the outermost cgroup that is all `identity`'s own: its container's, its unit's,
    /// or else the one that it runs in.
    pub fn own_cgroup(cgroup: &str) -> &str {
        let cgroup = cgroup.trim_matches('/');
        match (container(cgroup), unit(cgroup)) {
            (Some(container), _) => &cgroup[..container.cgroup.len()],
            (None, Some(unit)) => unit.cgroup,
            (None, None) => cgroup,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matcher(agents: &[(&str, &str)]) -> Matcher {
        let agent = |name: &str| Agent {
            name: name.into(),
            groups: Arc::new([]),
            preflight: PreflightMode::default(),
        };
        Matcher::new(agents.iter().map(|(n, p)| (agent(n), cgroup(p))).collect())
    }

    fn cgroup(pattern: &str) -> Selector {
        Selector {
            cgroup: Some(Pattern::new(pattern).unwrap()),
            ..Selector::default()
        }
    }

    fn labelled(key: &str, value: &str) -> Selector {
        Selector {
            labels: [(key.to_owned(), value.to_owned())].into(),
            ..Selector::default()
        }
    }

    fn process() -> Process {
        Process {
            pid: 1,
            uid: 0,
            comm: "psql".into(),
            exe: None,
        }
    }

    fn name(matcher: &Matcher, cgroup: &str) -> Result<String, Unknown> {
        matcher
            .identify(cgroup, process(), None)
            .map(|i| i.agent.name.to_string())
    }

    #[test]
    fn a_cgroup_and_all_below_it_belong_to_the_agent() {
        let m = matcher(&[("coder", "weir-agents.slice/coder-*")]);
        for cgroup in [
            "weir-agents.slice/coder-1",
            "/weir-agents.slice/coder-1",
            "weir-agents.slice/coder-",
            "weir-agents.slice/coder-1/child/grandchild",
        ] {
            assert_eq!(name(&m, cgroup).unwrap(), "coder", "{cgroup}");
        }
    }

    #[test]
    fn nothing_else_belongs_to_the_agent() {
        let m = matcher(&[("coder", "weir-agents.slice/coder-*")]);
        for cgroup in [
            "",
            "/",
            "weir-agents.slice",
            "weir-agents.slice/other",
            "weir-agents.slice/xcoder-1",
            "other.slice/weir-agents.slice/coder-1",
            "weir-agents.slice/x/coder-1",
        ] {
            assert!(
                matches!(name(&m, cgroup), Err(Unknown::Unmatched { .. })),
                "{cgroup}"
            );
        }
    }

    #[test]
    fn two_agents_that_match_are_nobody() {
        let m = matcher(&[("a", "s/x-*"), ("b", "s/x-1/inner")]);
        assert_eq!(name(&m, "s/x-1").unwrap(), "a");
        assert!(matches!(
            name(&m, "s/x-1/inner"),
            Err(Unknown::Ambiguous { .. })
        ));
    }

    #[test]
    fn two_patterns_of_one_agent_are_one_agent() {
        let m = matcher(&[("a", "s/x-*"), ("a", "s/*-1")]);
        assert_eq!(name(&m, "s/x-1").unwrap(), "a");
    }

    fn by_label() -> Matcher {
        let mut matcher = matcher(&[("plain", "weir-agents.slice/plain-*")]);
        let agent = Agent {
            name: "coder".into(),
            ..matcher.agents[0].0.clone()
        };
        matcher.agents.push((agent, labelled("agent", "coder")));
        matcher
    }

    #[test]
    fn a_runtime_is_asked_only_where_its_word_could_count() {
        let id = "0123456789abcdef".repeat(4);
        let m = by_label();
        let container = format!("weir-agents.slice/docker-{id}.scope");
        assert_eq!(m.asks(&container).unwrap().id, id);
        assert_eq!(m.asks("weir-agents.slice/plain-1"), None);
        let plain = matcher(&[("a", "s/*")]);
        assert_eq!(plain.asks(&format!("s/docker-{id}.scope")), None);
    }

    #[test]
    fn a_label_counts_only_in_the_runtimes_words() {
        let m = by_label();
        let cgroup = format!(
            "weir-agents.slice/docker-{}.scope",
            "0123456789abcdef".repeat(4)
        );
        let told = |value: &str| Container {
            labels: [("agent".to_owned(), value.to_owned())].into(),
            pod: None,
        };
        let name = |told: Option<&Container>| {
            m.identify(&cgroup, process(), told)
                .map(|i| i.agent.name.to_string())
        };
        assert_eq!(name(Some(&told("coder"))).unwrap(), "coder");
        assert!(name(Some(&told("other"))).is_err());
        assert!(name(None).is_err(), "nobody's word is no word");
    }

    #[test]
    fn what_is_an_agents_own_is_its_container_its_unit_or_its_cgroup() {
        let id = "0123456789abcdef".repeat(4);
        let own = Matcher::own_cgroup;
        let container = format!("x.slice/docker-{id}.scope");
        assert_eq!(own(&format!("{container}/a/b")), container);
        assert_eq!(own("x.slice/a.service/b"), "x.slice/a.service");
        assert_eq!(own("x.slice/coder-1"), "x.slice/coder-1");
    }
}
