//! psql, the way people and agents use it.

use anyhow::Result;
use nix::sys::signal::Signal;
use std::time::Duration;
use xtask::world::{ADDRESS6, Network};

use crate::support::{Stage, until};

#[test]
fn a_query_is_answered_over_ipv4_ipv6_and_v4_mapped_addresses() -> Result<()> {
    let stage = Stage::new()?;
    for host in ["10.77.0.1", ADDRESS6, "::ffff:10.77.0.1"] {
        let seen = stage.agent.psql_with(
            "SELECT name FROM customers WHERE id = 2",
            &[("PGHOST", host)],
        )?;
        assert_eq!(seen.stdout, "Grace Hopper", "{host}: {seen:?}");
    }
    Ok(())
}

#[test]
fn an_agent_in_the_hosts_namespace_is_intercepted_too() -> Result<()> {
    let stage = Stage::new()?;
    let mut agent = stage.world.agent("coder", Network::Host)?;
    agent.settle()?;
    let seen = agent.psql("SELECT ssn FROM customers WHERE id = 1")?;
    assert_eq!(seen.stdout, "*******6789", "{seen:?}");
    Ok(())
}

#[test]
fn weir_logs_in_as_itself_whatever_the_agent_claims() -> Result<()> {
    let stage = Stage::new()?;
    let claims = [("PGUSER", "postgres"), ("PGPASSWORD", "")];
    let seen = stage.agent.psql_with("SELECT current_user", &claims)?;
    assert_eq!(seen.stdout, "weir_agents", "{seen:?}");
    Ok(())
}

#[test]
fn errors_and_notices_arrive_as_the_server_made_them() -> Result<()> {
    let stage = Stage::new()?;
    let script = "SELECT 1 / 0;\nSELECT nothing FROM plain;\nROLLBACK;\nSELECT 'after';";
    let seen = stage.agent.psql(script)?;
    assert_eq!(seen.stdout, "after", "{seen:?}");
    assert!(seen.stderr.contains("22012: division by zero"), "{seen:?}");
    assert!(
        seen.stderr
            .contains("42703: column \"nothing\" does not exist"),
        "{seen:?}"
    );
    assert!(seen.stderr.contains("WARNING:  25P01"), "{seen:?}");
    Ok(())
}

#[test]
fn describing_a_statement_uses_the_extended_protocol_and_works() -> Result<()> {
    let stage = Stage::new()?;
    let seen = stage.agent.psql("SELECT id, label FROM plain \\gdesc")?;
    assert_eq!(seen.stdout, "id|integer\nlabel|text", "{seen:?}");
    Ok(())
}

#[test]
fn prepared_statements_of_sql_are_judged_and_run() -> Result<()> {
    let stage = Stage::new()?;
    let script = "PREPARE p(int) AS SELECT label FROM plain WHERE id = $1;\nEXECUTE p(7);";
    let seen = stage.agent.psql(script)?;
    assert_eq!(seen.stdout, "label 7", "{seen:?}");
    Ok(())
}

#[test]
fn copy_goes_both_ways() -> Result<()> {
    let stage = Stage::new()?;
    let script = "COPY scratch FROM STDIN;\n1\tone\n2\ttwo\n\\.\n\
        COPY scratch TO STDOUT;\nCOPY (SELECT note FROM scratch WHERE id = 2) TO STDOUT;";
    let seen = stage.agent.psql(script)?;
    assert_eq!(seen.stdout, "1\tone\n2\ttwo\ntwo", "{seen:?}");
    assert_eq!(
        stage.world.postgres().sql("SELECT count(*) FROM scratch")?,
        "2"
    );
    Ok(())
}

#[test]
fn a_copy_that_the_server_refuses_leaves_a_session_that_works() -> Result<()> {
    let stage = Stage::new()?;
    let script = "COPY scratch FROM STDIN;\nnot a number\tone\n\\.\nSELECT 'after';";
    let seen = stage.agent.psql(script)?;
    assert_eq!(seen.stdout, "after", "{seen:?}");
    assert!(seen.stderr.contains("22P02"), "{seen:?}");
    Ok(())
}

#[test]
fn describing_a_table_with_keys_and_masked_columns_works() -> Result<()> {
    let stage = Stage::new()?;
    // With the footers, which list the keys.
    let script = "\\pset tuples_only off\n\\d customers\n\\d+ orders\n\\db\n\\dP+";
    let seen = stage.agent.psql(script)?;
    assert_eq!(seen.stderr, "", "{seen:?}");
    assert!(seen.stdout.contains("orders_customer_id_fkey"), "{seen:?}");
    let seen = stage.agent.psql("EXPLAIN SELECT ssn FROM customers")?;
    assert!(seen.stdout.contains("Seq Scan on customers"), "{seen:?}");
    Ok(())
}

#[test]
fn a_notification_reaches_its_listener() -> Result<()> {
    let stage = Stage::new()?;
    // Something is masked for the one, and nothing for the other.
    let mut analyst = stage.world.agent("analyst", Network::OnlyLo)?;
    analyst.settle()?;
    for (agent, carried) in [
        (&stage.agent, "received"),
        (&analyst, "with payload \"hello\""),
    ] {
        let seen = agent.psql("LISTEN news;\nNOTIFY news, 'hello';\nSELECT 1;")?;
        let expected = format!("Asynchronous notification \"news\" {carried}");
        assert!(seen.stdout.contains(&expected), "{seen:?}");
    }
    Ok(())
}

#[test]
fn a_cursor_gives_its_rows_in_pieces() -> Result<()> {
    let stage = Stage::new()?;
    let script = "BEGIN;\nDECLARE c CURSOR FOR SELECT id FROM plain ORDER BY id;\n\
        FETCH 2 FROM c;\nFETCH 1 FROM c;\nCLOSE c;\nCOMMIT;\n\
        \\set FETCH_COUNT 3\nSELECT id FROM plain WHERE id <= 5 ORDER BY id;";
    let seen = stage.agent.psql(script)?;
    assert_eq!(seen.stdout, "1\n2\n3\n1\n2\n3\n4\n5", "{seen:?}");
    Ok(())
}

#[test]
fn cancelling_stops_the_statement_and_only_for_its_own_agent() -> Result<()> {
    let stage = Stage::new()?;
    let mut sleeper = stage
        .agent
        .start("psql", &["-X", "-c", "SELECT pg_sleep(60)"])?;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'";
    let postgres = stage.world.postgres();
    until("the statement runs", || {
        postgres.sql(sleeping).is_ok_and(|count| count == "1")
    })?;
    sleeper.signal(Signal::SIGINT)?;
    let status = sleeper.wait(Duration::from_secs(10))?;
    assert!(!status.success());
    assert!(
        sleeper
            .output()
            .contains("canceling statement due to user request")
    );
    Ok(())
}

#[test]
fn nothing_of_an_implicit_transaction_stays_that_exceeded_a_limit() -> Result<()> {
    let stage = Stage::new()?;
    let file = stage.world.dir().join("over.sql");
    let lines = "INSERT INTO scratch VALUES (1, 'a');\nSELECT * FROM pgbench_tellers;\n";
    std::fs::write(&file, format!("\\startpipeline\n{lines}\\endpipeline\n"))?;
    let file = file.display().to_string();
    let args = ["-n", "-c", "1", "-t", "1", "-M", "extended", "-f", &file];
    let seen = stage.agent.run("pgbench", &args)?;
    assert!(seen.stderr.contains("limit"), "{seen:?}");
    let postgres = stage.world.postgres();
    assert_eq!(postgres.sql("SELECT count(*) FROM scratch")?, "0");
    Ok(())
}

#[test]
fn pgbench_runs_in_every_protocol() -> Result<()> {
    let stage = Stage::new()?;
    for protocol in ["simple", "extended", "prepared"] {
        let args = ["-n", "-S", "-c", "4", "-t", "100", "-M", protocol];
        let seen = stage.agent.run("pgbench", &args)?;
        let all = "number of transactions actually processed: 400/400";
        assert!(
            seen.ok() && seen.stdout.contains(all),
            "{protocol}: {seen:?}"
        );
    }
    Ok(())
}

#[test]
fn pgbench_runs_pipelines() -> Result<()> {
    let stage = Stage::new()?;
    let file = stage.world.dir().join("pipeline.sql");
    let line = "SELECT label FROM plain WHERE id = 1;\n";
    std::fs::write(
        &file,
        format!("\\startpipeline\n{}\\endpipeline\n", line.repeat(20)),
    )?;
    let file = file.display().to_string();
    let args = ["-n", "-c", "2", "-t", "50", "-M", "prepared", "-f", &file];
    let seen = stage.agent.run("pgbench", &args)?;
    assert!(
        seen.ok() && seen.stdout.contains("processed: 100/100"),
        "{seen:?}"
    );
    Ok(())
}
