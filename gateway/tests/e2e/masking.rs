//! Masked columns: what is shown, and that there is no way to the rest.

use anyhow::Result;

use crate::support::{Stage, client};

#[test]
fn a_masked_column_is_masked_however_it_is_selected() -> Result<()> {
    let stage = Stage::new()?;
    for sql in [
        "SELECT ssn FROM customers WHERE id = 1",
        "SELECT s FROM (SELECT ssn AS s FROM customers WHERE id = 1) x",
        "WITH c AS (SELECT * FROM customers) SELECT ssn FROM c WHERE id = 1",
        "SELECT ssn FROM customer_names WHERE id = 1",
        "SELECT U&\"s\\0073n\" FROM customers WHERE id = 1",
        "UPDATE customers SET vip = true WHERE id = 1 RETURNING ssn",
    ] {
        let seen = stage.agent.psql(sql)?;
        assert_eq!(seen.stdout, "*******6789", "{sql}: {seen:?}");
    }
    Ok(())
}

#[test]
fn what_is_not_masked_arrives_as_it_is() -> Result<()> {
    let stage = Stage::new()?;
    let seen = stage
        .agent
        .psql("SELECT * FROM customers ORDER BY id LIMIT 1")?;
    assert_eq!(
        seen.stdout, "1|Ada Lovelace|ada@example.com|*******6789|t",
        "{seen:?}"
    );
    let sql = "SELECT md5(string_agg(t::text, '' ORDER BY id)) FROM plain t";
    let seen = stage.agent.psql(sql)?;
    assert_eq!(seen.stdout, stage.world.postgres().sql(sql)?, "{seen:?}");
    Ok(())
}

#[test]
fn nothing_derived_from_a_masked_column_is_shown() -> Result<()> {
    let stage = Stage::new()?;
    for sql in [
        "SELECT upper(ssn) FROM customers",
        "SELECT ssn || '' FROM customers",
        "SELECT ssn::bytea FROM customers",
        "SELECT c FROM customers c",
        "SELECT row_to_json(c) FROM customers c",
        "SELECT max(ssn) FROM customers",
        "SELECT (SELECT ssn FROM customers LIMIT 1)",
        "SELECT ssn FROM customers UNION SELECT ''",
        "SELECT 1 FROM customers WHERE ssn LIKE '123%'",
        "SELECT id FROM customers ORDER BY ssn",
        "SELECT count(*) FROM customers GROUP BY ssn",
        "SELECT 1 / (CASE WHEN ssn > '5' THEN 0 ELSE 1 END) FROM customers",
        "SELECT ssn::int FROM customers",
        "INSERT INTO scratch SELECT id, ssn FROM customers",
        "UPDATE scratch s SET note = c.ssn FROM customers c WHERE c.id = s.id",
        "COPY customers TO STDOUT",
        "COPY (SELECT ssn FROM customers) TO STDOUT",
        "EXPLAIN ANALYZE SELECT ssn FROM customers",
        "SELECT histogram_bounds FROM pg_stats WHERE attname = 'ssn'",
        "SELECT attmissingval::text FROM pg_attribute WHERE attname = 'ssn'",
    ] {
        let seen = stage.agent.psql(sql)?;
        assert!(seen.stderr.contains("42501"), "{sql}: {seen:?}");
        for value in ["123-45", "987-65", "555-12"] {
            let shown = seen.stdout.contains(value) || seen.stderr.contains(value);
            assert!(!shown, "{sql} shows {value}: {seen:?}");
        }
    }
    Ok(())
}

#[test]
fn an_error_about_a_masked_row_tells_nothing_of_it() -> Result<()> {
    let stage = Stage::new()?;
    // The server's DETAIL would have the whole row.
    let sql = "INSERT INTO customers SELECT id, name, email, 'x' FROM customers WHERE id = 1;\n\
        UPDATE customers SET name = NULL WHERE id = 1 RETURNING ssn;";
    let seen = stage.agent.psql(sql)?;
    assert!(!seen.stderr.is_empty(), "{seen:?}");
    assert!(!seen.stderr.contains("123-45-6789"), "{seen:?}");
    Ok(())
}

#[test]
fn an_error_about_a_masked_row_that_a_foreign_key_reached_tells_nothing_of_it() -> Result<()> {
    let stage = Stage::new()?;
    let linked = "CREATE TABLE accounts (id integer PRIMARY KEY); INSERT INTO accounts VALUES (1); \
        ALTER TABLE customers ADD account integer NOT NULL DEFAULT 1 \
        REFERENCES accounts ON DELETE SET NULL; \
        ALTER TABLE accounts OWNER TO weir_agents";
    stage.world.postgres().sql(linked)?;
    // The server's DETAIL would have a whole row of customers, which the statement doesn't name.
    let seen = stage.agent.psql("DELETE FROM accounts WHERE id = 1")?;
    assert!(seen.stderr.contains("23502"), "{seen:?}");
    assert!(!seen.stderr.contains("123-45-6789"), "{seen:?}");
    Ok(())
}

#[test]
fn what_a_trigger_says_of_a_masked_table_is_not_told() -> Result<()> {
    let stage = Stage::new()?;
    let triggered = "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        RAISE NOTICE 'notice of %', (SELECT ssn FROM customers WHERE id = 1); \
        IF NEW.id > 100 THEN \
        RAISE 'error about %', (SELECT ssn FROM customers WHERE id = 1); \
        END IF; RETURN NEW; END $$; \
        CREATE TRIGGER tell BEFORE INSERT ON scratch FOR EACH ROW EXECUTE FUNCTION tell()";
    stage.world.postgres().sql(triggered)?;
    let seen = stage
        .agent
        .psql("INSERT INTO scratch VALUES (7, 'x'); INSERT INTO scratch VALUES (107, 'x')")?;
    assert!(seen.stderr.contains("P0001"), "{seen:?}");
    assert!(seen.stderr.contains("NOTICE"), "{seen:?}");
    assert!(!seen.stderr.contains("123-45-6789"), "{seen:?}");
    Ok(())
}

#[test]
fn names_that_come_to_mean_something_else_show_nothing() -> Result<()> {
    let stage = Stage::new()?;
    let meanings = "CREATE SCHEMA vault; CREATE SCHEMA tenant; \
        CREATE TABLE accounts AS SELECT 1 AS id; CREATE TABLE vault.accounts AS SELECT 666 AS id; \
        CREATE TABLE tenant.customers AS SELECT 1 AS id, 'tenant-ssn'::text AS ssn; \
        GRANT USAGE ON SCHEMA vault, tenant TO weir_agents; \
        GRANT SELECT ON accounts, vault.accounts, tenant.customers TO weir_agents; \
        CREATE VIEW vips AS SELECT id, name, vip FROM customers WHERE vip WITH CHECK OPTION; \
        ALTER VIEW vips OWNER TO weir_agents; \
        CREATE FUNCTION purge(orders) RETURNS text LANGUAGE sql AS 'SELECT ''purged''::text'";
    stage.world.postgres().sql(meanings)?;
    let seen = client(&stage.agent, "meanings.py", &[])?;
    assert!(seen.ok() && seen.stdout.ends_with("ok"), "{seen:?}");
    Ok(())
}

#[test]
fn many_masked_rows_are_each_masked() -> Result<()> {
    let stage = Stage::new()?;
    let seen = stage
        .agent
        .psql("SELECT id, secret FROM wide ORDER BY id")?;
    assert_eq!(seen.stdout.lines().count(), 10_000, "{}", seen.stderr);
    let secrets: Vec<_> = seen
        .stdout
        .lines()
        .filter_map(|line| line.split('|').nth(1))
        .collect();
    assert!(
        secrets.iter().all(|secret| !secret.contains("-45-")),
        "{:?}",
        secrets.first()
    );
    Ok(())
}

#[test]
fn rows_of_one_statement_never_pass_for_anothers() -> Result<()> {
    let stage = Stage::new()?;
    let seen = client(&stage.agent, "agreement.py", &[])?;
    assert!(seen.ok(), "{seen:?}");
    assert_eq!(seen.stdout.lines().count(), 6, "{seen:?}");
    Ok(())
}
