//! Deciding: the rules that concern one subject, arranged by effect, and the algorithm over them.
//!
//! Rules are kept sorted by name, which is unique. Where a choice must be made (which of two rules
//! that deny is named), the first by name is taken, and so nothing depends on their order.

use std::sync::Arc;

use super::{
    Allow, Decision, Deny, INSUFFICIENT_PRIVILEGE, Limits, MaskRule, Mode, Need, Policy,
    ResolvedTouch, Rule, Subject, Verdict,
};
use crate::{mask, sql::Effect};

/// A policy as one agent on one datastore meets it. Cheap to share, quick to decide.
#[derive(Clone, Debug)]
pub struct SubjectPolicy {
    /// SHA-256 of the policy that it was made from.
    pub sha256: [u8; 32],
    agent: Arc<str>,
    datastore: Arc<str>,
    mode: Mode,
    /// Those that concern the subject, by name.
    rules: Vec<Arc<Rule>>,
    /// For each effect, by its discriminant, the rules that have it.
    by_effect: Vec<Box<[usize]>>,
    /// Whether some rule in force allows the subject anything.
    welcome: bool,
}

/// What the rules say about one touch, for people.
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    /// The touch.
    pub touch: &'a ResolvedTouch,
    /// All rules that match it, in force or observed, by name.
    pub rules: Vec<&'a Rule>,
    /// Whether it is covered by rules in force, or needs none.
    pub covered: bool,
    /// Whether some rule in force allows the subject anything: otherwise what needs no rule isn't
    /// covered either.
    pub welcome: bool,
}

impl SubjectPolicy {
    pub(super) fn new(policy: &Policy, who: &Subject<'_>) -> SubjectPolicy {
        let mut rules: Vec<_> = policy
            .rules
            .iter()
            .filter(|rule| rule.concerns(who))
            .cloned()
            .collect();
        rules.sort_by(|a, b| a.name.cmp(&b.name));
        let by_effect = Effect::ALL
            .iter()
            .map(|&effect| {
                (0..rules.len())
                    .filter(|&index| rules[index].effects.contains(effect))
                    .collect()
            })
            .collect();
        let welcome = rules
            .iter()
            .any(|rule| rule.verdict == Verdict::Allow && rule.mode != Some(Mode::Observe));
        SubjectPolicy {
            sha256: policy.sha256,
            agent: who.agent.into(),
            datastore: who.datastore.into(),
            mode: policy.mode,
            rules,
            by_effect,
            welcome,
        }
    }

    /// The agent's name.
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// The masks that hold for the subject, whatever the modes of their rules.
    pub fn masks(&self) -> impl Iterator<Item = &MaskRule> {
        self.rules.iter().flat_map(|rule| rule.masks.iter())
    }

    /// The same as `mask::resolve` takes them.
    pub fn mask_requests(&self) -> Vec<mask::Request> {
        self.masks().map(MaskRule::request).collect()
    }

    /// Decides one statement by its touches. A statement without any is denied: nothing is known
    /// about it.
    pub fn decide(&self, touches: &[ResolvedTouch]) -> Decision {
        let tally = self.tally(touches);
        if let (Some(rule), Mode::Observe) = (tally.enforced, self.mode) {
            return Decision::Deny(denied_by(&self.rules[rule]));
        }
        let refusal = match tally.denied {
            Some(rule) => Some(denied_by(&self.rules[rule])),
            None if touches.is_empty() => Some(self.nothing_known()),
            None => tally.uncovered.map(|touch| self.uncovered(touch)),
        };
        match refusal {
            Some(deny) if self.mode == Mode::Enforce => Decision::Deny(deny),
            refusal => {
                let observed =
                    refusal.or_else(|| tally.observed.map(|rule| denied_by(&self.rules[rule])));
                Decision::Allow(self.allow(tally.matched, observed))
            }
        }
    }

    /// What each touch meets, for `weir policy explain`.
    pub fn explain<'a>(&'a self, touches: &'a [ResolvedTouch]) -> Vec<Trace<'a>> {
        touches
            .iter()
            .map(|touch| {
                let rules: Vec<_> = self
                    .matching(touch)
                    .map(|index| &*self.rules[index])
                    .collect();
                let denied = rules
                    .iter()
                    .any(|r| r.verdict == Verdict::Deny && r.mode != Some(Mode::Observe));
                let allowed = touch.need == Need::Nothing && self.welcome
                    || rules.iter().any(|rule| self.allows(rule, touch));
                Trace {
                    touch,
                    rules,
                    covered: allowed && !denied,
                    welcome: self.welcome,
                }
            })
            .collect()
    }

    fn matching<'a>(&'a self, touch: &'a ResolvedTouch) -> impl Iterator<Item = usize> + 'a {
        let candidates = self
            .by_effect
            .get(touch.effect as usize)
            .map_or(&[][..], |rules| rules);
        candidates
            .iter()
            .copied()
            .filter(|&index| matches(&self.rules[index], touch))
    }

    /// Whether a rule that matches also covers: in force, and named where that is needed.
    fn allows(&self, rule: &Rule, touch: &ResolvedTouch) -> bool {
        rule.verdict == Verdict::Allow
            && rule.mode != Some(Mode::Observe)
            && (touch.need != Need::Named || names(rule, touch))
    }

    fn tally<'t>(&self, touches: &'t [ResolvedTouch]) -> Tally<'t> {
        let mut tally = Tally::default();
        for touch in touches {
            let mut covered = touch.need == Need::Nothing && self.welcome;
            for index in self.matching(touch) {
                let rule = &self.rules[index];
                match (rule.verdict, rule.mode) {
                    (Verdict::Allow, Some(Mode::Observe)) => {}
                    (Verdict::Allow, _) => {
                        covered |= self.allows(rule, touch);
                        if !tally.matched.contains(&index) {
                            tally.matched.push(index);
                        }
                    }
                    (Verdict::Deny, Some(Mode::Observe)) => first(&mut tally.observed, index),
                    (Verdict::Deny, Some(Mode::Enforce)) => {
                        first(&mut tally.enforced, index);
                        first(&mut tally.denied, index);
                    }
                    (Verdict::Deny, None) => first(&mut tally.denied, index),
                }
            }
            if !covered && tally.uncovered.is_none() {
                tally.uncovered = Some(touch);
            }
        }
        tally
    }

    fn allow(&self, mut matched: Vec<usize>, observed: Option<Deny>) -> Allow {
        matched.sort_unstable();
        let rules = matched.iter().map(|&index| &self.rules[index]);
        // In an observed policy only the rules that ask for it limit anything.
        let in_force =
            |rule: &&Arc<Rule>| self.mode == Mode::Enforce || rule.mode == Some(Mode::Enforce);
        Allow {
            limits: rules
                .clone()
                .filter(in_force)
                .fold(Limits::default(), |limits, rule| limits.and(rule.limits)),
            rules: rules.map(|rule| Arc::clone(&rule.name)).collect(),
            observed,
        }
    }

    fn uncovered(&self, touch: &ResolvedTouch) -> Deny {
        let effect = touch.effect.as_str();
        let agent = &self.agent;
        let what = match &touch.object {
            Some((schema, name)) if schema.is_empty() => format!("{effect} on {name}"),
            Some((schema, name)) => format!("{effect} on {schema}.{name}"),
            None => effect.to_owned(),
        };
        let (message, hint) = if touch.need == Need::Named {
            (
                format!("no rule allows agent {agent} {what} by its exact name"),
                format!("a rule must name it without \"*\" to allow effect {what}"),
            )
        } else if touch.need == Need::Anywhere {
            self.not_told(touch)
        } else if touch.effect == Effect::Unknown {
            (
                format!("no rule allows agent {agent} a statement that Weir can't analyse"),
                "write it in a simpler way".to_owned(),
            )
        } else {
            let place = match &*self.datastore {
                "" => String::new(),
                datastore => format!(" in datastore {datastore}"),
            };
            (
                format!("no rule allows agent {agent} {what}"),
                format!("ask for a rule that allows effect {what}{place}"),
            )
        };
        Deny {
            rule: None,
            message,
            hint: Some(hint),
            sqlstate: INSUFFICIENT_PRIVILEGE,
        }
    }

    /// Message and hint where nothing allows what can't be told.
    fn not_told(&self, touch: &ResolvedTouch) -> (String, String) {
        let effect = touch.effect.as_str();
        let agent = &self.agent;
        match &touch.object {
            Some((_, name)) if !name.is_empty() => (
                format!(
                    "no rule allows agent {agent} {effect} on {name} in all schemas, and which one is meant can't be told"
                ),
                "name the schema".to_owned(),
            ),
            _ => (
                format!(
                    "no rule allows agent {agent} {effect} on all objects, and which ones are behind a view can't be told"
                ),
                "name the table itself; a view that was just made or changed can be used after a moment"
                    .to_owned(),
            ),
        }
    }

    fn nothing_known(&self) -> Deny {
        Deny {
            rule: None,
            message: "nothing is known about what this statement does".to_owned(),
            hint: None,
            sqlstate: INSUFFICIENT_PRIVILEGE,
        }
    }
}

/// What was found over all touches; rules by index, the smallest where there are several.
#[derive(Default)]
struct Tally<'t> {
    /// Rules that allow some touch and are in force.
    matched: Vec<usize>,
    /// A rule that denies even in an observed policy.
    enforced: Option<usize>,
    /// A rule that denies, that one included.
    denied: Option<usize>,
    /// A rule in observe mode that would have denied.
    observed: Option<usize>,
    /// The first touch that nothing covers.
    uncovered: Option<&'t ResolvedTouch>,
}

fn first(slot: &mut Option<usize>, index: usize) {
    *slot = Some(slot.map_or(index, |other| other.min(index)));
}

/// Whether a rule that has the touch's effect matches the rest of it.
fn matches(rule: &Rule, touch: &ResolvedTouch) -> bool {
    let condition = match (rule.has_where, touch.has_where) {
        (None, _) => true,
        (Some(wanted), Some(has)) => wanted == has,
        (Some(_), None) => rule.verdict == Verdict::Deny,
    };
    let object = rule.objects.is_empty()
        || touch.object.as_ref().is_some_and(|(schema, name)| {
            let anywhere = touch.need == Need::Anywhere && rule.verdict == Verdict::Deny;
            rule.objects.iter().any(|object| {
                if anywhere {
                    name.is_empty() || object.name.matches(name)
                } else {
                    object.matches(schema, name)
                }
            })
        });
    condition && object
}

/// Whether a rule names the touch's object without a `*`.
fn names(rule: &Rule, touch: &ResolvedTouch) -> bool {
    touch.object.as_ref().is_some_and(|(schema, name)| {
        rule.objects
            .iter()
            .any(|object| object.is_exact() && object.matches(schema, name))
    })
}

fn denied_by(rule: &Rule) -> Deny {
    let message = match &rule.message {
        Some(message) => format!("denied by rule \"{}\": {message}", rule.name),
        None => format!("denied by rule \"{}\"", rule.name),
    };
    Deny {
        rule: Some(Arc::clone(&rule.name)),
        message,
        hint: None,
        sqlstate: INSUFFICIENT_PRIVILEGE,
    }
}
