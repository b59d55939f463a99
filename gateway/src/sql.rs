//! What a statement does: text to [`Analysis`], with no catalog, no clock and no state.
//!
//! PostgreSQL's own grammar is the authority (`authority`); the walk over its tree is an explicit
//! match over the kinds of node, and what isn't listed is [`Effect::Unknown`]. A second parser
//! must not disagree (`second_opinion`). Guaranteed: [`analyse`] never panics, and its time and
//! memory are linear in the text (`walk` counts, and refuses what is out of proportion); every
//! statement has at least one touch; a relation is left out only where it certainly is a common
//! table expression.
//!
//! The parts: `walk` (shared state, depth), `query` and `from` (SELECT, scopes), `dml`, `expr` and
//! `json`, `utility`, `ddl` and `table` (all other statements), `columns` (use of columns).

mod alike;
mod authority;
mod cache;
mod columns;
mod ddl;
mod dml;
mod effect;
mod expr;
mod failure;
mod from;
mod json;
mod name;
mod query;
mod second_opinion;
mod settings;
mod table;
mod utility;
mod walk;

use std::ops::Range;

use pg_raw_parse::nodes::RawStmt;

pub use cache::Cache;
pub use columns::ColumnUse;
pub use effect::{Effect, NotAnEffect};
pub use failure::{Failure, FailureKind};
pub use name::Name;
pub use second_opinion::{Disagreement, second_opinion};
use walk::{Walk, distinct};

/// The longest text that is analysed, in bytes.
pub const MAX_TEXT: usize = 16 << 20;

/// What kind of object a touch is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectKind {
    /// A table, view, materialised view, foreign table, sequence or index.
    Relation,
    /// A function, procedure or aggregate.
    Function,
    /// Anything else, or nothing.
    Other,
}

/// One effect on one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Touch {
    /// What is done.
    pub effect: Effect,
    /// What it is done to.
    pub kind: ObjectKind,
    /// Its name; `None` where the effect has no object, or none that could be named.
    pub object: Option<Name>,
    /// For update and delete: whether a condition looks at the rows. `None` for all others.
    pub has_where: Option<bool>,
}

/// Which way COPY goes, between server and client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyDirection {
    /// FROM STDIN
    In,
    /// TO STDOUT
    Out,
}

/// The options of an EXPLAIN that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explain {
    /// The statement is executed.
    pub analyze: bool,
    /// Expressions and their constants are shown.
    pub verbose: bool,
}

/// What a transaction statement does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionVerb {
    /// BEGIN, START TRANSACTION
    Begin,
    /// COMMIT, END
    Commit,
    /// ROLLBACK, ABORT
    Rollback,
    /// SAVEPOINT
    Savepoint,
    /// RELEASE
    Release,
    /// ROLLBACK TO
    RollbackTo,
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED
    TwoPhase,
}

/// A statement that works on something stored earlier in the session. What it does is not in its
/// text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// EXECUTE, also below CREATE TABLE AS and EXPLAIN
    Execute,
    /// FETCH
    Fetch,
    /// MOVE
    Move,
    /// CLOSE
    Close,
    /// DEALLOCATE
    Deallocate,
}

/// Facts about a statement's form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// COPY between server and client.
    pub copy: Option<CopyDirection>,
    /// COPY in the binary format.
    pub copy_binary: bool,
    /// May return rows (CALL may, too).
    pub returns_rows: bool,
    /// EXPLAIN, and how.
    pub explain: Option<Explain>,
    /// What it does to the transaction.
    pub transaction: Option<TransactionVerb>,
    /// Its output goes somewhere that masks can't follow: CREATE TABLE AS, SELECT INTO, CREATE
    /// VIEW, RULE or FUNCTION, INSERT .. SELECT, DECLARE CURSOR, PREPARE.
    pub derives: bool,
    /// CREATE VIEW, also within CREATE SCHEMA.
    pub makes_view: bool,
    /// PREPARE: the touches are those of the body.
    pub prepares: bool,
    /// DECLARE .. WITH HOLD: the cursor outlives its transaction.
    pub holds: bool,
    /// EXECUTE, FETCH and their like.
    pub stored: Option<Stored>,
    /// CASCADE: what depends on what it names goes too.
    pub cascades: bool,
}

/// One statement of a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    /// Its bytes in the text, without the semicolon and the blank space around.
    pub span: Range<usize>,
    /// What kind it is, for people and metrics.
    pub tag: &'static str,
    /// What it does to what; no duplicates, never empty.
    pub touches: Vec<Touch>,
    /// Every function that it calls by name. An operator with an explicit schema other than
    /// `pg_catalog` is listed as `operator schema.op`.
    pub functions: Vec<Name>,
    /// Names that are calls only where a function of that name exists. Behind a dot: `c.f` is a
    /// column, or else `f(c)`. Newer syntax: `json_value(..)` is a call to a server older than 17.
    /// Whoever has a catalog must hold the names that are no columns against its functions.
    pub attributes: Vec<Box<str>>,
    /// What it does with columns.
    pub columns: ColumnUse,
    /// Settings that it changes, in lower case; `*`: all, or one that can't be told.
    pub settings: Vec<Box<str>>,
    /// Facts about its form.
    pub shape: Shape,
    /// Why it has [`Effect::Unknown`], where it has.
    pub unknown: Option<Box<str>>,
}

/// What a text does.
#[derive(Clone, Debug, PartialEq)]
pub struct Analysis {
    /// Its statements in order; empty for an empty text. With a failure: one unknown statement
    /// that spans the text.
    pub statements: Vec<Statement>,
    /// Why it could not be analysed.
    pub failure: Option<Failure>,
}

/// Analyses a text of any number of statements, second opinion included. Costs tens of
/// microseconds and more: see [`Cache`].
pub fn analyse(text: &str) -> Analysis {
    let statements = match statements(text) {
        Ok(statements) => statements,
        Err(failure) => return Analysis::failed(text, failure),
    };
    let analysis = Analysis {
        statements,
        failure: None,
    };
    match second_opinion(text, &analysis) {
        Ok(()) => analysis,
        Err(d) => {
            let failure = Failure::because(FailureKind::Disagreement, d.to_string());
            Analysis::failed(text, failure)
        }
    }
}

/// The authority's reading alone.
fn statements(text: &str) -> Result<Vec<Statement>, Failure> {
    authority::with_tree(text, |tree| {
        tree.iter().map(|raw| statement(text, raw)).collect()
    })
}

impl Analysis {
    /// About the memory that it takes, in bytes.
    pub fn weight(&self) -> usize {
        /// A touch or label takes some more, with its name and its place in a map; an edge less.
        const OF_A_THING: usize = 64;
        let things: usize = self.statements.iter().map(Statement::size).sum();
        self.statements.len() * size_of::<Statement>() + things * OF_A_THING
    }

    fn failed(text: &str, failure: Failure) -> Analysis {
        let mut walk = Walk::default();
        walk.unknown_because(&failure.to_string());
        Analysis {
            statements: vec![walk.into_statement(0..text.len(), "UNKNOWN")],
            failure: Some(failure),
        }
    }
}

fn statement(text: &str, raw: &RawStmt) -> Result<Statement, Failure> {
    let span = authority::span(text, raw.stmt_location, raw.stmt_len)
        .ok_or_else(|| Failure::of(FailureKind::Internal))?;
    let mut walk = Walk::over(span.len());
    let tag = walk.statement(raw.stmt())?;
    walk.step()?;
    if walk.touches.is_empty() {
        // SELECT 1
        walk.effect(Effect::Read);
    }
    Ok(walk.into_statement(span, tag))
}

impl Statement {
    /// How many things it holds.
    fn size(&self) -> usize {
        let names = self.functions.len() + self.attributes.len() + self.settings.len();
        self.touches.len() + names + self.columns.size()
    }
}

impl Walk {
    fn into_statement(self, span: Range<usize>, tag: &'static str) -> Statement {
        Statement {
            span,
            tag,
            touches: distinct(self.touches),
            functions: distinct(self.functions),
            attributes: distinct(self.attributes),
            columns: self.columns,
            settings: distinct(self.settings),
            shape: self.shape,
            unknown: self.unknown,
        }
    }
}

#[cfg(test)]
mod tests;
