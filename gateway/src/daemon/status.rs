//! What the daemon tells over its control socket.

use std::sync::{Arc, PoisonError};

use super::Running;
use crate::capture::{Coverage, Gap};
use crate::control::{
    DatastoreStatus, GapStatus, Handle, NamespaceStatus, OpenSession, PolicyStatus, Status,
};

/// The way in for the control socket.
pub(super) fn handle(running: &Arc<Running>) -> Handle {
    let (status, sessions, agents, reload) = (
        Arc::clone(running),
        Arc::clone(running),
        Arc::clone(running),
        running.policy.clone(),
    );
    Handle {
        status: Arc::new(move || status.status()),
        sessions: Arc::new(move || sessions.open_sessions()),
        agents: Arc::new(move || {
            let running = Arc::clone(&agents);
            Box::pin(async move { running.agents_status().await })
        }),
        reload: Arc::new(move || reload.reload()),
    }
}

fn gap(gap: &Gap) -> GapStatus {
    GapStatus {
        hook: gap.hook.name().to_owned(),
        why: gap.why.clone(),
        needs: gap.hook.needs().to_owned(),
        consequence: gap.hook.consequence().to_owned(),
    }
}

impl Running {
    fn status(&self) -> Status {
        let counts = self.workers.counts();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            policy: PolicyStatus {
                warnings: self.review.warnings(),
                ..self.policy.status().into()
            },
            datastores: self.datastore_status(),
            agents: self
                .config
                .agents
                .agents()
                .map(|a| a.name.to_string())
                .collect(),
            namespaces: self.namespace_status(),
            gaps: self.gaps.iter().map(gap).collect(),
            bypass_attempts: self.bypasses.count(),
            open_sessions: counts.open,
            sessions_opened: counts.sessions,
            sessions_refused: counts.refused,
            statements_allowed: counts.allowed,
            statements_denied: counts.denied,
        }
    }

    fn datastore_status(&self) -> Vec<DatastoreStatus> {
        let addresses = self.datastores.by_name();
        let of = |name: &Arc<str>| addresses.get(name).into_iter().flatten();
        self.config
            .datastores
            .iter()
            .map(|settings| DatastoreStatus {
                name: settings.name.to_string(),
                endpoints: of(&settings.name).map(ToString::to_string).collect(),
                relations: self.catalogs.relations(&settings.name),
                problem: self.problem(&settings.name),
            })
            .collect()
    }

    fn problem(&self, datastore: &str) -> Option<String> {
        let names = self.datastores.problem(datastore);
        let upstream = self.catalogs.problem(datastore);
        names
            .into_iter()
            .chain(upstream)
            .reduce(|a, b| a + "; " + &b)
    }

    fn namespace_status(&self) -> Vec<NamespaceStatus> {
        let namespaces = self
            .namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let status = |(id, tasks): (&crate::capture::NetnsId, &Vec<_>)| {
            let Coverage { covered, open } = self.coverages.of(*id);
            NamespaceStatus {
                id: id.0,
                listeners: tasks.len(),
                perimeter: covered,
                open,
            }
        };
        namespaces.iter().map(status).collect()
    }

    fn open_sessions(&self) -> Vec<OpenSession> {
        let open = self.directory.open_sessions();
        open.into_iter()
            .map(|session| OpenSession {
                id: session.id.to_string(),
                agent: session.agent.to_string(),
                datastore: session.datastore.to_string(),
                database: session.database,
                pid: session.pid,
                age_seconds: session.since.elapsed().as_secs(),
            })
            .collect()
    }
}
