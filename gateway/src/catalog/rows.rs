//! The catalog queries and the rows that they return.
//!
//! Hides which system catalogs hold which fact. The texts work on PostgreSQL 11 and later, over
//! the simple protocol, and name every relation with its schema. Tests build a catalog by hand
//! from the same row types.

use thiserror::Error;

use super::{AttNum, Oid};

/// One catalog query and what its rows are.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// What the rows state.
    pub facts: Facts,
    /// The text.
    pub sql: &'static str,
}

/// What the rows of a query state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facts {
    /// [`RelationRow`]s.
    Relations,
    /// [`ColumnRow`]s.
    Columns,
    /// [`FunctionRow`]s.
    Functions,
    /// [`TypeRow`]s.
    Types,
    /// [`RuleRow`]s without dependencies.
    Rules,
    /// What the rules depend on, column by column.
    Depends,
    /// Schemas and names of indexes.
    Indexes,
    /// [`InheritsRow`]s.
    Inherits,
    /// What generated columns are computed from.
    Generated,
    /// The schemas of the search path, in order.
    SearchPath,
}

/// The search path that a session of this role begins with. It has to be asked before anything
/// changes it.
pub const SEARCH_PATH: Query = Query {
    facts: Facts::SearchPath,
    sql: "SELECT s FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) AS s",
};

/// All queries of a snapshot, to be run in one transaction of repeatable read.
///
/// The rules of the server's own views (oids below 16384) aren't fetched: they are 3 MB of the
/// 3 MB that `pg_rewrite` has, and show catalogs only. Toast tables, indexes and composite types
/// are left out of the relations: a result that comes from one is unknown, and so refused.
pub const QUERIES: [Query; 9] = [
    Query {
        facts: Facts::Relations,
        sql: "SELECT c.oid, n.nspname, c.relname, c.relkind \
              FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
              WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S')",
    },
    Query {
        facts: Facts::Columns,
        sql: "SELECT a.attrelid, a.attnum, a.attname, a.atttypid, a.atttypmod \
              FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
              WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND a.attnum > 0 AND NOT a.attisdropped",
    },
    Query {
        facts: Facts::Functions,
        sql: "SELECT p.oid, n.nspname, p.proname, p.provolatile, p.prokind, l.lanname \
              FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
              JOIN pg_catalog.pg_language l ON l.oid = p.prolang",
    },
    Query {
        facts: Facts::Types,
        sql: "SELECT oid, typname, typtype, typcategory, typelem, typbasetype \
              FROM pg_catalog.pg_type WHERE typtype <> 'c'",
    },
    Query {
        facts: Facts::Rules,
        sql: "SELECT ev_class, ev_action FROM pg_catalog.pg_rewrite WHERE ev_type = '1' AND ev_class >= 16384",
    },
    Query {
        facts: Facts::Depends,
        sql: "SELECT DISTINCT r.ev_class, d.refobjid, d.refobjsubid \
              FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d ON d.objid = r.oid \
              WHERE d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass \
              AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
              AND d.refobjsubid <> 0 AND d.refobjid <> r.ev_class \
              AND r.ev_type = '1' AND r.ev_class >= 16384",
    },
    // A statement can name one, and means one of its own schema; those of the server's can't be changed.
    Query {
        facts: Facts::Indexes,
        sql: "SELECT n.nspname, c.relname \
              FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
              WHERE c.relkind IN ('i', 'I') AND c.oid >= 16384 AND n.nspname <> 'pg_toast'",
    },
    Query {
        facts: Facts::Inherits,
        sql: "SELECT inhrelid, inhparent FROM pg_catalog.pg_inherits",
    },
    // Only a generated column depends on another column of its table: up to 14 by itself, later by
    // the expression that is stored for it.
    Query {
        facts: Facts::Generated,
        sql: "SELECT refobjid, objsubid, refobjsubid FROM pg_catalog.pg_depend \
              WHERE classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
              AND refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
              AND objid = refobjid AND objsubid > 0 AND refobjsubid > 0 AND objid >= 16384 \
              UNION SELECT e.adrelid, e.adnum, d.refobjsubid \
              FROM pg_catalog.pg_attrdef e JOIN pg_catalog.pg_depend d ON d.objid = e.oid \
              WHERE d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass \
              AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass \
              AND d.refobjid = e.adrelid AND d.refobjsubid > 0 AND d.refobjsubid <> e.adnum",
    },
];

/// The rows of one snapshot, in any order.
#[derive(Clone, Debug, Default, Hash)]
pub struct SnapshotRows {
    /// Relations.
    pub relations: Vec<RelationRow>,
    /// Their columns.
    pub columns: Vec<ColumnRow>,
    /// Functions.
    pub functions: Vec<FunctionRow>,
    /// Types.
    pub types: Vec<TypeRow>,
    /// Views' rules.
    pub rules: Vec<RuleRow>,
    /// (view, relation, column) that a view's rule depends on, by `pg_depend`.
    pub depends: Vec<(Oid, Oid, AttNum)>,
    /// Schemas and names of indexes.
    pub indexes: Vec<(Box<str>, Box<str>)>,
    /// Inheritance and partitions.
    pub inherits: Vec<InheritsRow>,
    /// (relation, generated column, column that it is computed from).
    pub generated: Vec<(Oid, AttNum, AttNum)>,
    /// The search path that sessions begin with: schemas that exist, in order.
    pub search_path: Vec<Box<str>>,
}

/// A row of `pg_class`.
#[derive(Clone, Debug, Hash)]
pub struct RelationRow {
    /// `oid`.
    pub oid: Oid,
    /// The schema's name.
    pub schema: Box<str>,
    /// `relname`.
    pub name: Box<str>,
    /// `relkind`: r, p, f, v, m or S.
    pub kind: char,
}

/// A row of `pg_attribute`.
#[derive(Clone, Debug, Hash)]
pub struct ColumnRow {
    /// `attrelid`.
    pub relation: Oid,
    /// `attnum`.
    pub attnum: AttNum,
    /// `attname`.
    pub name: Box<str>,
    /// `atttypid`.
    pub type_oid: Oid,
    /// `atttypmod`.
    pub typmod: i32,
}

/// A row of `pg_proc`.
#[derive(Clone, Debug, Hash)]
pub struct FunctionRow {
    /// `oid`.
    pub oid: Oid,
    /// The schema's name.
    pub schema: Box<str>,
    /// `proname`.
    pub name: Box<str>,
    /// `provolatile`: i, s or v.
    pub volatility: char,
    /// `prokind`: f, p, a or w.
    pub kind: char,
    /// The language's name.
    pub language: Box<str>,
}

/// A row of `pg_type`.
#[derive(Clone, Debug, Hash)]
pub struct TypeRow {
    /// `oid`.
    pub oid: Oid,
    /// `typname`.
    pub name: Box<str>,
    /// `typtype`: b, d, e, p, r or m.
    pub kind: char,
    /// `typcategory`; A is an array.
    pub category: char,
    /// `typelem`, 0 where there is none.
    pub element: Oid,
    /// `typbasetype` of a domain, else 0.
    pub base: Oid,
}

/// A view's rule of `pg_rewrite`.
#[derive(Clone, Debug, Hash)]
pub struct RuleRow {
    /// `ev_class`.
    pub view: Oid,
    /// `ev_action`: a `pg_node_tree` as text.
    pub action: Box<str>,
}

/// A row of `pg_inherits`.
#[derive(Clone, Debug, Hash)]
pub struct InheritsRow {
    /// `inhrelid`.
    pub child: Oid,
    /// `inhparent`.
    pub parent: Oid,
}

/// A row that isn't what its query asks for.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("catalog query for {facts:?} returned a row without a valid column {column}")]
pub struct RowError {
    facts: Facts,
    column: usize,
}

impl SnapshotRows {
    /// Adds the rows that one of [`QUERIES`] returned.
    ///
    /// # Errors
    /// The first row that has a column too few, a NULL or a number that isn't one; nothing of a
    /// snapshot that had one may be used.
    pub fn add(&mut self, facts: Facts, rows: Vec<Vec<Option<String>>>) -> Result<(), RowError> {
        for row in rows {
            self.add_row(&mut Cells {
                facts,
                column: 0,
                row: row.into_iter(),
            })?;
        }
        Ok(())
    }

    fn add_row(&mut self, row: &mut Cells) -> Result<(), RowError> {
        match row.facts {
            Facts::Relations => self.relations.push(RelationRow {
                oid: row.parsed()?,
                schema: row.text()?,
                name: row.text()?,
                kind: row.parsed()?,
            }),
            Facts::Columns => self.columns.push(ColumnRow {
                relation: row.parsed()?,
                attnum: row.parsed()?,
                name: row.text()?,
                type_oid: row.parsed()?,
                typmod: row.parsed()?,
            }),
            Facts::Functions => self.functions.push(FunctionRow {
                oid: row.parsed()?,
                schema: row.text()?,
                name: row.text()?,
                volatility: row.parsed()?,
                kind: row.parsed()?,
                language: row.text()?,
            }),
            Facts::Types => self.types.push(TypeRow {
                oid: row.parsed()?,
                name: row.text()?,
                kind: row.parsed()?,
                category: row.parsed()?,
                element: row.parsed()?,
                base: row.parsed()?,
            }),
            Facts::Rules => self.rules.push(RuleRow {
                view: row.parsed()?,
                action: row.text()?,
            }),
            Facts::Depends => self
                .depends
                .push((row.parsed()?, row.parsed()?, row.parsed()?)),
            Facts::Indexes => self.indexes.push((row.text()?, row.text()?)),
            Facts::Inherits => self.inherits.push(InheritsRow {
                child: row.parsed()?,
                parent: row.parsed()?,
            }),
            Facts::Generated => self
                .generated
                .push((row.parsed()?, row.parsed()?, row.parsed()?)),
            Facts::SearchPath => self.search_path.push(row.text()?),
        }
        Ok(())
    }
}

/// The cells of one row, taken from left to right.
struct Cells {
    facts: Facts,
    column: usize,
    row: std::vec::IntoIter<Option<String>>,
}

impl Cells {
    fn text(&mut self) -> Result<Box<str>, RowError> {
        let bad = RowError {
            facts: self.facts,
            column: self.column,
        };
        self.column += 1;
        self.row
            .next()
            .flatten()
            .map(String::into_boxed_str)
            .ok_or(bad)
    }

    fn parsed<T: std::str::FromStr>(&mut self) -> Result<T, RowError> {
        let bad = RowError {
            facts: self.facts,
            column: self.column,
        };
        self.text()?.parse().map_err(|_| bad)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(cells: &[&str]) -> Vec<Option<String>> {
        cells.iter().map(|cell| Some((*cell).to_owned())).collect()
    }

    #[test]
    fn a_whole_row_is_taken_and_a_short_null_or_garbled_one_is_refused() {
        let mut rows = SnapshotRows::default();
        rows.add(Facts::Relations, vec![row(&["16385", "public", "t", "r"])])
            .expect("valid");
        assert_eq!(
            (rows.relations[0].oid, rows.relations[0].kind),
            (16385, 'r')
        );

        let error = |column| RowError {
            facts: Facts::Relations,
            column,
        };
        assert_eq!(
            rows.add(Facts::Relations, vec![row(&["1", "public", "t"])]),
            Err(error(3))
        );
        assert_eq!(
            rows.add(Facts::Relations, vec![row(&["one", "public", "t", "r"])]),
            Err(error(0))
        );
        assert_eq!(
            rows.add(Facts::Relations, vec![vec![Some("1".into()), None]]),
            Err(error(1))
        );
    }
}
