//! Databases that agents dial past Weir, on endpoints that nobody has listed.
//!
//! The kernel has dropped what gave such a socket away, and lets nothing more through. Here it is
//! ended, so that its program gets an error instead of silence, and told of. If that is wanted, the
//! endpoint is learned first: for the sockets of the same cgroup, the next connection there is a
//! session with a datastore, and goes to the datastore's own address, never to the learned one.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use aya::maps::{HashMap, MapData, MapError, RingBuf};
use gateway_ebpf::fingerprint::Protocol;
use gateway_ebpf::{Detection as Told, Learned};
use nix::poll::PollTimeout;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::endpoints::Aliases;
use super::namespaces::Namespaces;
use super::origin::{CgroupId, Origins, address, name};
use super::watch::turn::told;
use super::worker::{Stop, Worker};
use super::{Error, kernel, netns, programs};

/// Detections that wait to be recorded; more are counted only.
const QUEUE: usize = 1024;

/// An agent's socket that spoke a database's protocol to an endpoint that isn't listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detection {
    /// What it spoke.
    pub protocol: Protocol,
    /// To whom.
    pub destination: SocketAddr,
    /// The cgroup that the socket was made in.
    pub cgroup: CgroupId,
    /// That cgroup's path, relative to the cgroup v2 mount; `None` if it is gone.
    pub cgroup_path: Option<String>,
    /// The process that made the socket, in the initial pid namespace; 0 where nobody knows, as of
    /// one that was accepted.
    pub pid: u32,
    /// The socket's user, in the initial user namespace.
    pub uid: u32,
    /// The name of the thread that made it: chosen by the program itself.
    pub comm: String,
    /// Whether the next connection from there goes to a datastore.
    pub learned: bool,
}

/// The stream of [`Detection`]s.
pub struct Detections {
    events: Receiver<Detection>,
    count: Arc<AtomicU64>,
}

impl Detections {
    /// The next one; `None` once the capture is gone.
    ///
    /// Cancel safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Detection> {
        self.events.recv().await
    }

    /// How many there have been, those included that were too many to be handed out.
    #[must_use]
    pub fn count(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.count)
    }
}

/// Where connections go that an agent would have made past Weir, once they are learned; nowhere, if
/// none is to be.
#[derive(Clone, Default)]
pub(super) struct Governed(Arc<RwLock<Option<SocketAddr>>>);

impl Governed {
    pub(super) fn set(&self, meant: Option<SocketAddr>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = meant;
    }

    fn meant(&self) -> Option<SocketAddr> {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the thread needs to know.
pub(super) struct Surroundings {
    pub(super) namespaces: Namespaces,
    pub(super) origins: Origins,
    pub(super) aliases: Aliases,
    pub(super) governed: Governed,
}

/// Starts the thread.
pub(super) fn start(
    loaded: &mut programs::Loaded,
    surroundings: Surroundings,
) -> Result<(Detections, Worker), Error> {
    let told = loaded
        .map("DETECTIONS")
        .map_err(|_| Error::AlreadyWatched)?;
    let told = RingBuf::try_from(told)?;
    let (sender, events) = channel(QUEUE);
    let count = Arc::<AtomicU64>::default();
    let detector = Detector {
        learned: loaded.map("LEARNED")?.try_into()?,
        surroundings,
        sender,
        count: Arc::clone(&count),
    };
    let worker = Worker::spawn("weir-detect", move |stop| detector.run(told, &stop)).map_err(
        Error::io("the thread that ends connections past Weir can't be started"),
    )?;
    Ok((Detections { events, count }, worker))
}

struct Detector {
    learned: HashMap<MapData, Learned, u8>,
    surroundings: Surroundings,
    sender: Sender<Detection>,
    count: Arc<AtomicU64>,
}

impl Detector {
    fn run(mut self, mut ring: RingBuf<MapData>, stop: &Stop) {
        while stop.wait(&[ring.as_fd()], PollTimeout::NONE) {
            for told in told(&mut ring) {
                self.detected(&told);
            }
        }
    }

    /// Learned before it is ended: a client that tries again at once is governed.
    fn detected(&mut self, told: &Told) {
        let Some(protocol) = Protocol::ALL
            .into_iter()
            .find(|protocol| *protocol as u32 == told.protocol)
        else {
            return;
        };
        self.count.fetch_add(1, Ordering::Relaxed);
        let cgroup = CgroupId(told.cgroup);
        let mut detection = Detection {
            protocol,
            destination: address(&told.destination),
            cgroup,
            cgroup_path: self.surroundings.origins.cgroup_path(cgroup).ok(),
            pid: told.pid,
            uid: told.uid,
            comm: name(&told.comm),
            learned: false,
        };
        if protocol == Protocol::Postgres
            && told.dialled == 1
            && let Some(meant) = self.surroundings.governed.meant()
        {
            detection.learned = self.learn(told, meant);
        }
        if let Err(error) = self.end(told) {
            tracing::warn!(destination = %detection.destination, %error,
                "a connection past Weir can't be ended; it hangs");
        }
        // What is too much is counted.
        let _ = self.sender.try_send(detection);
    }

    /// Whether the cgroup's next connection to the endpoint goes to the datastore at `meant`.
    fn learn(&mut self, told: &Told, meant: SocketAddr) -> bool {
        let key = Learned {
            cgroup: told.cgroup,
            endpoint: told.destination,
            reserved: 0,
        };
        let aliases = &self.surroundings.aliases;
        aliases.learn(address(&told.destination), meant);
        let mut inserted = self.learned.insert(key, 1, 0);
        if inserted.is_err() {
            inserted = self.forget().and_then(|()| self.learned.insert(key, 1, 0));
        }
        if let Err(error) = &inserted {
            tracing::warn!(%error, "an endpoint can't be learned; it stays denied");
        }
        inserted.is_ok()
    }

    /// Makes room: what was learned for cgroups that are gone is over.
    fn forget(&mut self) -> Result<(), MapError> {
        let keys: Vec<Learned> = self.learned.keys().collect::<Result<_, _>>()?;
        let origins = &self.surroundings.origins;
        let mut left = HashSet::new();
        for key in keys {
            if origins.cgroup_path(CgroupId(key.cgroup)).is_ok() {
                left.insert(address(&key.endpoint));
            } else {
                kernel::delete_element(&mut self.learned, &key)?;
            }
        }
        self.surroundings.aliases.keep_learned(&left);
        Ok(())
    }

    /// Ends a connection, in whichever of the agents' namespaces it is.
    fn end(&self, told: &Told) -> io::Result<()> {
        let mut result = Err(io::Error::other("its network namespace isn't known"));
        for namespace in self.surroundings.namespaces.of(told.netns) {
            result = netns::end_connection(&namespace, told);
            if result.is_ok() {
                break;
            }
        }
        result
    }
}
