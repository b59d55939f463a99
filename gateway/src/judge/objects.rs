//! From names to the objects that they can mean.

use super::Judge;
pub(super) use crate::catalog::showing::relation as shows_values;
use crate::{
    policy::Need,
    sql::{Effect, Name, ObjectKind},
};

/// Schema and name.
pub(super) type Object = (Box<str>, Box<str>);

/// System relations that show more than structure: credentials, and what reaches outside. Those
/// that show values of other people's columns or statements of other sessions are told by
/// [`shows_values`].
const TELLING: [&str; 8] = [
    "pg_authid",
    "pg_file_settings",
    "pg_hba_file_rules",
    "pg_ident_file_mappings",
    "pg_shadow",
    "pg_subscription",
    "pg_user_mapping",
    "pg_user_mappings",
];

/// Those of `information_schema`: passwords for foreign servers.
const TELLING_INFORMATION: [&str; 2] = ["_pg_user_mappings", "user_mapping_options"];

/// What it takes to touch an object of this kind.
pub(super) fn need(judge: &Judge<'_>, kind: ObjectKind, (schema, name): (&str, &str)) -> Need {
    if is_anywhere(judge, schema) {
        return Need::Anywhere;
    }
    if kind != ObjectKind::Relation {
        return Need::Rule;
    }
    let telling = match schema {
        "pg_catalog" => TELLING.contains(&name),
        "information_schema" => TELLING_INFORMATION.contains(&name),
        _ => false,
    };
    if telling || shows_values(schema, name) {
        Need::Named
    } else {
        Need::Rule
    }
}

/// Every relation that a name can mean: those of the snapshot, or where there is none what the
/// name would mean along the path. Definitions and maintenance can name an index.
pub(super) fn relations(judge: &Judge<'_>, name: &Name, effect: Effect) -> Vec<Object> {
    let known = judge.view.catalog.resolve(name, judge.path());
    let mut objects: Vec<Object> = known
        .iter()
        .map(|relation| (relation.schema.clone(), relation.name.clone()))
        .collect();
    if matches!(effect, Effect::Ddl | Effect::Maintenance) {
        let indexes = judge.view.catalog.indexes(name, judge.path());
        objects.extend(indexes.map(|schema| (schema.into(), name.name.clone())));
    }
    // What DDL makes anew goes to the path's first schema, whatever the other ones have.
    if objects.is_empty() || effect == Effect::Ddl {
        for object in unresolved(judge, name) {
            if !objects.contains(&object) {
                objects.push(object);
            }
        }
    }
    objects
}

/// What is neither a relation nor a function: types, schemas, roles. An unqualified name can be
/// outside of all schemas (empty) or in one of the path.
pub(super) fn others(judge: &Judge<'_>, name: &Name) -> Vec<Object> {
    let mut objects = unresolved(judge, name);
    if name.schema.is_none() {
        objects.insert(0, ("".into(), name.name.clone()));
    }
    objects
}

/// What a name can mean that the snapshot doesn't know: in the schema that it gives, or in each of
/// the path. Where that isn't known the schema is empty, for it can be any: see [`is_anywhere`].
pub(super) fn unresolved(judge: &Judge<'_>, name: &Name) -> Vec<Object> {
    if let Some(schema) = &name.schema {
        return vec![(schema.clone(), name.name.clone())];
    }
    if judge.offline && name.name.starts_with("pg_") {
        return vec![("pg_catalog".into(), name.name.clone())];
    }
    match path(judge) {
        Some(path) => path
            .iter()
            .map(|schema| (schema.clone(), name.name.clone()))
            .collect(),
        None => vec![("".into(), name.name.clone())],
    }
}

/// Whether an object of [`unresolved`] can be in any schema.
pub(super) fn is_anywhere(judge: &Judge<'_>, schema: &str) -> bool {
    schema.is_empty() && path(judge).is_none()
}

/// The schemas in one of which an unqualified name is, if it isn't a system's or a temporary one.
/// A path without any says nothing: they may have come into being.
fn path<'a>(judge: &'a Judge<'_>) -> Option<&'a [Box<str>]> {
    let names_all = |path: &&[Box<str>]| !path.is_empty() && path.iter().all(|of| &**of != "$user");
    judge.path().filter(names_all)
}
