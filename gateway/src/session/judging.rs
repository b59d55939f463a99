//! Judging texts in a session: each distinct text once per policy and catalog.
//!
//! Hides which policy and catalog hold right now. A judgement is looked up by its text; it counts
//! only as long as its [`Generation`] is the current one, so that open sessions are judged by a
//! new policy from their next statement on.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::watch;

use super::statement::{Generation, Judged, Path, Ruling, SideEffects, Verdict};
use super::stored::{ByName, Made, Stored, Under};
use crate::catalog::Catalog;
use crate::judge::{self, Unsettled, View};
use crate::mask::{self, MaskSet, Planned};
use crate::policy::{
    Decision, Deny, EffectSet, INSUFFICIENT_PRIVILEGE, Limits, Subject, SubjectPolicy,
};
use crate::policy_store::Active;
use crate::sql::{self, Analysis, CopyDirection, Effect, Statement};
use crate::wire;

/// Distinct texts that a session remembers; agents that put values into their SQL make new ones
/// without end, and those are not worth keeping.
const REMEMBERED: usize = 256;
/// Bytes that they may take.
const REMEMBERED_WEIGHT: usize = 2 << 20;

thread_local! {
    /// What a text does depends on nothing but the text: all sessions of a thread share it.
    static ANALYSES: RefCell<sql::Cache> = RefCell::default();
}

/// What texts have come to, by text.
#[derive(Default)]
struct Remembered {
    judged: HashMap<Rc<str>, Rc<Judged>>,
    /// Bytes that they take.
    weight: usize,
}

impl Remembered {
    fn get(&self, text: &str) -> Option<&Rc<Judged>> {
        self.judged.get(text)
    }

    fn insert(&mut self, judged: &Rc<Judged>) {
        let weight = judged.weight();
        if weight > REMEMBERED_WEIGHT {
            return;
        }
        if self.judged.len() >= REMEMBERED || self.weight + weight > REMEMBERED_WEIGHT {
            self.clear();
        }
        self.weight += weight;
        self.judged
            .insert(Rc::clone(&judged.text), Rc::clone(judged));
    }

    fn clear(&mut self) {
        self.judged.clear();
        self.weight = 0;
    }
}

/// Who is judged, for which datastore.
#[derive(Debug, Clone)]
pub struct Who {
    /// The agent's name.
    pub agent: Arc<str>,
    /// Its groups.
    pub groups: Arc<[Arc<str>]>,
    /// The datastore's name.
    pub datastore: Arc<str>,
}

impl Who {
    fn subject(&self) -> Subject<'_> {
        Subject {
            agent: &self.agent,
            groups: &self.groups,
            datastore: &self.datastore,
        }
    }
}

/// See the module.
pub(super) struct Judging {
    who: Who,
    active: watch::Receiver<Arc<Active>>,
    catalog: watch::Receiver<Arc<Catalog>>,
    refresh: Arc<tokio::sync::Notify>,
    policy: Arc<Active>,
    /// The rules for this agent and datastore.
    rules: Rc<SubjectPolicy>,
    snapshot: Arc<Catalog>,
    masks: Rc<MaskSet>,
    generation: Generation,
    /// Cleared once the session has changed its path: then a name may mean any schema's object.
    search_path: Option<Vec<Box<str>>>,
    unsettled: Unsettled,
    /// The transaction that is open may have changed the catalog.
    redefines: bool,
    stored: Stored,
    /// On what terms EXECUTE and FETCH run.
    by_name: ByName,
    judged: Remembered,
    /// The last ruling: agents that put values into their SQL send texts that are analysed alike.
    last: Option<Rc<Ruling>>,
    texts: u32,
}

impl Judging {
    pub(super) fn new(
        who: Who,
        active: watch::Receiver<Arc<Active>>,
        (catalog, refresh): (watch::Receiver<Arc<Catalog>>, Arc<tokio::sync::Notify>),
        path_is_default: bool,
    ) -> Self {
        let policy = Arc::clone(&active.borrow());
        let snapshot = Arc::clone(&catalog.borrow());
        let rules = Rc::new(policy.policy.for_subject(&who.subject()));
        let masks = Rc::new(resolve(&rules, &snapshot));
        let generation = generation(&policy, &snapshot);
        let search_path = path_is_default.then(|| snapshot.search_path().to_vec());
        Self {
            who,
            active,
            catalog,
            refresh,
            policy,
            rules,
            snapshot,
            masks,
            generation,
            search_path,
            unsettled: Unsettled::default(),
            redefines: false,
            stored: Stored::default(),
            by_name: ByName::default(),
            judged: Remembered::default(),
            last: None,
            texts: 0,
        }
    }

    /// Takes a new policy or catalog, if there is one. Returns the policy's SHA-256 if it changed.
    pub(super) fn follow(&mut self) -> Option<[u8; 32]> {
        let policy_moved = self.active.has_changed().unwrap_or(false);
        let catalog_moved = self.catalog.has_changed().unwrap_or(false);
        if !policy_moved && !catalog_moved {
            return None;
        }
        if catalog_moved && !self.redefines {
            self.unsettled = Unsettled::default();
        }
        self.policy = Arc::clone(&self.active.borrow_and_update());
        self.snapshot = Arc::clone(&self.catalog.borrow_and_update());
        self.rules = Rc::new(self.policy.policy.for_subject(&self.who.subject()));
        self.masks = Rc::new(resolve(&self.rules, &self.snapshot));
        if let Some(path) = &mut self.search_path {
            // A schema of the path may have come into being, the role's own one for instance.
            *path = self.snapshot.search_path().to_vec();
        }
        self.generation = Generation {
            path: self.generation.path,
            terms: self.generation.terms,
            ..generation(&self.policy, &self.snapshot)
        };
        self.update_terms();
        self.judged.clear();
        policy_moved.then_some(self.policy.policy.sha256)
    }

    /// Under what judgements are made now.
    pub(super) fn generation(&self) -> Generation {
        self.generation
    }

    /// Judges a text, or looks up what it came to; the flag says whether it is new to the journal.
    /// `analysis`, if there is one, is the text's.
    pub(super) fn judge(&mut self, text: &str, analysis: Option<Analysis>) -> (Rc<Judged>, bool) {
        if let Some(known) = self.judged.get(text) {
            return (Rc::clone(known), false);
        }
        let analysis = match analysis {
            Some(analysis) => Rc::new(analysis),
            None => ANALYSES.with_borrow_mut(|cache| cache.analyse(text)),
        };
        let alike =
            |r: &&Rc<Ruling>| Rc::ptr_eq(&r.analysis, &analysis) && r.generation == self.generation;
        let ruling = match self.last.as_ref().filter(alike) {
            Some(ruling) => Rc::clone(ruling),
            None => Rc::new(self.rule(text, analysis)),
        };
        self.last = Some(Rc::clone(&ruling));
        let judged = Rc::new(Judged::new(text.into(), self.texts, ruling));
        self.texts += 1;
        self.judged.insert(&judged);
        (judged, true)
    }

    /// Judges one statement of a text, for a look at its result; the journal knows the text.
    pub(super) fn judge_part(&self, text: &str) -> Judged {
        let ruling = self.rule(text, Rc::new(sql::analyse(text)));
        Judged::new(text.into(), 0, Rc::new(ruling))
    }

    /// Judges a text again under the current policy and catalog.
    pub(super) fn judge_again(&mut self, old: &Judged) -> Rc<Judged> {
        let ruling = self.rule(&old.text, Rc::clone(&old.ruling.analysis));
        let (text, id) = (Rc::clone(&old.text), old.text_id);
        Rc::new(Judged::new(text, id, Rc::new(ruling)))
    }

    fn rule(&self, text: &str, analysis: Rc<Analysis>) -> Ruling {
        let by_name = self.by_name;
        let side_effects = analysis
            .statements
            .iter()
            .map(|s| side_effects_of(s).and(by_name.side_effects(s.shape.stored)))
            .fold(SideEffects::default(), SideEffects::and);
        // A text that changes the path is judged as if it had done so from its start.
        let search_path = self
            .search_path
            .as_deref()
            .filter(|_| !side_effects.search_path);
        let view = View {
            policy: &self.rules,
            catalog: &self.snapshot,
            masks: &self.masks,
            search_path,
            unsettled: &self.unsettled.with(&analysis.statements),
        };
        let mut verdicts: Vec<Verdict> = analysis
            .statements
            .iter()
            .map(|statement| {
                let judgement =
                    judge::judge(text, statement, &view).because(analysis.failure.as_ref());
                Verdict {
                    decision: judgement.decision,
                    sensitive: judgement.sensitive,
                    effects: judgement.effects.bits(),
                    writes: writes(judgement.effects, statement),
                    limited: false,
                }
            })
            .collect();
        let limits = strictest(&verdicts);
        for (verdict, statement) in verdicts.iter_mut().zip(&analysis.statements) {
            let stored = statement.shape.stored;
            let text = (limits, side_effects.search_path);
            by_name.apply(stored, text, &mut verdict.decision);
            verdict.limited = limited(&verdict.decision, statement);
        }
        let denied = verdicts.iter().find_map(|v| match &v.decision {
            Decision::Deny(deny) => Some(Rc::new(deny.clone())),
            Decision::Allow(_) => None,
        });
        let denied =
            denied.or_else(|| limited_beside_others(&verdicts, &analysis.statements).map(Rc::new));
        Ruling {
            sensitive: verdicts.iter().any(|v| v.sensitive),
            analysis,
            verdicts,
            generation: self.generation,
            denied,
            limits,
            side_effects,
        }
    }

    /// How a result with this `RowDescription` is treated.
    pub(super) fn plan(&self, description: &[u8], sensitive: bool) -> Result<Planned, wire::Error> {
        if self.masks.is_empty() {
            return Ok(Planned::Clear);
        }
        let mut fields = Vec::new();
        for field in wire::fields(description)? {
            let field = field?;
            fields.push(mask::Field {
                table_oid: field.table_oid,
                attnum: field.attnum,
                type_oid: field.type_oid,
                typmod: field.typmod,
                format: field.format,
            });
        }
        let planned = mask::RowPlan::build(&self.masks, &fields, sensitive);
        if let Planned::Refuse(mask::Refusal {
            why: mask::Why::UnknownRelation,
            ..
        }) = planned
        {
            self.refresh.notify_one();
        }
        Ok(planned)
    }

    /// Whether anything is masked for this agent.
    pub(super) fn masks_anything(&self) -> bool {
        !self.masks.is_empty()
    }

    /// Whether an error or a notice may tell of masked columns. A statement needn't name a table
    /// for its rows to be told of: foreign keys reach others, and so do triggers and functions,
    /// which say what they like.
    pub(super) fn tells_of_masked(&self, fields: &wire::ErrorFields<'_>) -> bool {
        if !self.masks_anything() {
            return false;
        }
        // A view's CHECK OPTION shows the whole row of the table behind it, and names neither. A foreign
        // key shows a value of the table that it refers to, and names the other.
        let shows_another = matches!(fields.sqlstate, b"44000" | b"23503");
        if says_what_it_likes(fields.context) || shows_another {
            return true;
        }
        if fields.table.is_empty() {
            return false;
        }
        let text = |bytes| String::from_utf8_lossy(bytes).into();
        let name = sql::Name {
            schema: (!fields.schema.is_empty()).then(|| text(fields.schema)),
            name: text(fields.table),
        };
        let known = self.snapshot.resolve(&name, None);
        known.is_empty() || known.iter().any(|r| self.masks.is_sensitive(r.oid))
    }

    /// A statement of the protocol gets a name.
    pub(super) fn prepared(&mut self, name: &[u8], judged: &Judged) {
        if !name.is_empty() {
            let effects = judged.ruling.side_effects;
            self.stored.prepared(self.made(judged, effects));
            self.update_terms();
        }
    }

    /// A portal of the protocol gets a name.
    pub(super) fn opened(&mut self, name: &[u8], judged: &Judged) {
        if !name.is_empty() {
            let effects = judged.ruling.side_effects;
            self.stored.opened(self.made(judged, effects));
            self.update_terms();
        }
    }

    /// The server has told that no transaction is open, and owes nothing.
    pub(super) fn transaction_ended(&mut self) {
        if std::mem::take(&mut self.redefines) {
            // A snapshot that was taken within it doesn't have what it has made.
            self.refresh.notify_one();
        }
        if self.stored.transaction_ended() {
            self.update_terms();
        }
        let path = &mut self.generation.path;
        if path.unsettled {
            // Whether it was taken back isn't known.
            *path = Path {
                changes: path.changes.wrapping_add(1),
                unsettled: false,
            };
            self.judged.clear();
        }
    }

    fn made(&self, judged: &Judged, side_effects: SideEffects) -> Made {
        Made {
            under: self.under(),
            masked: judged.ruling.sensitive,
            limits: judged.ruling.limits,
            side_effects,
        }
    }

    /// By what is judged now.
    fn under(&self) -> Under {
        Under {
            policy: self.policy.generation,
            catalog: self.snapshot.generation(),
            first_path: self.search_path.is_some(),
            views: self.unsettled.has_views(),
        }
    }

    fn update_terms(&mut self) {
        let by_name = self.stored.terms(self.under());
        if by_name != self.by_name {
            self.by_name = by_name;
            self.generation.terms += 1;
            self.judged.clear();
        }
    }

    /// A text goes upstream: from here on names may mean something else.
    pub(super) fn forwarded(&mut self, judged: &Judged) {
        let effects = judged.ruling.side_effects;
        if effects.catalog {
            self.redefine(&judged.ruling.analysis.statements);
        }
        if !(effects.statements || effects.portals || effects.holds || effects.search_path) {
            return;
        }
        // What SQL's own PREPARE and DECLARE store makes no names itself.
        let stored = SideEffects {
            statements: false,
            portals: false,
            holds: false,
            ..effects
        };
        if effects.statements {
            self.stored.prepared(self.made(judged, stored));
        }
        if effects.portals {
            self.stored.opened(self.made(judged, stored));
        }
        if effects.holds {
            self.stored.held();
        }
        if effects.search_path {
            self.search_path = None;
            self.generation.path = Path {
                changes: self.generation.path.changes.wrapping_add(1),
                unsettled: true,
            };
            self.judged.clear();
        }
        self.update_terms();
    }

    /// A definition goes upstream: what stands behind a name may be another relation.
    fn redefine(&mut self, statements: &[Statement]) {
        self.redefines = true;
        if let Cow::Owned(unsettled) = self.unsettled.with(statements) {
            self.unsettled = unsettled;
            self.generation.terms += 1;
            self.judged.clear();
        }
    }

    /// A text has run: the catalog may be another.
    pub(super) fn completed(&self, effects: SideEffects) {
        if effects.catalog {
            self.refresh.notify_one();
        }
    }
}

/// Whether a failed transaction would have something to take back.
fn writes(effects: EffectSet, statement: &Statement) -> bool {
    let harmless = [
        Effect::Read,
        Effect::BulkExport,
        Effect::Transaction,
        Effect::Session,
    ];
    let harmless: EffectSet = harmless.into_iter().collect();
    statement.shape.stored == Some(sql::Stored::Execute) || effects.bits() & !harmless.bits() != 0
}

fn limited(decision: &Decision, statement: &Statement) -> bool {
    let Decision::Allow(allow) = decision else {
        return false;
    };
    let shape = &statement.shape;
    let returns = shape.returns_rows || shape.copy == Some(CopyDirection::Out);
    returns && (allow.limits.max_rows.is_some() || allow.limits.max_bytes.is_some())
}

/// The denial of a text in which a statement may exceed a limit, and another writes or, behind it, ends or
/// begins a transaction: the client would take that for rolled back or not done, but the server has done it
/// by then.
fn limited_beside_others(verdicts: &[Verdict], statements: &[sql::Statement]) -> Option<Deny> {
    let first = verdicts.iter().position(|v| v.limited)?;
    let mut behind = statements.iter().skip(first + 1);
    let what = if verdicts.len() > 1 && verdicts.iter().any(|v| v.writes) {
        "in one text with one that writes"
    } else if behind.any(|s| s.shape.transaction.is_some()) {
        "in one text before transaction control"
    } else {
        return None;
    };
    Some(Deny {
        rule: None,
        message: format!("a statement whose result is limited can't stand {what}"),
        hint: Some("send the statements one by one".to_owned()),
        sqlstate: INSUFFICIENT_PRIVILEGE,
    })
}

fn strictest(verdicts: &[Verdict]) -> Limits {
    let limits = verdicts.iter().filter_map(|v| match &v.decision {
        Decision::Allow(allow) => Some(allow.limits),
        Decision::Deny(_) => None,
    });
    limits.fold(Limits::default(), Limits::and)
}

fn generation(policy: &Active, catalog: &Catalog) -> Generation {
    Generation {
        policy: policy.generation,
        catalog: catalog.generation(),
        path: Path::default(),
        terms: 0,
    }
}

/// What a mask can't be resolved to is told once for all sessions, see `policy_store::review`.
fn resolve(rules: &SubjectPolicy, catalog: &Catalog) -> MaskSet {
    mask::resolve(rules.mask_requests(), catalog).0
}

/// Whether a message came out of a function or a trigger. What COPY adds by itself, a line, is where
/// in the client's own data it stopped.
fn says_what_it_likes(context: &[u8]) -> bool {
    !context.is_empty() && (!context.starts_with(b"COPY ") || context.contains(&b'\n'))
}

fn side_effects_of(statement: &Statement) -> SideEffects {
    let tag = statement.tag;
    SideEffects {
        statements: matches!(tag, "PREPARE" | "DEALLOCATE" | "DISCARD"),
        portals: matches!(tag, "DECLARE CURSOR" | "CLOSE" | "CLOSE CURSOR" | "DISCARD"),
        holds: statement.shape.holds,
        search_path: judge::changes_search_path(statement),
        catalog: statement
            .touches
            .iter()
            .any(|t| matches!(t.effect, Effect::Ddl | Effect::Procedural)),
        copies_in: statement.shape.copy == Some(CopyDirection::In),
        transacts: statement.shape.transaction.is_some(),
    }
}

/// The longest name that the server tells from all others, in bytes: it compares no more of the
/// names of statements and portals (`NAMEDATALEN`).
const NAME_MOST: usize = 63;

/// The denial of a request with a name that the server would take for another one.
pub(super) fn ambiguous_name(names: &[&[u8]]) -> Option<Deny> {
    names
        .iter()
        .any(|name| name.len() > NAME_MOST)
        .then(|| Deny {
            rule: None,
            message: format!(
                "names of statements and portals can't be longer than {NAME_MOST} bytes"
            ),
            hint: Some("use a shorter name".to_owned()),
            sqlstate: "42622",
        })
}

/// The denial of a request that uses a statement which Weir didn't see being made.
pub(super) fn unknown_statement() -> Deny {
    Deny {
        rule: None,
        message:
            "this prepared statement was not made through the extended protocol of this session"
                .to_owned(),
        hint: Some("prepare it with a Parse message".to_owned()),
        sqlstate: "26000",
    }
}

/// The same of a portal.
pub(super) fn unknown_portal() -> Deny {
    Deny {
        rule: None,
        message: "this portal was not made through the extended protocol of this session"
            .to_owned(),
        hint: Some("make it with a Bind message".to_owned()),
        sqlstate: "34000",
    }
}

/// The denial of a name where there are too many.
pub(super) fn too_many_names() -> Deny {
    Deny {
        rule: None,
        message: "this session has too many named statements and portals".to_owned(),
        hint: Some("close those that are done with".to_owned()),
        sqlstate: "54000",
    }
}

/// What fails a segment on the server whose client has been told that a limit is exceeded. Nobody
/// gets to see it.
pub(super) fn limit_exceeded() -> Deny {
    Deny {
        rule: None,
        message: "a limit is exceeded in this transaction".to_owned(),
        hint: None,
        sqlstate: "54000",
    }
}

/// The denial of a query that would have what came before it committed too early: Weir has to ask for its
/// columns, which ends by a Sync, or it may exceed a limit.
pub(super) fn query_before_sync() -> Deny {
    Deny {
        rule: None,
        message: "this query has to come behind a Sync: it is masked or limited".to_owned(),
        hint: Some("end what came before it by a Sync, or use Parse and Bind".to_owned()),
        sqlstate: INSUFFICIENT_PRIVILEGE,
    }
}

/// The denial of a portal that was bound before the policy or the catalog changed, and that can't
/// be brought under the new one without knowing its columns.
pub(super) fn bound_before_change() -> Deny {
    Deny {
        rule: None,
        message: "the policy has changed since this portal was bound".to_owned(),
        hint: Some("run the statement again".to_owned()),
        sqlstate: "42501",
    }
}
