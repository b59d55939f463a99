//! Who connects: the matcher's answer, with the container runtime's word where it needs one.
//!
//! Guarantees:
//! - what is told of a container comes from the runtime on the host, over a socket whose other end
//!   is root, and never from anything in the container;
//! - it is told of this cgroup: the runtime's own process of the container must be in it, and the
//!   cgroup must be the same before and after the question (a cgroup's id is its inode's number,
//!   which isn't used twice before the next boot);
//! - it is asked once per cgroup, as nothing of it changes while the container runs; a failure is
//!   remembered for [`FORGIVE`] and refuses meanwhile;
//! - it takes at most [`PATIENCE`], of the session that asks and of no other.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::identity::{Container, ContainerRef, Identity, Matcher, Process, Runtime, Unknown};

mod cri;
mod docker;
mod kubelet;
mod socket;

/// How long a runtime may take to tell of a container.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a failure holds before the runtime is asked again.
const FORGIVE: Duration = Duration::from_secs(1);
/// Containers that are remembered; from here on those that are gone are forgotten.
const REMEMBERED: usize = 1024;

/// Where container runtimes are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Docker's API socket.
    pub docker: PathBuf,
    /// Podman's, of root.
    pub podman: PathBuf,
    /// containerd's socket.
    pub containerd: PathBuf,
    /// CRI-O's.
    pub crio: PathBuf,
    /// The kubelet's directory.
    pub kubelet: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            docker: "/run/docker.sock".into(),
            podman: "/run/podman/podman.sock".into(),
            containerd: "/run/containerd/containerd.sock".into(),
            crio: "/run/crio/crio.sock".into(),
            kubelet: "/var/lib/kubelet".into(),
        }
    }
}

/// Why a runtime's word on a container isn't there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody to ask, or nobody to be trusted.
    #[error("{} can't be asked: {why}", socket.display())]
    Socket {
        /// The runtime's socket.
        socket: PathBuf,
        /// What is the matter with it.
        why: String,
    },
    /// It knows no such container.
    #[error("the runtime on {} doesn't know it", .0.display())]
    NoSuchContainer(PathBuf),
    /// Its answer can't be used.
    #[error("the runtime's answer can't be used: {0}")]
    Answer(String),
    /// It means another cgroup.
    #[error("the runtime has it in another cgroup")]
    Elsewhere,
    /// The cgroup isn't there, or is no longer the one that was asked about.
    #[error("its cgroup is gone")]
    Gone,
    /// It took too long.
    #[error("the runtime did not answer within {PATIENCE:?}")]
    Late,
}

/// What a runtime says, before it is held against the cgroup.
struct Told {
    container: Container,
    /// The container's first process, on the host.
    pid: u32,
}

/// Tells who is who. Cloning shares what is known.
#[derive(Debug, Clone)]
pub struct Agents(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    matcher: Matcher,
    settings: Settings,
    /// The cgroup2 mount.
    root: PathBuf,
    known: Mutex<HashMap<Key, Arc<Entry>>>,
}

/// A container in one cgroup: its id, and the cgroup's.
type Key = (String, u64);

#[derive(Debug)]
struct Entry {
    container: ContainerRef,
    /// Held while the runtime is asked: it is asked once, however many wait.
    state: tokio::sync::Mutex<State>,
}

#[derive(Debug)]
enum State {
    Unasked,
    Known(Arc<Container>),
    Failed(Instant, String),
}

impl Agents {
    /// For the agents of `matcher`, with the cgroup2 file system mounted at `root`.
    #[must_use]
    pub fn new(matcher: Matcher, settings: Settings, root: PathBuf) -> Self {
        Self(Arc::new(Shared {
            matcher,
            settings,
            root,
            known: Mutex::default(),
        }))
    }

    /// The agents and their conditions.
    #[must_use]
    pub fn matcher(&self) -> &Matcher {
        &self.0.matcher
    }

    /// The cgroup2 mount.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// Tells whose process in `cgroup` (the path below the cgroup2 mount) this is.
    ///
    /// # Errors
    /// See [`Unknown`]; the session has to be refused then.
    pub async fn identify(&self, cgroup: &str, process: Process) -> Result<Identity, Unknown> {
        let Some(container) = self.0.matcher.asks(cgroup) else {
            return self.0.matcher.identify(cgroup, process, None);
        };
        let id = container.id.clone();
        match self.0.resolve(container).await {
            Ok(told) => self.0.matcher.identify(cgroup, process, Some(&told)),
            Err(why) => Err(Unknown::Unresolved {
                cgroup: cgroup.trim_matches('/').to_owned(),
                container: id,
                why,
            }),
        }
    }
}

impl Shared {
    /// The runtime's word on a container, or why it isn't there.
    async fn resolve(&self, container: ContainerRef) -> Result<Arc<Container>, String> {
        let cgroup = self.cgroup_id(&container).map_err(|e| e.to_string())?;
        let entry = self.entry(container, cgroup);
        let mut state = entry.state.lock().await;
        match &*state {
            State::Known(told) => return Ok(Arc::clone(told)),
            State::Failed(at, why) if at.elapsed() < FORGIVE => return Err(why.clone()),
            State::Failed(..) | State::Unasked => {}
        }
        let asked = tokio::time::timeout(PATIENCE, self.ask(&entry.container, cgroup)).await;
        let told = asked.unwrap_or(Err(Error::Late)).map_err(|e| e.to_string());
        *state = match &told {
            Ok(told) => State::Known(Arc::clone(told)),
            Err(why) => State::Failed(Instant::now(), why.clone()),
        };
        told
    }

    async fn ask(&self, container: &ContainerRef, cgroup: u64) -> Result<Arc<Container>, Error> {
        let settings = &self.settings;
        let told = match container.runtime {
            Runtime::Docker => docker::inspect(&settings.docker, &container.id).await?,
            Runtime::Podman => docker::inspect(&settings.podman, &container.id).await?,
            Runtime::Containerd => self.ask_cri(&settings.containerd, container).await?,
            Runtime::Crio => self.ask_cri(&settings.crio, container).await?,
            Runtime::Cri if settings.containerd.exists() => {
                self.ask_cri(&settings.containerd, container).await?
            }
            Runtime::Cri => self.ask_cri(&settings.crio, container).await?,
        };
        if !is_in(told.pid, &container.cgroup) {
            return Err(Error::Elsewhere);
        }
        if self.cgroup_id(container)? != cgroup {
            return Err(Error::Gone);
        }
        Ok(Arc::new(told.container))
    }

    async fn ask_cri(&self, socket: &Path, container: &ContainerRef) -> Result<Told, Error> {
        let mut told = cri::inspect(socket, &container.id).await?;
        if let Some(pod) = &mut told.container.pod {
            if container
                .pod_uid
                .as_ref()
                .is_some_and(|uid| *uid != pod.uid)
            {
                return Err(Error::Elsewhere);
            }
            pod.service_account = kubelet::service_account(&self.settings.kubelet, pod);
        }
        Ok(told)
    }

    /// The id of a container's cgroup.
    fn cgroup_id(&self, container: &ContainerRef) -> Result<u64, Error> {
        let path = self.root.join(&container.cgroup);
        std::fs::symlink_metadata(path)
            .map(|meta| meta.ino())
            .map_err(|_| Error::Gone)
    }

    fn entry(&self, container: ContainerRef, cgroup: u64) -> Arc<Entry> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|(_, id), entry| {
                self.cgroup_id(&entry.container).is_ok_and(|now| now == *id)
            });
        }
        let entry = known
            .entry((container.id.clone(), cgroup))
            .or_insert_with(|| {
                Arc::new(Entry {
                    container,
                    state: tokio::sync::Mutex::new(State::Unasked),
                })
            });
        Arc::clone(entry)
    }
}

/// The cgroup2 mount: the one that is set, or the first in `/proc/mounts`, as the capture has it.
pub fn cgroup_root(set: Option<&Path>) -> std::io::Result<PathBuf> {
    if let Some(set) = set {
        return Ok(set.to_owned());
    }
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    let mut fields = mounts.lines().map(|line| line.split(' ').skip(1));
    let found = fields.find_map(|mut f| Some((f.next()?, f.next()?)).filter(|f| f.1 == "cgroup2"));
    found
        .map(|(place, _)| place.into())
        .ok_or_else(|| std::io::Error::other("there is none in /proc/mounts"))
}

/// Whether a process is in a cgroup or below it. Whoever can name a cgroup like a container's could
/// otherwise pass for that container.
fn is_in(pid: u32, cgroup: &str) -> bool {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    own.is_some_and(|own| {
        own.strip_prefix(cgroup)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

#[cfg(test)]
mod tests;
