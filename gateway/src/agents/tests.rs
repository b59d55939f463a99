//! With sockets of this process's, and (`real`) with containerd and Podman themselves.

use super::*;
use crate::identity::{Agent, PreflightMode, Selector};

#[cfg(feature = "e2e")]
mod real;

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn agent(name: &str) -> Agent {
    Agent {
        name: name.into(),
        groups: Arc::new([]),
        preflight: PreflightMode::default(),
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

fn labelled(value: &str) -> Selector {
    Selector {
        labels: [("agent".to_owned(), value.to_owned())].into(),
        ..Selector::default()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// A folder for a cgroup2 mount, with a container's cgroup in it, and a runtime's socket beside.
struct Place {
    dir: tempfile::TempDir,
    cgroup: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = format!("weir-agents.slice/docker-{ID}.scope");
        std::fs::create_dir_all(dir.path().join(&cgroup)).unwrap();
        std::fs::create_dir_all(dir.path().join("weir-agents.slice/plain-1")).unwrap();
        Self { dir, cgroup }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    fn agents(&self) -> Agents {
        let plain = Selector {
            cgroup: Some(crate::identity::Pattern::new("weir-agents.slice/plain-*").unwrap()),
            ..Selector::default()
        };
        let matcher = Matcher::new(vec![
            (agent("plain"), plain),
            (agent("coder"), labelled("coder")),
        ]);
        let settings = Settings {
            docker: self.socket(),
            ..Settings::default()
        };
        Agents::new(matcher, settings, self.dir.path().to_owned())
    }
}

#[track_caller]
fn unresolved(result: Result<Identity, Unknown>, why: &str) {
    match result {
        Err(Unknown::Unresolved { why: found, .. }) => assert!(found.contains(why), "{found}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_its_runtime_a_container_is_nobody() {
    let place = Place::new();
    let agents = place.agents();
    unresolved(
        block_on(agents.identify(&place.cgroup, process())),
        "can't be asked",
    );
    let gone = place.cgroup.replace("docker-0", "docker-1");
    unresolved(block_on(agents.identify(&gone, process())), "is gone");
}

#[test]
fn a_runtime_that_hangs_costs_its_asker_two_seconds_and_others_nothing() {
    let place = Place::new();
    let agents = place.agents();
    block_on(async {
        let _silent = tokio::net::UnixListener::bind(place.socket()).unwrap();
        let (asker, other) = (agents.clone(), agents.clone());
        let (cgroup, start) = (place.cgroup.clone(), Instant::now());
        let hanging = tokio::spawn(async move { asker.identify(&cgroup, process()).await });
        tokio::task::yield_now().await;
        let plain = other.identify("weir-agents.slice/plain-1", process()).await;
        assert_eq!(&*plain.unwrap().agent.name, "plain");
        assert!(start.elapsed() < PATIENCE / 4, "{:?}", start.elapsed());
        unresolved(hanging.await.unwrap(), "did not answer");
        assert!(start.elapsed() >= PATIENCE);
        // And it isn't asked again at once.
        let again = Instant::now();
        unresolved(
            agents.identify(&place.cgroup, process()).await,
            "did not answer",
        );
        assert!(again.elapsed() < PATIENCE / 4, "{:?}", again.elapsed());
    });
}

#[test]
fn a_process_is_only_in_its_own_cgroup_and_those_above() {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap();
    let pid = std::process::id();
    assert!(is_in(pid, own));
    assert!(!is_in(pid, &format!("{own}x")));
    assert!(!is_in(pid, &format!("{own}/x")));
    assert!(!is_in(u32::MAX / 2, own));
    assert!(
        !is_in(0, own),
        "a container that has stopped has no process"
    );
}
