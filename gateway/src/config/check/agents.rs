//! `[agent.*]`: who they are and what they are told apart by.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use toml::Spanned;

use super::{Check, Text, raw};
use crate::capture;
use crate::config::host::Refused;
use crate::config::{Egress, Listed};
use crate::identity::{
    Agent, Labels, MIN_CONTAINER_DIGITS, Matcher, Pattern, PodSelector, PreflightMode, Selector,
    UnitPattern,
};

const EXAMPLE: &str = "for example match = { cgroup = \"weir-agents.slice/coder-*\" }";

impl Check<'_> {
    pub(super) fn agents(
        &mut self,
        raw: &BTreeMap<Text, raw::Agent>,
        capture: Option<&capture::Settings>,
    ) -> Matcher {
        if raw.is_empty() {
            let help = "add an [agent.NAME] with match = { cgroup = \"weir-agents.slice/NAME-*\" }";
            self.error_at(0..0, "there is no agent").help::<()>(help);
        }
        let mut agents: Vec<(Agent, Selector)> = Vec::new();
        for (name, raw) in raw {
            self.name(name);
            self.later(&raw.identity);
            self.later(&raw.login);
            let groups: Vec<Arc<str>> = raw.groups.iter().filter_map(|g| self.name(g)).collect();
            let choices = [
                ("refuse", PreflightMode::Refuse),
                ("warn", PreflightMode::Warn),
            ];
            let preflight = self.choice(raw.preflight.as_ref(), &choices);
            let Some((selector, at)) = self.selector(&raw.matches, capture) else {
                continue;
            };
            if let Some((other, _)) = agents.iter().find(|(_, s)| *s == selector) {
                let message = format!("agent {:?} has the same match", other.name);
                let help = "a connection that matches two agents is refused";
                self.error_at(at, message).help::<()>(help);
            }
            let agent = Agent {
                name: name.get_ref().as_str().into(),
                groups: groups.into(),
                preflight: preflight.unwrap_or_default(),
            };
            agents.push((agent, selector));
        }
        Matcher::new(agents)
    }

    /// What each agent may reach, by name.
    pub(super) fn egress(
        &mut self,
        raw: &BTreeMap<Text, raw::Agent>,
    ) -> BTreeMap<Arc<str>, Egress> {
        let own = |(name, agent): (&Text, &raw::Agent)| {
            let egress = agent.egress.as_ref().map(|egress| self.one_egress(egress));
            (
                name.get_ref().as_str().into(),
                egress.flatten().unwrap_or_default(),
            )
        };
        raw.iter().map(own).collect()
    }

    fn one_egress(&mut self, raw: &Spanned<raw::Egress>) -> Option<Egress> {
        let list = match raw.get_ref() {
            raw::Egress::Word(word) => {
                return match word.as_str() {
                    "open" => Some(Egress::Open),
                    "none" => Some(Egress::Only(Vec::new())),
                    other => self
                        .error_at(raw.span(), format!("unknown value {other:?}"))
                        .help("\"open\", \"none\" or a list of what may be reached"),
                };
            }
            raw::Egress::List(list) => list,
        };
        if list.is_empty() {
            return self
                .error_at(raw.span(), "the list is empty")
                .help("egress = \"none\" says so");
        }
        let mut only = Vec::new();
        for text in list {
            match Listed::parse(text.get_ref()) {
                Ok(listed) => only.push(listed),
                Err(Refused { message, help }) => {
                    self.error(text, message).help::<()>(help);
                }
            }
        }
        Some(Egress::Only(only))
    }

    fn selector(
        &mut self,
        raw: &Spanned<raw::Match>,
        capture: Option<&capture::Settings>,
    ) -> Option<(Selector, Range<usize>)> {
        let at = raw.span();
        let raw = raw.get_ref();
        let found = self.found.len();
        let selector = Selector {
            cgroup: raw.cgroup.as_ref().and_then(|c| self.pattern(c, capture)),
            unit: self.unit(raw),
            container: raw.container.as_ref().and_then(|c| self.container(c)),
            labels: self.labels(&raw.label),
            kubernetes: raw.kubernetes.as_ref().and_then(|k| self.pod(k.get_ref())),
        };
        if self.found.len() > found {
            return None;
        }
        if selector == Selector::default() {
            let message =
                "the match is empty: it needs a cgroup, unit, container, label or kubernetes";
            return self.error_at(at, message).help(EXAMPLE);
        }
        Some((selector, at))
    }

    fn pattern(&mut self, cgroup: &Text, capture: Option<&capture::Settings>) -> Option<Pattern> {
        let pattern = match Pattern::new(cgroup.get_ref()) {
            Ok(pattern) => pattern,
            Err(e) => return self.error(cgroup, e.to_string()).none(),
        };
        let slice = capture.and_then(|c| c.slice.to_str());
        if let Some(slice) = slice.filter(|slice| !pattern.reaches(slice)) {
            let message = "this can never match: it is outside the slice that Weir captures";
            let help = format!("begin it with {slice}/, or set slice in [capture]");
            return self.error(cgroup, message).help(help);
        }
        Some(pattern)
    }

    fn unit(&mut self, raw: &raw::Match) -> Option<UnitPattern> {
        let user = raw.user.as_ref();
        let Some(name) = &raw.unit else {
            if let Some(user) = user {
                let help = "a user alone is matched by its slice: cgroup = \".../user-1000.slice\"";
                self.error_at(
                    user.span(),
                    "user says whose unit is meant, and there is no unit",
                )
                .help::<()>(help);
            }
            return None;
        };
        let text = name.get_ref();
        if text.contains('/') || !text.ends_with(".service") && !text.ends_with(".scope") {
            let help = "for example unit = \"coder-*.service\"; slices are matched by cgroup";
            return self
                .error(
                    name,
                    "this can never match: the name of a unit ends in .service or .scope",
                )
                .help(help);
        }
        Some(UnitPattern {
            name: text.clone(),
            user: user.map(|user| *user.get_ref()),
        })
    }

    fn container(&mut self, id: &Text) -> Option<String> {
        let text = id.get_ref();
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if (MIN_CONTAINER_DIGITS..=64).contains(&text.len()) && text.bytes().all(hex) {
            return Some(text.clone());
        }
        let message = format!(
            "{text:?} is no container's id: {MIN_CONTAINER_DIGITS} to 64 hexadecimal digits"
        );
        self.error(id, message)
            .help("names can be given to another container: match by label instead")
    }

    fn labels(&mut self, raw: &BTreeMap<Text, Text>) -> Labels {
        if let Some(empty) = raw.keys().find(|key| key.get_ref().is_empty()) {
            self.error(empty, "a label has a name").none::<()>();
        }
        let own = |(k, v): (&Text, &Text)| (k.get_ref().clone(), v.get_ref().clone());
        raw.iter().map(own).collect()
    }

    fn pod(&mut self, raw: &raw::Kubernetes) -> Option<PodSelector> {
        let mut name = |text: &Text, what: &str| {
            let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b);
            let value = text.get_ref();
            if !value.is_empty() && value.bytes().all(good) {
                return Some(value.clone());
            }
            self.error(text, format!("{value:?} can't be the name of a {what}"))
                .none()
        };
        let namespace = name(&raw.namespace, "namespace")?;
        let service_account = match &raw.service_account {
            None => None,
            Some(account) => Some(name(account, "service account")?),
        };
        Some(PodSelector {
            namespace,
            service_account,
            labels: self.labels(&raw.labels),
        })
    }
}
