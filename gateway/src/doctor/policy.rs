//! Whether there is a policy, and whether it means what its names say.

use std::path::Path;
use std::sync::Arc;

use super::{Check, chain};
use crate::config::Config;
use crate::policy::Policy;
use crate::policy_store::review::{Known, Snapshot, unknown_names, unresolved_masks};
use crate::policy_store::{Error, PolicyStore};

/// Loads the policy in a directory as the daemon would.
pub(super) async fn examine(dir: &Path) -> (Check, Option<Arc<Policy>>) {
    let store = match PolicyStore::open(dir).await {
        Ok(store) => store,
        Err(e) => return (error(&e, dir), None),
    };
    let status = store.handle().status();
    let found = format!("{} rules in {}", status.rules, dir.display());
    let check = if status.observed {
        let fix = "remove mode = \"observe\" where the rules should count";
        Check::warn("policy", format!("{found}, only observed"), fix)
    } else {
        Check::ok("policy", found)
    };
    let policy = Arc::clone(&store.subscribe().borrow().policy);
    (check, Some(policy))
}

fn error(error: &Error, dir: &Path) -> Check {
    match error {
        Error::Keys { unseen: true, .. } => Check::warn(
            "policy",
            format!("keys can't be seen from here: {error}"),
            "run weir doctor as root while the unit runs; it needs LoadCredential= for each key",
        ),
        Error::Keys { .. } => Check::fail(
            "policy",
            chain(error),
            "put the key where the mask says, readable by the daemon alone (mode 600)",
        ),
        Error::Read { .. } | Error::Empty { .. } => Check::fail(
            "policy",
            chain(error),
            "put policy files there, or set policies in [paths]",
        ),
        _ => Check::fail(
            "policy",
            chain(error),
            format!("weir policy check {}", dir.display()),
        ),
    }
}

/// What its rules say of things that aren't there.
pub(super) fn review(policy: &Policy, config: &Config, snapshots: &[Snapshot]) -> Vec<Check> {
    let datastores = config.datastores.iter().map(|d| Arc::clone(&d.name));
    let known = Known::new(&config.agents, datastores);
    let names = unknown_names(policy, &known).into_iter().map(|what| {
        let fix = format!(
            "correct the name in the rule, or add it to {}",
            config.file.display()
        );
        Check::warn("policy", what, fix)
    });
    let masks = unresolved_masks(policy, snapshots).into_iter().map(|what| {
        let fix =
            "correct columns of the mask or objects of its rule: until then it guards nothing";
        Check::warn("policy", what, fix)
    });
    names.chain(masks).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use crate::policy::{Source, parse};

    fn examine(dir: &Path) -> (Check, Option<Arc<Policy>>) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(super::examine(dir))
    }

    #[test]
    fn a_policy_is_there_and_valid_or_that_is_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(examine(dir.path()).0.status, Status::Fail, "no files");
        std::fs::write(dir.path().join("a.toml"), "version = ").unwrap();
        let (check, policy) = examine(dir.path());
        assert!(check.fix.unwrap().starts_with("weir policy check"));
        assert!(policy.is_none());
    }

    fn hmac(key: &str) -> Check {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "version = 1\n[[rule]]\nname = \"r\"\neffects = [\"read\"]\ndecision = \"allow\"\n\
             [[rule.mask]]\ncolumns = [\"c\"]\nwith = \"hmac\"\nkey = {key}\n"
        );
        std::fs::write(dir.path().join("a.toml"), text).unwrap();
        examine(dir.path()).0
    }

    #[test]
    fn a_missing_key_isnt_looked_for_in_the_policys_text() {
        let check = hmac("{ file = \"/nonexistent/key\" }");
        assert_eq!(check.status, Status::Fail);
        assert!(check.detail.contains("/nonexistent/key"), "{check:?}");
        let fix = check.fix.unwrap();
        assert!(!fix.contains("policy check"), "{fix}");
    }

    #[test]
    fn a_key_that_is_the_units_credential_is_no_failure_in_a_shell() {
        let check = hmac("{ credential = \"surely-not-there\" }");
        if std::env::var_os("CREDENTIALS_DIRECTORY").is_none() {
            assert_eq!(check.status, Status::Warn, "{check:?}");
        }
    }

    #[test]
    fn names_that_the_configuration_has_not_are_warned_of() {
        let config = "[datastore.appdb]\nprotocol = \"postgres\"\nhosts = [\"10.0.3.7:5432\"]\n\
                      tls = { mode = \"require\" }\ndatabases = [\"app\"]\n\
                      login = { user = \"w\", password = { credential = \"appdb\" } }\n\
                      [agent.coder]\nmatch = { cgroup = \"weir-agents.slice/coder-*\" }\n";
        let config = Config::parse(Path::new("weir.toml"), config).unwrap();
        let source = Source {
            name: "p.toml".into(),
            text: "version = 1\n[[rule]]\nname = \"r\"\nagents = [\"codre\"]\n\
                   effects = [\"read\"]\ndecision = \"deny\"\n"
                .into(),
        };
        let policy = parse(&[source]).unwrap();
        let checks = review(&policy, &config, &[]);
        assert_eq!(checks.len(), 1, "{checks:?}");
        assert_eq!(checks[0].status, Status::Warn);
        assert!(
            checks[0].detail.starts_with("p.toml:2: rule \"r\""),
            "{checks:?}"
        );
        assert!(checks[0].fix.as_ref().unwrap().ends_with("weir.toml"));
    }
}
