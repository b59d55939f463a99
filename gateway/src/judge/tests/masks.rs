//! What masked columns forbid.

use super::*;

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
            "CREATE SCHEMA s CREATE VIEW v AS SELECT * FROM orders",
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
fn values_that_the_catalog_keeps_for_added_columns_are_masked_and_the_rest_of_it_isnt() {
    for sql in [
        "SELECT attmissingval::text FROM pg_attribute",
        "SELECT attname FROM pg_catalog.pg_attribute WHERE attmissingval IS NOT NULL",
        "SELECT a::text FROM pg_attribute a",
        "SELECT row_to_json(a) FROM pg_attribute a",
        "SELECT v::text FROM (SELECT attmissingval AS v FROM pg_attribute) x",
        "SELECT array(SELECT attmissingval FROM pg_attribute)",
        "COPY pg_attribute TO STDOUT",
        "INSERT INTO orders SELECT attmissingval FROM pg_attribute",
        "DECLARE c CURSOR FOR SELECT * FROM pg_attribute",
    ] {
        denied_saying(&masked(), sql, "pg_catalog.pg_attribute");
    }
    for sql in [
        "SELECT * FROM pg_attribute",
        "SELECT lower(a.attname) FROM pg_attribute a JOIN pg_class c ON a.attrelid = c.oid",
        "SELECT count(*) FROM pg_attribute GROUP BY attrelid ORDER BY 1",
        "SELECT array(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid) FROM pg_class c",
    ] {
        let judged = judged(&masked(), sql);
        assert!(
            matches!(judged.decision, Decision::Allow(_)),
            "{sql}: {judged:?}"
        );
        assert!(!judged.sensitive, "{sql}");
    }
    allowed(&allow("read", "*.*"), "SELECT a::text FROM pg_attribute a");
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
fn a_masked_column_that_is_newer_than_the_catalog_is_masked() {
    let rules = format!(
        "{}[[rule]]\nname = \"n\"\neffects = [\"read\"]\nobjects = [\"public.orders\"]\ndecision = \"allow\"\n\
         [[rule.mask]]\ncolumns = [\"pin\"]\nwith = \"redact\"\n\
         [[rule]]\nname = \"b\"\neffects = [\"read\"]\nobjects = [\"public.newborn\"]\ndecision = \"allow\"\n\
         [[rule.mask]]\ncolumns = [\"*\"]\nwith = \"redact\"\n",
        allow("read,insert,update,delete,bulk_export", "*.*")
    );
    let judged = |sql| {
        judge_before_columns_are_there(&rules, sql, Some(&["public".into()]))
            .pop()
            .unwrap()
    };
    for (sql, column) in [
        ("SELECT id FROM orders WHERE pin LIKE '12%'", "pin"),
        ("SELECT o.id FROM orders o ORDER BY o.pin", "pin"),
        ("UPDATE orders SET paid = pin", "pin"),
        ("SELECT 1 FROM newborn WHERE a = 1", "a"),
        ("SELECT b FROM newborn n JOIN orders o ON o.id = n.c", "c"),
        (
            "SELECT x FROM (SELECT d AS x FROM newborn) s ORDER BY x",
            "x",
        ),
    ] {
        let Decision::Deny(deny) = judged(sql).decision else {
            panic!("{sql} is allowed");
        };
        let told = deny
            .message
            .contains(&format!("column {column} of public."));
        assert!(
            told && deny.message.contains("is masked"),
            "{}",
            deny.message
        );
    }
    for sql in [
        "INSERT INTO orders SELECT 7, pin FROM orders",
        "COPY (SELECT pin FROM orders) TO STDOUT",
        "INSERT INTO other.orders SELECT a FROM newborn",
    ] {
        let judged = judged(sql);
        assert!(matches!(judged.decision, Decision::Deny(_)), "{sql}");
    }
    for (sql, sensitive) in [
        ("SELECT id, pin FROM orders WHERE id = 1", true),
        ("SELECT a, b FROM newborn", true),
        ("UPDATE orders SET pin = '1' WHERE id = 1", false),
        ("SELECT count(*) FROM orders WHERE paid", false),
        ("COPY orders TO STDOUT", false),
        ("SELECT 1 FROM other.orders WHERE pin = '1'", false),
    ] {
        let judged = judged(sql);
        assert!(
            matches!(judged.decision, Decision::Allow(_)),
            "{sql}: {judged:?}"
        );
        assert_eq!(judged.sensitive, sensitive, "{sql}");
    }
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
fn the_denial_of_a_computed_output_names_the_column() {
    let deny = non_plain_output_denied("total");
    assert!(deny.message.contains("\"total\"") && deny.hint.is_some());
    assert_eq!(deny.sqlstate, "42501");
    let rule: Option<Arc<str>> = None;
    assert_eq!(deny.rule, rule);
}

#[test]
fn rows_of_a_masked_table_are_not_put_into_an_order() {
    allowed(&masked(), "CLUSTER orders USING by_total");
    denied_saying(
        &masked(),
        "CLUSTER customers USING by_ssn",
        "rows in an index's order",
    );
}
