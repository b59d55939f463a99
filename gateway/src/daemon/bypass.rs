//! Connections past Weir that the kernel has stopped: who it was, in a journal and in the log.
//!
//! An attempt is recorded like a session that was refused, so that `weir tail`, `weir sessions` and
//! `weir replay` show it. An agent decides how often it tries: of many within a second, the first are
//! recorded, and all are counted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::agents::Agents;
use crate::capture::{CgroupId, Detection, Protocol};
use crate::identity::{Identity, Process, Unknown};
use crate::policy_store;
use crate::record::{CloseReason, Recorder, SessionId, SessionOpen};

/// Attempts of one cgroup, and of all, that are recorded within [`WINDOW`].
const RECORDED: (u32, u32) = (10, 100);
/// See [`RECORDED`].
const WINDOW: Duration = Duration::from_secs(1);

/// In the place of a datastore's name, which can't have parentheses.
const UNLISTED: &str = "(unlisted)";
/// In the place of an agent's.
const UNKNOWN: &str = "(unknown)";

/// Records attempts. Cloning shares it.
#[derive(Clone)]
pub(super) struct Bypasses {
    recorder: Recorder,
    agents: Agents,
    policy: policy_store::Handle,
    count: Arc<AtomicU64>,
    limit: Arc<Mutex<Limit>>,
}

impl Bypasses {
    /// `count` is how many attempts there have been.
    pub(super) fn new(
        recorder: Recorder,
        agents: Agents,
        policy: policy_store::Handle,
        count: Arc<AtomicU64>,
    ) -> Self {
        Self {
            recorder,
            agents,
            policy,
            count,
            limit: Arc::new(Mutex::new(Limit::new(Instant::now()))),
        }
    }

    /// How many attempts there have been.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Records one, in a task of its own: a container runtime may have to be asked.
    pub(super) fn record(&self, detection: Detection) {
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = match limit.admit(detection.cgroup, Instant::now()) {
            Admitted::Yes { left_out } => left_out,
            Admitted::No => return,
        };
        drop(limit);
        if left_out > 0 {
            tracing::warn!("{left_out} more attempts to get round Weir were counted only");
        }
        let all = self.clone();
        tokio::spawn(async move { all.write(detection).await });
    }

    async fn write(self, detection: Detection) {
        let process = Process {
            pid: detection.pid,
            uid: detection.uid,
            comm: detection.comm.clone(),
            // It may have exited or run something else since.
            exe: std::fs::read_link(format!("/proc/{}/exe", detection.pid)).ok(),
        };
        let exe = process.exe.as_ref().map(|exe| exe.display().to_string());
        let cgroup = detection.cgroup_path.clone().unwrap_or_default();
        let identity = self.agents.identify(&cgroup, process).await;
        let text = sentence(&detection);
        let open = SessionOpen {
            exe,
            ..self.opening(&detection, cgroup, identity)
        };
        tracing::warn!(
            agent = &*open.agent,
            cgroup = ?open.cgroup,
            pid = open.pid,
            comm = ?open.comm,
            "bypass attempt: {text}"
        );
        let at = open.at;
        let written = async {
            let journal = self.recorder.unpinned_session(&open)?;
            journal.close(at, CloseReason::Bypass(text)).await
        };
        if let Err(error) = written.await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a bypass attempt can't be recorded"
            );
        }
    }

    fn opening(
        &self,
        detection: &Detection,
        cgroup: String,
        identity: Result<Identity, Unknown>,
    ) -> SessionOpen {
        let (agent, groups, container) = match identity {
            Ok(Identity {
                agent, container, ..
            }) => (agent.name, agent.groups.to_vec(), container),
            Err(_) => (UNKNOWN.into(), Vec::new(), None),
        };
        SessionOpen {
            id: SessionId::now(),
            at: now(),
            agent,
            groups,
            datastore: UNLISTED.into(),
            destination: detection.destination.to_string(),
            cgroup,
            container,
            pid: detection.pid,
            uid: detection.uid,
            comm: detection.comm.clone(),
            exe: None,
            claimed_user: String::new(),
            database: String::new(),
            parameters: Vec::new(),
            client_tls: None,
            upstream: None,
            policy: self.policy.status().sha256,
            weir: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

fn sentence(detection: &Detection) -> String {
    let protocol = match detection.protocol {
        Protocol::Postgres => "PostgreSQL",
        Protocol::Mysql => "MySQL",
        Protocol::Tds => "TDS (SQL Server)",
        Protocol::Mongodb => "MongoDB",
        Protocol::Redis => "Redis",
    };
    let learned = if detection.learned {
        "; the next connection there is governed"
    } else {
        ""
    };
    let destination = detection.destination;
    format!("{protocol} at {destination}, which no datastore lists{learned}")
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as u64)
}

/// How many attempts were recorded within this second.
struct Limit {
    since: Instant,
    by_cgroup: HashMap<CgroupId, u32>,
    recorded: u32,
    left_out: u64,
}

#[derive(Debug, PartialEq)]
enum Admitted {
    /// After so many that weren't.
    Yes {
        left_out: u64,
    },
    No,
}

impl Limit {
    fn new(since: Instant) -> Self {
        Self {
            since,
            by_cgroup: HashMap::new(),
            recorded: 0,
            left_out: 0,
        }
    }

    fn admit(&mut self, cgroup: CgroupId, now: Instant) -> Admitted {
        let mut left_out = 0;
        if now.duration_since(self.since) >= WINDOW {
            left_out = self.left_out;
            *self = Self::new(now);
        }
        let (each, all) = RECORDED;
        let of_cgroup = self.by_cgroup.get(&cgroup).copied().unwrap_or(0);
        if of_cgroup >= each || self.recorded >= all {
            self.left_out += 1;
            return Admitted::No;
        }
        self.by_cgroup.insert(cgroup, of_cgroup + 1);
        self.recorded += 1;
        Admitted::Yes { left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_attempts_the_first_of_each_second_are_recorded() {
        let begin = Instant::now();
        let mut limit = Limit::new(begin);
        let mut admitted = |cgroup, later| {
            let at = begin + Duration::from_millis(later);
            limit.admit(CgroupId(cgroup), at)
        };
        let yes = Admitted::Yes { left_out: 0 };
        for _ in 0..10 {
            assert_eq!(admitted(1, 0), yes);
        }
        assert_eq!(admitted(1, 999), Admitted::No);
        assert_eq!(admitted(2, 999), yes, "another's attempt isn't hidden");
        assert_eq!(admitted(1, 1000), Admitted::Yes { left_out: 1 });
        for cgroup in 3..102 {
            assert_eq!(admitted(cgroup, 1500), yes);
        }
        assert_eq!(
            admitted(200, 1500),
            Admitted::No,
            "all have their limit too"
        );
    }

    #[test]
    fn an_attempt_is_told_in_a_sentence() {
        let detection = Detection {
            protocol: Protocol::Tds,
            destination: "10.0.0.1:1433".parse().unwrap(),
            cgroup: CgroupId(1),
            cgroup_path: None,
            pid: 1,
            uid: 0,
            comm: String::new(),
            learned: true,
        };
        assert_eq!(
            sentence(&detection),
            "TDS (SQL Server) at 10.0.0.1:1433, which no datastore lists; the next connection there \
             is governed"
        );
    }
}
