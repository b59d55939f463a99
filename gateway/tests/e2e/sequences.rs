//! Random sequences of protocol messages: Weir is in step with the server, whatever comes in whichever order.
//!
//! `clients/grammar.py` makes them, `clients/sequences.py` sends and compares them. The server's own answers
//! come from a copy of the database, reached past Weir.

use std::{
    env, fs,
    process::{Command, Output},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xtask::world::{ADDRESS6, Settings};

use crate::support::{Stage, python, script};

/// Sessions of one seed.
const SESSIONS: &str = "300";
/// Of how many of them the record is held against what the client saw.
const REPLAYED: &str = "100";

/// Longer by hand: `WEIR_SEEDS=2..50 cargo test -p weir --features e2e --test e2e random_sequences`.
#[test]
fn random_sequences_of_messages_mean_the_same_through_weir() -> Result<()> {
    let seeds = env::var("WEIR_SEEDS").unwrap_or_else(|_| "1..2".to_owned());
    let (first, end) = seeds.split_once("..").context("seeds are a range")?;
    let stage = stage()?;
    let mut wrong = String::new();
    for seed in first.parse::<u32>()?..end.parse()? {
        let compared = compare(&stage, &seed.to_string())?;
        let told = String::from_utf8_lossy(&compared.stdout);
        println!("{told}");
        if !compared.status.success() {
            wrong += &told;
            wrong += &String::from_utf8_lossy(&compared.stderr);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let verified = stage.weir.cli(&["audit", "verify", "--all"])?;
    assert!(verified.ok(), "{verified:?}");
    Ok(())
}

/// A server that lets the test in past Weir, to a second database like the first.
fn stage() -> Result<Stage> {
    let settings = Settings {
        hba: format!("host direct weir_agents {ADDRESS6}/128 trust"),
        ..Settings::default()
    };
    Stage::with(&settings, |world, setup| {
        for sql in [
            "CREATE TABLE ledger (tag text NOT NULL)",
            "ALTER TABLE ledger OWNER TO weir_agents",
            "CREATE DATABASE direct TEMPLATE app OWNER weir_agents",
        ] {
            world.postgres().sql(sql)?;
        }
        Ok(setup)
    })
}

/// Runs a seed's sessions on both sides, and compares what was said, done and recorded.
fn compare(stage: &Stage, seed: &str) -> Result<Output> {
    let client = script("sequences.py");
    let run = |side| ["-B", &client, "run", side, seed, SESSIONS];
    let mut beside = past(stage, &python());
    beside.args(run("direct"));
    let (through, direct) = thread::scope(|scope| {
        let direct = scope.spawn(|| beside.output());
        (stage.agent.run(&python(), &run("through")), direct.join())
    });
    let (through, direct) = (through?, direct.expect("it doesn't panic")?);
    ensure!(
        through.ok() && direct.status.success(),
        "{through:?} {direct:?}"
    );
    let told = [
        through.stdout,
        String::from_utf8(direct.stdout)?,
        records(stage)?,
        ledgers(stage)?,
    ];
    let mut compare = past(stage, &python());
    compare.args(["-B", &client, "compare", seed]);
    for (i, text) in told.iter().enumerate() {
        let path = stage.world.dir().join(format!("told-{i}"));
        fs::write(&path, text)?;
        compare.arg(path);
    }
    Ok(compare.output()?)
}

/// A command that reaches the second database as Weir does the first.
fn past(stage: &Stage, program: &str) -> Command {
    let mut command = stage.world.outside(program);
    command.env("PGHOST", ADDRESS6).env("PGDATABASE", "direct");
    command
}

/// The records of the newest sessions.
fn records(stage: &Stage) -> Result<String> {
    let listed = stage
        .weir
        .cli(&["sessions", "--json", "--limit", REPLAYED])?;
    let mut events = String::new();
    for line in listed.stdout.lines() {
        let session: Value = serde_json::from_str(line)?;
        let id = session["id"].as_str().context("an id")?;
        let replay = stage.weir.cli(&["replay", id, "--json"])?;
        ensure!(replay.ok(), "{replay:?}");
        events += &replay.stdout;
        events.push('\n');
    }
    Ok(events)
}

/// What was committed in both databases.
fn ledgers(stage: &Stage) -> Result<String> {
    let query = |side| format!("SELECT '{side} ' || tag FROM ledger");
    let through = stage.world.postgres().sql(&query("through"))?;
    let direct = past(stage, "psql")
        .args(["-XAtc", &query("direct")])
        .output()?;
    Ok(format!("{through}\n{}", String::from_utf8(direct.stdout)?))
}
