//! Functions, and relations of the system.

use super::*;

#[test]
fn users_functions_and_unknown_ones_need_a_rule_that_covers_each_they_can_be() {
    let read = allow("read", "public.*,pg_catalog.*");
    allowed(&read, "SELECT lower(paid::text) FROM orders");
    allowed(&read, "SELECT information_schema._pg_expandarray('{1}')");
    denied_saying(&read, "SELECT mine()", "procedural on public.mine");
    denied_saying(
        &read,
        "SELECT secret.theirs()",
        "procedural on secret.theirs",
    );
    denied_saying(
        &read,
        "SELECT unheard_of()",
        "procedural on public.unheard_of",
    );
    denied_saying(&read, "SELECT length('x')", "procedural on public.length");
    allowed(&read, "SELECT pg_catalog.length('x')");
    denied_saying(
        &read,
        "SELECT pg_sleep(1)",
        "procedural on pg_catalog.pg_sleep",
    );
    denied_saying(
        &read,
        "SELECT setval('s', 1)",
        "procedural on pg_catalog.setval",
    );
    let mine = format!("{read}{}", allow("procedural", "public.mine,public.length"));
    allowed(&mine, "SELECT mine(), length('x')");
    denied_saying(&mine, "SELECT mine(), setval('s', 1)", "setval");
    // Not in the path, so that the name can't mean it.
    denied_saying(&read, "SELECT theirs()", "public.theirs");
    let unknown = judge_all(&read, "SELECT theirs()", None);
    assert!(
        matches!(&unknown[0].decision, Decision::Deny(deny) if deny.message.contains("secret.theirs"))
    );
}

#[test]
fn a_row_can_call_a_function_behind_a_dot() {
    let read = allow("read", "public.*");
    denied_saying(
        &read,
        "SELECT c.mine FROM computed c",
        "procedural on public.mine",
    );
    allowed(&read, "SELECT c.id FROM computed c");
}

#[test]
fn functions_that_reach_around_rules_must_be_named() {
    let all = allow("read,procedural,unsafe_io", "*.*");
    for (sql, effect, name) in [
        (
            "SELECT pg_read_file('x')",
            "unsafe_io",
            "pg_catalog.pg_read_file",
        ),
        ("SELECT pg_ls_dir('.')", "unsafe_io", "pg_catalog.pg_ls_dir"),
        (
            "SELECT lo_export(1, 'x')",
            "unsafe_io",
            "pg_catalog.lo_export",
        ),
        ("SELECT lo_get(1)", "procedural", "pg_catalog.lo_get"),
        (
            "SELECT * FROM dblink('x', 'y') t(a int)",
            "unsafe_io",
            "public.dblink",
        ),
        (
            "SELECT table_to_xml('t', true, true, '')",
            "procedural",
            "pg_catalog.table_to_xml",
        ),
        (
            "SELECT query_to_xml('x', true, true, '')",
            "procedural",
            "pg_catalog.query_to_xml",
        ),
        ("SELECT ts_stat('x')", "procedural", "pg_catalog.ts_stat"),
        (
            "SELECT pg_terminate_backend(1)",
            "procedural",
            "pg_catalog.pg_terminate_backend",
        ),
        (
            "SELECT pg_stat_get_backend_activity(1)",
            "procedural",
            "pg_catalog.pg_stat_get_backend_activity",
        ),
    ] {
        denied_saying(&all, sql, &format!("{effect} on {name} by its exact name"));
        allowed(&format!("{all}{}", allow(effect, name)), sql);
    }
}

#[test]
fn system_relations_that_show_others_data_must_be_named() {
    let catalogs = allow("read", "pg_catalog.*,information_schema.*,public.*");
    allowed(&catalogs, "SELECT relname FROM pg_class");
    allowed(
        &catalogs,
        "SELECT table_name FROM information_schema.tables",
    );
    for relation in [
        "pg_authid",
        "pg_stats",
        "pg_catalog.pg_stat_activity",
        "pg_stat_statements",
        "information_schema.user_mapping_options",
        "information_schema._pg_user_mappings",
    ] {
        denied_saying(
            &catalogs,
            &format!("SELECT * FROM {relation}"),
            "by its exact name",
        );
    }
    allowed(
        &format!("{catalogs}{}", allow("read", "pg_catalog.pg_stats")),
        "SELECT * FROM pg_stats",
    );
}

#[test]
fn what_changes_a_setting_is_not_stored_where_it_runs_unseen() {
    let all = allow("read,ddl,insert,procedural,session", "");
    allowed(&all, "SELECT set_config('search_path', 'other', false)");
    for sql in [
        "CREATE TABLE bait (x text DEFAULT set_config('search_path', 'other', false))",
        "CREATE TABLE bait (x int CHECK (set_config('search_path', 'other', false) IS NOT NULL))",
        "ALTER TABLE orders ALTER paid SET DEFAULT set_config('search_path', 'other', false)",
        "CREATE VIEW bait AS SELECT set_config('search_path', 'other', false)",
        "CREATE DOMAIN bait AS text CHECK (set_config('search_path', VALUE, false) <> '')",
    ] {
        denied_saying(&all, sql, "set_config can't be part of a definition");
    }
}
