//! What SQL can run by a name: prepared statements and cursors of the session.
//!
//! EXECUTE and FETCH don't say what they run, and the names that they use are also those of the
//! protocol: `EXECUTE p` runs what a Parse message called `p`, `FETCH p` the portal that a Bind
//! called so. A Parse or a description of such a text tells nothing either, because the name can
//! get another meaning before it runs. So nothing is concluded from names: EXECUTE and FETCH are
//! barred once anything in the session could make them show what is masked, or what the current
//! policy was never asked about; and their rows count against the limits of all that they could
//! be running. It errs on that side: a name is never known to be gone.

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
    /// The policy under which the first was made.
    policy: Option<u64>,
    /// One of them reads masked columns. (SQL's own PREPARE and DECLARE may not.)
    masked: bool,
    /// The strictest limits of any of them.
    limits: Limits,
}

impl Names {
    fn made(&mut self, made: Made) {
        self.policy.get_or_insert(made.policy);
        self.masked |= made.masked;
        self.limits = self.limits.and(made.limits);
    }

    fn terms(&self, policy: u64) -> Terms {
        let changed = self.policy.is_some_and(|made| made != policy);
        let bar = match (self.masked, changed) {
            (true, _) => Some(Bar::Masked),
            (false, true) => Some(Bar::PolicyChanged),
            (false, false) => None,
        };
        Terms {
            bar,
            limits: self.limits,
        }
    }
}

/// What gets a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    /// The policy that it was judged by.
    pub(super) policy: u64,
    /// It reads masked columns.
    pub(super) masked: bool,
    /// The limits of its result.
    pub(super) limits: Limits,
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
    limits: Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bar {
    Masked,
    PolicyChanged,
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

    /// No transaction is open: what ends with one is gone.
    pub(super) fn transaction_ended(&mut self) {
        if !self.holds {
            self.cursors = Names::default();
        }
    }

    /// The terms under this policy.
    pub(super) fn terms(&self, policy: u64) -> ByName {
        ByName {
            execute: self.statements.terms(policy),
            fetch: self.cursors.terms(policy),
        }
    }
}

impl ByName {
    /// The decision on a statement that runs something stored, where that is what it does. `text`
    /// is the limits of all that stands in the same text.
    pub(super) fn apply(self, stored: Option<sql::Stored>, text: Limits, decision: &mut Decision) {
        let (verb, terms) = match stored {
            Some(sql::Stored::Execute) => ("EXECUTE", self.execute),
            Some(sql::Stored::Fetch | sql::Stored::Move) => ("FETCH", self.fetch),
            Some(sql::Stored::Close | sql::Stored::Deallocate) | None => return,
        };
        let Decision::Allow(allow) = decision else {
            return;
        };
        match terms.bar {
            Some(bar) => *decision = Decision::Deny(bar.deny(verb)),
            None => allow.limits = allow.limits.and(terms.limits).and(text),
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

    fn made(policy: u64, masked: bool) -> Made {
        Made {
            policy,
            masked,
            limits: Limits::default(),
        }
    }

    fn decided(stored: &Stored, policy: u64, what: sql::Stored) -> Decision {
        let mut decision = Decision::Allow(Allow::default());
        let terms = stored.terms(policy);
        terms.apply(Some(what), Limits::default(), &mut decision);
        decision
    }

    fn denied(stored: &Stored, policy: u64, what: sql::Stored) -> bool {
        matches!(decided(stored, policy, what), Decision::Deny(_))
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
        let terms = stored.terms(1);
        let execute = Some(sql::Stored::Execute);
        terms.apply(execute, Limits::default(), &mut decision);
        assert!(matches!(&decision, Decision::Allow(a) if a.limits == limits(Some(5))));
        terms.apply(execute, limits(Some(3)), &mut decision);
        assert!(matches!(&decision, Decision::Allow(a) if a.limits == limits(Some(3))));
        terms.apply(None, limits(Some(1)), &mut decision);
        assert!(matches!(&decision, Decision::Allow(a) if a.limits == limits(Some(3))));
    }
}
