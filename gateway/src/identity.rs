//! Which agent a process is, by the kernel's word alone: the cgroup it runs in.
//!
//! An agent's patterns are matched against the path below the cgroup2 mount, from its root and
//! component by component, so that nothing an agent can name (a child cgroup, its own program)
//! makes it another agent. No match and more than one are both [`Unknown`]: the connection is
//! refused.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// An agent as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// The name, which rules use.
    pub name: Arc<str>,
    /// The groups, which rules use too.
    pub groups: Arc<[Arc<str>]>,
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
}

/// A pattern for cgroup paths: components by `/`, in which `*` stands for any characters.
///
/// It matches a cgroup and all that are below it.
#[derive(Clone, PartialEq, Eq)]
pub struct Pattern(Box<[Box<str>]>);

/// Why a text is no [`Pattern`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// Nothing in it.
    #[error("the pattern is empty")]
    Empty,
    /// `a//b`, `.` or `..`: no cgroup's path has those.
    #[error("the pattern has an empty component, . or ..")]
    Component,
}

impl Pattern {
    /// Reads a pattern; a slash at its ends is ignored.
    pub fn new(text: &str) -> Result<Self, PatternError> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Err(PatternError::Empty);
        }
        if text.split('/').any(|c| matches!(c, "" | "." | "..")) {
            return Err(PatternError::Component);
        }
        Ok(Self(text.split('/').map(Box::from).collect()))
    }

    /// Whether `path` or a parent of it matches.
    pub fn covers(&self, path: &str) -> bool {
        let mut components = path.trim_matches('/').split('/');
        self.0.iter().all(|glob| {
            components
                .next()
                .is_some_and(|c| component_matches(glob, c))
        })
    }

    /// Whether any cgroup at or below `slice` (a path, no pattern) could match.
    pub fn reaches(&self, slice: &str) -> bool {
        let components = slice.trim_matches('/').split('/');
        self.0
            .iter()
            .zip(components)
            .all(|(glob, c)| component_matches(glob, c))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.0.join("/"))
    }
}

/// The agents and their patterns.
#[derive(Debug, Clone, Default)]
pub struct Matcher {
    agents: Vec<(Agent, Pattern)>,
}

impl Matcher {
    /// A matcher for `agents`. The order doesn't matter.
    pub fn new(agents: Vec<(Agent, Pattern)>) -> Self {
        Self { agents }
    }

    /// The agents, in the order in which they were given.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter().map(|(agent, _)| agent)
    }

    /// Tells whose process in `cgroup` (the path below the cgroup2 mount) this is.
    pub fn identify(&self, cgroup: &str, process: Process) -> Result<Identity, Unknown> {
        let cgroup = cgroup.trim_matches('/').to_owned();
        let mut found: Option<&Agent> = None;
        for (agent, pattern) in &self.agents {
            if !pattern.covers(&cgroup) {
                continue;
            }
            match found {
                Some(first) if first.name != agent.name => {
                    let (first, second) = (Arc::clone(&first.name), Arc::clone(&agent.name));
                    return Err(Unknown::Ambiguous {
                        cgroup,
                        first,
                        second,
                    });
                }
                _ => found = Some(agent),
            }
        }
        match found {
            Some(agent) => {
                let container = container(&cgroup);
                Ok(Identity {
                    agent: agent.clone(),
                    cgroup,
                    container,
                    process,
                })
            }
            None => Err(Unknown::Unmatched { cgroup }),
        }
    }
}

/// Whether `text` matches `glob`, in which `*` stands for any run of characters, none included.
/// Linear in memory and at worst quadratic in time; both sides are short.
fn component_matches(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// The container's id in a cgroup path of Docker, Podman, CRI-O or containerd, by systemd or by
/// cgroupfs. The outermost one: what is below it, the container itself may have named.
fn container(cgroup: &str) -> Option<String> {
    cgroup.split('/').find_map(|component| {
        let id = component
            .strip_suffix(".scope")
            .and_then(|scope| {
                ["docker-", "libpod-", "crio-", "cri-containerd-"]
                    .iter()
                    .find_map(|runtime| scope.strip_prefix(runtime))
            })
            .unwrap_or(component);
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (id.len() == 64 && id.bytes().all(hex)).then(|| id.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matcher(agents: &[(&str, &str)]) -> Matcher {
        let agent = |name: &str| Agent {
            name: name.into(),
            groups: Arc::new([]),
        };
        Matcher::new(
            agents
                .iter()
                .map(|(n, p)| (agent(n), Pattern::new(p).unwrap()))
                .collect(),
        )
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
            .identify(cgroup, process())
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

    #[test]
    fn stars_stay_within_their_component() {
        let matches = |glob: &str, path: &str| Pattern::new(glob).unwrap().covers(path);
        assert!(matches("a/*/c", "a/b/c"));
        assert!(!matches("a/*c", "a/b/c"));
        assert!(matches("a*b*c", "axxbyyc"));
        assert!(matches("a*b*c", "abc"));
        assert!(!matches("a*b*c", "ac"));
        assert!(!matches("a*a", "a"), "one character can't be both ends");
        assert!(matches("*", "anything"));
    }

    #[test]
    fn patterns_that_match_no_path_are_refused() {
        for bad in ["", "/", "a//b", "a/../b", "./a"] {
            assert!(Pattern::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pattern_reaches_a_slice_it_could_match_in() {
        let reaches = |p: &str, slice: &str| Pattern::new(p).unwrap().reaches(slice);
        assert!(reaches("weir-agents.slice/coder-*", "weir-agents.slice"));
        assert!(reaches("weir-*", "weir-agents.slice"));
        assert!(reaches("a", "a/b"));
        assert!(!reaches("system.slice/x", "weir-agents.slice"));
        assert!(!reaches("a/c", "a/b"));
    }

    #[test]
    fn containers_are_recognised_by_the_cgroups_of_their_runtimes() {
        let id = "0123456789abcdef".repeat(4);
        for cgroup in [
            format!("system.slice/docker-{id}.scope"),
            format!("machine.slice/libpod-{id}.scope/container"),
            format!("kubepods.slice/kubepods-pod1.slice/crio-{id}.scope"),
            format!("kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope"),
            format!("docker/{id}"),
            format!("docker/{id}/docker/{}", "f".repeat(64)),
        ] {
            assert_eq!(container(&cgroup), Some(id.clone()), "{cgroup}");
        }
        for cgroup in [
            format!("machine.slice/libpod-conmon-{id}.scope"),
            format!("s/{}", id.to_uppercase()),
            format!("s/{}", &id[1..]),
            format!("s/x{id}"),
        ] {
            assert_eq!(container(&cgroup), None, "{cgroup}");
        }
    }

    proptest! {
        #[test]
        fn a_star_matches_whatever_replaces_it(
            a in "[a-z-]{0,6}", b in "[a-z-]{0,6}", filled in "[a-z.-]{0,8}",
        ) {
            let component = format!("x{a}{filled}{b}");
            let glob = format!("x{a}*{b}");
            prop_assert!(component_matches(&glob, &component));
        }

        #[test]
        fn no_path_or_pattern_panics(pattern in "\\PC{0,20}", path in "\\PC{0,40}") {
            if let Ok(pattern) = Pattern::new(&pattern) {
                pattern.covers(&path);
                pattern.reaches(&path);
            }
            container(&path);
        }
    }
}
