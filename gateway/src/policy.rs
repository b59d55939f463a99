//! The policy: rules, masks and limits, and how they decide.
//!
//! Hides the file format ([`parse`]) and the way of deciding ([`SubjectPolicy::decide`]).
//! Guarantees:
//!
//! - Deciding doesn't depend on the order of rules or files. All rules that match are collected;
//!   each effect on each object must be covered by a rule that allows it; any rule that denies
//!   wins; what nothing covers is denied. Limits and masks of all matching rules add up, and the
//!   strictest limit wins.
//! - A policy either loads whole or not at all, and a rule that could never match doesn't load.
//! - `mode = "observe"` on a rule takes its decision and its limits out of force; masks are never
//!   only observed. An observed `allow` therefore covers nothing. In an observed policy everything
//!   is allowed but what a rule with an explicit `mode = "enforce"` denies, and only such rules'
//!   limits hold; what would have been denied is told in [`Allow::observed`].
//! - Some statements need no rule ([`Need::Nothing`]; which, `judge` decides), and some need one
//!   that names the object without a `*` ([`Need::Named`]). An agent that no rule allows anything
//!   gets nothing, not even the former.

mod decide;
mod diagnostic;
mod effects;
mod fields;
mod glob;
mod parse;
mod rule;
mod schema;

use std::sync::Arc;

pub use decide::{SubjectPolicy, Trace};
pub(crate) use diagnostic::did_you_mean;
pub use diagnostic::{Diagnostic, Severity};
pub use effects::{EffectSet, has_objects};
pub use glob::{Glob, ObjectPattern};
pub use parse::{KeySource, Keys, Source, parse, parse_with};
pub use schema::json_schema;

use crate::mask::{self, Mask};
use crate::sql::Effect;

/// All rules of all files, checked. Immutable; share it with `Arc`.
#[derive(Clone, Debug)]
pub struct Policy {
    /// SHA-256 over the names and contents of all files, which identifies the policy in the record.
    pub sha256: [u8; 32],
    /// Whether what isn't covered is denied.
    pub mode: Mode,
    /// In the order of the files and of the rules in them.
    pub rules: Vec<Arc<Rule>>,
    /// The cases that `weir policy test` runs.
    pub tests: Vec<Test>,
}

/// Whether decisions are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// They are.
    #[default]
    Enforce,
    /// They are recorded only.
    Observe,
}

/// One `[[rule]]`.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Unique in the policy.
    pub name: Arc<str>,
    /// Where it stands, for messages.
    pub position: Position,
    /// Names of agents; with `groups` both empty: every agent.
    pub agents: Vec<Box<str>>,
    /// Names of groups. An agent is meant if it is named or in one of the groups.
    pub groups: Vec<Box<str>>,
    /// Names of datastores; empty: every datastore.
    pub datastores: Vec<Box<str>>,
    /// Never empty.
    pub effects: EffectSet,
    /// Empty: everything, and also effects that have no object.
    pub objects: Vec<ObjectPattern>,
    /// Matches updates and deletes with, or without, a WHERE only.
    pub has_where: Option<bool>,
    /// What it says about what it matches.
    pub verdict: Verdict,
    /// For statements that it matches.
    pub limits: Limits,
    /// The operator's words for the agent, where the rule denies.
    pub message: Option<Arc<str>>,
    /// Its own `mode`, where it has one.
    pub mode: Option<Mode>,
    /// Masks on columns of its objects.
    pub masks: Vec<MaskRule>,
}

/// A place in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file, as its [`Source`] names it.
    pub file: Arc<str>,
    /// From 1.
    pub line: usize,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Covers what it matches.
    Allow,
    /// Denies each statement that has something it matches.
    Deny,
}

/// Bounds on one statement's result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Rows; `None` is no bound.
    pub max_rows: Option<u64>,
    /// Bytes of result rows as the server sends them; `None` is no bound.
    pub max_bytes: Option<u64>,
}

impl Limits {
    /// Both bounds together: of each the strictest.
    #[must_use]
    pub fn and(self, other: Limits) -> Limits {
        fn least(a: Option<u64>, b: Option<u64>) -> Option<u64> {
            a.into_iter().chain(b).min()
        }
        Limits {
            max_rows: least(self.max_rows, other.max_rows),
            max_bytes: least(self.max_bytes, other.max_bytes),
        }
    }
}

/// One `[[rule.mask]]`. It holds for its rule's agents, datastores and objects, whichever rule
/// allows the statement that reads them.
#[derive(Clone, Debug)]
pub struct MaskRule {
    /// The rule's patterns; empty: every relation.
    pub objects: Arc<[ObjectPattern]>,
    /// Exact names; `*` is every column.
    pub columns: Arc<[Box<str>]>,
    /// How to mask them.
    pub mask: Mask,
    /// The rule's name.
    pub rule: Arc<str>,
    /// Where the mask stands.
    pub position: Position,
}

impl MaskRule {
    /// Whether the mask is meant for a relation. A schema of `None` isn't known: it could be any.
    pub fn covers(&self, schema: Option<&str>, name: &str) -> bool {
        covers(&self.objects, schema, name)
    }

    /// The mask as `mask::resolve` takes it.
    pub fn request(&self) -> mask::Request {
        let objects = Arc::clone(&self.objects);
        mask::Request {
            objects: Arc::new(move |schema, name| covers(&objects, schema, name)),
            columns: Arc::clone(&self.columns),
            mask: self.mask.clone(),
            rule: Arc::clone(&self.rule),
        }
    }
}

fn covers(objects: &[ObjectPattern], schema: Option<&str>, name: &str) -> bool {
    objects.is_empty()
        || objects.iter().any(|object| match schema {
            Some(schema) => object.matches(schema, name),
            None => object.name.matches(name),
        })
}

/// One `[[test]]`: a statement and what must become of it.
#[derive(Clone, Debug)]
pub struct Test {
    /// Where it stands.
    pub position: Position,
    /// The agent that asks.
    pub agent: Box<str>,
    /// The groups that it is in.
    pub groups: Vec<Arc<str>>,
    /// The datastore that it asks. Where the case doesn't say: the only one that the policy's
    /// rules name, or one that no rule names.
    pub datastore: Box<str>,
    /// One statement, or several: a batch is allowed if each of them is.
    pub sql: Box<str>,
    /// Allowed or denied.
    pub verdict: Verdict,
    /// A rule that must have been among those that decided.
    pub rule: Option<Box<str>>,
    /// The masked columns of all relations that the statement reads, sorted.
    pub masked: Option<Vec<Box<str>>>,
}

/// Who asks, and whom.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The agent's name.
    pub agent: &'a str,
    /// The groups that it is in.
    pub groups: &'a [Arc<str>],
    /// The datastore's name; empty, which none is, for one that no rule names.
    pub datastore: &'a str,
}

/// One effect on one object, all names resolved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResolvedTouch {
    /// What is done.
    pub effect: Effect,
    /// To what: schema and name. Something outside of all schemas (a role, a schema) has an empty
    /// schema, which only a pattern with `*` in its place matches. What [`Need::Anywhere`] leaves open
    /// is empty too.
    pub object: Option<(Box<str>, Box<str>)>,
    /// Of an update or delete: whether it has a WHERE. Where it isn't known, rules that deny match
    /// and rules that allow don't.
    pub has_where: Option<bool>,
    /// What it takes to be covered.
    pub need: Need,
}

/// What it takes for a touch to be covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// No rule: it is harmless. A rule may deny it all the same.
    Nothing,
    /// A rule that allows it.
    Rule,
    /// A rule that allows it and names the object without a `*`: it is too dangerous to be
    /// allowed by accident.
    Named,
    /// A rule that allows it in all schemas, as it can't be told which one is meant; on all objects
    /// where the name is empty too. A rule denies it if it does so in any.
    Anywhere,
}

/// What becomes of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It runs.
    Allow(Allow),
    /// It doesn't.
    Deny(Deny),
}

/// The terms of an allowed statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Names of the rules that cover it, sorted.
    pub rules: Vec<Arc<str>>,
    /// The strictest of all matching rules.
    pub limits: Limits,
    /// What would have become of it if nothing were only observed.
    pub observed: Option<Deny>,
}

/// Why a statement doesn't run. Everything in it is meant for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deny {
    /// The rule that denies; `None` where it is that nothing allows, or a guard of Weir's own.
    pub rule: Option<Arc<str>>,
    /// Names the rule and its `message`.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// Five characters, never of class 08 or 40, which drivers retry.
    pub sqlstate: &'static str,
}

/// SQLSTATE of a denial by policy: `insufficient_privilege`.
pub const INSUFFICIENT_PRIVILEGE: &str = "42501";

impl Policy {
    /// The policy as one agent on one datastore meets it: only the rules that can match, arranged
    /// for quick decisions. Make it once per session and policy.
    pub fn for_subject(&self, who: &Subject<'_>) -> SubjectPolicy {
        SubjectPolicy::new(self, who)
    }

    /// Decides one statement. [`Policy::for_subject`] is the quick way for more than one.
    pub fn decide(&self, who: &Subject<'_>, touches: &[ResolvedTouch]) -> Decision {
        self.for_subject(who).decide(touches)
    }

    /// The masks that hold for `who`, whatever the modes of their rules.
    pub fn mask_rules(&self, who: &Subject<'_>) -> impl Iterator<Item = &MaskRule> {
        let who = *who;
        self.rules
            .iter()
            .filter(move |rule| rule.concerns(&who))
            .flat_map(|rule| rule.masks.iter())
    }
}

impl Rule {
    /// Whether the rule is about this agent and this datastore.
    pub fn concerns(&self, who: &Subject<'_>) -> bool {
        let everyone = self.agents.is_empty() && self.groups.is_empty();
        let agent = everyone
            || self.agents.iter().any(|agent| **agent == *who.agent)
            || self
                .groups
                .iter()
                .any(|group| who.groups.iter().any(|of| **of == **group));
        let datastore = self.datastores.is_empty()
            || self
                .datastores
                .iter()
                .any(|datastore| **datastore == *who.datastore);
        agent && datastore
    }
}

#[cfg(test)]
mod tests;
