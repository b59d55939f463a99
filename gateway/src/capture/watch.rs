//! Which network namespaces agents live in, with a listener in each.
//!
//! The kernel's events (an agent's exec, its first socket, a denied connect) say at once where to
//! look; a scan of the slice finds the rest, and notices when a namespace is empty. A namespace
//! without an entry in LISTENERS has no database, so being late never opens a way.

pub(super) mod coverage;
mod members;
mod residents;
pub(super) mod turn;

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{self, MapData, RingBuf};
use gateway_ebpf::Event;
use nix::poll::PollTimeout;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::fd_store::{self, Inherited};
use super::namespaces::Namespaces;
use super::netlink::{self, Netlink};
use super::netns::Opened;
use super::outlets::Outlets;
use super::perimeter::{Around, Perimeter};
use super::pins::Pins;
use super::place::Slice;
use super::worker::{Stop, Worker};
use super::{Error, kernel, netns};
use coverage::Coverages;
use members::each_member;
use residents::Residents;
use turn::{Agenda, told};

/// Time between two looks at the pins.
const RESTORE_EVERY: Duration = Duration::from_secs(1);

/// A namespace goes down when this many scans in a row found nobody in it.
const IDLE_SCANS: u32 = 3;

/// A network namespace: its cookie, unique until the next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetnsId(pub u64);

/// What happened to an agents' network namespace.
#[derive(Debug)]
pub enum NamespaceEvent {
    /// An agent lives here; connections to protected endpoints arrive at these listeners, which are
    /// nonblocking. They keep the namespace alive: drop them at `Down`.
    Up {
        /// The namespace.
        id: NetnsId,
        /// At 127.0.0.1, and at `::1` where there is IPv6.
        listeners: Vec<TcpListener>,
        /// For datagrams, at the same addresses: questions for names arrive there.
        questions: Vec<UdpSocket>,
    },
    /// No agent lives here any more, and none is sent to the listeners. It may come up again.
    Down {
        /// The namespace.
        id: NetnsId,
    },
}

/// The stream of [`NamespaceEvent`]s. Dropping it ends the thread behind it, and with it all further
/// listeners.
pub struct Watcher {
    events: UnboundedReceiver<NamespaceEvent>,
}

impl Watcher {
    /// The next event; `None` once the capture is gone, or if its thread died, which leaves the agents
    /// without a database.
    ///
    /// Cancel safe: no event is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<NamespaceEvent> {
        self.events.recv().await
    }
}

/// EVENTS, LISTENERS and ISOLATED.
pub(super) type Maps = (
    RingBuf<MapData>,
    maps::HashMap<MapData, u64, u32>,
    maps::HashMap<MapData, u64, u8>,
);

/// Starts the thread. If it is `strict`, a namespace with a way past the perimeter has no listener.
pub(super) fn start(
    slice: &Slice,
    (events, listeners, isolated): Maps,
    (perimeter, strict): (Option<Perimeter>, bool),
    (coverages, namespaces, outlets): (&Coverages, &Namespaces, &Outlets),
    (inherited, pins): (Inherited, Pins),
) -> Result<(Watcher, Worker), Error> {
    let failed = || Error::io("the thread that watches namespaces can't be started");
    // What an earlier daemon left, and nobody kept open, refuses connections until its namespace is
    // found again. What is there later is not an earlier daemon's.
    let stale: Vec<u64> = listeners.keys().filter_map(Result::ok).collect();
    let (sender, receiver) = unbounded_channel();
    let watch = Watch {
        slice: slice.path.clone(),
        host: NetnsId(netns::own_cookie().map_err(failed())?),
        listeners,
        isolated,
        perimeter,
        pins,
        restored: Instant::now(),
        strict,
        coverages: coverages.clone(),
        namespaces: namespaces.clone(),
        outlets: outlets.clone(),
        scans: 0,
        changed: Instant::now(),
        uncovered: false,
        sender,
        known: HashMap::new(),
        failed: HashSet::new(),
        failing: false,
    };
    let links = Netlink::listen(netlink::LINKS).map_err(failed())?;
    let body = move |stop: Stop| watch.run((inherited, stale), events, &links, &stop);
    let worker = Worker::spawn("weir-watch", body).map_err(failed())?;
    Ok((Watcher { events: receiver }, worker))
}

struct Watch {
    slice: PathBuf,
    host: NetnsId,
    listeners: maps::HashMap<MapData, u64, u32>,
    isolated: maps::HashMap<MapData, u64, u8>,
    perimeter: Option<Perimeter>,
    pins: Pins,
    /// When the pins were looked at.
    restored: Instant,
    /// Whether a namespace with a way past the perimeter has no listener.
    strict: bool,
    coverages: Coverages,
    namespaces: Namespaces,
    outlets: Outlets,
    /// How many there were, the present one included.
    scans: u32,
    /// When a device of the host's changed last, as far as it was told.
    changed: Instant,
    /// Whether the perimeter isn't everywhere that it should be.
    uncovered: bool,
    sender: UnboundedSender<NamespaceEvent>,
    /// By inode, which stays the namespace's as long as the listeners hold it.
    known: HashMap<u64, Known>,
    /// Inodes of namespaces that could not be entered; tried again at the next scan.
    failed: HashSet<u64>,
    /// Whether the last attempt to open listeners failed: said once, not ten times a second.
    failing: bool,
}

struct Known {
    id: NetnsId,
    namespace: Arc<File>,
    idle: u32,
    residents: Residents,
    around: Around,
    /// When its devices were looked at.
    looked: Option<Instant>,
    /// The port of its listeners.
    port: u16,
    /// Whether the kernel sends clients there.
    served: bool,
}

impl Watch {
    fn run(
        mut self,
        (inherited, stale): (Inherited, Vec<u64>),
        mut events: RingBuf<MapData>,
        links: &Netlink,
        stop: &Stop,
    ) {
        // Each moment until a listener is there, an agent is refused.
        if let Err(error) = kernel::hurry() {
            tracing::debug!(%error, "the watch has no priority");
        }
        self.inherit_all(inherited);
        self.scan();
        self.forget(&stale);
        self.tell_residents();
        let mut agenda = Agenda::new();
        while stop.wait(&[events.as_fd(), links.as_fd()], until(agenda.next()))
            && !self.sender.is_closed()
        {
            if links.drain() {
                agenda.expect();
                self.changed = Instant::now();
                self.cover();
            }
            self.visit_told(&mut events, agenda.next());
            if agenda.is_time_to_look() {
                self.visit_all("cgroup.procs");
                agenda.looked();
            }
            if agenda.is_time_to_scan() {
                self.scan();
                if self.uncovered {
                    self.cover();
                }
                self.look_inside(|_| true);
                if let Err(error) = self.serve() {
                    tracing::error!(%error, "an agent's network namespace can't be served");
                }
                self.restore_pins();
                agenda.scanned();
            }
            self.tell_residents();
        }
    }

    /// Visits those whom the kernel tells of, until `deadline`: to open listeners takes its time, and
    /// what is due then finds the others.
    fn visit_told(&mut self, events: &mut RingBuf<MapData>, deadline: Instant) {
        // All are read before the first is visited, as a thread that changes its namespace is told of
        // once more.
        let told: HashSet<(u64, u32)> = told(events)
            .map(|Event { cgroup, tid, .. }| (cgroup, tid))
            .collect();
        for (cgroup, tid) in told {
            if Instant::now() >= deadline {
                return;
            }
            self.visit(cgroup, tid);
        }
    }

    /// Puts pins back that somebody has removed.
    fn restore_pins(&mut self) {
        if self.restored.elapsed() < RESTORE_EVERY {
            return;
        }
        self.restored = Instant::now();
        self.pins.restore();
        self.perimeter.iter().for_each(Perimeter::restore_pins);
    }

    /// Removes entries of namespaces that nobody lives in any more.
    fn forget(&mut self, stale: &[u64]) {
        let live: HashSet<u64> = self.known.values().map(|known| known.id.0).collect();
        for cookie in stale.iter().filter(|cookie| !live.contains(cookie)) {
            self.remove(NetnsId(*cookie));
        }
    }

    /// Looks at the namespaces of all processes below the slice, and takes the empty ones down.
    fn scan(&mut self) {
        self.failed.clear();
        self.scans = self.scans.wrapping_add(1);
        for known in self.known.values_mut() {
            known.idle += 1;
        }
        self.visit_all("cgroup.procs");
        if self.known.values().any(|known| known.idle >= IDLE_SCANS) {
            // A single thread can live elsewhere than its process.
            self.visit_all("cgroup.threads");
        }
        for known in self.known.values_mut() {
            known.residents.forget_before(self.scans);
        }
        let gone = self.known.extract_if(|_, known| known.idle >= IDLE_SCANS);
        for (id, port) in gone
            .map(|(_, known)| (known.id, known.port))
            .collect::<Vec<_>>()
        {
            self.remove(id);
            fd_store::forget(id.0, port);
            self.namespaces.remove(id.0);
            self.coverages.set(id, None);
            // A closed channel ends the loop.
            let _ = self.sender.send(NamespaceEvent::Down { id });
        }
    }

    /// Visits all processes or threads below the slice, as the file lists them.
    fn visit_all(&mut self, file: &str) {
        each_member(&self.slice.clone(), file, &mut |cgroup, tid| {
            self.visit(cgroup, tid);
        });
    }

    /// Makes sure that the namespace of a thread of a cgroup has a listener. The thread may be gone by
    /// now.
    fn visit(&mut self, cgroup: u64, tid: u32) {
        let path = format!("/proc/{tid}/ns/net");
        let Ok(mut inode) = fs::metadata(&path).map(|meta| meta.ino()) else {
            return;
        };
        if self.is_new(inode) {
            // The thread may be in another one by now, which counts.
            let Ok((namespace, current)) = open_with_inode(Path::new(&path)) else {
                return;
            };
            inode = current;
            if self.is_new(inode)
                && let Err(error) = self.open(namespace)
            {
                self.failed.insert(inode);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(tid, %error, "no listener in an agent's network namespace, so it has no database");
                }
            }
        }
        if let Some(known) = self.known.get_mut(&inode) {
            known.idle = 0;
            known.residents.insert(cgroup, self.scans);
        }
    }

    /// Whether nobody has tried yet to open listeners in a namespace.
    fn is_new(&self, inode: u64) -> bool {
        !self.known.contains_key(&inode) && !self.failed.contains(&inode)
    }

    fn open(&mut self, namespace: File) -> io::Result<()> {
        let opened = netns::open(&namespace)?;
        let kept = self.take_up(namespace, opened)?;
        self.failing = false;
        fd_store::keep(&kept);
        self.send_up(kept);
        Ok(())
    }

    /// Goes on with the listeners of an earlier daemon. Those in whose namespace nobody lives any more
    /// are taken down like any other.
    fn inherit_all(&mut self, mut inherited: Inherited) {
        // Of two in one namespace, which a crash can leave, clients are sent to the one.
        inherited.0.sort_by_key(|opened| !self.is_served(opened));
        for opened in inherited.0 {
            let (cookie, port) = (opened.cookie, opened.port);
            match self.inherit(opened) {
                Ok(opened) => self.send_up(opened),
                Err(error) => {
                    tracing::warn!(netns = cookie, %error, "an earlier daemon's listener is closed");
                    fd_store::forget(cookie, port);
                }
            }
        }
    }

    fn inherit(&mut self, opened: Opened) -> io::Result<Opened> {
        let socket = opened.listeners.first();
        let socket = socket.ok_or(io::ErrorKind::NotFound)?;
        let namespace = File::from(kernel::namespace_of(socket.as_fd())?);
        if self.known.contains_key(&namespace.metadata()?.ino()) {
            return Err(io::Error::other("there is another one in its namespace"));
        }
        self.take_up(namespace, opened)
    }

    /// Whether clients are sent to these listeners now.
    fn is_served(&self, opened: &Opened) -> bool {
        let port = self.listeners.get(&opened.cookie, 0);
        port.is_ok_and(|port| port == u32::from(opened.port))
    }

    /// Makes a namespace known, with its listeners.
    fn take_up(&mut self, namespace: File, opened: Opened) -> io::Result<Opened> {
        let devices = netns::devices(&namespace)?;
        let inode = namespace.metadata()?.ino();
        let namespace = Arc::new(namespace);
        let id = NetnsId(opened.cookie);
        let known = Known {
            id,
            namespace: Arc::clone(&namespace),
            idle: 0,
            residents: Residents::default(),
            around: Around::default(),
            looked: None,
            port: opened.port,
            served: self.is_served(&opened),
        };
        self.known.insert(inode, known);
        self.namespaces.insert(id.0, namespace);
        // Before anybody is served: what is asked at once is led to nobody otherwise.
        if id != self.host {
            self.note_isolation(id, &devices);
        }
        let ready = opened.listen().and_then(|()| self.admit(id));
        if let Err(error) = ready {
            self.known.remove(&inode);
            self.namespaces.remove(id.0);
            self.coverages.set(id, None);
            self.remove(id);
            return Err(error);
        }
        Ok(opened)
    }

    fn send_up(&self, opened: Opened) {
        tracing::debug!(
            netns = opened.cookie,
            port = opened.port,
            "listening in an agent's network namespace"
        );
        let _ = self.sender.send(NamespaceEvent::Up {
            id: NetnsId(opened.cookie),
            listeners: opened.listeners,
            questions: opened.questions,
        });
    }

    /// Has a new namespace served, and the perimeter put around it: in the order that matters more.
    fn admit(&mut self, id: NetnsId) -> io::Result<()> {
        if !self.strict {
            self.serve()?;
        }
        self.cover();
        self.look_inside(|other| other == id);
        if self.strict {
            self.serve()?;
        }
        Ok(())
    }

    /// Has clients sent to the listeners of the namespaces that may have them: all, or if the perimeter
    /// is required, those without a way past it. The backlog holds clients until the accept.
    fn serve(&mut self) -> io::Result<()> {
        for known in self.known.values_mut() {
            let serve = !self.strict || known.id == self.host || self.coverages.is_closed(known.id);
            if serve == known.served {
                continue;
            }
            if serve {
                self.listeners.insert(known.id.0, u32::from(known.port), 0)
            } else {
                kernel::delete_element(&mut self.listeners, &known.id.0)
            }
            .map_err(io::Error::other)?;
            known.served = serve;
        }
        Ok(())
    }

    fn remove(&mut self, id: NetnsId) {
        // Nobody lives there to ask.
        let _ = self.isolated.remove(&id.0);
        if let Err(error) = kernel::delete_element(&mut self.listeners, &id.0) {
            // Its clients are then refused by the closed port rather than by the program.
            tracing::warn!(netns = id.0, %error, "a listener's entry stays in the kernel");
        }
    }
}

/// A thread's namespace, and its inode.
fn open_with_inode(path: &Path) -> io::Result<(File, u64)> {
    let namespace = File::open(path)?;
    let inode = namespace.metadata()?.ino();
    Ok((namespace, inode))
}

/// The time until `deadline`, none if it is over.
pub(super) fn until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now());
    // `poll` counts in whole milliseconds: rounded up, it isn't called again and again at the end.
    PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::ZERO)
}
