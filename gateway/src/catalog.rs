//! What the upstream catalog says about relations, columns, functions and types, as one immutable
//! snapshot.
//!
//! Hides the catalog queries' row shapes and how a view's columns are traced to where they come
//! from: the server's own resolution, read out of `pg_rewrite`. Guarantees that whatever could not
//! be understood is [`Origin::Opaque`] or [`Depends::Unknown`], never silently "not from there".
//!
//! A snapshot is a moment. What it doesn't know may have been created since: callers that must
//! fail closed treat an unknown oid as unknown, not as harmless.

mod build;
mod nodetree;
mod rows;
pub(crate) mod showing;

use std::collections::HashMap;
use std::sync::Arc;

use crate::sql;

pub use rows::{
    ColumnRow, Facts, FunctionRow, InheritsRow, QUERIES, Query, RelationRow, RowError, RuleRow,
    SEARCH_PATH, SnapshotRows, TypeRow,
};

/// A row's identity in a system catalog.
pub type Oid = u32;
/// A column's number within its relation: from 1; 0 is the whole row, negative ones are the system
/// columns (`ctid`, `xmin`, ...).
pub type AttNum = i16;

/// Objects with a smaller oid were made by `initdb` (`FirstNormalObjectId`).
pub const FIRST_NORMAL_OID: Oid = 16384;

/// One snapshot of the upstream catalog. [`Catalog::default`] is empty.
#[derive(Debug, Default)]
pub struct Catalog {
    relations: Vec<Relation>,
    by_oid: HashMap<Oid, usize>,
    by_name: HashMap<Box<str>, Vec<usize>>,
    /// The schemas that have an index of a name.
    indexes: HashMap<Box<str>, Vec<Box<str>>>,
    functions: Vec<Function>,
    functions_by_name: HashMap<Box<str>, Vec<usize>>,
    functions_by_oid: HashMap<Oid, usize>,
    /// The highest column number of each relation: what is beyond it is newer than the snapshot.
    extents: Arc<HashMap<Oid, AttNum>>,
    types: Arc<HashMap<Oid, Type>>,
    generation: u64,
    search_path: Arc<[Box<str>]>,
}

/// A table, view or sequence.
#[derive(Clone, Debug)]
pub struct Relation {
    /// `pg_class.oid`.
    pub oid: Oid,
    /// The schema's name.
    pub schema: Box<str>,
    /// The relation's own name.
    pub name: Box<str>,
    /// What kind of relation.
    pub kind: RelKind,
    /// Live columns in the order of their numbers; dropped and system columns are left out.
    pub columns: Vec<Column>,
    /// What a view's rule reads, one step deep. Nothing for anything but views.
    pub depends: Depends,
    /// Relations that a view's rule reads at all, one step deep.
    pub reads: Vec<Oid>,
    /// Functions and operators' functions that a view's rule calls, one step deep, sorted. Empty
    /// where the rule was not read: see [`Depends::Unknown`].
    pub functions: Vec<Oid>,
    /// Tables that this one inherits from or is a partition of, directly.
    pub parents: Vec<Oid>,
    /// Tables that inherit from this one or are its partitions, directly.
    pub children: Vec<Oid>,
    /// Generated columns, each with a column that it is computed from.
    pub generated: Vec<(AttNum, AttNum)>,
}

/// `pg_class.relkind`, of the kinds that a statement can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelKind {
    /// An ordinary table.
    Table,
    /// A partitioned table.
    Partitioned,
    /// A foreign table.
    Foreign,
    /// A view.
    View,
    /// A materialized view. Its columns derive from its rule at refresh.
    MaterializedView,
    /// A sequence.
    Sequence,
}

/// A column of a relation.
#[derive(Clone, Debug)]
pub struct Column {
    /// `pg_attribute.attnum`, from 1.
    pub attnum: AttNum,
    /// The column's name.
    pub name: Box<str>,
    /// `pg_type.oid` of its type; a domain's own.
    pub type_oid: Oid,
    /// Type modifier, -1 where there is none.
    pub typmod: i32,
    /// Where its values come from in the end.
    pub origin: Origin,
    /// Where a view's column comes from one step down, which may be a view again. `None` for
    /// tables' columns and for opaque ones.
    pub via: Option<(Oid, AttNum)>,
}

/// Where a column's values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A table's own column.
    Own,
    /// A view's column that shows this table's column unchanged, through however many views.
    Plain {
        /// The table.
        oid: Oid,
        /// The table's column; negative for system columns.
        attnum: AttNum,
    },
    /// A view's column that is computed, or that was not understood.
    Opaque,
}

/// What a view's rule reads, one step deep (a view that it reads has its own).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Depends {
    /// Columns of relations; attnum 0 means any column of that relation. Sorted, no duplicates.
    Columns(Vec<(Oid, AttNum)>),
    /// Not known: the rule was not understood, or calls code that can read anything.
    Unknown,
    /// A view that the server brings along; its rule isn't read. It shows catalogs only.
    System,
}

/// A function, procedure, aggregate or window function.
#[derive(Clone, Debug)]
pub struct Function {
    /// `pg_proc.oid`.
    pub oid: Oid,
    /// The schema's name.
    pub schema: Box<str>,
    /// The function's own name; overloads share it.
    pub name: Box<str>,
    /// Declared volatility.
    pub volatility: Volatility,
    /// Function, aggregate, window function or procedure.
    pub kind: FunctionKind,
    /// The language's name: `internal`, `c`, `sql`, `plpgsql`, ...
    pub language: Box<str>,
    /// Whether the server brings it along: made by `initdb`, in `pg_catalog`.
    pub builtin: bool,
}

/// `pg_proc.provolatile`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Volatility {
    /// Depends on its arguments only.
    Immutable,
    /// Reads, and doesn't change within a statement.
    Stable,
    /// May do anything.
    Volatile,
}

/// `pg_proc.prokind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FunctionKind {
    /// An ordinary function.
    Function,
    /// A procedure.
    Procedure,
    /// An aggregate.
    Aggregate,
    /// A window function.
    Window,
}

/// What masking needs to know of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// `pg_type.typname`.
    pub name: Box<str>,
    /// What kind of type.
    pub kind: TypeKind,
}

/// The kinds of types that masking tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// A base type.
    Base,
    /// An array of this element type.
    Array(Oid),
    /// A domain over this type.
    Domain(Oid),
    /// Enum, range, composite, pseudo.
    Other,
}

impl Catalog {
    /// The snapshot that these rows describe. Rows that contradict each other or refer to nothing
    /// lead to `Opaque` and `Unknown`, not to an error.
    pub fn build(rows: SnapshotRows) -> Catalog {
        build::build(rows)
    }

    /// A number that is the same for the same content and differs for different content; 0 is the
    /// empty catalog.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The schemas in which a session that hasn't changed its path looks for unqualified names.
    pub fn search_path(&self) -> &[Box<str>] {
        &self.search_path
    }

    /// Whether nothing has been loaded.
    pub fn is_empty(&self) -> bool {
        self.relations.is_empty()
    }

    /// The relation of this oid.
    pub fn relation(&self, oid: Oid) -> Option<&Relation> {
        self.by_oid.get(&oid).map(|&i| &self.relations[i])
    }

    /// All relations, in no particular order.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.relations.iter()
    }

    /// Every relation that a name can mean.
    ///
    /// `path` is the session's search path without `$user` (or with it: then it counts as
    /// unknown); `None` is an unknown path and means all schemas. An unqualified name always also
    /// means `pg_catalog`'s and temporary relations. All matches along the path are returned, not
    /// the first alone, because the server leaves out schemas that the role may not use.
    pub fn resolve<'a>(&'a self, name: &sql::Name, path: Option<&[Box<str>]>) -> Vec<&'a Relation> {
        let path = known(path);
        let candidates = self
            .by_name
            .get(&name.name)
            .map(Vec::as_slice)
            .unwrap_or_default();
        candidates
            .iter()
            .map(|&i| &self.relations[i])
            .filter(|relation| in_scope(&relation.schema, name.schema.as_deref(), path))
            .collect()
    }

    /// The schema of every index that a name can mean, see [`resolve`](Self::resolve).
    pub fn indexes<'a>(
        &'a self,
        name: &'a sql::Name,
        path: Option<&'a [Box<str>]>,
    ) -> impl Iterator<Item = &'a str> {
        let path = known(path);
        let schemas = self
            .indexes
            .get(&name.name)
            .map(Vec::as_slice)
            .unwrap_or_default();
        schemas
            .iter()
            .map(|schema| &**schema)
            .filter(move |schema| in_scope(schema, name.schema.as_deref(), path))
    }

    /// Every function that a name can mean, overloads and all schemas (if unqualified) included.
    pub fn functions(&self, name: &sql::Name) -> impl Iterator<Item = &Function> {
        let candidates = self
            .functions_by_name
            .get(&name.name)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let schema = name.schema.clone();
        candidates
            .iter()
            .map(|&i| &self.functions[i])
            .filter(move |function| in_scope(&function.schema, schema.as_deref(), None))
    }

    /// The function of this oid.
    pub fn function(&self, oid: Oid) -> Option<&Function> {
        self.functions_by_oid.get(&oid).map(|&i| &self.functions[i])
    }

    pub(crate) fn types(&self) -> &Arc<HashMap<Oid, Type>> {
        &self.types
    }

    pub(crate) fn extents(&self) -> &Arc<HashMap<Oid, AttNum>> {
        &self.extents
    }
}

impl Relation {
    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| &*column.name == name)
    }

    /// The column of this number.
    pub fn attribute(&self, attnum: AttNum) -> Option<&Column> {
        self.columns.iter().find(|column| column.attnum == attnum)
    }
}

/// A path with `$user` counts as unknown.
fn known(path: Option<&[Box<str>]>) -> Option<&[Box<str>]> {
    path.filter(|path| !path.iter().any(|schema| &**schema == "$user"))
}

fn in_scope(schema: &str, named: Option<&str>, path: Option<&[Box<str>]>) -> bool {
    let temporary = schema.starts_with("pg_temp_");
    match (named, path) {
        // Every session's temporary schema is called `pg_temp` by that session.
        (Some("pg_temp"), _) => temporary,
        (Some(named), _) => schema == named,
        (None, None) => true,
        (None, Some(path)) => {
            temporary || schema == "pg_catalog" || path.iter().any(|in_path| **in_path == *schema)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog(schemas: &[&str]) -> Catalog {
        let row = |(oid, schema): (u32, &&str)| RelationRow {
            oid,
            schema: (*schema).into(),
            name: "t".into(),
            kind: 'r',
        };
        let function = |(oid, schema): (u32, &&str)| FunctionRow {
            oid,
            schema: (*schema).into(),
            name: "f".into(),
            volatility: 'i',
            kind: 'f',
            language: "internal".into(),
        };
        Catalog::build(SnapshotRows {
            relations: (1..).zip(schemas).map(row).collect(),
            functions: (16380..).zip(schemas).map(function).collect(),
            ..SnapshotRows::default()
        })
    }

    fn name(schema: Option<&str>, name: &str) -> sql::Name {
        sql::Name {
            schema: schema.map(Into::into),
            name: name.into(),
        }
    }

    const SCHEMAS: [&str; 5] = ["public", "other", "pg_catalog", "pg_temp_3", "pg_temporal"];

    #[test]
    fn a_name_means_every_relation_that_it_can_mean() {
        let catalog = catalog(&SCHEMAS);
        let meant = |schema, path: Option<&[&str]>| {
            let path: Option<Vec<Box<str>>> =
                path.map(|path| path.iter().map(|schema| (*schema).into()).collect());
            let found = catalog.resolve(&name(schema, "t"), path.as_deref());
            found.iter().map(|r| &*r.schema).collect::<Vec<_>>()
        };
        assert_eq!(meant(None, None), SCHEMAS);
        assert_eq!(meant(None, Some(&["$user", "public"])), SCHEMAS);
        assert_eq!(
            meant(None, Some(&["public"])),
            ["public", "pg_catalog", "pg_temp_3"]
        );
        assert_eq!(meant(Some("other"), Some(&["public"])), ["other"]);
        assert_eq!(meant(Some("pg_temp"), None), ["pg_temp_3"]);
        assert!(catalog.resolve(&name(None, "u"), None).is_empty());
    }

    /// What a view depends on that calls this function alone.
    fn depends_by(oid: Oid, schema: &str, name: &str, volatility: char, language: &str) -> Depends {
        const VIEW: Oid = 20_000;
        let catalog = Catalog::build(SnapshotRows {
            relations: vec![RelationRow {
                oid: VIEW,
                schema: "public".into(),
                name: "v".into(),
                kind: 'v',
            }],
            functions: vec![FunctionRow {
                oid,
                schema: schema.into(),
                name: name.into(),
                volatility,
                kind: 'f',
                language: language.into(),
            }],
            rules: vec![RuleRow {
                view: VIEW,
                action: format!(
                    "({{QUERY :calls ({{F :funcid {oid}}}) :targetList ({{TARGETENTRY :resno 1 \
                     :resorigtbl 0 :resorigcol 0 :resjunk false}})}})"
                )
                .into(),
            }],
            ..SnapshotRows::default()
        });
        catalog.relation(VIEW).expect("known").depends.clone()
    }

    #[test]
    fn a_view_that_calls_what_could_read_anything_depends_on_what_isnt_known() {
        for (oid, schema, name, volatility, language) in [
            (30_000, "public", "crosstab", 's', "c"),
            (30_000, "public", "connectby", 's', "c"),
            (30_000, "public", "get_raw_page", 'v', "c"),
            (30_000, "pg_catalog", "read_all", 'v', "c"),
            (30_000, "public", "alias", 'v', "internal"),
            (30_000, "public", "xpath_table", 'i', "c"),
            (30_000, "public", "mine", 'i', "sql"),
            (
                3_000,
                "pg_catalog",
                "query_to_xml_and_xmlschema",
                'v',
                "internal",
            ),
            (3_000, "pg_catalog", "pg_stat_get_activity", 's', "internal"),
            (3_000, "pg_catalog", "pg_read_file", 'v', "internal"),
        ] {
            let depends = depends_by(oid, schema, name, volatility, language);
            assert_eq!(depends, Depends::Unknown, "{schema}.{name}");
        }
        for (oid, schema, name, volatility, language) in [
            (30_000, "public", "levenshtein", 'i', "c"),
            (30_000, "public", "texteq", 'i', "internal"),
            (30_000, "public", "unaccent", 's', "c"),
            (3_000, "pg_catalog", "random", 'v', "internal"),
            (3_000, "information_schema", "_pg_truetypid", 'i', "sql"),
        ] {
            let depends = depends_by(oid, schema, name, volatility, language);
            assert_eq!(depends, Depends::Columns(Vec::new()), "{schema}.{name}");
        }
    }

    #[test]
    fn a_function_is_built_in_by_schema_and_oid() {
        let catalog = catalog(&SCHEMAS);
        let builtin = |schema| {
            let found: Vec<_> = catalog.functions(&name(Some(schema), "f")).collect();
            assert_eq!(found.len(), 1);
            found[0].builtin
        };
        assert_eq!((builtin("pg_catalog"), builtin("public")), (true, false));
        assert_eq!(catalog.functions(&name(None, "f")).count(), SCHEMAS.len());
        assert!(catalog.function(16384).is_some_and(|f| !f.builtin));
    }
}
