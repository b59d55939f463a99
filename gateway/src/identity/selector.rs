//! Which cgroups, units, containers and pods are an agent's: what `match` says.

use std::fmt;

use super::pattern::{Pattern, glob_matches};
use super::place::{self, ContainerRef};

/// The fewest digits by which a container can be named.
pub const MIN_CONTAINER_DIGITS: usize = 12;

/// What a container runtime says of a container. Nothing of it changes as long as it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Container {
    /// Its labels.
    pub labels: Labels,
    /// Its pod, if it runs in one of Kubernetes.
    pub pod: Option<Pod>,
}

/// A Kubernetes pod, in the words of the node that runs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its service account, where the kubelet has projected a token of one.
    pub service_account: Option<String>,
    /// Its labels.
    pub labels: Labels,
}

/// Labels, sorted by their keys.
pub type Labels = std::collections::BTreeMap<String, String>;

/// The conditions of an agent, all of which must hold. At least one is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    /// The cgroup, or one above it.
    pub cgroup: Option<Pattern>,
    /// The systemd unit.
    pub unit: Option<UnitPattern>,
    /// The container's id, or its first digits.
    pub container: Option<String>,
    /// Labels of the container.
    pub labels: Labels,
    /// The pod.
    pub kubernetes: Option<PodSelector>,
}

/// Which units are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPattern {
    /// The name, in which `*` stands for any characters. A template (`x@.service`) never runs
    /// itself: it means all of its instances.
    pub name: String,
    /// The user whose service manager runs them; `None` for the system's.
    pub user: Option<u32>,
}

/// Which pods are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodSelector {
    /// The namespace.
    pub namespace: String,
    /// The service account.
    pub service_account: Option<String>,
    /// Labels of the pod.
    pub labels: Labels,
}

impl Selector {
    /// Whether what the path says by itself fits; the rest is for [`Selector::covers`].
    pub(super) fn may_cover(&self, cgroup: &str, container: Option<&ContainerRef>) -> bool {
        self.cgroup.as_ref().is_none_or(|p| p.covers(cgroup))
            && self.unit.as_ref().is_none_or(|u| u.covers(cgroup))
            && (!self.asks() || container.is_some())
            && self
                .container
                .as_ref()
                .is_none_or(|wanted| container.is_some_and(|c| c.id.starts_with(wanted.as_str())))
            && (self.kubernetes.is_none() || container.is_some_and(|c| c.runtime.speaks_cri()))
    }

    /// Whether a container runtime must be asked. For the id too: whoever can make a cgroup can
    /// give it a container's name.
    pub(super) fn asks(&self) -> bool {
        self.container.is_some() || !self.labels.is_empty() || self.kubernetes.is_some()
    }

    /// Whether the runtime's word fits.
    pub(super) fn covers(&self, container: &Container) -> bool {
        has(&container.labels, &self.labels)
            && self.kubernetes.as_ref().is_none_or(|wanted| {
                container.pod.as_ref().is_some_and(|pod| {
                    pod.namespace == wanted.namespace
                        && (wanted.service_account.is_none()
                            || wanted.service_account == pod.service_account)
                        && has(&pod.labels, &wanted.labels)
                })
            })
    }
}

fn has(labels: &Labels, wanted: &Labels) -> bool {
    wanted
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}

impl UnitPattern {
    fn covers(&self, cgroup: &str) -> bool {
        place::unit(cgroup).is_some_and(|unit| {
            let of_template = self.name.split_once("@.").is_some_and(|(name, kind)| {
                let instance = unit.name.split_once('@');
                instance.is_some_and(|(own, rest)| {
                    own == name && rest.rsplit_once('.').is_some_and(|(_, k)| k == kind)
                })
            });
            unit.user == self.user && (of_template || glob_matches(&self.name, unit.name))
        })
    }
}

impl place::Runtime {
    fn speaks_cri(self) -> bool {
        matches!(self, Self::Containerd | Self::Crio | Self::Cri)
    }
}

/// As people read it in a table.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if let Some(pattern) = &self.cgroup {
            parts.push(format!("cgroup {pattern}"));
        }
        if let Some(unit) = &self.unit {
            let of = unit
                .user
                .map(|u| format!(" of user {u}"))
                .unwrap_or_default();
            parts.push(format!("unit {}{of}", unit.name));
        }
        if let Some(id) = &self.container {
            parts.push(format!("container {id}"));
        }
        parts.extend(self.labels.iter().map(|(k, v)| format!("label {k}={v}")));
        if let Some(pod) = &self.kubernetes {
            parts.push(format!("namespace {}", pod.namespace));
            let account = pod.service_account.iter();
            parts.extend(account.map(|a| format!("service account {a}")));
            let labels = pod.labels.iter();
            parts.extend(labels.map(|(k, v)| format!("pod label {k}={v}")));
        }
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn unit(name: &str, user: Option<u32>) -> UnitPattern {
        let name = name.into();
        UnitPattern { name, user }
    }

    fn labels(of: &[(&str, &str)]) -> Labels {
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        of.iter().map(own).collect()
    }

    fn pod(namespace: &str, account: Option<&str>, of: &[(&str, &str)]) -> Container {
        let pod = Pod {
            namespace: namespace.into(),
            service_account: account.map(Into::into),
            labels: labels(of),
            ..Pod::default()
        };
        Container {
            pod: Some(pod),
            ..Container::default()
        }
    }

    #[test]
    fn a_unit_is_the_systems_unless_a_user_is_named() {
        let system = "weir.slice/weir-agents.slice/coder-1.service/inner";
        let users = "user.slice/user-1000.slice/user@1000.service/app.slice/coder-1.service";
        assert!(unit("coder-*.service", None).covers(system));
        assert!(!unit("coder-*.service", None).covers(users), "spoofed");
        assert!(unit("coder-*.service", Some(1000)).covers(users));
        assert!(!unit("coder-*.service", Some(1001)).covers(users));
        assert!(!unit("coder-*.service", Some(1000)).covers(system));
    }

    #[test]
    fn a_template_means_its_instances() {
        let template = unit("coder@.service", None);
        assert!(template.covers("a.slice/coder@1.service"));
        assert!(template.covers("a.slice/coder@a.b.service"));
        for other in ["coder.service", "xcoder@1.service", "coder@1.scope"] {
            assert!(!template.covers(&format!("a.slice/{other}")), "{other}");
        }
        assert!(unit("coder@x-*.service", None).covers("a.slice/coder@x-1.service"));
    }

    #[test]
    fn every_condition_must_hold() {
        let selector = Selector {
            cgroup: Some(Pattern::new("weir-agents.slice/docker-*").unwrap()),
            labels: labels(&[("agent", "coder"), ("env", "prod")]),
            ..Selector::default()
        };
        let inside = format!("weir-agents.slice/docker-{ID}.scope");
        let outside = format!("system.slice/docker-{ID}.scope");
        let may = |path: &str| selector.may_cover(path, place::container(path).as_ref());
        assert!(may(&inside));
        assert!(!may(&outside));
        assert!(!may("weir-agents.slice/docker-none"), "no container");
        let with = |of| Container {
            labels: labels(of),
            ..Container::default()
        };
        assert!(selector.covers(&with(&[("agent", "coder"), ("env", "prod"), ("x", "")])));
        assert!(!selector.covers(&with(&[("agent", "coder")])));
        assert!(!selector.covers(&with(&[("agent", "coder"), ("env", "Prod")])));
    }

    #[test]
    fn a_pod_is_matched_by_namespace_account_and_labels() {
        let selector = |account: Option<&str>, of| Selector {
            kubernetes: Some(PodSelector {
                namespace: "agents".into(),
                service_account: account.map(Into::into),
                labels: labels(of),
            }),
            ..Selector::default()
        };
        let coder = pod("agents", Some("coder"), &[("app", "coder")]);
        assert!(selector(None, &[]).covers(&coder));
        assert!(selector(Some("coder"), &[("app", "coder")]).covers(&coder));
        assert!(!selector(Some("other"), &[]).covers(&coder));
        assert!(!selector(None, &[("app", "other")]).covers(&coder));
        assert!(!selector(None, &[]).covers(&pod("other", Some("coder"), &[])));
        assert!(
            !selector(Some("coder"), &[]).covers(&pod("agents", None, &[])),
            "an account that nobody knows is no account"
        );
        assert!(!selector(None, &[]).covers(&Container::default()), "no pod");
    }
}
