//! A text judged by a policy without a server: what each statement does and what becomes of it.
//!
//! There is no catalog, so names mean what they would in schema `public`, and functions that
//! aren't known to be dangerous are assumed to be built-ins.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::{
    catalog::Catalog,
    judge::{self, Unsettled, View},
    mask::{self, MaskSet},
    policy::{Decision, ResolvedTouch, SubjectPolicy},
    sql::{self, Effect, Name},
};

/// A judged text.
pub(super) struct Case {
    /// In their order; never empty.
    pub(super) statements: Vec<Judged>,
}

/// A judged statement.
pub(super) struct Judged {
    pub(super) sql: String,
    pub(super) tag: &'static str,
    pub(super) touches: Vec<ResolvedTouch>,
    pub(super) decision: Decision,
    /// Masked columns of the relations that it reads, sorted.
    pub(super) masked: Vec<Box<str>>,
}

impl Case {
    pub(super) fn judge(policy: &SubjectPolicy, text: &str) -> Case {
        let catalog = Catalog::default();
        // Nothing resolves in an empty catalog; masks are found by name.
        let (masks, _) = mask::resolve(policy.mask_requests(), &catalog);
        let path = [Box::from("public")];
        let analysis = sql::analyse(text);
        let settled = Unsettled::default();
        let view = View {
            policy,
            catalog: &catalog,
            masks: &masks,
            search_path: Some(&path),
            unsettled: &settled.with(&analysis.statements),
        };
        let statements = analysis.statements.iter().map(|statement| {
            let touches = judge::touches_offline(statement, &view);
            let judgement =
                judge::judge_offline(text, statement, &view).because(analysis.failure.as_ref());
            Judged {
                sql: text.get(statement.span.clone()).unwrap_or(text).to_owned(),
                tag: statement.tag,
                masked: masked(&masks, &touches),
                touches,
                decision: judgement.decision,
            }
        });
        Case {
            statements: statements.collect(),
        }
    }

    /// What becomes of the whole text: one statement that is denied denies all of them. `None` if
    /// there are none.
    pub(super) fn decision(&self) -> Option<&Decision> {
        let mut decisions = self.statements.iter().map(|statement| &statement.decision);
        decisions
            .clone()
            .find(|decision| matches!(decision, Decision::Deny(_)))
            .or_else(|| decisions.next())
    }

    /// The rules that decided: the one that denied or would have, or all that allowed.
    pub(super) fn rules(&self) -> BTreeSet<Arc<str>> {
        match self.decision() {
            Some(Decision::Deny(deny)) => deny.rule.iter().cloned().collect(),
            _ => self
                .statements
                .iter()
                .flat_map(|statement| of(&statement.decision))
                .collect(),
        }
    }

    /// Masked columns of all that is read, sorted.
    pub(super) fn masked(&self) -> BTreeSet<&str> {
        self.statements
            .iter()
            .flat_map(|statement| statement.masked.iter().map(|column| &**column))
            .collect()
    }
}

fn of(decision: &Decision) -> Vec<Arc<str>> {
    match decision {
        Decision::Deny(deny) => deny.rule.iter().cloned().collect(),
        Decision::Allow(allow) => {
            let observed = allow.observed.as_ref().and_then(|deny| deny.rule.clone());
            allow.rules.iter().cloned().chain(observed).collect()
        }
    }
}

fn masked(masks: &MaskSet, touches: &[ResolvedTouch]) -> Vec<Box<str>> {
    let columns: BTreeSet<Box<str>> = touches
        .iter()
        .filter(|touch| touch.effect == Effect::Read)
        .filter_map(|touch| touch.object.as_ref())
        .filter_map(|(schema, name)| {
            masks.masked_columns_by_name(&Name {
                schema: Some(schema.clone()),
                name: name.clone(),
            })
        })
        .flatten()
        .collect();
    columns.into_iter().collect()
}
