//! What a cgroup's path says by itself: the systemd unit and the container that it belongs to.
//!
//! In both it is the outermost that counts: what is below a unit's or a container's own cgroup, its
//! processes may have named themselves. And it says only what was written there: whether a runtime
//! knows such a container, and means this cgroup by it, is for `agents` to find out.

/// A systemd unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit<'a> {
    /// Its name, such as `coder@1.service`.
    pub name: &'a str,
    /// The user whose service manager runs it, who names such units as they like; `None` for the
    /// system's.
    pub user: Option<u32>,
    /// The path of its cgroup.
    pub cgroup: &'a str,
}

/// Who is asked about a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// Docker's engine.
    Docker,
    /// Podman, of root.
    Podman,
    /// containerd, by the container runtime interface of Kubernetes.
    Containerd,
    /// CRI-O, by the same.
    Crio,
    /// One that speaks the container runtime interface; the path doesn't say which.
    Cri,
}

impl Runtime {
    /// As it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::Crio => "cri-o",
            Self::Cri => "cri",
        }
    }
}

/// A container, as a path names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ContainerRef {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Whose it seems to be.
    pub runtime: Runtime,
    /// The path of its cgroup.
    pub cgroup: String,
    /// The uid of its Kubernetes pod, where the path has one.
    pub pod_uid: Option<String>,
}

/// The unit that a process in `path` belongs to, by the rules of systemd's `sd_pid_get_unit` and
/// `sd_pid_get_user_unit`: the first component that isn't a slice, if it is a unit at all.
#[must_use]
pub fn unit(path: &str) -> Option<Unit<'_>> {
    let mut components = components(path).skip_while(|(_, c)| is_slice(c));
    let (cgroup, component) = components.next()?;
    let name = unit_name(component)?;
    let own = Unit {
        name,
        user: None,
        cgroup,
    };
    let Some(user) = manager_of(name) else {
        return Some(own);
    };
    let mut components = components.skip_while(|(_, c)| is_slice(c));
    let of_user = components.next().and_then(|(cgroup, component)| {
        Some(Unit {
            name: unit_name(component)?,
            user: Some(user),
            cgroup,
        })
    });
    Some(of_user.unwrap_or(own))
}

/// The container that a process in `path` runs in: that of Docker, Podman, CRI-O or containerd, by
/// systemd or by cgroupfs.
#[must_use]
pub fn container(path: &str) -> Option<ContainerRef> {
    let mut pod_uid = None;
    for (cgroup, component) in components(path) {
        if let Some((id, named)) = container_id(component) {
            let runtime = named.unwrap_or(match pod_uid {
                Some(_) => Runtime::Cri,
                // Docker by cgroupfs writes the bare id, in `docker` or in `--cgroup-parent`.
                None => Runtime::Docker,
            });
            return Some(ContainerRef {
                id: id.to_owned(),
                runtime,
                cgroup: cgroup.to_owned(),
                pod_uid,
            });
        }
        pod_uid = pod(component).or(pod_uid);
    }
    None
}

/// Each component with the path up to it.
fn components(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let path = path.trim_matches('/');
    let ends = path.match_indices('/').map(|(at, _)| at);
    let mut from = 0;
    ends.chain(Some(path.len())).map(move |to| {
        let component = &path[from..to];
        from = to + 1;
        (&path[..to], component)
    })
}

fn is_slice(component: &str) -> bool {
    component.len() > ".slice".len() && component.ends_with(".slice")
}

/// The unit's name in a component; systemd puts `_` before those that the kernel has files for.
fn unit_name(component: &str) -> Option<&str> {
    let name = component.strip_prefix('_').unwrap_or(component);
    let stem = name
        .strip_suffix(".service")
        .or_else(|| name.strip_suffix(".scope"))?;
    (!stem.is_empty()).then_some(name)
}

fn manager_of(unit: &str) -> Option<u32> {
    unit.strip_prefix("user@")?
        .strip_suffix(".service")?
        .parse()
        .ok()
}

/// A container's id in one component, and whose it is where the component says so.
fn container_id(component: &str) -> Option<(&str, Option<Runtime>)> {
    const NAMED: [(&str, Runtime); 5] = [
        ("docker-", Runtime::Docker),
        // In the unit that started it, by `--cgroups=split`, as Quadlet does.
        ("libpod-payload-", Runtime::Podman),
        ("libpod-", Runtime::Podman),
        ("cri-containerd-", Runtime::Containerd),
        ("crio-", Runtime::Crio),
    ];
    let scope = component.strip_suffix(".scope").unwrap_or(component);
    let named = NAMED
        .iter()
        .find_map(|(prefix, runtime)| Some((scope.strip_prefix(prefix)?, Some(*runtime))));
    let (id, runtime) = named.unwrap_or((component, None));
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    (id.len() == 64 && id.bytes().all(hex)).then_some((id, runtime))
}

/// The uid of a pod in one component: `pod<uid>`, or `kubepods-burstable-pod<uid>.slice`, in which
/// systemd can't have a `-`. That of a static pod is a hash.
fn pod(component: &str) -> Option<String> {
    let uid = match component.strip_suffix(".slice") {
        Some(slice) => slice
            .strip_prefix("kubepods")?
            .rsplit_once("-pod")?
            .1
            .replace('_', "-"),
        None => component.strip_prefix("pod")?.to_owned(),
    };
    let good = |b: u8| b.is_ascii_hexdigit() || b == b'-';
    (matches!(uid.len(), 32 | 36) && uid.bytes().all(good)).then_some(uid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const POD: &str = "8f7d2f1c-5a0e-4c57-9a55-0d9c6f7b1e23";

    fn unit_of(path: &str) -> Option<(&str, Option<u32>)> {
        unit(path).map(|u| (u.name, u.user))
    }

    #[test]
    fn units_are_found_where_systemd_finds_them() {
        for (path, expected) in [
            ("system.slice/coder-1.service", ("coder-1.service", None)),
            (
                "weir.slice/weir-agents.slice/coder@7.service",
                ("coder@7.service", None),
            ),
            ("coder.service", ("coder.service", None)),
            ("system.slice/_cpu.service", ("cpu.service", None)),
            ("system.slice/x.service/y.service", ("x.service", None)),
            (
                "system.slice/x.service/a/b/coder-1.service",
                ("x.service", None),
            ),
            (
                "user.slice/user-1000.slice/session-3.scope",
                ("session-3.scope", None),
            ),
            (
                "user.slice/user-1000.slice/user@1000.service",
                ("user@1000.service", None),
            ),
            (
                "user.slice/user-1000.slice/user@1000.service/init.scope",
                ("init.scope", Some(1000)),
            ),
            (
                "user.slice/user-1000.slice/user@1000.service/app.slice/app-coder.slice/coder@1.service/x",
                ("coder@1.service", Some(1000)),
            ),
        ] {
            assert_eq!(unit_of(path), Some(expected), "{path}");
        }
    }

    #[test]
    fn what_is_no_unit_is_not_taken_for_one() {
        for path in [
            "",
            "weir-agents.slice",
            "weir-agents.slice/coder-1",
            "weir-agents.slice/coder-1/coder-1.service",
            "docker/x/coder-1.service",
            ".service",
            "system.slice/.service",
        ] {
            assert_eq!(unit(path), None, "{path}");
        }
    }

    #[test]
    fn containers_are_recognised_by_the_cgroups_of_their_runtimes() {
        let pod_slice = POD.replace('-', "_");
        let scopes = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod";
        for (path, runtime, pod) in [
            (
                format!("system.slice/docker-{ID}.scope"),
                Runtime::Docker,
                None,
            ),
            (
                format!("weir-agents.slice/docker-{ID}.scope"),
                Runtime::Docker,
                None,
            ),
            (format!("docker/{ID}"), Runtime::Docker, None),
            (format!("weir-agents/{ID}"), Runtime::Docker, None),
            (
                format!("machine.slice/libpod-{ID}.scope/container"),
                Runtime::Podman,
                None,
            ),
            (
                format!("machine.slice/machine-libpod_pod_{ID}.slice/libpod-{ID}.scope"),
                Runtime::Podman,
                None,
            ),
            (format!("libpod_parent/libpod-{ID}"), Runtime::Podman, None),
            (
                format!("system.slice/coder.service/libpod-payload-{ID}"),
                Runtime::Podman,
                None,
            ),
            (
                format!("{scopes}{pod_slice}.slice/cri-containerd-{ID}.scope"),
                Runtime::Containerd,
                Some(POD),
            ),
            (
                format!("kubepods.slice/kubepods-pod{pod_slice}.slice/crio-{ID}.scope/container/x"),
                Runtime::Crio,
                Some(POD),
            ),
            (
                format!("kubepods/burstable/pod{POD}/{ID}"),
                Runtime::Cri,
                Some(POD),
            ),
            (
                format!("kubepods/besteffort/pod{POD}/crio-{ID}"),
                Runtime::Crio,
                Some(POD),
            ),
            (
                // A static pod's uid is a hash.
                format!("kubepods/pod{}/{ID}", &ID[..32]),
                Runtime::Cri,
                Some(&ID[..32]),
            ),
        ] {
            let found = container(&path).expect(&path);
            assert_eq!(found.id, ID, "{path}");
            assert_eq!(found.runtime, runtime, "{path}");
            assert_eq!(found.pod_uid.as_deref(), pod, "{path}");
        }
    }

    #[test]
    fn the_outermost_container_counts_and_its_cgroup_ends_with_it() {
        let inner = "f".repeat(64);
        let found = container(&format!("docker/{ID}/docker/{inner}/pod{POD}/x")).unwrap();
        assert_eq!((&*found.id, &*found.cgroup), (ID, &*format!("docker/{ID}")));
        assert_eq!(found.pod_uid, None, "what is below says nothing");
    }

    #[test]
    fn what_only_looks_like_a_container_is_none() {
        for path in [
            format!("machine.slice/libpod-conmon-{ID}.scope"),
            format!("kubepods/crio-conmon-{ID}.scope"),
            format!("s/{}", ID.to_uppercase()),
            format!("s/{}", &ID[1..]),
            format!("s/x{ID}"),
            format!("s/{ID}0"),
            format!("s/{ID}.slice"),
        ] {
            assert_eq!(container(&path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_unit_or_container_lies_on_its_path(path in "[a-f0-9@._/-]{0,40}|(pod|docker-|user@|/|\\.slice|\\.scope|\\.service|[a-f0-9]{64}){0,8}") {
            let whole = path.trim_matches('/');
            if let Some(unit) = unit(&path) {
                prop_assert!(whole.starts_with(unit.cgroup));
                prop_assert!(unit.cgroup.ends_with(unit.name));
            }
            if let Some(container) = container(&path) {
                prop_assert!(whole.starts_with(&container.cgroup));
                prop_assert!(container.cgroup.contains(&container.id));
            }
        }

        #[test]
        fn no_path_panics(path in "\\PC{0,60}") {
            let _ = (unit(&path), container(&path));
        }

        #[test]
        fn what_a_container_makes_below_itself_changes_nothing(below in "[a-z0-9./-]{0,30}") {
            let own = format!("weir-agents.slice/docker-{ID}.scope");
            let expected = container(&own);
            prop_assert_eq!(container(&format!("{own}/{below}")), expected);
            let service = "system.slice/coder.service";
            let found = unit_of(service);
            let deeper = format!("{service}/{below}");
            prop_assert_eq!(unit_of(&deeper), found);
        }
    }
}
