//! One statement's judgement: analysis, catalog and policy brought together.
//!
//! Hides how names become objects, what functions and settings count as, and what masks forbid.
//! Guarantees that a statement is allowed only if
//!
//! 1. it changes no setting that Weir's own reading of SQL depends on (`settings`),
//! 2. every object that each of its names *can* mean, and every function that isn't a harmless
//!    built-in (`functions`), is covered by the policy's rules,
//! 3. what it writes through a view is covered too (`through`),
//! 4. where columns are masked for the agent, it doesn't use one elsewhere than as a plain output
//!    and doesn't reach around the masks (`masked`). This holds in observe mode too.
//!
//! Needing no rule ([`Need::Nothing`]): transaction control (not two-phase commit), harmless
//! settings, SHOW, DEALLOCATE and DISCARD, UNLISTEN, and reading nothing (`SELECT 1`). System
//! catalogs are objects like any other: drivers and `psql` need a rule for `pg_catalog.*`. A few of
//! them show other agents' data and must be named (`objects`).
//!
//! Not seen: functions behind operators, casts, defaults, triggers and generated columns that
//! users define. They run with a statement that names none of them.
//!
//! EXECUTE and FETCH need no rule: what they run was judged when it was prepared or declared, for
//! any search path. The caller judges a prepared text again where the policy has changed since.
//!
//! The caller knows the session's search path. A statement for which [`changes_search_path`] holds
//! makes it unknown (`None`) for what follows in the same batch or pipeline.

mod functions;
mod masked;
mod objects;
mod settings;
mod through;

use functions::Calls;
pub use masked::non_plain_output_denied;
pub use through::Unsettled;

use crate::{
    catalog::Catalog,
    mask::MaskSet,
    policy::{
        Decision, Deny, EffectSet, INSUFFICIENT_PRIVILEGE, Need, ResolvedTouch, SubjectPolicy,
    },
    sql::{Effect, Failure, FailureKind, ObjectKind, Statement, Touch, TransactionVerb},
};

/// What a statement is judged against.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// The rules for the agent and the datastore.
    pub policy: &'a SubjectPolicy,
    /// The upstream's catalog.
    pub catalog: &'a Catalog,
    /// The policy's masks, resolved in that catalog.
    pub masks: &'a MaskSet,
    /// Schemas that an unqualified name is looked up in; `None` where that isn't known, and any
    /// schema could be meant.
    pub search_path: Option<&'a [Box<str>]>,
    /// What the session has defined that the catalog may not have yet.
    pub unsettled: &'a Unsettled,
}

/// What becomes of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it runs.
    pub decision: Decision,
    /// It reads, or could read, something masked: its result must be described before it runs,
    /// and errors and notices scrubbed.
    pub sensitive: bool,
    /// All that it does, for the record.
    pub effects: EffectSet,
}

impl Judgement {
    /// The judgement of a text that could not be analysed, whose only statement is unknown: where
    /// it is a syntax error, its denial is one, in PostgreSQL's own words.
    #[must_use]
    pub fn because(mut self, failure: Option<&Failure>) -> Judgement {
        if let (Decision::Deny(deny), Some(failure)) = (&mut self.decision, failure)
            && failure.kind == FailureKind::Syntax
        {
            *deny = Deny {
                rule: deny.rule.take(),
                message: failure.to_string(),
                hint: None,
                sqlstate: SYNTAX_ERROR,
            };
        }
        self
    }
}

/// SQLSTATE of what PostgreSQL's own grammar refuses: `syntax_error`.
const SYNTAX_ERROR: &str = "42601";

/// Judges one statement of `text`.
pub fn judge(text: &str, statement: &Statement, view: &View<'_>) -> Judgement {
    Judge {
        statement,
        view,
        offline: false,
    }
    .judgement(text)
}

/// Judges a statement without a server: the catalog is empty, an unqualified name of a function is
/// assumed to be a built-in, of a `pg_` relation a system catalog. For `weir policy test` and
/// `explain` only.
pub fn judge_offline(text: &str, statement: &Statement, view: &View<'_>) -> Judgement {
    Judge {
        statement,
        view,
        offline: true,
    }
    .judgement(text)
}

/// What [`judge_offline`] has the policy decide on.
pub fn touches_offline(statement: &Statement, view: &View<'_>) -> Vec<ResolvedTouch> {
    let judge = Judge {
        statement,
        view,
        offline: true,
    };
    judge.touches(&Calls::of(&judge))
}

/// Whether unqualified names may mean something else after this statement.
pub fn changes_search_path(statement: &Statement) -> bool {
    statement
        .settings
        .iter()
        .any(|setting| matches!(&**setting, "search_path" | "*"))
}

/// One statement under judgement.
struct Judge<'a> {
    statement: &'a Statement,
    view: &'a View<'a>,
    offline: bool,
}

impl Judge<'_> {
    /// Where unqualified names are looked up. PREPARE stores a text, whose names mean something
    /// else after the path has changed: any schema could be meant.
    fn path(&self) -> Option<&[Box<str>]> {
        if self.statement.shape.prepares {
            None
        } else {
            self.view.search_path
        }
    }

    fn judgement(&self, text: &str) -> Judgement {
        let calls = Calls::of(self);
        let touches = self.touches(&calls);
        let effects = touches.iter().map(|touch| touch.effect).collect();
        let reach = masked::Reach::of(self, &calls);
        let decision = match settings::guard(text, self.statement) {
            Some(deny) => Decision::Deny(deny),
            None => match self.view.policy.decide(&touches) {
                Decision::Allow(allow) => match reach.forbid(self, &calls) {
                    Some(deny) => Decision::Deny(deny),
                    None => Decision::Allow(allow),
                },
                deny => deny,
            },
        };
        let decision = self.with_reason(decision);
        Judgement {
            decision,
            // A plan that isn't executed shows no values, and no rows that could be masked.
            sensitive: reach.sensitive() && !self.only_explains(),
            effects,
        }
    }

    fn only_explains(&self) -> bool {
        let explain = self.statement.shape.explain;
        explain.is_some_and(|explain| !explain.analyze && !explain.verbose)
    }

    /// Says of a denied statement what can't be seen by its names: why it is unknown, or that it
    /// cascades.
    fn with_reason(&self, mut decision: Decision) -> Decision {
        let Decision::Deny(deny) = &mut decision else {
            return decision;
        };
        let why = match &self.statement.unknown {
            Some(why) => why,
            // A rule has words of its own.
            None if self.statement.shape.cascades && deny.rule.is_none() => {
                "with CASCADE, on whatever depends on what it names"
            }
            None => return decision,
        };
        deny.message = format!("{} ({why})", deny.message);
        decision
    }

    /// All effects on all objects that the statement can mean, without duplicates.
    fn touches(&self, calls: &Calls) -> Vec<ResolvedTouch> {
        let mut touches = Vec::with_capacity(self.statement.touches.len());
        for touch in &self.statement.touches {
            self.resolve(touch, &mut touches);
        }
        touches.extend(calls.touches.iter().cloned());
        let changes = !self.statement.settings.is_empty() || calls.set_config;
        if changes && !touches.iter().any(|touch| touch.effect == Effect::Session) {
            touches.push(without_object(
                Effect::Session,
                settings::need(self.statement),
            ));
        }
        dedup(touches)
    }

    fn resolve(&self, touch: &Touch, out: &mut Vec<ResolvedTouch>) {
        let Touch {
            effect,
            kind,
            object,
            has_where,
        } = touch;
        let Some(name) = object else {
            if *effect == Effect::BulkExport && self.exports_what_it_reads(out) {
                return;
            }
            let need = self.need_without_object(*effect);
            out.push(ResolvedTouch {
                has_where: *has_where,
                ..without_object(*effect, need)
            });
            return;
        };
        let candidates = match kind {
            ObjectKind::Relation => objects::relations(self, name, *effect),
            ObjectKind::Function => functions::candidates(self, name, *effect),
            ObjectKind::Other => objects::others(self, name),
        };
        for (schema, name) in candidates {
            let need = objects::need(self, *kind, (&schema, &name));
            out.push(ResolvedTouch {
                effect: *effect,
                object: Some((schema, name)),
                has_where: *has_where,
                need,
            });
        }
        if *kind == ObjectKind::Relation {
            through::add(self, name, touch, out);
        }
    }

    /// `COPY (query) TO STDOUT` exports each relation that the query reads. False if it reads none.
    fn exports_what_it_reads(&self, out: &mut Vec<ResolvedTouch>) -> bool {
        let before = out.len();
        for read in self
            .statement
            .touches
            .iter()
            .filter(|touch| touch.effect == Effect::Read)
        {
            if let Some(name) = &read.object {
                let relations = objects::relations(self, name, Effect::Read);
                out.extend(relations.into_iter().map(|(schema, name)| {
                    let need = objects::need(self, ObjectKind::Relation, (&schema, &name));
                    ResolvedTouch {
                        object: Some((schema, name)),
                        ..without_object(Effect::BulkExport, need)
                    }
                }));
            }
        }
        out.len() > before
    }

    fn need_without_object(&self, effect: Effect) -> Need {
        let tag = self.statement.tag;
        match effect {
            // Prepared transactions outlive the session, and keep their locks.
            Effect::Transaction
                if self.statement.shape.transaction == Some(TransactionVerb::TwoPhase) =>
            {
                Need::Rule
            }
            Effect::Transaction | Effect::Read => Need::Nothing,
            Effect::Session => settings::need(self.statement),
            Effect::Notify if tag == "UNLISTEN" => Need::Nothing,
            _ => Need::Rule,
        }
    }
}

fn without_object(effect: Effect, need: Need) -> ResolvedTouch {
    ResolvedTouch {
        effect,
        object: None,
        has_where: None,
        need,
    }
}

/// Removes duplicates. A short list keeps its order, so that messages speak of what comes first in
/// the statement; a long one is sorted, so that a hostile statement costs no quadratic time.
fn dedup(mut touches: Vec<ResolvedTouch>) -> Vec<ResolvedTouch> {
    if touches.len() > 32 {
        touches.sort_unstable();
        touches.dedup();
        return touches;
    }
    let mut kept = Vec::with_capacity(touches.len());
    for touch in touches {
        if !kept.contains(&touch) {
            kept.push(touch);
        }
    }
    kept
}

/// Whether a client may set this (lower-case) setting at its start-up, which no rule is asked
/// about.
pub fn is_harmless_setting(name: &str) -> bool {
    name != "*" && settings::is_harmless(name)
}

/// A denial by a guard of Weir's own, which no rule can lift.
fn refuse(message: String, hint: &str) -> Deny {
    Deny {
        rule: None,
        message,
        hint: Some(hint.to_owned()),
        sqlstate: INSUFFICIENT_PRIVILEGE,
    }
}

#[cfg(test)]
mod tests;
