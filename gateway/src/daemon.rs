//! Bringing the parts up in the order in which they need each other, and down again.
//!
//! ```text
//!   journal, CA, policy -> datastores (names resolved) -> workers -> capture (attach or take over)
//!     -> endpoints, egress, listeners in namespaces -> control socket -> ready
//! ```
//!
//! Until the capture is attached no agent of a first start is governed, so everything that can fail
//! for a person's mistake comes before it. On SIGTERM the listeners close first (agents then get
//! ECONNREFUSED, or wait for the next daemon where systemd keeps the listeners; never a passage),
//! sessions at rest are told goodbye, and the others are ended in order within [`DRAIN`].

mod agents;
mod bypass;
mod datastores;
mod egress;
mod manager;
mod review;
mod status;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::agents::{Agents, cgroup_root};
use crate::capture::{
    Capture, Coverages, Detections, Gap, Hook, Inherited, NamespaceEvent, NetnsId, Watcher,
};
use crate::config::Config;
use crate::control;
use crate::listener::{self, Admission, Threads, Workers};
use crate::names::{self, Names};
use crate::policy_store::{self, PolicyStore};
use crate::preflight::{Closed, Guarded, Preflight};
use crate::record::{self, Recorder};
use crate::session::{Catalogs, Directory, Environment};
use crate::tls::Authority;
use bypass::Bypasses;
use datastores::Datastores;
use egress::Egress;
use review::Review;

/// How long sessions may go on after SIGTERM.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How often names of datastores are resolved anew.
const RESOLVE: Duration = Duration::from_secs(30);

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Whatever keeps it from coming up, with what to do about it.
pub fn run(config: Config) -> anyhow::Result<()> {
    raise_file_limit();
    // Before anything is started that it would be passed on to.
    let inherited = Inherited::take();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("no event queue")?
        .block_on(up(config, inherited))
}

/// Every session takes three or four descriptors.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// What the control socket and the main loop share.
struct Running {
    config: Config,
    started: Instant,
    policy: policy_store::Handle,
    review: Arc<Review>,
    catalogs: Catalogs,
    directory: Directory,
    workers: Workers,
    datastores: Datastores,
    agents: Agents,
    preflight: Preflight,
    namespaces: Mutex<HashMap<NetnsId, Vec<AbortHandle>>>,
    /// What the kernel lacks.
    gaps: Vec<Gap>,
    coverages: Coverages,
    bypasses: Bypasses,
}

async fn up(config: Config, inherited: Inherited) -> anyhow::Result<()> {
    let recorder = Recorder::open(&record::Settings {
        dir: config.paths.journal(),
        durability: config.journal.durability,
        index: config.paths.index(),
    })
    .context("the journal can't be opened")?;
    let authority =
        Authority::open_or_create(&config.paths.ca()).context("no certificate authority")?;
    let policies = PolicyStore::open(&config.paths.policies)
        .await
        .with_context(|| format!("no policy in {}", config.paths.policies.display()))?;
    let datastores = Datastores::resolve(&config, &authority).await?;
    let agents = Agents::new(
        config.agents.clone(),
        config.runtimes.clone(),
        cgroup_root(config.capture.cgroup_root.as_deref())
            .context("no cgroup2 file system is mounted")?,
    );
    let (drain, draining) = watch::channel(false);
    let environment = Environment {
        recorder,
        results: config.journal.results,
        policy: policies.subscribe(),
        catalogs: Catalogs::new(tokio::runtime::Handle::current()),
        directory: Directory::default(),
        drain: draining,
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (workers, threads) = Workers::start(cores, &environment).context("no worker threads")?;

    let mut capture = Capture::start(&config.capture).context("nothing is captured")?;
    capture
        .set_endpoints(&datastores.addresses())
        .context("the endpoints can't be protected")?;
    datastores.publish_names();
    let egress = govern(&config, &agents, &mut capture)?;
    let watcher = capture
        .watch(inherited)
        .context("agents' namespaces can't be watched")?;
    capture.govern(datastores.governing(&config));
    let detections = capture
        .detect()
        .context("connections past Weir can't be ended")?;
    let recorder = environment.recorder.clone();
    let bypasses = Bypasses::new(
        environment.recorder,
        agents.clone(),
        policies.handle(),
        detections.count(),
    );
    let catalogs = environment.catalogs.clone();
    let review = Arc::new(Review::new(&config, policies.subscribe(), catalogs));
    tokio::spawn(Arc::clone(&review).run());
    let running = Arc::new(Running {
        started: Instant::now(),
        policy: policies.handle(),
        review,
        catalogs: environment.catalogs,
        directory: environment.directory,
        workers,
        datastores,
        agents,
        preflight: Preflight::new(guarded(&config), closed(&config, capture.gaps())),
        namespaces: Mutex::default(),
        gaps: capture.gaps().to_vec(),
        coverages: capture.coverages(),
        bypasses,
        config,
    });
    let socket = running.config.paths.socket();
    let control = control::bind(&socket)
        .with_context(|| format!("the control socket {} can't be opened", socket.display()))?;
    tokio::spawn(policies.run());
    let answering = tokio::spawn(control::serve(
        control,
        status::handle(&running),
        std::future::pending(),
    ));
    let names = names(&running, &capture, egress.as_ref(), recorder);
    tokio::spawn(names.clone().tidy());
    tokio::spawn(refresh(egress));
    let events = (watcher, detections);
    serve(
        Arc::clone(&running),
        capture,
        names.clone(),
        events,
        authority,
    )
    .await;
    let _ = drain.send(true);
    names.close().await;
    answering.abort();
    // Its workers are handles too; the threads end with the last of them.
    let _ = answering.await;
    down(running, threads, socket).await;
    Ok(())
}

/// Has agents send only what they may; `None` if that is everything for all of them.
fn govern(
    config: &Config,
    agents: &Agents,
    capture: &mut Capture,
) -> anyhow::Result<Option<Arc<Egress>>> {
    if !config.capture.governed {
        return Ok(None);
    }
    let (kernel, strangers) = capture.egress().context("egress can't be governed")?;
    let egress = Egress::new(config, agents.clone(), kernel, &strangers)?;
    let egress = Arc::new(egress);
    tokio::spawn(Arc::clone(&egress).welcome(strangers));
    Ok(Some(egress))
}

/// Who answers agents' questions for names.
fn names(
    running: &Running,
    capture: &Capture,
    egress: Option<&Arc<Egress>>,
    recorder: Recorder,
) -> Names {
    let egress = egress.cloned();
    let forward: names::Forward = Arc::new(move |agent, name| {
        let egress = egress.clone();
        Box::pin(async move {
            match egress {
                Some(egress) => egress.answer(&agent, &name).await,
                // Without a list there are no listed names.
                None => names::Answer::Refused,
            }
        })
    });
    let datastores = running.datastores.names();
    Names::new(
        capture.origins(),
        running.agents.clone(),
        datastores,
        forward,
        (recorder, running.policy.clone()),
    )
}

/// Brings what the egress policies know of names and cgroups up to date, now and then.
async fn refresh(egress: Option<Arc<Egress>>) {
    let Some(egress) = egress else { return };
    let mut again = tokio::time::interval(RESOLVE);
    loop {
        again.tick().await;
        egress.refresh().await;
    }
}

/// The sockets on this host with which an agent could have itself let out.
fn guarded(config: &Config) -> Vec<Guarded> {
    let runtimes = &config.runtimes;
    let own = config.paths.socket();
    let systemd = Path::new("/run/systemd/private");
    let dbus = Path::new("/run/dbus/system_bus_socket");
    let all: [(&'static str, &Path, bool); 7] = [
        ("Docker", &runtimes.docker, false),
        ("Podman", &runtimes.podman, false),
        ("containerd", &runtimes.containerd, false),
        ("CRI-O", &runtimes.crio, false),
        ("Weir", &own, false),
        // Both let everybody in, and do what root alone asks for.
        ("systemd", systemd, true),
        ("D-Bus", dbus, true),
    ];
    let guarded = all.map(|(name, path, root_only)| Guarded {
        name,
        path: path.to_owned(),
        root_only,
    });
    guarded.into()
}

/// What the kernel's optional hooks close. Where the perimeter is required, a namespace with a way
/// past it has no database.
fn closed(config: &Config, gaps: &[Gap]) -> Closed {
    Closed {
        packets: !gaps.iter().any(|gap| gap.hook == Hook::Lsm),
        ways_out: config.capture.require.contains(&Hook::Perimeter),
    }
}

/// The main loop: namespaces come and go, names are resolved anew, until a signal ends it.
async fn serve(
    running: Arc<Running>,
    mut capture: Capture,
    names: Names,
    (mut watcher, mut detections): (Watcher, Detections),
    authority: Authority,
) {
    let (Ok(mut term), Ok(mut int), Ok(mut hup)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
        signal(SignalKind::hangup()),
    ) else {
        tracing::error!("signals can't be received");
        return;
    };
    let admission = Admission {
        origins: capture.origins(),
        agents: running.agents.clone(),
        preflight: running.preflight.clone(),
        endpoints: running.datastores.endpoints(),
        names,
    };
    let mut resolve = tokio::time::interval_at(tokio::time::Instant::now() + RESOLVE, RESOLVE);
    tokio::spawn(manager::feed_watchdog());
    manager::ready();
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hup.recv() => drop(tokio::spawn(manager::reload(running.policy.clone()))),
            event = watcher.next() => match event {
                Some(event) => running.namespace(event, &admission),
                None => {
                    tracing::error!("agents' namespaces are no longer watched; going down");
                    break;
                }
            },
            Some(detection) = detections.next() => running.bypasses.record(detection),
            _ = resolve.tick() => {
                running.datastores.resolve_again(&running.config, &authority).await;
                match capture.set_endpoints(&running.datastores.addresses()) {
                    Ok(()) => running.datastores.publish_names(),
                    Err(error) => tracing::error!(error = &error as &dyn std::error::Error,
                        "new addresses of datastores can't be protected"),
                }
            }
        }
    }
    manager::stopping();
    running.close_listeners();
}

async fn down(running: Arc<Running>, threads: Threads, socket: PathBuf) {
    drop(running);
    let ended = tokio::task::spawn_blocking(move || threads.join(DRAIN)).await;
    if !matches!(ended, Ok(true)) {
        tracing::warn!("sessions that did not end within {DRAIN:?} are cut; their journals say so");
    }
    let _ = std::fs::remove_file(socket);
}

/// Runs what is done at one socket.
fn poll(task: impl Future<Output = std::io::Result<()>> + Send + 'static) -> AbortHandle {
    let task = tokio::spawn(async move {
        if let Err(error) = task.await {
            tracing::error!(%error, "a listener can't be polled");
        }
    });
    task.abort_handle()
}

impl Running {
    fn namespace(&self, event: NamespaceEvent, admission: &Admission) {
        let mut namespaces = self
            .namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match event {
            NamespaceEvent::Up {
                id,
                listeners,
                questions,
            } => {
                tracing::info!(
                    namespace = id.0,
                    "listening in an agent's network namespace"
                );
                let accepting = listeners.into_iter().map(|listener| {
                    let workers = self.workers.clone();
                    poll(listener::accept(listener, admission.clone(), workers))
                });
                let answering = questions
                    .into_iter()
                    .map(|socket| poll(admission.names.clone().serve(socket)));
                let tasks = accepting.chain(answering).collect();
                namespaces.insert(id, tasks);
            }
            NamespaceEvent::Down { id } => {
                tracing::info!(namespace = id.0, "an agent's network namespace is empty");
                namespaces
                    .remove(&id)
                    .into_iter()
                    .flatten()
                    .for_each(|task| task.abort());
            }
        }
    }

    fn close_listeners(&self) {
        let mut namespaces = self
            .namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        namespaces
            .drain()
            .flat_map(|(_, tasks)| tasks)
            .for_each(|task| task.abort());
    }
}
