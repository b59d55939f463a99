//! Many agents, slow clients, and what is left on record of them.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;
use xtask::world::Network;

use crate::support::{Stage, client, client_in_background};

#[test]
fn two_agents_at_once_are_each_judged_as_themselves() -> Result<()> {
    let stage = Stage::new()?;
    let mut analyst = stage.world.agent("analyst", Network::OnlyLo)?;
    analyst.settle()?;
    let sql = "SELECT ssn FROM customers WHERE id = 1";
    let (masked, clear) = thread::scope(|scope| {
        let coder = scope.spawn(|| {
            (0..10)
                .map(|_| stage.agent.psql(sql))
                .collect::<Result<Vec<_>>>()
        });
        let clear = (0..10)
            .map(|_| analyst.psql(sql))
            .collect::<Result<Vec<_>>>();
        (coder.join().unwrap(), clear)
    });
    assert!(masked?.iter().all(|seen| seen.stdout == "*******6789"));
    assert!(clear?.iter().all(|seen| seen.stdout == "123-45-6789"));
    let seen = analyst.psql("UPDATE orders SET paid = true WHERE id = 1")?;
    assert!(seen.stderr.contains("42501"), "{seen:?}");
    Ok(())
}

#[test]
fn a_client_that_does_not_read_costs_no_memory() -> Result<()> {
    let stage = Stage::new()?;
    stage.agent.psql("SELECT 1")?;
    let before = stage.weir.process().resident()?;
    let mut slow = client_in_background(&stage.agent, "slow.py", &[])?;
    slow.until_says("first row", Duration::from_secs(60))?;
    thread::sleep(Duration::from_secs(2));
    let grown = stage.weir.process().resident()?.saturating_sub(before);
    assert!(
        grown < 16 << 20,
        "half a gigabyte waits, and Weir grew by {grown} bytes"
    );
    Ok(())
}

#[test]
fn binary_parameters_are_replayed_as_values() -> Result<()> {
    let stage = Stage::new()?;
    let ran = client(&stage.agent, "asyncpg_client.py", &[])?;
    assert!(ran.ok(), "{ran:?}");
    let listed = stage.weir.cli(&["sessions", "--json"])?;
    let line = listed.stdout.lines().last().context("a session")?;
    let session: Value = serde_json::from_str(line)?;
    let id = session["id"].as_str().context("an id")?;
    let replayed = stage.weir.cli(&["replay", id])?;
    assert!(replayed.stdout.contains("$1 = 50\n"), "{replayed:?}");
    assert!(replayed.stdout.contains("label 50"), "{replayed:?}");
    Ok(())
}

#[test]
fn a_session_is_listed_replayed_and_verified() -> Result<()> {
    let stage = Stage::new()?;
    stage
        .agent
        .psql("SELECT ssn FROM customers WHERE id = 1;\nDROP TABLE orders;")?;

    let listed = stage.weir.cli(&["sessions", "--json"])?;
    let first = listed
        .stdout
        .lines()
        .next()
        .context("a session is listed")?;
    let session: Value = serde_json::from_str(first)?;
    let id = session["id"]
        .as_str()
        .with_context(|| format!("an id in {session}"))?;
    assert_eq!(session["agent"], "coder", "{session}");

    let replayed = stage.weir.cli(&["replay", id])?;
    assert!(replayed.ok(), "{replayed:?}");
    for expected in [
        "SELECT ssn FROM customers",
        "*******6789",
        "DROP TABLE orders",
        "no-ddl",
    ] {
        assert!(
            replayed.stdout.contains(expected),
            "{expected}: {replayed:?}"
        );
    }
    assert!(!replayed.stdout.contains("123-45-6789"), "{replayed:?}");
    let verified = stage.weir.cli(&["audit", "verify", id])?;
    assert!(verified.ok(), "{verified:?}");
    Ok(())
}

#[test]
fn a_journal_that_was_tampered_with_does_not_verify() -> Result<()> {
    let stage = Stage::new()?;
    stage.agent.psql("SELECT 'something to remember'")?;
    let listed = stage.weir.cli(&["sessions", "--json"])?;
    let session: Value = serde_json::from_str(listed.stdout.lines().next().context("a session")?)?;
    let id = session["id"].as_str().context("an id")?;
    let mut days = fs::read_dir(stage.weir.state().join("journal"))?.flatten();
    let journal = days
        .find_map(|day| Some(day.path().join(format!("{id}.weir"))).filter(|path| path.exists()))
        .context("its journal")?;
    let mut bytes = fs::read(&journal)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&journal, bytes)?;
    let verified = stage.weir.cli(&["audit", "verify", id])?;
    assert_eq!(verified.status.code(), Some(1), "{verified:?}");
    Ok(())
}

#[test]
fn the_doctor_finds_a_working_host_well() -> Result<()> {
    let stage = Stage::new()?;
    let seen = stage.weir.cli(&["doctor"])?;
    assert!(seen.ok(), "{seen:?}");
    Ok(())
}
