//! The drivers that agents use, unchanged. Each script checks what it sees and says `ok`.

use anyhow::Result;

use crate::support::{Stage, client, script};

fn passes(name: &str) -> Result<()> {
    let stage = Stage::new()?;
    let seen = client(&stage.agent, name, &[])?;
    assert!(seen.ok() && seen.stdout.ends_with("ok"), "{name}: {seen:?}");
    Ok(())
}

#[test]
fn psycopg_works_unchanged() -> Result<()> {
    passes("psycopg3.py")
}

#[test]
fn asyncpg_works_unchanged() -> Result<()> {
    passes("asyncpg_client.py")
}

#[test]
fn pg8000_works_unchanged() -> Result<()> {
    passes("pg8000_client.py")
}

#[test]
fn node_postgres_works_unchanged() -> Result<()> {
    let stage = Stage::new()?;
    let seen = stage.agent.run("node", &[script("node_postgres.js")])?;
    assert!(seen.ok() && seen.stdout.ends_with("ok"), "{seen:?}");
    Ok(())
}
