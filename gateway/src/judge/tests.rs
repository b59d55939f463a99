use std::sync::Arc;

use super::*;
use crate::{
    catalog::{ColumnRow, FunctionRow, RelationRow, RuleRow, SnapshotRows},
    mask,
    policy::{self, Allow, Source, Subject},
    sql,
};

/// A database as far as judging knows it: relations as `schema.name kind: columns`, functions as
/// `schema.name volatility`.
const RELATIONS: [&str; 13] = [
    "public.customers r: id name ssn",
    "public.orders r: id customer_id total paid",
    "other.orders r: id",
    "other.lonely r: id",
    "public.v_opaque v: id",
    "pg_catalog.pg_class r: oid relname",
    "pg_catalog.pg_authid r: rolname rolpassword",
    "pg_catalog.pg_stats v: histogram_bounds",
    "pg_catalog.pg_stat_activity v: query",
    "pg_catalog.pg_largeobject r: data",
    "information_schema.tables v: table_name",
    "public.pg_stat_statements v: query",
    "public.computed r: id",
];

const FUNCTIONS: [&str; 28] = [
    "pg_catalog.lower i",
    "pg_catalog.now s",
    "pg_catalog.count i",
    "pg_catalog.random v",
    "pg_catalog.nextval v",
    "pg_catalog.setval v",
    "pg_catalog.set_config v",
    "pg_catalog.current_setting s",
    "pg_catalog.pg_get_viewdef s",
    "pg_catalog.pg_sleep v",
    "pg_catalog.pg_notify v",
    "pg_catalog.pg_advisory_lock v",
    "pg_catalog.pg_advisory_unlock_all v",
    "pg_catalog.pg_read_file v",
    "pg_catalog.pg_ls_dir v",
    "pg_catalog.lo_get v",
    "pg_catalog.lo_export v",
    "pg_catalog.table_to_xml s",
    "pg_catalog.query_to_xml v",
    "pg_catalog.ts_stat v",
    "pg_catalog.pg_terminate_backend v",
    "pg_catalog.pg_stat_get_backend_activity s",
    "pg_catalog.length i",
    "public.length i",
    "public.mine i",
    "secret.theirs i",
    "public.dblink v",
    "information_schema._pg_expandarray i",
];

fn catalog() -> Catalog {
    let mut rows = SnapshotRows::default();
    for (n, relation) in (0u32..).zip(RELATIONS) {
        let (head, columns) = relation.split_once(": ").unwrap();
        let (name, kind) = head.split_once(' ').unwrap();
        let (schema, name) = name.split_once('.').unwrap();
        let oid = if schema == "public" || schema == "other" {
            20_000 + n
        } else {
            1_000 + n
        };
        let kind = kind.chars().next().unwrap();
        rows.relations.push(RelationRow {
            oid,
            schema: schema.into(),
            name: name.into(),
            kind,
        });
        for (attnum, column) in (1..).zip(columns.split(' ')) {
            let name = column.into();
            rows.columns.push(ColumnRow {
                relation: oid,
                attnum,
                name,
                type_oid: 25,
                typmod: -1,
            });
        }
        if name == "v_opaque" {
            rows.rules.push(RuleRow {
                view: oid,
                action: "not a tree".into(),
            });
        }
    }
    for (n, function) in (0u32..).zip(FUNCTIONS) {
        let (name, volatility) = function.split_once(' ').unwrap();
        let (schema, name) = name.split_once('.').unwrap();
        let system = schema == "pg_catalog" || schema == "information_schema";
        rows.functions.push(FunctionRow {
            oid: if system { 3_000 + n } else { 30_000 + n },
            schema: schema.into(),
            name: name.into(),
            volatility: volatility.chars().next().unwrap(),
            kind: 'f',
            language: "internal".into(),
        });
    }
    Catalog::build(rows)
}

fn rules(text: &str) -> SubjectPolicy {
    let source = Source {
        name: "p".into(),
        text: format!("version = 1\n{text}"),
    };
    let policy = policy::parse(&[source]).unwrap();
    policy.for_subject(&Subject {
        agent: "coder",
        groups: &[],
        datastore: "d",
    })
}

/// One rule that allows `effects` on `objects` (comma lists; no objects: all).
fn allow(effects: &str, objects: &str) -> String {
    let list = |words: &str| format!("[\"{}\"]", words.replace(',', "\", \""));
    let objects = if objects.is_empty() {
        String::new()
    } else {
        format!("objects = {}\n", list(objects))
    };
    let name = effects.len() * 1000 + objects.len();
    format!(
        "[[rule]]\nname = \"r{name}\"\neffects = {}\n{objects}decision = \"allow\"\n",
        list(effects)
    )
}

/// Everything is allowed to be read, and `ssn` of customers is masked.
fn masked() -> String {
    format!(
        "{}[[rule]]\nname = \"m\"\neffects = [\"read\"]\nobjects = [\"public.customers\"]\ndecision = \"allow\"\n\
         [[rule.mask]]\ncolumns = [\"ssn\"]\nwith = \"redact\"\n",
        allow(
            "read,insert,update,delete,truncate,ddl,privilege,maintenance,lock,procedural,bulk_load,bulk_export",
            "*.*"
        )
    )
}

fn judge_all(rules_text: &str, sql: &str, path: Option<&[Box<str>]>) -> Vec<Judgement> {
    let (rules, catalog) = (rules(rules_text), catalog());
    let (masks, unresolved) = mask::resolve(rules.mask_requests(), &catalog);
    assert!(unresolved.is_empty(), "{unresolved:?}");
    let view = View {
        policy: &rules,
        catalog: &catalog,
        masks: &masks,
        search_path: path,
    };
    let analysis = sql::analyse(sql);
    let judge = |statement| judge(sql, statement, &view).because(analysis.failure.as_ref());
    analysis.statements.iter().map(judge).collect()
}

fn judged(rules_text: &str, sql: &str) -> Judgement {
    let mut judged = judge_all(rules_text, sql, Some(&["public".into()]));
    assert_eq!(judged.len(), 1, "{sql}");
    judged.remove(0)
}

#[track_caller]
fn allowed(rules_text: &str, sql: &str) -> Allow {
    match judged(rules_text, sql).decision {
        Decision::Allow(allow) => allow,
        Decision::Deny(deny) => panic!("{sql}: {deny:?}"),
    }
}

#[track_caller]
fn denied(rules_text: &str, sql: &str) -> Deny {
    match judged(rules_text, sql).decision {
        Decision::Deny(deny) => deny,
        Decision::Allow(allow) => panic!("{sql}: {allow:?}"),
    }
}

#[track_caller]
fn denied_saying(rules_text: &str, sql: &str, part: &str) {
    let deny = denied(rules_text, sql);
    assert!(deny.message.contains(part), "{sql}: {}", deny.message);
    assert_eq!(deny.sqlstate, "42501");
}

#[test]
fn each_object_that_a_name_can_mean_must_be_covered() {
    let public = allow("read", "public.*");
    allowed(&public, "SELECT * FROM orders");
    denied_saying(
        &public,
        "SELECT * FROM other.orders",
        "read on other.orders",
    );
    let both: [Box<str>; 2] = ["public".into(), "other".into()];
    for path in [None, Some(&both[..])] {
        let judged = judge_all(&public, "SELECT * FROM orders", path);
        assert!(
            matches!(&judged[0].decision, Decision::Deny(deny) if deny.message.contains("other.orders"))
        );
    }
}

#[test]
fn a_name_that_the_catalog_doesnt_know_means_each_schema_of_the_path() {
    let public = allow("read", "public.*");
    allowed(&public, "SELECT * FROM newborn");
    denied_saying(&public, "SELECT * FROM secret.newborn", "secret.newborn");
    let path: [Box<str>; 2] = ["public".into(), "other".into()];
    let judged = judge_all(&public, "SELECT * FROM newborn", Some(&path));
    assert!(
        matches!(&judged[0].decision, Decision::Deny(deny) if deny.message.contains("other.newborn"))
    );
}

#[test]
fn what_ddl_makes_anew_counts_as_made_in_the_path() {
    let path: [Box<str>; 2] = ["public".into(), "other".into()];
    let judged = judge_all(
        &allow("ddl", "other.*"),
        "CREATE TABLE lonely (id int)",
        Some(&path),
    );
    assert!(
        matches!(&judged[0].decision, Decision::Deny(deny) if deny.message.contains("public.lonely"))
    );
}

#[test]
fn a_prepared_text_is_judged_for_every_search_path() {
    let public = allow("read", "public.*");
    denied_saying(&public, "PREPARE p AS SELECT * FROM orders", "other.orders");
    allowed(
        &allow("read", "*.orders"),
        "PREPARE p AS SELECT * FROM orders",
    );
}

#[test]
fn transactions_harmless_settings_and_reading_nothing_need_no_rule() {
    let rules = allow("read", "public.*");
    for sql in [
        "BEGIN",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        "COMMIT",
        "ROLLBACK TO s",
        "SET application_name = 'x'",
        "SET LOCAL statement_timeout = 5",
        "SET TIME ZONE 'UTC'",
        "SET search_path = other",
        "SET client_encoding TO 'UTF8'",
        "RESET ALL",
        "DISCARD ALL",
        "SHOW server_version",
        "DEALLOCATE ALL",
        "CLOSE ALL",
        "UNLISTEN *",
        "SELECT 1",
        "SELECT now(), random(), current_setting('x'), pg_advisory_unlock_all()",
        "SELECT set_config('jit', 'off', false)",
    ] {
        allowed(&rules, sql);
        denied("", sql);
    }
}

#[test]
fn other_settings_locks_notifications_and_two_phase_commit_need_a_rule() {
    let none = allow("read", "public.*");
    for (sql, effect) in [
        ("SET work_mem = '1GB'", "session"),
        ("SELECT set_config('work_mem', '1GB', false)", "session"),
        ("PREPARE TRANSACTION 'x'", "transaction"),
        ("LISTEN c", "notify"),
        ("NOTIFY c", "notify"),
        ("SELECT pg_notify('c', 'x')", "notify"),
        ("SELECT pg_advisory_lock(1)", "lock"),
        ("LOCK TABLE orders", "lock"),
        ("SELECT * FROM orders FOR UPDATE", "lock"),
        ("VACUUM", "maintenance"),
        ("DO $$ BEGIN END $$", "procedural"),
    ] {
        denied_saying(&none, sql, &format!("no rule allows agent coder {effect}"));
        allowed(
            &format!("{none}{}", allow(&format!("{effect},read"), "")),
            sql,
        );
    }
}

#[test]
fn settings_that_reading_statements_depends_on_are_fixed_whatever_rules_say() {
    let rules = allow("read,session,privilege,ddl,procedural,unsafe_io", "");
    for sql in [
        "SET standard_conforming_strings = off",
        "SET LOCAL standard_conforming_strings TO off",
        "RESET standard_conforming_strings",
        "SELECT set_config('standard_conforming_strings', 'off', false)",
        "SELECT set_config('Standard_Conforming_Strings', 'off', false)",
        "SELECT set_config('standard_conforming_stringsX'::varchar(27), 'off', true)",
        "SELECT set_config('role_'::pg_catalog.varchar(4), 'postgres', false)",
        "SELECT set_config('role'::text, 'postgres', false)",
        "ALTER ROLE x SET standard_conforming_strings = off",
        "SET backslash_quote = on",
        "SET client_encoding = 'SJIS'",
        "SET NAMES 'LATIN1'",
        "SELECT set_config('client_encoding', 'UTF8', false)",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "SET session_replication_role = replica",
        "SET row_security = off",
    ] {
        denied(&rules, sql);
    }
    let updates = allow("read,update", "");
    denied_saying(
        &updates,
        "UPDATE pg_catalog.pg_settings SET setting = 'off' \
         WHERE name = 'standard_conforming_strings'",
        "pg_settings",
    );
    denied_saying(
        &rules,
        "CREATE VIEW v AS SELECT * FROM pg_settings",
        "pg_settings",
    );
    denied_saying(
        &rules,
        "SELECT set_config(name, 'x', false) FROM pg_settings",
        "plain string",
    );
    denied_saying(
        &rules,
        "SELECT set_config('a' || 'b', 'x', false)",
        "plain string",
    );
    denied_saying(
        &rules,
        "SELECT set_config('jit', 'on', false), set_config('r' || 'ole', 'x', false)",
        "plain string",
    );
}

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
fn copying_a_query_out_exports_what_it_reads() {
    let read = allow("read", "public.*");
    denied_saying(
        &read,
        "COPY (SELECT id FROM orders) TO STDOUT",
        "bulk_export on public.orders",
    );
    denied_saying(
        &read,
        "COPY orders TO STDOUT",
        "bulk_export on public.orders",
    );
    let export = format!("{read}{}", allow("bulk_export", "public.orders"));
    allowed(&export, "COPY (SELECT id FROM orders) TO STDOUT");
    denied_saying(&export, "COPY (SELECT 1) TO STDOUT", "bulk_export");
    denied(&export, "COPY orders TO PROGRAM 'sh'");
}

#[test]
fn what_cant_be_analysed_is_denied_and_a_syntax_error_is_one() {
    let all = allow("read", "");
    let deny = denied(&all, "SELEC 1");
    assert_eq!((deny.sqlstate, deny.hint), ("42601", None));
    assert!(deny.message.contains("syntax error"), "{}", deny.message);
}

#[test]
fn plain_output_of_masked_columns_is_allowed_and_sensitive() {
    for sql in [
        "SELECT id, ssn FROM customers",
        "SELECT * FROM customers",
        "SELECT name FROM customers WHERE id = 1 ORDER BY name",
        "UPDATE customers SET name = 'x' WHERE id = 1 RETURNING ssn",
    ] {
        let judged = judged(&masked(), sql);
        assert!(
            matches!(judged.decision, Decision::Allow(_)),
            "{sql}: {judged:?}"
        );
        assert!(judged.sensitive, "{sql}");
    }
    assert!(!judged(&masked(), "SELECT id FROM orders").sensitive);
    // Its one column, the plan, is computed and shows no values.
    let plan = judged(&masked(), "EXPLAIN SELECT ssn FROM customers");
    assert!(!plan.sensitive && matches!(plan.decision, Decision::Allow(_)));
    assert!(!judged(&allow("read", "*.*"), "SELECT ssn FROM customers").sensitive);
}

#[test]
fn a_masked_column_cant_be_used_elsewhere_than_as_a_plain_output() {
    for sql in [
        "SELECT id FROM customers WHERE ssn = 'x'",
        "SELECT id FROM customers ORDER BY ssn",
        "SELECT count(*) FROM customers GROUP BY ssn",
        "SELECT lower(ssn) FROM customers",
        "SELECT id FROM orders o JOIN customers c ON c.ssn = o.paid::text",
        "SELECT id FROM (SELECT id, ssn AS s FROM customers) t WHERE s = 'x'",
        "UPDATE customers SET name = ssn",
        "DELETE FROM customers WHERE ssn LIKE '1%'",
    ] {
        denied_saying(&masked(), sql, "of public.customers is masked");
    }
}

#[test]
fn masked_relations_cant_be_taken_elsewhere() {
    for (sql, part) in [
        ("COPY customers TO STDOUT", "can't be copied out"),
        (
            "COPY (SELECT id FROM customers) TO STDOUT",
            "can't be copied out",
        ),
        (
            "CREATE TABLE t AS SELECT * FROM customers",
            "can't build on it",
        ),
        ("SELECT * INTO t FROM customers", "can't build on it"),
        (
            "CREATE TEMP TABLE t AS SELECT * FROM customers",
            "can't build on it",
        ),
        ("ALTER TABLE customers RENAME ssn TO s", "can't build on it"),
        (
            "INSERT INTO orders SELECT id FROM customers",
            "stored, prepared or kept",
        ),
        (
            "DECLARE c CURSOR FOR SELECT * FROM customers",
            "stored, prepared or kept",
        ),
        (
            "PREPARE p AS SELECT * FROM customers",
            "stored, prepared or kept",
        ),
        (
            "EXPLAIN ANALYZE SELECT id FROM customers",
            "EXPLAIN ANALYZE and VERBOSE",
        ),
        (
            "EXPLAIN (VERBOSE) SELECT id FROM customers",
            "EXPLAIN ANALYZE and VERBOSE",
        ),
        (
            "CREATE VIEW v AS SELECT * FROM orders",
            "it could uncover them",
        ),
        (
            "CREATE RULE r AS ON SELECT TO orders DO INSTEAD SELECT * FROM customers",
            "it could uncover them",
        ),
        (
            "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "it could uncover them",
        ),
        (
            "CREATE TRIGGER t BEFORE INSERT ON orders EXECUTE FUNCTION mine()",
            "it could uncover them",
        ),
    ] {
        denied_saying(&masked(), sql, part);
    }
    let code = format!("{}{}", masked(), allow("procedural,ddl", ""));
    denied_saying(&code, "DO $$ BEGIN END $$", "it could uncover them");
    denied_saying(
        &code,
        "ALTER SCHEMA public RENAME TO p",
        "it could uncover them",
    );
}

#[test]
fn an_agent_with_masks_cant_see_values_by_other_means_even_where_a_rule_names_them() {
    let named = format!(
        "{}{}{}",
        masked(),
        allow(
            "read",
            "pg_catalog.pg_stats,pg_catalog.pg_stat_activity,pg_catalog.pg_largeobject,public.pg_stat_statements"
        ),
        allow(
            "procedural",
            "pg_catalog.lo_get,pg_catalog.query_to_xml,pg_catalog.ts_stat,pg_catalog.table_to_xml"
        ),
    );
    for relation in [
        "pg_stats",
        "pg_stat_activity",
        "pg_largeobject",
        "pg_stat_statements",
    ] {
        denied_saying(
            &named,
            &format!("SELECT * FROM {relation}"),
            "can show what is masked",
        );
    }
    for call in [
        "lo_get(1)",
        "query_to_xml('x', true, true, '')",
        "ts_stat('x')",
        "table_to_xml('t', true, true, '')",
    ] {
        denied_saying(&named, &format!("SELECT {call}"), "can show what is masked");
    }
    allowed(&named, "SELECT relname FROM pg_class");
}

#[test]
fn views_that_arent_understood_and_code_are_sensitive_and_unknown_relations_are_denied() {
    assert!(judged(&masked(), "SELECT id FROM v_opaque").sensitive);
    let call = judged(&masked(), "SELECT mine()");
    assert!(
        call.sensitive && matches!(call.decision, Decision::Allow(_)),
        "{call:?}"
    );
    denied_saying(
        &masked(),
        "SELECT * FROM newborn",
        "newer than Weir's picture of the catalog",
    );
}

#[test]
fn masks_forbid_in_observe_mode_too() {
    let observed = format!("mode = \"observe\"\n{}", masked());
    denied_saying(
        &observed,
        "SELECT id FROM customers WHERE ssn = 'x'",
        "is masked",
    );
    denied_saying(
        &observed,
        "SELECT pg_read_file('x')",
        "can show what is masked",
    );
    denied(&observed, "SELEC 1");
    denied(&observed, "SET standard_conforming_strings = off");
    let unmasked = format!("mode = \"observe\"\n{}", allow("read", "public.*"));
    let allow = allowed(&unmasked, "DROP TABLE orders");
    assert!(
        allow
            .observed
            .unwrap()
            .message
            .contains("ddl on public.orders")
    );
}

#[test]
fn effects_are_those_of_everything_that_the_statement_does() {
    let effects = judged(
        &allow("read", "*.*"),
        "WITH d AS (DELETE FROM orders RETURNING id) SELECT mine() FROM d",
    )
    .effects;
    for effect in [Effect::Read, Effect::Delete, Effect::Procedural] {
        assert!(effects.contains(effect), "{effect:?}");
    }
    assert!(!effects.contains(Effect::Update));
}

#[test]
fn a_change_of_the_search_path_is_told() {
    for (sql, expected) in [
        ("SET search_path = x", true),
        ("SELECT set_config('search_path', 'x', true)", true),
        ("DISCARD ALL", true),
        ("SET jit = off", false),
    ] {
        assert_eq!(
            changes_search_path(&sql::analyse(sql).statements[0]),
            expected,
            "{sql}"
        );
    }
}

#[test]
fn a_statement_with_very_many_calls_is_judged_in_little_time() {
    let calls: Vec<_> = (0..20_000).map(|n| format!("f{n}()")).collect();
    let started = std::time::Instant::now();
    denied(
        &allow("read", "public.*"),
        &format!("SELECT {}", calls.join(",")),
    );
    assert!(
        started.elapsed() < std::time::Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn the_denial_of_a_computed_output_names_the_column() {
    let deny = non_plain_output_denied("total");
    assert!(deny.message.contains("\"total\"") && deny.hint.is_some());
    assert_eq!(deny.sqlstate, "42501");
    let rule: Option<Arc<str>> = None;
    assert_eq!(deny.rule, rule);
}
