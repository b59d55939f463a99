//! The database at a port that nobody has listed: what an agent has of it, by default and if it is to
//! be governed, and what the operator learns.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde_json::Value;
use xtask::world::{Agent, Network, Process, Settings};

use crate::support::{Stage, python, until};

/// Where nothing of Weir's is.
const PORT: &str = "5999";

/// Leads each connection to the database, and writes down how many bytes each has sent.
const FORWARD: &str = r#"
import socket, sys, threading
listener = socket.create_server(('10.77.0.1', int(sys.argv[1])))
print('ready', flush=True)
def copy(a, b, told):
    sent = 0
    try:
        while data := a.recv(65536):
            sent += len(data)
            b.sendall(data)
    except OSError:
        pass
    if told:
        print('sent', sent, flush=True)
    for s in (a, b):
        try: s.shutdown(socket.SHUT_RDWR)
        except OSError: pass
while True:
    client = listener.accept()[0]
    server = socket.create_connection(('10.77.0.1', 5432))
    threading.Thread(target=copy, args=(client, server, True), daemon=True).start()
    threading.Thread(target=copy, args=(server, client, False), daemon=True).start()
"#;

/// Somebody who leads `PORT` to the database.
struct Forward {
    process: Process,
    log: PathBuf,
}

impl Forward {
    fn start(stage: &Stage) -> Result<Self> {
        let mut command = stage.world.outside(python());
        command.args(["-c", FORWARD, PORT]);
        let log = stage.world.dir().join("forward.log");
        let mut process = Process::start("the forwarder", command, &log, Signal::SIGKILL)?;
        process.until_says("ready", Duration::from_secs(10))?;
        Ok(Self { process, log })
    }

    /// How many bytes each connection that is over has sent.
    fn sent(&self) -> Vec<u64> {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let sent = text.lines().filter_map(|line| line.strip_prefix("sent "));
        sent.filter_map(|count| count.parse().ok()).collect()
    }
}

fn stage(on_detect: Option<&'static str>) -> Result<(Stage, Forward)> {
    let stage = Stage::with(&Settings::default(), |_, mut setup| {
        setup.on_detect = on_detect;
        Ok(setup)
    })?;
    let forward = Forward::start(&stage)?;
    Ok((stage, forward))
}

/// An agent that has a way to the forwarder.
fn agent(stage: &Stage, name: &str, network: Network) -> Result<Agent> {
    let mut agent = stage.world.agent(name, network)?;
    agent.settle()?;
    Ok(agent)
}

fn attempts(stage: &Stage) -> Result<u64> {
    let status = stage.weir.cli(&["status", "--json"])?;
    let status: Value = serde_json::from_str(&status.stdout)?;
    status["bypass_attempts"].as_u64().context("a count")
}

const SSN: &str = "SELECT ssn FROM customers WHERE id = 1";

#[test]
fn an_unlisted_port_is_shut_and_the_attempt_is_recorded() -> Result<()> {
    let (stage, forward) = stage(None)?;
    let tail_log = stage.world.dir().join("tail.log");
    let mut command = stage.world.outside(env!("CARGO_BIN_EXE_weir"));
    command.args(["tail", "--config"]);
    command.arg(stage.world.dir().join("weir/weir.toml"));
    let tail = Process::start("weir tail", command, &tail_log, Signal::SIGKILL)?;
    let outside = stage
        .world
        .outside("psql")
        .env("PGPORT", PORT)
        .args(["-XAtc", SSN])
        .output()?;
    assert_eq!(
        String::from_utf8_lossy(&outside.stdout).trim(),
        "123-45-6789",
        "it leads to the database"
    );
    until("that is over", || forward.sent().len() == 1)?;

    for network in [Network::Host, Network::Bridge] {
        let agent = agent(&stage, "coder", network)?;
        for mode in ["disable", "prefer", "require"] {
            let begin = Instant::now();
            let variables = [("PGPORT", PORT), ("PGSSLMODE", mode)];
            let seen = agent.psql_with(SSN, &variables)?;
            assert!(!seen.ok() && seen.stdout.is_empty(), "{mode}: {seen:?}");
            let error = "Software caused connection abort";
            let closed = "server closed the connection unexpectedly";
            assert!(
                seen.stderr.contains(error) || seen.stderr.contains(closed),
                "{mode}: {seen:?}"
            );
            println!("psql, sslmode={mode}: over after {:?}", begin.elapsed());
        }
    }
    let told = attempts(&stage)?;
    assert!(told >= 6, "{told} attempts");
    let all = usize::try_from(told)? + 1;
    until("the forwarder's connections are over", || {
        forward.sent().len() == all
    })?;
    // A StartupMessage shows itself with its ninth byte, which comes with all others.
    assert!(forward.sent()[1..].iter().all(|sent| *sent == 0));

    let text = format!("PostgreSQL at 10.77.0.1:{PORT}, which no datastore lists");
    until("it is recorded", || {
        let sessions = stage.weir.cli(&["sessions", "--json"]);
        sessions.is_ok_and(|sessions| sessions.stdout.matches(&text).count() >= 6)
    })?;
    let sessions = stage.weir.cli(&["sessions", "--json"])?;
    let first: Value = serde_json::from_str(sessions.stdout.lines().next().context("one")?)?;
    assert_eq!(first["agent"], "coder", "{first}");
    assert_eq!(first["comm"], "psql", "{first}");
    let reason = first["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("bypass attempt: PostgreSQL"), "{first}");
    until("tail shows it", || tail.output().contains(&text))?;
    assert!(
        tail.output().contains("coder@(unlisted)"),
        "{}",
        tail.output()
    );
    assert!(
        stage.weir.log().contains("bypass attempt"),
        "nothing is logged"
    );
    let status = stage.weir.cli(&["status"])?;
    assert!(
        status
            .stdout
            .contains(&format!("bypasses     {told} attempted"))
    );
    let id = first["id"].as_str().context("an id")?;
    let verified = stage.weir.cli(&["audit", "verify", id])?;
    assert!(verified.ok(), "{verified:?}");
    Ok(())
}

#[test]
fn an_unlisted_port_that_an_agent_has_tried_is_governed_from_then_on() -> Result<()> {
    let (stage, forward) = stage(Some("govern"))?;
    let variables = [("PGPORT", PORT), ("PGSSLMODE", "disable")];
    let agent = agent(&stage, "coder", Network::Bridge)?;
    let first = agent.psql_with(SSN, &variables)?;
    assert!(!first.ok() && first.stdout.is_empty(), "{first:?}");
    until("that is over", || forward.sent() == [0])?;

    let second = agent.psql_with(SSN, &variables)?;
    assert_eq!(second.stdout, "*******6789", "{second:?}");
    assert_eq!(forward.sent(), [0], "Weir dials the datastore itself");
    let ports = agent.psql_with("\\conninfo", &variables)?;
    assert!(
        ports.stdout.contains(PORT),
        "it sees what it dialled: {ports:?}"
    );
    assert_eq!(attempts(&stage)?, 1);

    // Nobody else is led anywhere by that.
    let mut other = stage.world.agent("coder", Network::Bridge)?;
    other.settle()?;
    let seen = other.psql_with(SSN, &variables)?;
    assert!(!seen.ok() && seen.stdout.is_empty(), "{seen:?}");
    assert_eq!(attempts(&stage)?, 2);
    drop(forward.process);
    Ok(())
}
