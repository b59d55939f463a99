//! Which functions a statement may call.
//!
//! The catalog says what a name can mean. Built-ins that are immutable or stable are harmless, and
//! so are a few volatile ones; all others are effects that a rule must cover, `procedural` unless
//! said otherwise here. Built-ins that reach around what rules say (files, other sessions, SQL in a
//! string) are guarded: a rule must name them. A name that the catalog doesn't know counts as a
//! user's function.

use super::{Judge, objects::Object, objects::is_anywhere, objects::unresolved, without_object};
use crate::{
    catalog::{FIRST_NORMAL_OID, Function, Volatility, showing},
    policy::{Need, ResolvedTouch},
    sql::{Effect, Name, ObjectKind},
};

/// Volatile built-ins that change nothing that matters.
const HARMLESS: [&str; 38] = [
    "clock_timestamp",
    "current_query",
    "currval",
    "gen_random_uuid",
    "lastval",
    "nextval",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_backend_pid",
    "pg_blocking_pids",
    "pg_collation_actual_version",
    "pg_current_xact_id",
    "pg_current_xact_id_if_assigned",
    "pg_database_collation_actual_version",
    "pg_database_size",
    "pg_indexes_size",
    "pg_is_in_recovery",
    "pg_jit_available",
    "pg_last_wal_replay_lsn",
    "pg_last_xact_replay_timestamp",
    // psql asks for the partitions of whatever it describes.
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_relation_size",
    "pg_sequence_last_value",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "pg_xact_commit_timestamp",
    "pg_xact_status",
    "random",
    "random_normal",
    "setseed",
    "timeofday",
    "txid_current",
    "txid_status",
    "uuidv4",
    "uuidv7",
];

/// Volatile built-ins that need a rule. Only without a catalog must their names be known.
const VOLATILE: [&str; 4] = ["pg_sleep", "pg_sleep_for", "pg_sleep_until", "setval"];

/// Guarded names that begin like this, with their effects. Those that can show what a mask hides
/// are told by [`showing`], and are all guarded.
const GUARDED_PREFIXES: [(&str, Effect); 17] = [
    ("binary_upgrade_", Effect::Procedural),
    ("cursor_to_xml", Effect::Procedural),
    ("database_to_xml", Effect::Procedural),
    ("dblink", Effect::UnsafeIo),
    ("lo_", Effect::Procedural),
    ("pg_backup_", Effect::Procedural),
    ("pg_copy_", Effect::Procedural),
    ("pg_create_", Effect::Procedural),
    ("pg_drop_", Effect::Procedural),
    ("pg_file_", Effect::UnsafeIo),
    ("pg_logical_", Effect::UnsafeIo),
    ("pg_ls_", Effect::UnsafeIo),
    ("pg_replication_", Effect::Procedural),
    ("pg_stat_get_", Effect::Procedural),
    ("query_to_xml", Effect::Procedural),
    ("schema_to_xml", Effect::Procedural),
    ("table_to_xml", Effect::Procedural),
];

/// Guarded names, likewise.
const GUARDED: [(&str, Effect); 26] = [
    ("lo_export", Effect::UnsafeIo),
    ("lo_import", Effect::UnsafeIo),
    ("loread", Effect::Procedural),
    ("lowrite", Effect::Procedural),
    ("pg_cancel_backend", Effect::Procedural),
    ("pg_current_logfile", Effect::UnsafeIo),
    ("pg_export_snapshot", Effect::Procedural),
    ("pg_extension_config_dump", Effect::Procedural),
    ("pg_hba_file_rules", Effect::UnsafeIo),
    ("pg_ident_file_mappings", Effect::UnsafeIo),
    ("pg_log_backend_memory_contexts", Effect::Procedural),
    ("pg_logdir_ls", Effect::UnsafeIo),
    ("pg_promote", Effect::Procedural),
    ("pg_read_binary_file", Effect::UnsafeIo),
    ("pg_read_file", Effect::UnsafeIo),
    ("pg_read_file_old", Effect::UnsafeIo),
    ("pg_reload_conf", Effect::Procedural),
    ("pg_rotate_logfile", Effect::Procedural),
    ("pg_show_all_file_settings", Effect::UnsafeIo),
    ("pg_stat_file", Effect::UnsafeIo),
    ("pg_stat_statements", Effect::Procedural),
    ("pg_switch_wal", Effect::Procedural),
    ("pg_terminate_backend", Effect::Procedural),
    // Both run a query that they are given as a string.
    ("ts_rewrite", Effect::Procedural),
    ("ts_stat", Effect::Procedural),
    ("xpath_table", Effect::Procedural),
];

/// What the calls of a statement come to.
#[derive(Default)]
pub(super) struct Calls {
    /// What rules must cover.
    pub(super) touches: Vec<ResolvedTouch>,
    /// `set_config` is among them: the statement changes settings.
    pub(super) set_config: bool,
    /// Something is called that Weir can't see into.
    pub(super) foreign: bool,
    /// The first function that can show what a mask hides.
    pub(super) showing: Option<Box<str>>,
}

/// What a built-in counts as.
enum Class {
    Harmless,
    Touch(ResolvedTouch),
}

impl Calls {
    pub(super) fn of(judge: &Judge<'_>) -> Calls {
        let mut calls = Calls::default();
        for name in &judge.statement.functions {
            calls.add(judge, name);
        }
        calls.add_attributes(judge);
        calls
    }

    /// `c.f` calls a user's function `f` on the row `c` if `c` has no column `f`. Which relation
    /// `c` is isn't known here: it is a column only if every relation of the statement has it.
    /// (Built-ins that take a row are among the statement's functions.)
    fn add_attributes(&mut self, judge: &Judge<'_>) {
        for attribute in &judge.statement.attributes {
            let name = Name {
                schema: None,
                name: attribute.clone(),
            };
            let foreign: Vec<Object> = meant(judge, &name)
                .filter(|function| !function.builtin)
                .map(|function| (function.schema.clone(), function.name.clone()))
                .collect();
            if !foreign.is_empty() && !is_column_everywhere(judge, attribute) {
                foreign
                    .into_iter()
                    .for_each(|object| self.foreign(judge, object));
            }
        }
    }

    fn add(&mut self, judge: &Judge<'_>, name: &Name) {
        if self.showing.is_none() && showing::function(&name.name) {
            self.showing = Some(name.name.clone());
        }
        self.set_config |= &*name.name == "set_config";
        if judge.offline
            && name
                .schema
                .as_deref()
                .is_none_or(|schema| schema == "pg_catalog")
        {
            let volatile = VOLATILE.contains(&&*name.name);
            self.builtin(&name.name, volatile);
            return;
        }
        let mut known = false;
        for function in meant(judge, name) {
            known = true;
            if function.builtin {
                self.builtin(&name.name, function.volatility == Volatility::Volatile);
            } else if !(&*function.schema == "information_schema"
                && function.oid < FIRST_NORMAL_OID)
            {
                self.foreign(judge, (function.schema.clone(), function.name.clone()));
            }
        }
        if !known {
            for object in unresolved(judge, name) {
                self.foreign(judge, object);
            }
        }
    }

    fn builtin(&mut self, name: &str, volatile: bool) {
        if let Class::Touch(touch) = classify(name, volatile) {
            self.touches.push(touch);
        }
    }

    fn foreign(&mut self, judge: &Judge<'_>, object: Object) {
        self.foreign = true;
        let (effect, need) = guarded(&object.1)
            .map_or((Effect::Procedural, Need::Rule), |effect| {
                (effect, Need::Named)
            });
        if is_anywhere(judge, &object.0) {
            self.touches.push(ResolvedTouch {
                object: Some(object.clone()),
                ..without_object(effect, Need::Anywhere)
            });
        }
        if need == Need::Named || !is_anywhere(judge, &object.0) {
            self.touches.push(ResolvedTouch {
                object: Some(object),
                ..without_object(effect, need)
            });
        }
    }
}

fn classify(name: &str, volatile: bool) -> Class {
    let object = Some(("pg_catalog".into(), name.into()));
    if let Some(effect) = guarded(name) {
        return Class::Touch(ResolvedTouch {
            object,
            ..without_object(effect, Need::Named)
        });
    }
    let effect = match name {
        // Judged by the settings that it changes.
        "set_config" => return Class::Harmless,
        "pg_notify" => return Class::Touch(without_object(Effect::Notify, Need::Rule)),
        _ if HARMLESS.contains(&name) => return Class::Harmless,
        _ if name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_") => {
            Effect::Lock
        }
        _ if volatile => Effect::Procedural,
        _ => return Class::Harmless,
    };
    Class::Touch(ResolvedTouch {
        object,
        ..without_object(effect, Need::Rule)
    })
}

fn guarded(name: &str) -> Option<Effect> {
    let whole = GUARDED.iter().find(|(guarded, _)| *guarded == name);
    let begun = || {
        GUARDED_PREFIXES
            .iter()
            .find(|(prefix, _)| name.starts_with(prefix))
    };
    whole.or_else(begun).map(|(_, effect)| *effect)
}

/// The functions of the catalog that a name can mean along the search path.
fn meant<'a>(judge: &'a Judge<'_>, name: &'a Name) -> impl Iterator<Item = &'a Function> {
    let path = judge
        .view
        .search_path
        .filter(|path| !path.iter().any(|schema| &**schema == "$user"));
    judge.view.catalog.functions(name).filter(move |function| {
        let schema = &*function.schema;
        name.schema.is_some()
            || schema == "pg_catalog"
            || path.is_none_or(|path| path.iter().any(|of| **of == *schema))
    })
}

fn is_column_everywhere(judge: &Judge<'_>, name: &str) -> bool {
    let touches = &judge.statement.touches;
    let mut relations = touches
        .iter()
        .filter(|touch| touch.kind == ObjectKind::Relation)
        .peekable();
    relations.peek().is_some()
        && relations
            .filter_map(|touch| touch.object.as_ref())
            .all(|relation| {
                let known = judge.view.catalog.resolve(relation, judge.path());
                !known.is_empty() && known.iter().all(|relation| relation.column(name).is_some())
            })
}

/// The objects of a function that a statement names other than by calling it in an expression:
/// CALL, DROP FUNCTION and so on.
pub(super) fn candidates(judge: &Judge<'_>, name: &Name, effect: Effect) -> Vec<Object> {
    let mut objects: Vec<Object> = Vec::new();
    for function in meant(judge, name) {
        let object = (function.schema.clone(), function.name.clone());
        if !objects.contains(&object) {
            objects.push(object);
        }
    }
    if objects.is_empty() || effect == Effect::Ddl {
        for object in unresolved(judge, name) {
            if !objects.contains(&object) {
                objects.push(object);
            }
        }
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_guarded_function_is_listed_as_harmless_or_as_merely_volatile() {
        for name in HARMLESS.iter().chain(&VOLATILE) {
            assert!(guarded(name).is_none(), "{name}");
        }
    }

    #[test]
    fn every_function_that_can_show_values_is_guarded() {
        for name in showing::FUNCTIONS.iter().chain(&showing::FUNCTION_PREFIXES) {
            assert!(guarded(name).is_some(), "{name}");
        }
    }

    #[test]
    fn reaching_outside_the_database_is_unsafe_io_and_the_rest_procedural() {
        for (name, effect) in [
            ("pg_read_file", Effect::UnsafeIo),
            ("pg_ls_waldir", Effect::UnsafeIo),
            ("lo_export", Effect::UnsafeIo),
            ("dblink_exec", Effect::UnsafeIo),
            ("lo_get", Effect::Procedural),
            ("query_to_xml_and_xmlschema", Effect::Procedural),
            ("pg_terminate_backend", Effect::Procedural),
        ] {
            assert_eq!(guarded(name), Some(effect), "{name}");
        }
        assert!(guarded("lower").is_none());
    }
}
