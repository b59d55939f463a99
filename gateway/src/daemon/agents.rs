//! Who is governed now: the cgroups below the slice, told apart as their connections would be.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Running;
use crate::control::{AgentStatus, Agents, Members};
use crate::identity::{self, Matcher, Process};

/// Cgroups that are looked at; an agent can make as many as it likes.
const MAX_CGROUPS: usize = 20_000;
/// Processes of one group that are looked at closely.
const MAX_EXAMINED: usize = 64;

/// How long container runtimes may take in all; whoever asks waits for 5 s.
const PATIENCE: Duration = Duration::from_secs(3);

/// A group of processes, and where they are.
struct Found {
    cgroup: String,
    pids: Vec<u32>,
}

impl Running {
    /// What `weir agents` shows.
    pub(super) async fn agents_status(&self) -> Agents {
        let root = self.agents.root().to_owned();
        let slice = self.config.capture.slice.clone();
        let walked = tokio::task::spawn_blocking(move || walk(&root, &slice)).await;
        let (inside, outside, truncated) = walked.unwrap_or_default();
        let mut status = Agents {
            agents: self.agent_list(),
            truncated,
            ..Agents::default()
        };
        let deadline = Instant::now() + PATIENCE;
        for found in inside {
            let mut group = self.group(&found);
            let Ok(whose) = timeout_at(deadline, self.whose(&found)).await else {
                status.truncated = true;
                return status;
            };
            match whose {
                Ok(identity) => {
                    group.pod = identity.pod.map(|p| format!("{}/{}", p.namespace, p.name));
                    let name = &*identity.agent.name;
                    if let Some(agent) = status.agents.iter_mut().find(|a| a.name == name) {
                        agent.governed.push(group);
                    }
                }
                Err(unknown) => {
                    group.problem = Some(unknown.to_string());
                    status.unknown.push(group);
                }
            }
        }
        for found in outside {
            let Ok(whose) = timeout_at(deadline, self.whose(&found)).await else {
                status.truncated = true;
                return status;
            };
            // Those of no agent aren't ours to list.
            if let Ok(identity) = whose {
                let problem = format!(
                    "agent {} by its match, and not governed",
                    identity.agent.name
                );
                let group = self.group(&found);
                status.outside.push(Members {
                    problem: Some(problem),
                    ..group
                });
            }
        }
        status
    }

    fn agent_list(&self) -> Vec<AgentStatus> {
        let sessions = self.directory.open_sessions();
        let of = |name: &str| sessions.iter().filter(|s| &*s.agent == name).count();
        let agent = |(agent, selector): &(identity::Agent, identity::Selector)| AgentStatus {
            name: agent.name.to_string(),
            groups: agent.groups.iter().map(ToString::to_string).collect(),
            matched_by: selector.to_string(),
            sessions: of(&agent.name),
            governed: Vec::new(),
        };
        self.agents.matcher().selectors().map(agent).collect()
    }

    async fn whose(&self, found: &Found) -> Result<identity::Identity, identity::Unknown> {
        let process = Process {
            pid: found.pids.first().copied().unwrap_or_default(),
            uid: 0,
            comm: String::new(),
            exe: None,
        };
        self.agents.identify(&found.cgroup, process).await
    }

    fn group(&self, found: &Found) -> Members {
        let Found { cgroup, pids } = found;
        let mut preflight = BTreeSet::new();
        for pid in pids.iter().take(MAX_EXAMINED) {
            let findings = self.preflight.findings(cgroup, *pid);
            // One that has ended meanwhile is nobody's problem.
            let alive = Path::new("/proc").join(pid.to_string()).exists();
            preflight.extend(findings.iter().filter(|_| alive).map(|f| f.what.clone()));
        }
        Members {
            cgroup: cgroup.clone(),
            container: identity::container(cgroup).map(|c| c.id),
            unit: identity::unit(cgroup).map(|u| u.name.to_owned()),
            pod: None,
            processes: pids.len(),
            preflight: preflight.into_iter().collect(),
            problem: None,
        }
    }
}

/// All groups with processes: those below the slice, those elsewhere that are in a unit or a
/// container, and whether there are too many cgroups to look at them all.
fn walk(root: &Path, slice: &Path) -> (Vec<Found>, Vec<Found>, bool) {
    let (mut inside, mut outside) = (BTreeMap::new(), BTreeMap::new());
    let mut pending: Vec<PathBuf> = vec![root.to_owned()];
    let mut looked_at = 0;
    while let Some(dir) = pending.pop() {
        looked_at += 1;
        if looked_at > MAX_CGROUPS {
            break;
        }
        let relative = dir.strip_prefix(root).ok();
        let path = relative.and_then(Path::to_str).unwrap_or_default();
        let groups = if Path::new(path).starts_with(slice) {
            Some(&mut inside)
        } else if identity::unit(path).is_some() || identity::container(path).is_some() {
            Some(&mut outside)
        } else {
            None
        };
        if let Some(groups) = groups {
            let pids = members(&dir);
            if !pids.is_empty() {
                let own = Matcher::own_cgroup(path).to_owned();
                groups.entry(own).or_insert_with(Vec::new).extend(pids);
            }
        }
        // The slice first: whoever fills other places with cgroups doesn't hide it.
        let mut children: Vec<PathBuf> = children(&dir).collect();
        children.sort_by_key(|child| {
            let child = child.strip_prefix(root).unwrap_or(child);
            child.starts_with(slice) || slice.starts_with(child)
        });
        pending.extend(children);
    }
    let list = |groups: BTreeMap<String, Vec<u32>>| {
        let found = |(cgroup, pids)| Found { cgroup, pids };
        groups.into_iter().map(found).collect()
    };
    (list(inside), list(outside), looked_at > MAX_CGROUPS)
}

fn children(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

/// The processes in one cgroup; none if it is gone or takes only threads.
fn members(cgroup: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let pids = text.lines().filter_map(|pid| pid.parse().ok());
    // 0 is a process outside of our pid namespace.
    pids.filter(|&pid| pid != 0).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn groups_are_those_below_the_slice_and_units_and_containers_elsewhere() {
        let root = tempfile::tempdir().unwrap();
        let id = "0123456789abcdef".repeat(4);
        let container = format!("weir-agents.slice/docker-{id}.scope");
        for (cgroup, pids) in [
            ("", "1\n"),
            ("weir-agents.slice", ""),
            ("weir-agents.slice/coder-1", "10\n0\n"),
            (&format!("{container}/a"), "11\n"),
            (&format!("{container}/b/c"), "12\n13\n"),
            ("system.slice/cron.service", "20\n"),
            ("plain", "30\n"),
        ] {
            let dir = root.path().join(cgroup);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.procs"), pids).unwrap();
        }
        let (inside, outside, truncated) = walk(root.path(), Path::new("weir-agents.slice"));
        let shown = |found: Vec<Found>| -> Vec<(String, Vec<u32>)> {
            let one = |mut f: Found| {
                f.pids.sort_unstable();
                (f.cgroup, f.pids)
            };
            found.into_iter().map(one).collect()
        };
        assert_eq!(
            shown(inside),
            [
                ("weir-agents.slice/coder-1".to_owned(), vec![10]),
                (container, vec![11, 12, 13]),
            ]
        );
        assert_eq!(
            shown(outside),
            [("system.slice/cron.service".to_owned(), vec![20])]
        );
        assert!(!truncated);
    }
}
