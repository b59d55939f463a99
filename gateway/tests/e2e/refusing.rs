//! What is refused, how that looks to a client, and that none of it reaches the server.

use std::time::Instant;

use anyhow::Result;
use xtask::world::Network;

use crate::support::{Stage, client, refusal, until};

#[test]
fn a_refused_statement_never_reaches_the_server_and_the_session_goes_on() -> Result<()> {
    let stage = Stage::watched()?;
    let seen = stage
        .agent
        .psql("DROP TABLE orders;\nSELECT count(*) FROM orders;")?;
    assert_eq!(seen.stdout, "4", "{seen:?}");
    assert!(seen.stderr.contains("42501"), "{seen:?}");
    assert!(seen.stderr.contains("no-ddl"), "{seen:?}");
    assert!(
        seen.stderr.contains("schema changes go through migrations"),
        "{seen:?}"
    );
    assert!(
        !stage.world.postgres().log().contains("DROP TABLE"),
        "it reached the server"
    );
    Ok(())
}

#[test]
fn an_update_or_delete_of_all_rows_is_refused_and_one_of_some_is_not() -> Result<()> {
    let stage = Stage::new()?;
    let script = "UPDATE orders SET paid = true;\nDELETE FROM orders;\n\
        UPDATE orders SET paid = true WHERE id = 2;\nSELECT count(*) FROM orders WHERE paid;";
    let seen = stage.agent.psql(script)?;
    assert_eq!(seen.stdout, "3", "{seen:?}");
    assert_eq!(seen.stderr.matches("42501").count(), 2, "{seen:?}");
    assert!(seen.stderr.contains("say which rows"), "{seen:?}");
    Ok(())
}

#[test]
fn what_no_rule_allows_is_refused() -> Result<()> {
    let stage = Stage::new()?;
    let script = "TRUNCATE scratch;\nDO $$ BEGIN END $$;\nVACUUM scratch;\nSELECT 'after';";
    let seen = stage.agent.psql(script)?;
    assert_eq!(seen.stdout, "after", "{seen:?}");
    assert_eq!(seen.stderr.matches("42501").count(), 3, "{seen:?}");
    Ok(())
}

#[test]
fn one_refused_statement_refuses_its_whole_batch() -> Result<()> {
    let stage = Stage::new()?;
    let batch = "INSERT INTO scratch VALUES (1, 'x'); DROP TABLE orders; SELECT 1";
    let seen = stage.agent.run("psql", &["-X", "-c", batch])?;
    assert!(
        seen.stderr.contains("schema changes go through migrations"),
        "{seen:?}"
    );
    assert_eq!(
        stage.world.postgres().sql("SELECT count(*) FROM scratch")?,
        "0"
    );
    Ok(())
}

#[test]
fn a_refusal_fails_the_transaction_upstream_and_rolling_back_to_a_savepoint_mends_it() -> Result<()>
{
    let stage = Stage::watched()?;
    let script = "BEGIN;\nINSERT INTO scratch VALUES (1, 'lost');\nDROP TABLE orders;\n\
        SELECT 'not in a failed transaction';\nCOMMIT;\n\
        BEGIN;\nINSERT INTO scratch VALUES (2, 'kept');\nSAVEPOINT s;\nDROP TABLE orders;\n\
        ROLLBACK TO s;\nINSERT INTO scratch VALUES (3, 'kept');\nCOMMIT;\n\
        SELECT string_agg(id::text, ',' ORDER BY id) FROM scratch;";
    let seen = stage.agent.psql(script)?;
    assert_eq!(seen.stdout, "2,3", "{seen:?}");
    assert_eq!(seen.stderr.matches("42501").count(), 2, "{seen:?}");
    assert!(seen.stderr.contains("25P02"), "{seen:?}");
    assert!(
        !stage.world.postgres().log().contains("DROP TABLE"),
        "it reached the server"
    );
    Ok(())
}

#[test]
fn a_statement_that_two_parsers_read_differently_is_refused() -> Result<()> {
    let stage = Stage::new()?;
    let hidden = "COPY scratch FROM STDIN; DROP TABLE orders";
    let seen = stage.agent.run("psql", &["-X", "-c", hidden])?;
    assert!(!seen.ok(), "{seen:?}");
    let seen = stage
        .agent
        .psql("SELECT INTO stolen FROM customers;\nSELECT 'after';")?;
    assert!(
        seen.stderr.contains("42501") && seen.stdout == "after",
        "{seen:?}"
    );
    let left = "SELECT to_regclass('orders') IS NOT NULL, to_regclass('stolen') IS NULL";
    assert_eq!(stage.world.postgres().sql(left)?, "t|t");
    Ok(())
}

#[test]
fn functions_that_reach_around_the_rules_are_refused() -> Result<()> {
    let stage = Stage::new()?;
    for sql in [
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT set_config('standard_conforming_strings', 'off', false)",
        "SELECT query_to_xml('SELECT ssn FROM customers', true, true, '')",
        "SELECT lo_import('/etc/passwd')",
        "SET standard_conforming_strings = off",
        "COPY scratch FROM PROGRAM 'id'",
    ] {
        let seen = stage.agent.psql(sql)?;
        assert!(seen.stderr.contains("42501"), "{sql}: {seen:?}");
    }
    Ok(())
}

#[test]
fn more_rows_than_the_limit_end_the_statement_with_54000() -> Result<()> {
    let stage = Stage::new()?;
    let mut analyst = stage.world.agent("analyst", Network::OnlyLo)?;
    analyst.settle()?;
    let within = analyst.psql("SELECT id FROM plain WHERE id <= 100")?;
    assert_eq!(within.stdout.lines().count(), 100, "{within:?}");
    let over = analyst.psql("SELECT id FROM plain;")?;
    assert!(over.stderr.contains("54000"), "{over:?}");
    assert!(over.stdout.lines().count() <= 100, "{over:?}");
    Ok(())
}

#[test]
fn an_unknown_agent_is_refused_with_28000() -> Result<()> {
    let stage = Stage::new()?;
    let mut stranger = stage.world.agent("stranger", Network::OnlyLo)?;
    stranger.settle()?;
    let told = refusal(&stranger, &[])?;
    assert!(told.starts_with("FATAL 28000"), "{told}");
    Ok(())
}

#[test]
fn start_ups_that_fail_fill_no_log() -> Result<()> {
    let stage = Stage::new()?;
    let script = "import os, socket\n\
        to = (os.environ['PGHOST'], int(os.environ['PGPORT']))\n\
        for _ in range(2000):\n    \
            with socket.create_connection(to) as s: s.send(b'GET / HTTP/1.1\\r\\n\\r\\n')\n";
    let begin = Instant::now();
    let seen = stage.agent.run("python3", &["-c", script])?;
    assert!(seen.ok(), "{seen:?}");
    until("the log tells that it stops", || {
        stage.weir.log().contains("such lines a second")
    })?;
    let lines = stage.weir.log().matches("start-up failed").count();
    let seconds = begin.elapsed().as_secs() as usize + 2;
    assert!(lines <= 20 * seconds, "{lines} in {seconds} s");
    Ok(())
}

#[test]
fn a_database_that_the_datastore_does_not_list_is_refused() -> Result<()> {
    let stage = Stage::new()?;
    let told = refusal(&stage.agent, &[("PGDATABASE", "postgres")])?;
    assert!(told.starts_with("FATAL "), "{told}");
    assert!(
        !told.contains(" 08") && !told.contains(" 40"),
        "a driver would retry: {told}"
    );
    Ok(())
}

#[test]
fn replication_is_refused() -> Result<()> {
    let stage = Stage::new()?;
    let args = [
        "-X",
        "-d",
        "dbname=app replication=database",
        "-c",
        "IDENTIFY_SYSTEM",
    ];
    let seen = stage.agent.run("psql", &args)?;
    assert!(!seen.ok() && seen.stderr.contains("FATAL"), "{seen:?}");
    Ok(())
}

#[test]
fn a_client_of_another_protocol_is_told_so() -> Result<()> {
    let stage = Stage::new()?;
    let told = client(&stage.agent, "old_protocol.py", &[])?;
    assert!(told.stdout.starts_with("FATAL 0A000"), "{told:?}");
    assert!(told.stdout.contains("2.0"), "{told:?}");
    Ok(())
}
