//! Who is governed, how more come to be, and what becomes of those that could get out.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xtask::world::{Finished, Network, Settings};

use crate::support::{Stage, refusal, until};

fn cgroup_root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let root = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    root.context("no cgroup2 is mounted")
}

fn agents(stage: &Stage) -> Result<Value> {
    let shown = stage.weir.cli(&["agents", "--json"])?;
    ensure!(shown.ok(), "{shown:?}");
    Ok(serde_json::from_str(&shown.stdout)?)
}

#[test]
fn an_agent_that_could_get_out_is_refused_by_default_and_that_is_recorded() -> Result<()> {
    let stage = Stage::with(&Settings::default(), |_, mut setup| {
        setup.preflight = None;
        Ok(setup)
    })?;
    // Root among the host's files, as the tests' agents are.
    let told = refusal(&stage.agent, &[])?;
    assert!(told.starts_with("FATAL 28000"), "{told}");
    assert!(told.contains("could get round Weir"), "{told}");
    assert!(told.contains("host's files as root"), "{told}");
    let sessions = stage.weir.cli(&["sessions", "--json"])?;
    assert!(
        sessions.stdout.contains("could get round Weir"),
        "{sessions:?}"
    );
    assert!(stage.weir.log().contains("preflight"), "nothing is logged");
    Ok(())
}

#[test]
fn an_agent_that_is_only_warned_of_gets_in_and_its_record_says_so() -> Result<()> {
    let stage = Stage::new()?;
    let seen = stage.agent.psql("SELECT 'in';")?;
    assert_eq!(seen.stdout, "in", "{seen:?}");
    let sessions = stage.weir.cli(&["sessions", "--json"])?;
    let first = sessions.stdout.lines().next().context("a session")?;
    let first: Value = serde_json::from_str(first)?;
    let id = first["id"].as_str().context("an id")?;
    let replay = stage.weir.cli(&["replay", id, "--json"])?;
    assert!(replay.stdout.contains("\"preflight\""), "{replay:?}");
    assert!(replay.stdout.contains("host's files as root"), "{replay:?}");
    Ok(())
}

#[test]
fn agents_are_listed_with_what_they_run_in_and_strangers_apart() -> Result<()> {
    let stage = Stage::new()?;
    let sleeping = stage.agent.start("sleep", &["60"])?;
    let mut stranger = stage.world.agent("stranger", Network::OnlyLo)?;
    stranger.settle()?;
    let _strange = stranger.start("sleep", &["60"])?;
    until("both are listed", || {
        agents(&stage).is_ok_and(|all| {
            let governed = all["agents"].as_array().into_iter().flatten();
            let governed = governed.filter(|agent| !agent["governed"][0].is_null());
            governed.count() == 1 && all["unknown"].as_array().map_or(0, Vec::len) == 1
        })
    })?;
    let all = agents(&stage)?;
    let by_name = |name: &str| -> Result<Value> {
        let agents = all["agents"].as_array().context("a list")?;
        let found = agents.iter().find(|agent| agent["name"] == name);
        found.cloned().with_context(|| format!("{name} in {all}"))
    };
    let coder = by_name("coder")?;
    let governed = coder["governed"].as_array().context("a list")?;
    assert_eq!(governed.len(), 1, "{coder}");
    let cgroup = governed[0]["cgroup"].as_str().context("a path")?;
    let members = fs::read_to_string(cgroup_root()?.join(cgroup).join("cgroup.procs"))?;
    assert!(members.lines().any(|pid| pid == sleeping.pid().to_string()));
    assert_eq!(governed[0]["processes"], members.lines().count(), "{coder}");
    assert_eq!(by_name("analyst")?["governed"], Value::Array(Vec::new()));
    let problem = all["unknown"][0]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("belongs to no agent"), "{all}");

    let table = stage.weir.cli(&["agents"])?;
    assert!(table.stdout.contains("coder  by cgroup "), "{table:?}");
    let doctor = stage.weir.cli(&["doctor"])?;
    assert!(
        doctor.stdout.contains("agent coder: could get round Weir"),
        "{doctor:?}"
    );
    Ok(())
}

/// A cgroup outside of the slice, with a process in it that waits for a file and then asks the
/// database as an agent would. Both are gone with the value.
struct Outside {
    cgroup: PathBuf,
    child: std::process::Child,
    dir: PathBuf,
}

impl Outside {
    fn start(stage: &Stage, name: &str, with_socket: bool) -> Result<Self> {
        let name = format!("weir-outside-{name}-{}", std::process::id());
        let cgroup = cgroup_root()?.join(&name);
        fs::create_dir_all(cgroup.join("below"))?;
        let dir = stage.world.dir().join(&name);
        fs::create_dir_all(&dir)?;
        let python = "import os, socket, sys, time\n\
            keep = socket.socket() if sys.argv[1] == 'True' else None\n\
            open(sys.argv[2] + '/ready', 'w').close()\n\
            while not os.path.exists(sys.argv[2] + '/go'): time.sleep(0.02)\n\
            os.execvp('psql', ['psql', '-X', '-At', '-c', 'DROP TABLE scratch'])\n";
        let script = r#"echo 0 > "$0/cgroup.procs" && exec "$@""#;
        let mut command: Command = stage.world.outside("sh");
        command.args(["-c", script]).arg(cgroup.join("below"));
        command.args(["python3", "-c", python]);
        command
            .arg(if with_socket { "True" } else { "False" })
            .arg(&dir);
        command.env("PGUSER", "alice").env("PGPASSWORD", "whatever");
        command.stdout(fs::File::create(dir.join("out"))?);
        command.stderr(fs::File::create(dir.join("err"))?);
        let child = command.spawn()?;
        let outside = Self { cgroup, child, dir };
        until("it waits", || outside.dir.join("ready").exists())?;
        Ok(outside)
    }

    fn path(&self) -> String {
        self.cgroup.display().to_string()
    }

    fn now_in(&self) -> Result<String> {
        Ok(fs::read_to_string(format!(
            "/proc/{}/cgroup",
            self.child.id()
        ))?)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let below = self.cgroup.join("below");
        let _ = fs::remove_dir(below).and_then(|()| fs::remove_dir(&self.cgroup));
    }
}

#[test]
fn processes_that_are_attached_are_governed_from_there_on() -> Result<()> {
    let stage = Stage::watched()?;
    let mut outside = Outside::start(&stage, "plain", false)?;
    let attached = stage
        .weir
        .cli(&["attach", &outside.path(), "--as", "coder-attached"])?;
    assert!(attached.ok(), "{attached:?}");
    assert!(attached.stdout.contains("1 process moved"), "{attached:?}");
    assert!(outside.now_in()?.contains("/coder-attached\n"));
    fs::write(outside.dir.join("go"), "")?;
    outside.child.wait()?;
    let told = fs::read_to_string(outside.dir.join("err"))?;
    assert!(
        told.contains("schema changes go through migrations"),
        "{told}"
    );
    assert!(!stage.world.postgres().log().contains("DROP TABLE"));
    // What is in the slice isn't moved again, least of all to another agent.
    let slice = slice_of(&stage)?;
    let taken = format!("{slice}/coder-attached");
    let again = stage.weir.cli(&["attach", &taken, "--as", "analyst-1"])?;
    assert!(
        !again.ok() && again.stderr.contains("in the slice already"),
        "{again:?}"
    );
    Ok(())
}

#[test]
fn open_sockets_keep_processes_from_being_attached_unless_that_is_said() -> Result<()> {
    let stage = Stage::new()?;
    let outside = Outside::start(&stage, "socket", true)?;
    let name = ["--as", "coder-attached"];
    let refused = stage
        .weir
        .cli(&[&["attach", &outside.path()], &name[..]].concat())?;
    assert!(!refused.ok(), "{refused:?}");
    assert!(refused.stderr.contains("1 socket open"), "{refused:?}");
    assert!(
        outside.now_in()?.contains("weir-outside-socket"),
        "it was moved"
    );
    let state = fs::read_to_string(outside.cgroup.join("cgroup.events"))?;
    assert!(state.contains("frozen 0"), "{state}");
    let path = outside.path();
    let moved = stage
        .weir
        .cli(&["attach", &path, "--as", "coder-attached", "--keep-sockets"])?;
    assert!(
        moved.ok() && moved.stdout.contains("OUTSIDE of Weir"),
        "{moved:?}"
    );
    assert!(outside.now_in()?.contains("/coder-attached\n"));
    Ok(())
}

#[test]
fn attaching_to_no_agent_or_without_a_daemon_moves_nothing() -> Result<()> {
    let mut stage = Stage::new()?;
    let outside = Outside::start(&stage, "nobody", false)?;
    let path = outside.path();
    let stranger = stage.weir.cli(&["attach", &path, "--as", "stranger-1"])?;
    assert!(
        stranger.stderr.contains("belongs to no agent"),
        "{stranger:?}"
    );
    // Weir itself, were it there, isn't moved, nor does it stand still for it.
    let daemon = stage.weir.process().pid().to_string();
    let home = fs::read_to_string(format!("/proc/{daemon}/cgroup"))?;
    let home = home.lines().find_map(|line| line.strip_prefix("0::/"));
    let home = cgroup_root()?.join(home.context("a cgroup of its own")?);
    fs::write(outside.cgroup.join("cgroup.procs"), &daemon)?;
    let refused = stage.weir.cli(&["attach", &path, "--as", "coder-1"]);
    fs::write(home.join("cgroup.procs"), &daemon)?;
    let refused = refused?;
    assert!(
        refused.stderr.contains("it holds Weir itself"),
        "{refused:?}"
    );
    stage.weir.kill()?;
    let dead = stage.weir.cli(&["attach", &path, "--as", "coder-1"])?;
    assert_eq!(dead.status.code(), Some(3), "{dead:?}");
    assert!(outside.now_in()?.contains("weir-outside-nobody"));
    stage.weir.restart()
}

/// Runs psql in a cgroup of this name below the slice, as systemd or a runtime would start it.
fn psql_in(stage: &Stage, name: &str) -> Result<Finished> {
    let root = cgroup_root()?;
    let script = format!(
        r#"at={}/$(sed -n 's/^0::.//p' /proc/self/cgroup)/../'{name}' &&
        mkdir -p "$at" && echo 0 > "$at/cgroup.procs" && exec psql -XAt -c "SELECT 'in'""#,
        root.display()
    );
    stage.agent.run("sh", &["-c", &script])
}

#[test]
fn an_agent_is_known_by_its_unit_and_not_by_what_that_makes() -> Result<()> {
    let stage = Stage::with(&Settings::default(), |_, mut setup| {
        let unit = "weir-test@.service";
        setup.more = format!("[agent.unit]\nmatch = {{ unit = {unit:?} }}\npreflight = \"warn\"\n");
        Ok(setup)
    })?;
    psql_in(&stage, "weir-test@1.service/inner")?;
    let sessions = stage.weir.cli(&["sessions", "--json"])?;
    assert!(
        sessions.stdout.contains("\"agent\":\"unit\""),
        "{sessions:?}"
    );
    for other in [
        "other/weir-test@1.service",
        "weir-test@1.scope",
        "weir-tests@1.service",
    ] {
        let seen = psql_in(&stage, other)?;
        assert!(seen.stderr.contains("knows no agent"), "{other}: {seen:?}");
    }
    Ok(())
}

#[test]
fn a_container_that_no_runtime_confirms_is_refused() -> Result<()> {
    let stage = Stage::with(&Settings::default(), |world, mut setup| {
        let socket = world.dir().join("no-docker.sock");
        setup.more = format!(
            "[runtimes]\ndocker = {socket:?}\n[agent.labelled]\nmatch = {{ label = {{ a = \"b\" }} }}\n"
        );
        Ok(setup)
    })?;
    let id = "0123456789abcdef".repeat(4);
    let seen = psql_in(&stage, &format!("docker-{id}.scope"))?;
    assert!(seen.stderr.contains("knows no agent"), "{seen:?}");
    let log = stage.weir.log();
    assert!(log.contains("no-docker.sock can't be asked"), "{log}");
    // Where it could be one of two agents, the one by cgroup isn't taken for want of the other.
    let seen = psql_in(&stage, &format!("coder-x/docker-{id}.scope"))?;
    assert!(seen.stderr.contains("knows no agent"), "{seen:?}");
    Ok(())
}

#[test]
fn agents_that_come_and_go_are_nothing_to_warn_of() -> Result<()> {
    let stage = Stage::new()?;
    for network in [Network::Bridge, Network::OnlyLo, Network::Bridge] {
        let mut agent = stage.world.agent("coder", network)?;
        agent.settle()?;
        let seen = agent.psql("SELECT 'in';")?;
        assert_eq!(seen.stdout, "in", "{seen:?}");
        // Weir looks at all that it knows once a second.
        thread::sleep(Duration::from_secs(2));
    }
    until("only the stage's agent is left", || {
        let log = stage.weir.log();
        let opened = log.matches("listening in an agent's").count();
        opened == log.matches("network namespace is empty").count() + 1
    })?;
    let log = stage.weir.log();
    // What is so of this host, and of all tests' agents.
    let known = ["this host lacks a hook", "WARN preflight"];
    let warnings = log.lines().filter(|line| {
        let warns = line.contains("WARN") || line.contains("ERROR");
        warns && !known.iter().any(|known| line.contains(known))
    });
    assert_eq!(warnings.collect::<Vec<_>>(), Vec::<&str>::new());
    Ok(())
}

fn slice_of(stage: &Stage) -> Result<String> {
    let _sleeping = stage.agent.start("sleep", &["60"])?;
    let mut slice = String::new();
    until("the agent is listed", || {
        let all = agents(stage).unwrap_or_default();
        let found = all["agents"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|agent| {
                let cgroup = agent["governed"][0]["cgroup"].as_str()?;
                Some(cgroup.split_once('/')?.0.to_owned())
            });
        slice = found.unwrap_or_default();
        !slice.is_empty()
    })?;
    Ok(slice)
}
