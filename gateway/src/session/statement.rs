//! Statements in a session: judged texts, prepared statements, portals and their runs.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use crate::mask::{Planned, RowPlan};
use crate::policy::{Deny, Limits};
use crate::record::RowsDigest;
use crate::sql::Analysis;

/// Under which policy and catalog something was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation {
    pub(super) policy: u64,
    pub(super) catalog: u64,
    pub(super) path: Path,
    /// How often the terms on which EXECUTE and FETCH run have become others.
    pub(super) terms: u64,
}

/// What is known of a session's search path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Path {
    /// How often it has become another, or may have.
    pub(super) changes: u32,
    /// It was changed in a transaction that may still take it back.
    pub(super) unsettled: bool,
}

/// A text, judged.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) text: Rc<str>,
    /// The text's number in the journal.
    pub(super) text_id: u32,
    pub(super) ruling: Rc<Ruling>,
    /// Whether a look at its result's columns, before it ran, found nothing to refuse.
    pub(super) probed: Cell<bool>,
    /// Types of its parameters, as far as the journal has them: oids of four bytes.
    pub(super) types: RefCell<Box<[u8]>>,
}

/// What becomes of a text, and of all that are analysed alike.
#[derive(Debug)]
pub(super) struct Ruling {
    pub(super) analysis: Rc<Analysis>,
    /// One for each statement of the analysis.
    pub(super) verdicts: Vec<Verdict>,
    pub(super) generation: Generation,
    /// The first statement that is denied, and with it the whole text.
    pub(super) denied: Option<Rc<Deny>>,
    /// Whether any statement reads masked columns, so that its result must be known beforehand.
    pub(super) sensitive: bool,
    /// The strictest limits of any of its statements.
    pub(super) limits: Limits,
    /// What the statements do to names, settings and the catalog.
    pub(super) side_effects: SideEffects,
}

impl Judged {
    pub(super) fn new(text: Rc<str>, text_id: u32, ruling: Rc<Ruling>) -> Self {
        Self {
            text,
            text_id,
            ruling,
            probed: Cell::new(false),
            types: RefCell::default(),
        }
    }

    /// About the memory that it takes, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.text.len() + self.ruling.analysis.weight()
    }
}

/// One statement's verdict within its text.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) decision: crate::policy::Decision,
    pub(super) sensitive: bool,
    /// Bit set of effects, for the record.
    pub(super) effects: u32,
    /// It may leave something behind that a failed transaction would take back.
    pub(super) writes: bool,
    /// It may return more than its limits allow, which shows only when it has run.
    pub(super) limited: bool,
}

/// What running a text does beyond its result, as far as the session has to follow it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct SideEffects {
    /// SQL-level PREPARE, DEALLOCATE, DISCARD: names no longer mean what the protocol said.
    pub(super) statements: bool,
    /// SQL-level DECLARE, CLOSE: the same for portals.
    pub(super) portals: bool,
    /// A cursor is declared that outlives its transaction.
    pub(super) holds: bool,
    /// The search path changes, or may.
    pub(super) search_path: bool,
    /// The catalog changes, or may.
    pub(super) catalog: bool,
    /// COPY FROM STDIN: the client's data becomes part of the statement.
    pub(super) copies_in: bool,
    /// BEGIN, COMMIT, ROLLBACK and their like: what came before stands, or doesn't.
    pub(super) transacts: bool,
}

impl SideEffects {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            statements: self.statements || other.statements,
            portals: self.portals || other.portals,
            holds: self.holds || other.holds,
            search_path: self.search_path || other.search_path,
            catalog: self.catalog || other.catalog,
            copies_in: self.copies_in || other.copies_in,
            transacts: self.transacts || other.transacts,
        }
    }
}

/// The columns of a prepared statement's result, as the server described them.
#[derive(Debug, Clone)]
pub(super) enum Columns {
    /// Not asked, or not answered yet.
    Unknown,
    /// It returns no rows.
    None,
    /// The body of its RowDescription.
    Rows(Rc<[u8]>),
}

/// A prepared statement.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) judged: RefCell<Rc<Judged>>,
    pub(super) columns: RefCell<Columns>,
    /// Under what Weir itself asked for `columns`: the catalog, and the search path.
    described: Cell<Option<(u64, Path)>>,
    /// That of its last portal: the next one has the same as a rule.
    pub(super) shape: RefCell<Option<Rc<Shape>>>,
}

/// The columns of portals with the same result formats, and what they call for.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) generation: Generation,
    /// Result formats as the Bind gave them: none, one, or one a column.
    pub(super) formats: Rc<[i16]>,
    /// The body of the RowDescription, with these formats.
    pub(super) fields: Box<[u8]>,
    pub(super) treatment: Treatment,
    /// Its number in the journal; 0 as long as it isn't there.
    pub(super) number: Cell<u32>,
}

impl Prepared {
    pub(super) fn new(judged: Rc<Judged>) -> Rc<Self> {
        Rc::new(Self {
            judged: RefCell::new(judged),
            columns: RefCell::new(Columns::Unknown),
            described: Cell::new(None),
            shape: RefCell::new(None),
        })
    }

    /// Whether its columns may be others than those that are known: the server analyses it again when
    /// it is bound, and then its names may mean other tables.
    pub(super) fn is_stale(&self, now: Generation) -> bool {
        // A question that failed has told nothing.
        matches!(*self.columns.borrow(), Columns::Unknown)
            || now.path.unsettled
            || self.described.get() != Some((now.catalog, now.path))
    }

    /// The server is asked for its columns.
    pub(super) fn asked(&self, now: Generation) {
        *self.columns.borrow_mut() = Columns::Unknown;
        *self.shape.borrow_mut() = None;
        self.described.set(Some((now.catalog, now.path)));
    }

    /// About the memory that it takes, in bytes.
    pub(super) fn weight(&self) -> usize {
        self.judged.borrow().weight()
    }

    /// Formats as a Bind gives them; those of the last portal as a rule.
    pub(super) fn formats(&self, given: impl Iterator<Item = i16> + Clone) -> Rc<[i16]> {
        let shape = self.shape.borrow();
        let same = |s: &&Rc<Shape>| s.formats.iter().copied().eq(given.clone());
        match shape.as_ref().filter(same) {
            Some(shape) => Rc::clone(&shape.formats),
            None => given.collect(),
        }
    }

    /// The shape that was made for these formats under this policy and catalog, if it is the last.
    pub(super) fn shape_for(&self, generation: Generation, formats: &[i16]) -> Option<Rc<Shape>> {
        let shape = self.shape.borrow();
        let fits = |s: &&Rc<Shape>| s.generation == generation && *s.formats == *formats;
        shape.as_ref().filter(fits).map(Rc::clone)
    }
}

/// A portal: one run of a prepared statement, in one or more parts.
#[derive(Debug)]
pub(super) struct Portal {
    pub(super) prepared: Rc<Prepared>,
    /// Result formats as the Bind gave them: none, one, or one a column.
    pub(super) formats: Rc<[i16]>,
    /// Not known before the statement, or the portal, was described.
    pub(super) shape: RefCell<Option<Rc<Shape>>>,
    pub(super) run: RefCell<Run>,
    pub(super) generation: Cell<Generation>,
}

/// How a run's rows are treated.
#[derive(Debug, Clone)]
pub(super) enum Treatment {
    /// As they are.
    Clear,
    /// By the plan.
    Mask(Rc<RowPlan>),
    /// Every column as NULL: the server's description isn't what was judged.
    Blank,
}

impl From<Planned> for Treatment {
    fn from(planned: Planned) -> Self {
        match planned {
            Planned::Clear => Self::Clear,
            Planned::Mask(plan) => Self::Mask(Rc::new(plan)),
            Planned::Refuse(_) => Self::Blank,
        }
    }
}

/// A statement under way: what its rows are measured against, and what was counted.
#[derive(Debug)]
pub(super) struct Run {
    /// Its number in the session's journal.
    pub(super) statement: u64,
    pub(super) limits: Limits,
    pub(super) sensitive: bool,
    pub(super) writes: bool,
    pub(super) limited: bool,
    pub(super) treatment: Treatment,
    pub(super) side_effects: SideEffects,
    /// Rows, bytes and masked cells of the part that runs; a portal can run in parts.
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) masked_cells: u64,
    /// Rows and bytes of the parts before.
    pub(super) before: (u64, u64),
    pub(super) digest: Option<RowsDigest>,
    pub(super) started: Instant,
    /// The client has been told that a limit was exceeded; what still comes is dropped.
    pub(super) over_limit: bool,
    /// Bytes dropped since then.
    pub(super) dropped: u64,
}

impl Run {
    /// A run of one statement of a text. Until the server has described its result the rows are
    /// blanked, should they come.
    pub(super) fn new(statement: u64, judged: &Judged, verdict: Option<&Verdict>) -> Self {
        let limits = match verdict.map(|v| &v.decision) {
            Some(crate::policy::Decision::Allow(allow)) => allow.limits,
            _ => Limits::default(),
        };
        Self {
            statement,
            limits,
            sensitive: verdict.is_some_and(|v| v.sensitive),
            writes: verdict.is_some_and(|v| v.writes),
            limited: verdict.is_some_and(|v| v.limited),
            treatment: Treatment::Blank,
            side_effects: judged.ruling.side_effects,
            rows: 0,
            bytes: 0,
            masked_cells: 0,
            before: (0, 0),
            digest: None,
            started: Instant::now(),
            over_limit: false,
            dropped: 0,
        }
    }

    /// A part has ended; the next is counted anew, against what is left of the limits.
    pub(super) fn next_part(&mut self) {
        let Self {
            rows,
            bytes,
            before,
            ..
        } = self;
        *before = (
            before.0.saturating_add(*rows),
            before.1.saturating_add(*bytes),
        );
        (*rows, *bytes, self.masked_cells) = (0, 0, 0);
    }

    /// Rows that may still be sent.
    pub(super) fn rows_left(&self) -> u64 {
        self.limits.max_rows.map_or(u64::MAX, |max| {
            max.saturating_sub(self.before.0.saturating_add(self.rows))
        })
    }

    /// Whether `more` bytes may still be sent.
    pub(super) fn fits(&self, more: u64) -> bool {
        self.limits.max_bytes.is_none_or(|max| {
            self.before
                .1
                .saturating_add(self.bytes)
                .saturating_add(more)
                <= max
        })
    }
}
