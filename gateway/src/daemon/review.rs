//! The policy in force, held against the configuration and the catalogs, again with each change.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::policy_store::Active;
use crate::policy_store::review::{Known, Snapshot, unknown_names, unresolved_masks};
use crate::session::Catalogs;

/// How often the catalogs are looked at for a change.
const LOOK: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Review {
    known: Known,
    active: watch::Receiver<Arc<Active>>,
    catalogs: Catalogs,
    last: Mutex<Reviewed>,
}

/// What a review came to.
#[derive(Default)]
struct Reviewed {
    policy: u64,
    catalogs: Vec<(Arc<str>, String, u64)>,
    warnings: Vec<String>,
}

impl Review {
    pub(super) fn new(
        config: &Config,
        active: watch::Receiver<Arc<Active>>,
        catalogs: Catalogs,
    ) -> Self {
        let datastores = config.datastores.iter().map(|d| Arc::clone(&d.name));
        Self {
            known: Known::new(&config.agents, datastores),
            active,
            catalogs,
            last: Mutex::default(),
        }
    }

    /// Logs what there is to say, for as long as the daemon runs.
    pub(super) async fn run(self: Arc<Self>) {
        let mut active = self.active.clone();
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = active.changed() => if changed.is_err() {
                    return;
                },
            }
            self.warnings();
        }
    }

    /// What rules say of things that aren't there. Made anew and logged where the policy or a catalog
    /// has changed: all of it for a policy, what is new for a catalog.
    pub(super) fn warnings(&self) -> Vec<String> {
        let active = Arc::clone(&self.active.borrow());
        let snapshots = self.catalogs.snapshots();
        let catalogs: Vec<_> = snapshots.iter().map(version).collect();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.policy != active.generation || last.catalogs != catalogs {
            let mut warnings = unknown_names(&active.policy, &self.known);
            warnings.extend(unresolved_masks(&active.policy, &snapshots));
            let same = last.policy == active.generation;
            for warning in &warnings {
                if !same || !last.warnings.contains(warning) {
                    tracing::warn!("policy: {warning}");
                }
            }
            *last = Reviewed {
                policy: active.generation,
                catalogs,
                warnings,
            };
        }
        last.warnings.clone()
    }
}

fn version(snapshot: &Snapshot) -> (Arc<str>, String, u64) {
    let Snapshot {
        datastore,
        database,
        catalog,
    } = snapshot;
    (
        Arc::clone(datastore),
        database.clone(),
        catalog.generation(),
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy::{Source, parse};

    const CONFIG: &str = r#"
[datastore.appdb]
protocol  = "postgres"
hosts     = ["10.0.3.7:5432"]
tls       = { mode = "require" }
databases = ["app"]
login     = { user = "weir_agents", password = { credential = "appdb" } }

[agent.coder]
match  = { cgroup = "weir-agents.slice/coder-*" }
groups = ["coding-agents"]
"#;

    fn active(agent: &str, generation: u64) -> Arc<Active> {
        let text = format!(
            "version = 1\n[[rule]]\nname = \"r\"\nagents = [\"{agent}\"]\neffects = [\"delete\"]\n\
             decision = \"deny\"\n"
        );
        let source = Source {
            name: "p.toml".into(),
            text,
        };
        Arc::new(Active {
            policy: Arc::new(parse(&[source]).unwrap()),
            generation,
        })
    }

    #[tokio::test]
    async fn a_misspelt_agent_is_told_until_the_policy_names_it_rightly() {
        let config = Config::parse(Path::new("weir.toml"), CONFIG).unwrap();
        let (policy, of) = watch::channel(active("codre", 1));
        let review = Review::new(
            &config,
            of,
            Catalogs::new(tokio::runtime::Handle::current()),
        );
        let told = review.warnings();
        assert!(
            told[0].contains("rule \"r\" names agent \"codre\""),
            "{told:?}"
        );
        policy.send_replace(active("coder", 2));
        assert!(review.warnings().is_empty());
    }
}
