//! `weir doctor`: whether this host and this configuration have what the daemon needs.
//!
//! Each check says what it found and, where that isn't good, what to do. Nothing stays changed, and
//! a running daemon isn't disturbed.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::capture::{self, Capture};
use crate::causes::chain;
use crate::config::{self, Config};
use crate::control;

mod datastore;
mod files;
mod policy;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// The daemon runs with it; somebody should look.
    Warn,
    /// The daemon doesn't start, or can't serve.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// How it came out.
    pub status: Status,
    /// What was found.
    pub detail: String,
    /// What to do about it; `None` if nothing.
    pub fix: Option<String>,
}

impl Check {
    fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status: Status::Ok,
            detail: detail.into(),
            fix: None,
        }
    }

    fn bad(
        status: Status,
        name: impl Into<String>,
        detail: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            status,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }

    fn warn(name: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::bad(Status::Warn, name, detail, fix)
    }

    fn fail(name: impl Into<String>, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::bad(Status::Fail, name, detail, fix)
    }
}

/// Looks at everything that the configuration at `file` leads to. Without a valid one, at the
/// kernel alone.
pub async fn examine(file: &Path) -> Vec<Check> {
    let (mut checks, config) = match Config::load(file) {
        Ok(config) => (
            vec![Check::ok("configuration", file.display().to_string())],
            Some(config),
        ),
        Err(e) => (vec![configuration_error(file, &e)], None),
    };
    let capture = config
        .as_ref()
        .map_or_else(default_capture, |c| c.capture.clone());
    checks.extend(Capture::probe(&capture).into_iter().map(kernel));
    let Some(config) = config else { return checks };
    let (check, policy) = policy::examine(&config.paths.policies).await;
    checks.push(check);
    checks.push(files::journal(&config.paths.journal()));
    checks.push(files::run_dir(&config.paths.run_dir));
    checks.push(files::authority(&config.paths.ca()));
    let mut snapshots = Vec::new();
    for datastore in &config.datastores {
        let (found, catalogs) = datastore::examine(datastore).await;
        checks.extend(found);
        snapshots.extend(catalogs);
    }
    checks.extend(policy.map_or_else(Vec::new, |p| policy::review(&p, &config, &snapshots)));
    checks.extend(slice(
        &config.capture.slice,
        Path::new("/run/systemd/system"),
    ));
    checks.push(daemon(&config.paths.socket()).await);
    checks.extend(agents(&config.paths.socket()).await);
    checks
}

fn configuration_error(file: &Path, error: &config::Error) -> Check {
    let fix = match error {
        config::Error::Read { .. } => {
            format!("write {}, or say where it is with --config", file.display())
        }
        config::Error::Invalid(_) => "correct these places in the file".to_owned(),
    };
    Check::fail("configuration", chain(error), fix)
}

fn default_capture() -> capture::Settings {
    capture::Settings {
        slice: config::DEFAULT_SLICE.into(),
        pin_dir: config::DEFAULT_PIN_DIR.into(),
        cgroup_root: None,
        require: Vec::new(),
        governed: false,
    }
}

fn kernel(check: capture::Check) -> Check {
    match check.outcome {
        Ok(found) => Check::ok(check.name, found),
        Err(capture::Problem { what, fix, fatal }) => {
            let status = if fatal { Status::Fail } else { Status::Warn };
            Check::bad(status, check.name, what, fix)
        }
    }
}

async fn daemon(socket: &Path) -> Check {
    match control::Client::new(socket).status().await {
        Ok(status) => {
            let found = format!(
                "running, process {}, version {}",
                status.pid, status.version
            );
            match status.policy.problem {
                None => Check::ok("daemon", found),
                Some(problem) => Check::warn(
                    "daemon",
                    format!("{found}; it runs on an older policy: {problem}"),
                    "correct the policy files; they are looked at each second",
                ),
            }
        }
        Err(e @ control::Error::NotRunning { .. }) => {
            Check::warn("daemon", e.to_string(), "systemctl start weir")
        }
        Err(e) => Check::warn(
            "daemon",
            chain(&e),
            "look at the daemon's log: journalctl -u weir",
        ),
    }
}

/// systemd puts `a-b.slice` into `a.slice`, wherever else it was made.
fn slice(slice: &Path, systemd: &Path) -> Option<Check> {
    let name = slice.file_name()?.to_str()?;
    let stem = name.strip_suffix(".slice").filter(|s| s.contains('-'))?;
    let ends = stem.match_indices('-').map(|(at, _)| &stem[..at]);
    let parents: PathBuf = ends.chain([stem]).map(|s| format!("{s}.slice")).collect();
    (systemd.exists() && parents != slice).then(|| {
        Check::warn(
            "slice",
            format!("units with Slice={name} don't run in {}", slice.display()),
            format!(
                "set slice = {:?} in [capture], and begin the agents' cgroups with it",
                parents.display().to_string()
            ),
        )
    })
}

/// What would let agents out that run now. A daemon that isn't there was told of already.
async fn agents(socket: &Path) -> Vec<Check> {
    let Ok(agents) = control::Client::new(socket).agents().await else {
        return Vec::new();
    };
    let mut checks = Vec::new();
    for agent in &agents.agents {
        let mut ways: Vec<&str> = Vec::new();
        for members in &agent.governed {
            ways.extend(members.preflight.iter().map(String::as_str));
        }
        ways.sort_unstable();
        ways.dedup();
        let name = format!("agent {}", agent.name);
        checks.push(if ways.is_empty() {
            let cgroups = agent.governed.len();
            Check::ok(name, format!("{cgroups} running, nothing would let it out"))
        } else {
            let fix = "run it without these; weir agents says which processes";
            Check::warn(
                name,
                format!("could get round Weir: {}", ways.join("; ")),
                fix,
            )
        });
    }
    for members in &agents.outside {
        let problem = members.problem.as_deref().unwrap_or("not governed");
        checks.push(Check::fail(
            "agents outside of the slice",
            format!("{}: {problem}", members.cgroup),
            "start it in the slice: Slice= of its unit, --cgroup-parent= of its container",
        ));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn a_configuration_that_is_missing_or_wrong_is_the_first_thing_said() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("weir.toml");
        let first = || block_on(examine(&file)).swap_remove(0);
        assert_eq!(
            (first().status, &*first().name),
            (Status::Fail, "configuration")
        );
        std::fs::write(&file, "[datastores.x]\n").unwrap();
        assert!(
            first()
                .detail
                .contains("weir.toml:1:2: error: unknown key `datastores`")
        );
    }

    #[test]
    fn a_slice_that_systemd_has_elsewhere_is_told() {
        let systemd = tempfile::tempdir().unwrap();
        let told = |path: &str| slice(Path::new(path), systemd.path()).map(|c| c.fix.unwrap());
        let fix = told("weir-agents.slice").unwrap();
        assert!(fix.contains("\"weir.slice/weir-agents.slice\""), "{fix}");
        assert_eq!(told("weir.slice/weir-agents.slice"), None);
        assert_eq!(told("agents.slice"), None);
        assert_eq!(told("weir-agents"), None);
        assert!(
            told("x/a-b-c.slice")
                .unwrap()
                .contains("a.slice/a-b.slice/a-b-c.slice")
        );
        assert_eq!(slice(Path::new("a-b.slice"), Path::new("/nowhere")), None);
    }

    #[test]
    fn a_missing_daemon_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let check = block_on(daemon(&dir.path().join("weir.sock")));
        assert_eq!(check.status, Status::Warn);
    }
}
