//! What a daemon says of its agents.

use serde::{Deserialize, Serialize};

/// Everything below the agents' slice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agents {
    /// The agents, in the configuration's order.
    pub agents: Vec<AgentStatus>,
    /// Processes in the slice that belong to no agent, and are refused.
    pub unknown: Vec<Members>,
    /// Cgroups, units and containers that an agent's match means, and that are outside of the
    /// slice: nothing governs them.
    pub outside: Vec<Members>,
    /// Whether there are more than were looked at.
    pub truncated: bool,
}

/// An agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// Its name.
    pub name: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// What it is told apart by.
    pub matched_by: String,
    /// Its open sessions.
    pub sessions: usize,
    /// Its processes, by what they run in.
    pub governed: Vec<Members>,
}

/// Processes that share a container, a unit or a cgroup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members {
    /// The path of its cgroup below the cgroup2 mount.
    pub cgroup: String,
    /// The container's id.
    pub container: Option<String>,
    /// The systemd unit.
    pub unit: Option<String>,
    /// The pod, as `namespace/name`.
    pub pod: Option<String>,
    /// How many processes there are.
    pub processes: usize,
    /// What would let processes of it get round Weir.
    pub preflight: Vec<String>,
    /// Why it belongs to nobody.
    pub problem: Option<String>,
}
