//! What SQL can run by a name: prepared statements and cursors of the session.
//!
//! EXECUTE and FETCH don't say what they run, and the names that they use are also those of the
//! protocol: `EXECUTE p` runs what a Parse message called `p`, `FETCH p` the portal that a Bind
//! called so. A Parse or a description of such a text tells nothing either, because the name can
//! get another meaning before it runs. So nothing is concluded from names: EXECUTE and FETCH are
//! barred once anything in the session could make them show what is masked, or what the current
//! policy was never asked about; their rows count against the limits of all that they could
//! be running, and they do whatever any of it does beside its result. It errs on that side: a name is
//! never known to be gone.
//!
//! A statement is analysed again by the server when it runs, if the search path or one of its objects
//! is another by then. A portal isn't: what it runs was fixed when it was opened.

use super::statement::SideEffects;
use crate::policy::{Decision, Deny, INSUFFICIENT_PRIVILEGE, Limits};
use crate::sql;

/// What was stored in a session under names.
#[derive(Debug, Default)]
pub(super) struct Stored {
    statements: Names,
    cursors: Names,
    /// A cursor outlives its transaction.
    holds: bool,
}

#[derive(Debug, Default)]
struct Names {
    /// Under what the first was judged.
    under: Option<Under>,
    /// One of them was judged by what its names mean on the path that the session began with.
    on_first_path: bool,
    /// One of them reads masked columns. (SQL's own PREPARE and DECLARE may not.)
    masked: bool,
    /// The strictest limits of any of them.
    limits: Limits,
    /// What any of them does.
    side_effects: SideEffects,
}

impl Names {
    fn made(&mut self, made: Made) {
        self.under.get_or_insert(made.under);
        self.on_first_path |= made.under.first_path;
        self.masked |= made.masked;
        self.limits = self.limits.and(made.limits);
        self.side_effects = self.side_effects.and(made.side_effects);
    }

    /// The terms of what is analysed again when it runs.
    fn terms(&self, now: Under) -> Terms {
        let moved_path = self.on_first_path && !now.first_path;
        let new_catalog = self.under.is_some_and(|made| made.catalog != now.catalog);
        let moved = (moved_path || new_catalog).then_some(Bar::NamesChanged);
        let terms = self.fixed_terms(now);
        Terms {
            bar: terms.bar.or(moved),
            on_first_path: self.on_first_path,
            ..terms
        }
    }

    /// The terms of what was fixed when it was opened.
    fn fixed_terms(&self, now: Under) -> Terms {
        let changed = self.under.is_some_and(|made| made.policy != now.policy);
        let bar = match (self.masked, changed) {
            (true, _) => Some(Bar::Masked),
            (false, true) => Some(Bar::PolicyChanged),
            (false, false) => None,
        };
        Terms {
            bar,
            on_first_path: false,
            limits: self.limits,
            side_effects: self.side_effects,
        }
    }
}

/// By what something is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Under {
    /// The policy.
    pub(super) policy: u64,
    /// The catalog.
    pub(super) catalog: u64,
    /// Whether its names are looked up on the path that the session began with, which is known; not
    /// in any schema.
    pub(super) first_path: bool,
    /// Whether the session has made views that the catalog may not have yet.
    pub(super) views: bool,
}

/// What gets a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    pub(super) under: Under,
    /// It reads masked columns.
    pub(super) masked: bool,
    /// The limits of its result.
    pub(super) limits: Limits,
    /// What it does beyond its result, when it runs.
    pub(super) side_effects: SideEffects,
}

/// On what terms something may run by its name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ByName {
    execute: Terms,
    fetch: Terms,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Terms {
    bar: Option<Bar>,
    /// It is barred too once the session's path is another.
    on_first_path: bool,
    limits: Limits,
    side_effects: SideEffects,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bar {
    Masked,
    PolicyChanged,
    NamesChanged,
}

impl Stored {
    /// A statement gets a name.
    pub(super) fn prepared(&mut self, made: Made) {
        self.statements.made(made);
    }

    /// A portal or cursor gets a name.
    pub(super) fn opened(&mut self, made: Made) {
        self.cursors.made(made);
    }

    /// A cursor is declared that outlives its transaction.
    pub(super) fn held(&mut self) {
        self.holds = true;
    }

    /// No transaction is open: what ends with one is gone. Returns whether anything is.
    pub(super) fn transaction_ended(&mut self) -> bool {
        let ends = !self.holds && self.cursors.under.is_some();
        if ends {
            self.cursors = Names::default();
        }
        ends
    }

    /// The terms as things are now.
    pub(super) fn terms(&self, now: Under) -> ByName {
        ByName {
            execute: self.statements.terms(now),
            fetch: self.cursors.fixed_terms(now),
        }
    }
}

impl ByName {
    /// The terms of a statement that runs something stored, where that is what it does.
    fn of(self, stored: Option<sql::Stored>) -> Option<(&'static str, Terms)> {
        match stored? {
            sql::Stored::Execute => Some(("EXECUTE", self.execute)),
            sql::Stored::Fetch | sql::Stored::Move => Some(("FETCH", self.fetch)),
            sql::Stored::Close | sql::Stored::Deallocate => None,
        }
    }

    /// What a statement does by running something stored.
    pub(super) fn side_effects(self, stored: Option<sql::Stored>) -> SideEffects {
        self.of(stored)
            .map_or_else(SideEffects::default, |(_, terms)| terms.side_effects)
    }

    /// The decision on a statement that runs something stored, where that is what it does. `text`
    /// is the limits of all that stands in the same text, and whether any of it changes the path.
    pub(super) fn apply(
        self,
        stored: Option<sql::Stored>,
        (limits, changes_path): (Limits, bool),
        decision: &mut Decision,
    ) {
        let Some((verb, terms)) = self.of(stored) else {
            return;
        };
        let Decision::Allow(allow) = decision else {
            return;
        };
        let moved = (terms.on_first_path && changes_path).then_some(Bar::NamesChanged);
        match terms.bar.or(moved) {
            Some(bar) => *decision = Decision::Deny(bar.deny(verb)),
            None => allow.limits = allow.limits.and(terms.limits).and(limits),
        }
    }
}

impl Bar {
    fn deny(self, verb: &str) -> Deny {
        let (message, hint) = match self {
            Bar::Masked => (
                format!(
                    "{verb} could show masked columns: a statement that reads them has a name in this session"
                ),
                "run the statement itself, or use another connection",
            ),
            Bar::PolicyChanged => (
                format!("the policy has changed since this session stored what {verb} could run"),
                "run the statement itself, or connect again",
            ),
            Bar::NamesChanged => (
                format!(
                    "the search path or the catalog has changed since this session stored what {verb} could run"
                ),
                "run the statement itself, or connect again",
            ),
        };
        Deny {
            rule: None,
            message,
            hint: Some(hint.to_owned()),
            sqlstate: INSUFFICIENT_PRIVILEGE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Allow;

    fn under(policy: u64) -> Under {
        Under {
            policy,
            catalog: 1,
            first_path: true,
            views: false,
        }
    }

    fn made(policy: u64, masked: bool) -> Made {
        Made {
            under: under(policy),
            masked,
            limits: Limits::default(),
            side_effects: SideEffects::default(),
        }
    }

    fn decided(stored: &Stored, now: Under, what: sql::Stored, changes_path: bool) -> Decision {
        let mut decision = Decision::Allow(Allow::default());
        let text = (Limits::default(), changes_path);
        stored.terms(now).apply(Some(what), text, &mut decision);
        decision
    }

    fn denied(stored: &Stored, policy: u64, what: sql::Stored) -> bool {
        let decision = decided(stored, under(policy), what, false);
        matches!(decision, Decision::Deny(_))
    }

    #[test]
    fn a_name_on_something_masked_bars_for_good_what_could_run_it() {
        let mut stored = Stored::default();
        stored.prepared(made(1, false));
        assert!(!denied(&stored, 1, sql::Stored::Execute));
        stored.prepared(made(1, true));
        stored.prepared(made(1, false));
        assert!(denied(&stored, 1, sql::Stored::Execute));
        assert!(!denied(&stored, 1, sql::Stored::Fetch));
        assert!(!denied(&stored, 1, sql::Stored::Deallocate));
        stored.transaction_ended();
        assert!(denied(&stored, 1, sql::Stored::Execute));
    }

    #[test]
    fn cursors_end_with_their_transaction_unless_one_is_held() {
        let mut stored = Stored::default();
        stored.opened(made(1, true));
        assert!(denied(&stored, 1, sql::Stored::Fetch));
        assert!(denied(&stored, 1, sql::Stored::Move));
        stored.transaction_ended();
        assert!(!denied(&stored, 1, sql::Stored::Fetch));
        stored.opened(made(1, false));
        stored.held();
        stored.transaction_ended();
        assert!(!denied(&stored, 1, sql::Stored::Fetch));
        assert!(denied(&stored, 2, sql::Stored::Fetch));
    }

    #[test]
    fn a_changed_policy_bars_what_was_stored_before() {
        let mut stored = Stored::default();
        assert!(!denied(&stored, 2, sql::Stored::Execute));
        stored.prepared(made(1, false));
        stored.prepared(made(2, false));
        assert!(denied(&stored, 2, sql::Stored::Execute));
    }

    #[test]
    fn what_its_names_meant_bars_a_statement_that_is_analysed_again_and_no_cursor() {
        let moved = [
            Under {
                catalog: 2,
                ..under(1)
            },
            Under {
                first_path: false,
                ..under(1)
            },
        ];
        let mut stored = Stored::default();
        stored.prepared(made(1, false));
        stored.opened(made(1, false));
        for now in moved {
            let execute = decided(&stored, now, sql::Stored::Execute, false);
            assert!(matches!(execute, Decision::Deny(_)), "{now:?}");
            let fetch = decided(&stored, now, sql::Stored::Fetch, true);
            assert!(matches!(fetch, Decision::Allow(_)), "{now:?}");
        }
        let execute = decided(&stored, under(1), sql::Stored::Execute, true);
        assert!(matches!(execute, Decision::Deny(_)), "in the same text");
    }

    #[test]
    fn what_was_judged_for_any_path_runs_on_any() {
        let any_path = Under {
            first_path: false,
            ..under(1)
        };
        let mut stored = Stored::default();
        stored.prepared(Made {
            under: any_path,
            ..made(1, false)
        });
        let execute = decided(&stored, any_path, sql::Stored::Execute, true);
        assert!(matches!(execute, Decision::Allow(_)));
    }

    #[test]
    fn a_name_does_what_anything_that_has_one_does() {
        let mut stored = Stored::default();
        let effects = SideEffects {
            search_path: true,
            ..SideEffects::default()
        };
        stored.prepared(Made {
            side_effects: effects,
            ..made(1, false)
        });
        stored.prepared(made(1, false));
        let terms = stored.terms(under(1));
        assert_eq!(terms.side_effects(Some(sql::Stored::Execute)), effects);
        for other in [Some(sql::Stored::Fetch), Some(sql::Stored::Close), None] {
            assert_eq!(terms.side_effects(other), SideEffects::default());
        }
    }

    #[test]
    fn limits_of_what_was_stored_hold_when_it_runs() {
        let limits = |max_rows| Limits {
            max_rows,
            max_bytes: None,
        };
        let mut stored = Stored::default();
        for max_rows in [Some(7), None, Some(5)] {
            stored.prepared(Made {
                limits: limits(max_rows),
                ..made(1, false)
            });
        }
        let mut decision = Decision::Allow(Allow::default());
        let terms = stored.terms(under(1));
        let execute = Some(sql::Stored::Execute);
        terms.apply(execute, (Limits::default(), false), &mut decision);
        assert!(matches!(&decision, Decision::Allow(a) if a.limits == limits(Some(5))));
        terms.apply(execute, (limits(Some(3)), false), &mut decision);
        assert!(matches!(&decision, Decision::Allow(a) if a.limits == limits(Some(3))));
        terms.apply(None, (limits(Some(1)), false), &mut decision);
        assert!(matches!(&decision, Decision::Allow(a) if a.limits == limits(Some(3))));
    }
}
