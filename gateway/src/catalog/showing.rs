//! What shows values of tables by other means than the tables' own columns: statistics, other
//! sessions' statements, functions that run a query given as text or read files.
//!
//! Hides their names. Masks can't follow values there: whatever reads one of these, a view among
//! them, has to count as reading everything.

/// Of `pg_catalog`.
const RELATIONS: [&str; 7] = [
    "pg_largeobject",
    "pg_stat_activity",
    "pg_statistic",
    "pg_statistic_ext_data",
    "pg_stats",
    "pg_stats_ext",
    "pg_stats_ext_exprs",
];

/// Functions, in any schema: some are extensions'.
pub(crate) const FUNCTIONS: [&str; 9] = [
    "loread",
    "lowrite",
    "pg_read_binary_file",
    "pg_read_file",
    "pg_read_file_old",
    "pg_stat_statements",
    "ts_rewrite",
    "ts_stat",
    "xpath_table",
];

/// Functions whose names begin like this, likewise.
pub(crate) const FUNCTION_PREFIXES: [&str; 10] = [
    "cursor_to_xml",
    "database_to_xml",
    "dblink",
    "lo_",
    "pg_file_",
    "pg_logical_",
    "pg_stat_get_",
    "query_to_xml",
    "schema_to_xml",
    "table_to_xml",
];

/// Whether a relation shows values of other relations.
pub(crate) fn relation(schema: &str, name: &str) -> bool {
    // `pg_stat_statements` is an extension's, and can be in any schema.
    (schema == "pg_catalog" && RELATIONS.contains(&name)) || name == "pg_stat_statements"
}

/// Whether a column shows values of other relations, beside others of its relation that drivers need:
/// what the DEFAULT of an ADD COLUMN gave to the rows that were there. (The expression itself, in
/// `pg_attrdef`, is part of the definition that clients describe a table by.)
pub(crate) fn column(schema: &str, relation: &str, column: &str) -> bool {
    (schema, relation, column) == ("pg_catalog", "pg_attribute", "attmissingval")
}

/// Whether a function of this name can show values of relations that it isn't given.
pub(crate) fn function(name: &str) -> bool {
    FUNCTIONS.contains(&name)
        || FUNCTION_PREFIXES
            .iter()
            .any(|prefix| name.starts_with(prefix))
}
