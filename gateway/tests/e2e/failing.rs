//! When something breaks, the agent has no database; it never has one without Weir.

use std::time::Duration;

use anyhow::Result;
use xtask::world::{Settings, Setup};

use crate::support::{POLICY, SmallDisk, Stage, client_in_background, refusal, until};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn killed_under_load_weir_leaves_agents_refused_and_journals_whole_and_takes_over_again()
-> Result<()> {
    let mut stage = Stage::new()?;
    let load = ["-n", "-S", "-c", "4", "-T", "60", "-M", "prepared"];
    let mut load = stage.agent.start("pgbench", &load)?;
    let statements = "SELECT coalesce(sum(seq_scan + idx_scan), 0) > 5000 \
        FROM pg_stat_user_tables WHERE relname = 'pgbench_accounts'";
    let postgres = stage.world.postgres();
    until("the load runs", || {
        postgres.sql(statements).is_ok_and(|many| many == "t")
    })?;

    stage.weir.kill()?;
    assert!(!load.wait(Duration::from_secs(10))?.success());
    let refused = stage.agent.psql("SELECT 1")?;
    assert!(refused.stderr.contains("Connection refused"), "{refused:?}");
    let verified = stage.weir.cli(&["audit", "verify", "--all"])?;
    assert!(verified.ok(), "{verified:?}");

    stage.weir.restart()?;
    let again = stage.agent.psql("SELECT ssn FROM customers WHERE id = 1")?;
    assert_eq!(again.stdout, "*******6789", "{again:?}");
    let verified = stage.weir.cli(&["audit", "verify", "--all"])?;
    assert!(verified.ok(), "{verified:?}");
    Ok(())
}

#[test]
fn without_its_upstream_a_session_is_refused_with_57p03() -> Result<()> {
    // Nobody listens there.
    let stage = Stage::with(&Settings::default(), |_, mut setup| {
        setup.hosts.push("10.77.0.1:6000".to_owned());
        Ok(setup)
    })?;
    let told = refusal(&stage.agent, &[("PGPORT", "6000")])?;
    assert!(told.starts_with("FATAL 57P03"), "{told}");
    assert!(refusal(&stage.agent, &[])? == "accepted");
    Ok(())
}

#[test]
fn a_wrong_credential_is_weirs_trouble_and_no_secret_of_the_agents_message() -> Result<()> {
    let stage = Stage::with(&Settings::default(), |_, setup| {
        Ok(Setup {
            password: "wrong-secret".to_owned(),
            ..setup
        })
    })?;
    let told = refusal(&stage.agent, &[])?;
    assert!(told.starts_with("FATAL 28000"), "{told}");
    assert!(
        !told.contains("weir_agents") && !told.contains("wrong-secret"),
        "{told}"
    );
    assert!(
        !stage.weir.log().contains("wrong-secret"),
        "the log has the password"
    );
    Ok(())
}

#[test]
fn a_full_disk_ends_sessions_and_refuses_new_ones() -> Result<()> {
    let mut disk = None;
    let stage = Stage::with(&Settings::default(), |world, mut setup| {
        let small = SmallDisk::mount(world.dir().join("small"))?;
        setup.state = Some(small.state());
        disk = Some(small);
        Ok(setup)
    })?;
    let mut session = client_in_background(
        &stage.agent,
        "repeat.py",
        &["SELECT label FROM plain LIMIT 500"],
    )?;
    session.until_says("running", MINUTE)?;
    if let Some(disk) = &disk {
        disk.fill()?;
    }
    session.until_says("ended", MINUTE)?;
    assert!(session.output().contains("closed"), "{}", session.output());
    let told = refusal(&stage.agent, &[])?;
    assert!(told.starts_with("FATAL 57P03"), "{told}");
    drop(stage);
    drop(disk);
    Ok(())
}

#[test]
fn a_new_policy_judges_open_sessions_from_their_next_execute() -> Result<()> {
    let stage = Stage::new()?;
    let mut session = client_in_background(&stage.agent, "repeat.py", &["SELECT id FROM orders"])?;
    session.until_says("running", MINUTE)?;
    let rule = "\n[[rule]]\nname = \"closed\"\neffects = [\"read\"]\n\
        objects = [\"public.orders\"]\ndecision = \"deny\"\nmessage = \"orders are closed\"\n";
    stage.weir.replace_policy(&format!("{POLICY}{rule}"))?;
    session.until_says("ended 42501 open", MINUTE)?;
    assert!(
        session.output().contains("orders are closed"),
        "{}",
        session.output()
    );
    Ok(())
}

#[test]
fn an_invalid_policy_keeps_the_old_one() -> Result<()> {
    let stage = Stage::new()?;
    stage
        .weir
        .replace_policy("version = 1\n[[rule]]\nnmae = \"typo\"\n")?;
    until("the log tells of it", || stage.weir.log().contains("nmae"))?;
    let seen = stage
        .agent
        .psql("DROP TABLE orders;\nSELECT ssn FROM customers WHERE id = 1;")?;
    assert_eq!(seen.stdout, "*******6789", "{seen:?}");
    assert!(seen.stderr.contains("42501"), "{seen:?}");
    Ok(())
}

#[test]
fn sigterm_lets_the_running_statement_finish() -> Result<()> {
    let mut stage = Stage::new()?;
    let mut running = stage
        .agent
        .start("psql", &["-XAt", "-c", "SELECT 'done', pg_sleep(2)"])?;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(2)'";
    let postgres = stage.world.postgres();
    until("the statement runs", || {
        postgres.sql(sleeping).is_ok_and(|count| count == "1")
    })?;
    let drained = stage.weir.drain(Duration::from_secs(20))?;
    assert!(drained.success(), "{}", stage.weir.log());
    assert!(
        running.wait(Duration::from_secs(1))?.success(),
        "{}",
        running.output()
    );
    // What follows is that its session was ended.
    assert!(running.output().contains("done|"), "{}", running.output());
    let refused = stage.agent.psql("SELECT 1")?;
    assert!(refused.stderr.contains("Connection refused"), "{refused:?}");
    Ok(())
}
