//! Accepting on the agents' side, and the threads that sessions run on.
//!
//! Every listener sits in an agent's network namespace; whoever gets through to one was sent there
//! by the kernel, which says where it wanted to go and who it is. A connection of which the kernel
//! knows nothing is closed without a word.
//!
//! Sessions are pinned: each runs to its end on one worker thread with a runtime of its own, so
//! that nothing in a session is shared with another core.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};

use crate::agents::Agents;
use crate::capture::{Origin, OriginalDst, Origins};
use crate::identity::Process;
use crate::names::{self, Names};
use crate::preflight::Preflight;
use crate::session::{self, Accepted, Datastore, Environment, Tally};

/// Which datastore is where.
pub type Endpoints = HashMap<SocketAddr, Arc<Datastore>>;

/// Connections that wait for a worker; more wait in the kernel's backlog.
const QUEUE: usize = 256;
/// Threads of a worker for what takes a while: logging in, reading credentials, analysing long texts.
const BLOCKING: usize = 16;
/// After a failed accept (no file descriptors, say), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection needs on its way to a worker.
#[derive(Clone)]
pub struct Admission {
    /// What the kernel knows of connections.
    pub origins: Origins,
    /// Who is who.
    pub agents: Agents,
    /// Who could get round all of this.
    pub preflight: Preflight,
    /// Where the datastores are now.
    pub endpoints: watch::Receiver<Arc<Endpoints>>,
    /// Who answers questions for names.
    pub names: Names,
}

/// A connection on its way to its worker.
struct Admitted {
    tcp: std::net::TcpStream,
    cgroup: String,
    process: Process,
    admission: Admission,
    destination: SocketAddr,
    datastore: Arc<Datastore>,
}

/// The worker threads. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Workers {
    queues: Arc<[mpsc::Sender<Admitted>]>,
    tallies: Arc<[Arc<Tally>]>,
    next: Arc<std::sync::atomic::AtomicUsize>,
}

/// The threads themselves, to wait for.
#[derive(Debug)]
pub struct Threads(Vec<JoinHandle<()>>);

impl Workers {
    /// Starts `count` worker threads.
    ///
    /// # Errors
    /// The system gives no thread or no event queue.
    pub fn start(count: usize, environment: &Environment) -> io::Result<(Self, Threads)> {
        let mut queues = Vec::new();
        let mut tallies = Vec::new();
        let mut threads = Vec::new();
        for number in 0..count.max(1) {
            let (queue, admitted) = mpsc::channel(QUEUE);
            let tally = Arc::new(Tally::default());
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING)
                .build()?;
            let (environment, counted) = (environment.clone(), Arc::clone(&tally));
            let thread = std::thread::Builder::new()
                .name(format!("weir-worker-{number}"))
                .spawn(move || {
                    LocalSet::new().block_on(&runtime, async {
                        // As a task: what is blocked on is polled each time that the thread wakes.
                        let work = tokio::task::spawn_local(work(admitted, environment, counted));
                        if let Err(panic) = work.await {
                            std::panic::resume_unwind(Box::new(panic));
                        }
                    });
                })?;
            queues.push(queue);
            tallies.push(tally);
            threads.push(thread);
        }
        let workers = Self {
            queues: queues.into(),
            tallies: tallies.into(),
            next: Arc::default(),
        };
        Ok((workers, Threads(threads)))
    }

    /// What all workers have counted.
    pub fn counts(&self) -> session::Counts {
        Tally::sum(self.tallies.iter().map(AsRef::as_ref))
    }

    async fn hand_over(&self, admitted: Admitted) {
        let turn = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let queue = &self.queues[turn % self.queues.len()];
        if queue.send(admitted).await.is_err() {
            tracing::error!("a worker thread is gone; its connection is closed");
        }
    }
}

impl Threads {
    /// Waits for the workers to end, which they do when all [`Workers`] are dropped and all
    /// sessions have ended. False if some still run after `limit`.
    pub fn join(self, limit: Duration) -> bool {
        let deadline = std::time::Instant::now() + limit;
        while self.0.iter().any(|t| !t.is_finished()) {
            if std::time::Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        true
    }
}

/// One worker: runs every session it is handed, until there are no more.
async fn work(mut admitted: mpsc::Receiver<Admitted>, environment: Environment, tally: Arc<Tally>) {
    let environment = std::rc::Rc::new(environment);
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            next = admitted.recv() => match next {
                Some(connection) => {
                    let (environment, tally) = (std::rc::Rc::clone(&environment), Arc::clone(&tally));
                    sessions.spawn_local(async move {
                        match connection.into_accepted().await {
                            Ok(accepted) => session::serve(accepted, &environment, &tally).await,
                            Err(error) => tracing::error!(%error, "a connection can't be polled"),
                        }
                    });
                }
                None => break,
            },
            Some(ended) = sessions.join_next(), if !sessions.is_empty() => log_panic(ended),
        }
    }
    while let Some(ended) = sessions.join_next().await {
        log_panic(ended);
    }
}

/// A session that panicked is closed like any other that breaks; the others go on.
fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a session failed");
    }
}

impl Admitted {
    /// Here and not before: a container runtime may have to be asked, and others don't wait for it.
    async fn into_accepted(self) -> io::Result<Accepted> {
        let Admission {
            agents, preflight, ..
        } = &self.admission;
        let identity = agents.identify(&self.cgroup, self.process).await;
        let outcome = identity.as_ref().map(|identity| {
            let mode = identity.agent.preflight;
            preflight.check(mode, &self.cgroup, identity.process.pid)
        });
        Ok(Accepted {
            tcp: TcpStream::from_std(self.tcp)?,
            preflight: outcome.unwrap_or_default(),
            identity,
            destination: self.destination,
            datastore: self.datastore,
        })
    }
}

/// Accepts on one listener until the task is aborted.
///
/// # Errors
/// The listener can't be polled.
pub async fn accept(
    listener: std::net::TcpListener,
    admission: Admission,
    workers: Workers,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                if let Some(admitted) = admit(tcp, peer, &admission) {
                    workers.hand_over(admitted).await;
                }
            }
            Err(error) => {
                tracing::error!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Where did it want to go, and from which cgroup? `None` if it isn't to be a session; it is closed
/// then, unless it is for questions.
fn admit(tcp: TcpStream, peer: SocketAddr, admission: &Admission) -> Option<Admitted> {
    let origin = match admission.origins.take(&tcp, peer) {
        Ok(origin) => origin,
        Err(miss) => {
            tracing::warn!(
                error = &miss as &dyn std::error::Error,
                "a connection of which the kernel knows no origin is closed"
            );
            return None;
        }
    };
    let OriginalDst(destination) = origin.dst;
    let datastore = admission.endpoints.borrow().get(&destination).cloned();
    let Some(datastore) = datastore else {
        if destination.port() == names::PORT {
            tokio::spawn(admission.names.clone().converse(tcp, origin));
            return None;
        }
        tracing::warn!(%destination, "a connection to an endpoint of no datastore is closed");
        return None;
    };
    let tcp = tcp
        .into_std()
        .inspect_err(|error| tracing::error!(%error, "a connection can't be handed over"))
        .ok()?;
    Some(Admitted {
        tcp,
        cgroup: origin.cgroup_path.clone(),
        process: process(origin),
        admission: admission.clone(),
        destination,
        datastore,
    })
}

fn process(origin: Origin) -> Process {
    // It may have exited or run something else since; the record says what is there now.
    let exe: Option<PathBuf> = std::fs::read_link(format!("/proc/{}/exe", origin.pid)).ok();
    Process {
        pid: origin.pid,
        uid: origin.uid,
        comm: origin.comm,
        exe,
    }
}
