//! Statements judged by rules and a catalog: what their tests share.

mod functions;
mod masks;
mod objects;

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
const RELATIONS: [&str; 19] = [
    "public.customers r: id name ssn",
    "public.orders r: id customer_id total paid",
    "other.orders r: id",
    "other.lonely r: id",
    "public.v_opaque v: id",
    "pg_catalog.pg_class r: oid relname",
    "pg_catalog.pg_attribute r: attrelid attname attmissingval",
    "pg_catalog.pg_authid r: rolname rolpassword",
    "pg_catalog.pg_stats v: histogram_bounds",
    "pg_catalog.pg_stat_activity v: query",
    "pg_catalog.pg_largeobject r: data",
    "information_schema.tables v: table_name",
    "information_schema.user_mapping_options v: option_value",
    "public.pg_stat_statements v: query",
    "public.computed r: id",
    "vault.audit_log r: id",
    "vault.inner v: id",
    "public.outer v: id",
    "public.broken v: id",
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

/// The rule of a view that reads one relation.
fn reads(relation: u32) -> String {
    format!(
        "({{QUERY :rtable ({{RTE :relid {relation}}}) :targetList ({{TARGETENTRY :resno 1 :resorigtbl 0 \
         :resorigcol 0 :resjunk false}})}})"
    )
}

fn catalog() -> Catalog {
    let mut rows = SnapshotRows::default();
    for (n, relation) in (0u32..).zip(RELATIONS) {
        let (head, columns) = relation.split_once(": ").unwrap();
        let (name, kind) = head.split_once(' ').unwrap();
        let (schema, name) = name.split_once('.').unwrap();
        let oid = if ["public", "other", "vault"].contains(&schema) {
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
        let action = match name {
            "v_opaque" => "not a tree".to_owned(),
            "inner" | "outer" => reads(oid - 1),
            // Of a relation that isn't there.
            "broken" => reads(99_999),
            _ => continue,
        };
        rows.rules.push(RuleRow {
            view: oid,
            action: action.into(),
        });
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
    rows.indexes.push(("vault".into(), "log_idx".into()));
    rows.indexes.push(("public".into(), "orders_idx".into()));
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
    let unresolved = mask::resolve(rules(rules_text).mask_requests(), &catalog()).1;
    assert!(unresolved.is_empty(), "{unresolved:?}");
    judge_before_columns_are_there(rules_text, sql, path)
}

/// The same, where masks may be on what the catalog doesn't have.
fn judge_before_columns_are_there(
    rules_text: &str,
    sql: &str,
    path: Option<&[Box<str>]>,
) -> Vec<Judgement> {
    let (rules, catalog) = (rules(rules_text), catalog());
    let masks = mask::resolve(rules.mask_requests(), &catalog).0;
    let analysis = sql::analyse(sql);
    let settled = Unsettled::default();
    let view = View {
        policy: &rules,
        catalog: &catalog,
        masks: &masks,
        search_path: path,
        unsettled: &settled.with(&analysis.statements),
    };
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
