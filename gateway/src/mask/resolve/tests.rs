//! Masks over tables, their kin and views, as a small catalog has them.

use super::*;
use crate::catalog::{
    ColumnRow, Facts, FunctionRow, InheritsRow, RelationRow, RuleRow, SnapshotRows,
};

fn relation(oid: Oid, name: &str, kind: char) -> RelationRow {
    RelationRow {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind,
    }
}

fn system(oid: Oid, name: &str, kind: char) -> RelationRow {
    RelationRow {
        schema: "pg_catalog".into(),
        ..relation(oid, name, kind)
    }
}

fn inherits(child: Oid, parent: Oid) -> InheritsRow {
    InheritsRow { child, parent }
}

/// A rule of these (origin, column) outputs that reads these relations and calls these functions.
fn rule(view: Oid, reads: &[Oid], outputs: &[(Oid, AttNum)], functions: &[Oid]) -> RuleRow {
    let tables: String = reads
        .iter()
        .map(|oid| format!("{{RTE :relid {oid}}} "))
        .collect();
    let calls: String = functions
        .iter()
        .map(|oid| format!("{{F :funcid {oid}}} "))
        .collect();
    let targets: String = (1..)
        .zip(outputs)
        .map(|(resno, (oid, attnum))| {
            format!(
                "{{TARGETENTRY :resno {resno} :resorigtbl {oid} :resorigcol {attnum} :resjunk false}} "
            )
        })
        .collect();
    let action = format!("({{QUERY :rtable ({tables}) :calls ({calls}) :targetList ({targets})}})");
    RuleRow {
        view,
        action: action.into(),
    }
}

const CUSTOMERS: Oid = 20_000;
const CHILD: Oid = 20_001;
const SIBLING: Oid = 20_002;
const GRANDCHILD: Oid = 20_003;
const PLAIN: Oid = 20_010;
const OVER_PLAIN: Oid = 20_011;
const UNION: Oid = 20_012;
const OVER_UNION: Oid = 20_013;
const FILTERED: Oid = 20_014;
const CODE: Oid = 20_015;
const RULELESS: Oid = 20_016;
const COUNT: Oid = 20_017;
const OTHER_PARENT: Oid = 20_018;
const OTHER_GRANDPARENT: Oid = 20_019;
const OTHER_CHILD: Oid = 20_020;
const OVER_STATS: Oid = 20_021;
const OVER_OVER_STATS: Oid = 20_022;
const OVER_STATISTIC: Oid = 20_023;
const BY_STAT_FUNCTION: Oid = 20_024;
const OVER_SYSTEM: Oid = 20_025;
const SYSTEM_VIEW: Oid = 12_000;
const STATS: Oid = 12_001;
const STATISTIC: Oid = 12_002;
const STAT_FUNCTION: Oid = 3_000;

/// Tables of (id, ssn) and views over them.
fn catalog() -> Catalog {
    let mut rows = SnapshotRows {
        relations: vec![
            relation(CUSTOMERS, "customers", 'p'),
            relation(CHILD, "child", 'p'),
            relation(SIBLING, "sibling", 'r'),
            relation(GRANDCHILD, "grandchild", 'r'),
            relation(PLAIN, "plain", 'v'),
            relation(OVER_PLAIN, "over_plain", 'v'),
            relation(UNION, "onion", 'm'),
            relation(OVER_UNION, "over_union", 'v'),
            relation(FILTERED, "filtered", 'v'),
            relation(CODE, "code", 'v'),
            relation(RULELESS, "ruleless", 'v'),
            relation(COUNT, "count", 'v'),
            relation(OTHER_PARENT, "other_parent", 'r'),
            relation(OTHER_GRANDPARENT, "other_grandparent", 'r'),
            relation(OTHER_CHILD, "other_child", 'r'),
            relation(SYSTEM_VIEW, "pg_view", 'v'),
            system(STATS, "pg_stats", 'v'),
            system(STATISTIC, "pg_statistic", 'r'),
            relation(OVER_STATS, "over_stats", 'v'),
            relation(OVER_OVER_STATS, "over_over_stats", 'v'),
            relation(OVER_STATISTIC, "over_statistic", 'm'),
            relation(BY_STAT_FUNCTION, "by_stat_function", 'v'),
            relation(OVER_SYSTEM, "over_system", 'v'),
        ],
        inherits: vec![
            inherits(CHILD, CUSTOMERS),
            inherits(SIBLING, CUSTOMERS),
            inherits(GRANDCHILD, CHILD),
            inherits(GRANDCHILD, OTHER_PARENT),
            inherits(OTHER_PARENT, OTHER_GRANDPARENT),
            inherits(OTHER_CHILD, OTHER_PARENT),
        ],
        rules: vec![
            rule(PLAIN, &[CUSTOMERS], &[(CUSTOMERS, 1), (CUSTOMERS, 2)], &[]),
            rule(OVER_PLAIN, &[PLAIN], &[(PLAIN, 2), (PLAIN, 1)], &[]),
            rule(UNION, &[CUSTOMERS], &[(CUSTOMERS, 1), (0, 0)], &[]),
            rule(OVER_UNION, &[UNION], &[(UNION, 1), (UNION, 2)], &[]),
            rule(
                FILTERED,
                &[CUSTOMERS],
                &[(CUSTOMERS, 1), (CUSTOMERS, 1)],
                &[],
            ),
            rule(CODE, &[], &[(0, 0), (0, 0)], &[30_000]),
            rule(COUNT, &[CUSTOMERS], &[(0, 0), (0, 0)], &[]),
            rule(OVER_STATS, &[STATS], &[(STATS, 1), (0, 0)], &[]),
            rule(
                OVER_OVER_STATS,
                &[OVER_STATS],
                &[(0, 0), (OVER_STATS, 2)],
                &[],
            ),
            rule(OVER_STATISTIC, &[STATISTIC], &[(STATISTIC, 1), (0, 0)], &[]),
            rule(BY_STAT_FUNCTION, &[], &[(0, 0), (0, 0)], &[STAT_FUNCTION]),
            rule(
                OVER_SYSTEM,
                &[SYSTEM_VIEW],
                &[(SYSTEM_VIEW, 1), (0, 0)],
                &[],
            ),
        ],
        // `ssn` of a child is computed from its `id`.
        generated: vec![(GRANDCHILD, 2, 1)],
        functions: vec![FunctionRow {
            oid: STAT_FUNCTION,
            schema: "pg_catalog".into(),
            name: "pg_stat_get_activity".into(),
            volatility: 's',
            kind: 'f',
            language: "internal".into(),
        }],
        depends: vec![
            (PLAIN, CUSTOMERS, 1),
            (PLAIN, CUSTOMERS, 2),
            (OVER_PLAIN, PLAIN, 1),
            (OVER_PLAIN, PLAIN, 2),
            (UNION, CUSTOMERS, 1),
            (UNION, CUSTOMERS, 2),
            (OVER_UNION, UNION, 1),
            (OVER_UNION, UNION, 2),
            (FILTERED, CUSTOMERS, 1),
            (FILTERED, CUSTOMERS, 2),
        ],
        ..SnapshotRows::default()
    };
    for relation in &rows.relations {
        for (attnum, name) in [(1, "id"), (2, "ssn")] {
            rows.columns.push(ColumnRow {
                relation: relation.oid,
                attnum,
                name: name.into(),
                type_oid: 25,
                typmod: -1,
            });
        }
    }
    Catalog::build(rows)
}

fn request(object: &'static str, column: &str, mask: Mask) -> Request {
    Request {
        objects: Arc::new(move |schema, name| {
            schema.is_none_or(|s| s == "public") && name == object
        }),
        columns: [column.into()].into(),
        mask,
        rule: "rule".into(),
    }
}

fn masks(requests: &[(&'static str, &str, Mask)]) -> MaskSet {
    let requests = requests
        .iter()
        .map(|(o, c, m)| request(o, c, m.clone()))
        .collect();
    let (set, unresolved) = resolve(requests, &catalog());
    assert_eq!(unresolved, []);
    set
}

const REDACTED: Cover<'_> = Cover::Masked(&Mask::Redact);

#[test]
fn a_table_its_descendants_and_plain_views_are_masked_alike() {
    let set = masks(&[("customers", "ssn", Mask::Redact)]);
    for oid in [CUSTOMERS, CHILD, SIBLING, GRANDCHILD, PLAIN] {
        assert_eq!(
            (set.of(oid, 1), set.of(oid, 2)),
            (Cover::Clear, REDACTED),
            "{oid}"
        );
    }
    assert_eq!(
        (set.of(OVER_PLAIN, 1), set.of(OVER_PLAIN, 2)),
        (REDACTED, Cover::Clear)
    );
}

#[test]
fn a_masked_child_masks_its_ancestors_but_not_its_siblings() {
    let set = masks(&[("grandchild", "ssn", Mask::Redact)]);
    for oid in [GRANDCHILD, CHILD, CUSTOMERS, PLAIN] {
        assert_eq!(set.of(oid, 2), REDACTED, "{oid}");
    }
    assert_eq!(set.of(SIBLING, 2), Cover::Clear);
}

#[test]
fn other_parents_of_a_descendant_show_its_rows_and_are_masked() {
    let set = masks(&[("customers", "ssn", Mask::Redact)]);
    for oid in [OTHER_PARENT, OTHER_GRANDPARENT] {
        assert_eq!(
            (set.of(oid, 1), set.of(oid, 2)),
            (Cover::Clear, REDACTED),
            "{oid}"
        );
    }
    assert_eq!(set.of(OTHER_CHILD, 2), Cover::Clear);
}

#[test]
fn what_a_descendant_computes_from_a_masked_column_is_opaque_in_all_its_ancestors() {
    let set = masks(&[("other_parent", "id", Mask::Redact)]);
    for oid in [GRANDCHILD, CHILD, CUSTOMERS, OTHER_PARENT] {
        assert_eq!(
            (set.of(oid, 1), set.of(oid, 2)),
            (REDACTED, Cover::Opaque),
            "{oid}"
        );
    }
    assert_eq!(set.of(SIBLING, 2), Cover::Clear);
}

#[test]
fn a_mask_on_a_view_guards_the_views_above_it_and_not_the_table_below() {
    let set = masks(&[("plain", "ssn", Mask::Redact)]);
    assert_eq!(
        (set.of(PLAIN, 2), set.of(OVER_PLAIN, 1)),
        (REDACTED, REDACTED)
    );
    assert_eq!(set.of(CUSTOMERS, 2), Cover::Clear);
}

#[test]
fn computed_view_columns_over_masked_ones_are_opaque_at_every_height() {
    let set = masks(&[("customers", "ssn", Mask::Redact)]);
    for oid in [UNION, OVER_UNION] {
        assert_eq!(
            (set.of(oid, 1), set.of(oid, 2)),
            (Cover::Clear, Cover::Opaque),
            "{oid}"
        );
    }
    assert_eq!(set.of(COUNT, 1), Cover::Clear);
    for oid in [CODE, RULELESS] {
        assert_eq!(
            (set.of(oid, 1), set.of(oid, 2)),
            (Cover::Opaque, Cover::Opaque),
            "{oid}"
        );
    }
    assert_eq!(set.of(SYSTEM_VIEW, 2), Cover::Clear);
}

#[test]
fn views_over_a_masked_system_catalog_are_opaque() {
    let set = masks(&[("pg_view", "ssn", Mask::Redact)]);
    assert_eq!(set.of(SYSTEM_VIEW, 1), Cover::Opaque);
}

#[test]
fn what_shows_others_values_is_opaque_with_all_views_over_it_where_anything_is_masked() {
    let set = masks(&[("customers", "ssn", Mask::Redact)]);
    let over = [
        OVER_STATS,
        OVER_OVER_STATS,
        OVER_STATISTIC,
        BY_STAT_FUNCTION,
    ];
    for oid in [STATS, STATISTIC].into_iter().chain(over) {
        assert_eq!(
            (set.of(oid, 1), set.of(oid, 2), set.is_sensitive(oid)),
            (Cover::Opaque, Cover::Opaque, true),
            "{oid}"
        );
    }
    // The server's other views show catalogs only.
    assert_eq!(
        (set.of(OVER_SYSTEM, 1), set.of(OVER_SYSTEM, 2)),
        (Cover::Clear, Cover::Clear)
    );
    let (none, _) = resolve(Vec::new(), &catalog());
    assert_eq!(none.of(OVER_STATS, 2), Cover::Clear);
}

#[test]
fn a_view_that_filters_by_a_masked_column_is_clear_but_sensitive() {
    let set = masks(&[("customers", "ssn", Mask::Redact)]);
    assert_eq!(
        (set.of(FILTERED, 1), set.is_sensitive(FILTERED)),
        (Cover::Clear, true)
    );
    assert!(set.is_sensitive(CUSTOMERS) && set.is_sensitive(99_999));
    assert!(!set.is_sensitive(COUNT));
    assert_eq!(set.of(FILTERED, 0), Cover::Clear);
}

#[test]
fn whole_rows_of_masked_relations_are_opaque_and_the_unknown_is_unknown() {
    let set = masks(&[("customers", "ssn", Mask::Redact)]);
    assert_eq!(
        (set.of(CUSTOMERS, 0), set.of(PLAIN, 0)),
        (Cover::Opaque, Cover::Opaque)
    );
    assert_eq!(
        (set.of(SYSTEM_VIEW, 0), set.of(CUSTOMERS, -1)),
        (Cover::Clear, Cover::Clear)
    );
    assert_eq!(
        (set.of(99_999, 1), set.of(CUSTOMERS, 3)),
        (Cover::Unknown, Cover::Unknown)
    );
    let (none, _) = resolve(Vec::new(), &catalog());
    assert_eq!((none.of(99_999, 1), none.is_empty()), (Cover::Clear, true));
    let (blind, unresolved) = resolve(
        vec![request("customers", "ssn", Mask::Redact)],
        &Catalog::default(),
    );
    assert_eq!(
        (blind.of(CUSTOMERS, 1), unresolved.len()),
        (Cover::Unknown, 1)
    );
}

#[test]
fn of_several_masks_on_a_column_the_strictest_wins_in_any_order() {
    let mut two = [
        ("customers", "ssn", Mask::Card),
        ("customers", "*", Mask::Redact),
    ];
    assert_eq!(masks(&two).of(CUSTOMERS, 2), REDACTED);
    two.reverse();
    assert_eq!(masks(&two).of(CUSTOMERS, 2), REDACTED);
}

#[test]
fn columns_that_no_relation_has_are_told() {
    let (_, unresolved) = resolve(
        vec![
            request("customers", "sn", Mask::Null),
            request("no", "x", Mask::Null),
        ],
        &catalog(),
    );
    let told: Vec<_> = unresolved.iter().map(|u| (&*u.column, u.matched)).collect();
    assert_eq!(told, [("sn", true), ("x", false)]);
    assert_eq!(
        unresolved[0].to_string(),
        "rule \"rule\" masks a column that doesn't exist: no relation that it names has \"sn\""
    );
}

#[test]
fn names_are_given_by_relation_and_for_relations_not_in_the_snapshot() {
    let set = masks(&[("customers", "ssn", Mask::Redact)]);
    let catalog = catalog();
    let masked = |oid| set.masked_columns(catalog.relation(oid).expect("known"));
    assert_eq!(masked(PLAIN), Some(vec!["ssn".into()]));
    assert_eq!(masked(COUNT), None);
    let named = |schema: Option<&str>, name: &str| {
        set.masked_columns_by_name(&sql::Name {
            schema: schema.map(Into::into),
            name: name.into(),
        })
    };
    assert_eq!(named(None, "customers"), Some(vec!["ssn".into()]));
    assert_eq!(
        (named(Some("other"), "customers"), named(None, "orders")),
        (None, None)
    );
}

#[test]
fn a_column_that_a_mask_names_may_be_coming_to_the_relation_and_to_its_kin() {
    let catalog = catalog();
    let requests = ["pin", "ssn"].map(|column| request("customers", column, Mask::Redact));
    let (set, _) = resolve(requests.to_vec(), &catalog);
    let coming = |oid, mentioned: &'static str| {
        let relation = catalog.relation(oid).expect("known");
        set.coming_columns(&catalog, relation, &|column| column == mentioned)
    };
    let pin: Vec<Box<str>> = vec!["pin".into()];
    assert_eq!(
        (coming(CUSTOMERS, "pin"), coming(CHILD, "pin")),
        (pin.clone(), pin)
    );
    for (oid, mentioned) in [(CUSTOMERS, "ssn"), (CUSTOMERS, "id"), (PLAIN, "pin")] {
        assert!(coming(oid, mentioned).is_empty(), "{mentioned}");
    }
}

#[test]
fn rows_as_the_server_sends_them_build_the_same_generation() {
    let rows = |kind: &str| {
        let mut rows = SnapshotRows::default();
        let cells = ["1", "public", "t", kind].map(|cell| Some(cell.to_owned()));
        rows.add(Facts::Relations, vec![cells.to_vec()])
            .expect("valid");
        Catalog::build(rows).generation()
    };
    assert_eq!(rows("r"), rows("r"));
    assert_ne!(rows("r"), rows("v"));
    assert_eq!(Catalog::default().generation(), 0);
}
