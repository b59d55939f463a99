//! Everything that touches the kernel: eBPF programs, their pins, listeners inside agents' network
//! namespaces, and where a captured connection wanted to go.
//!
//! Guarantees, once [`Capture::start`] has returned:
//! - a connect from below the slice to a protected endpoint, by whichever of its names, reaches Weir's
//!   listener or fails;
//! - no packet of a socket of the slice is for a protected endpoint, nor one that leaves an agent's own
//!   network namespace by a veth to this host (see [`Hook`] for what a kernel may lack);
//! - where egress is governed, no socket of the slice sends anything else but what the policy of its
//!   cgroup permits, and nothing before its cgroup has one; nor does a packet leave an agent's own
//!   network namespace by such a veth, whoever sent it, but where the policy of somebody there permits it;
//! - that stays so when the daemon dies: programs, endpoints and listeners' ports are pinned. The
//!   listeners are gone, so clients get ECONNREFUSED; or the service manager keeps them, so clients
//!   wait for the next daemon, which knows their origins;
//! - while it lives, removing the pins changes nothing: it holds what they do, and pins it again;
//! - the next daemon takes the pins over in place, there is no moment without programs or endpoints;
//! - a flow of TCP that isn't redirected and begins like a database's protocol is stopped at the packet
//!   that shows it, and ended ([`Capture::detect`]): that finds mistakes, and is no boundary;
//! - an accepted connection either has an [`Origin`], given out once, or is a [`Miss`].
//!
//! All of the crate's `unsafe` is in this module.

mod btf;
mod detect;
mod egress;
mod endpoints;
mod fd_store;
mod generation;
mod hook;
mod kernel;
mod log;
mod namespaces;
mod netlink;
mod netns;
mod optional;
mod origin;
mod outlets;
mod perimeter;
mod pins;
mod place;
mod probe;
mod programs;
mod sock_diag;
mod sweep;
mod unix;
mod watch;
mod worker;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use detect::{Detection, Detections};
pub use egress::{Egress, EgressPolicy, Network, Reach, Stranger, Strangers};
pub use fd_store::Inherited;
pub use gateway_ebpf::fingerprint::Protocol;
pub use hook::{Gap, Hook};
pub use origin::{CgroupId, Miss, Origin, OriginalDst, Origins};
pub use place::Cgroups;
pub use probe::{Check, Problem};
pub use watch::coverage::{Coverage, Coverages};
pub use watch::{NamespaceEvent, NetnsId, Watcher};

/// Where the capture lives. Daemons with different slices and pin directories run side by side.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agents' cgroup, relative to the cgroup v2 mount, such as `weir-agents.slice`. Made if it
    /// doesn't exist.
    pub slice: PathBuf,
    /// Where programs and maps are pinned, on a bpf file system, such as `/sys/fs/bpf/weir`.
    pub pin_dir: PathBuf,
    /// The cgroup v2 mount; found in `/proc/mounts` if `None`.
    pub cgroup_root: Option<PathBuf>,
    /// Hooks without which nothing shall be captured; without any other, there is a [`Gap`]. With
    /// the perimeter among them, a namespace that has a way past it has no listener.
    pub require: Vec<Hook>,
    /// Whether cgroups have to have an egress policy before they send anything: so if any agent may
    /// not send everything everywhere.
    pub governed: bool,
}

/// Why the kernel side could not be brought up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No cgroup v2 hierarchy.
    #[error(
        "no cgroup2 file system is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup`"
    )]
    NoCgroup2,
    /// The configured cgroup root is something else.
    #[error("{} is not a cgroup2 file system", .0.display())]
    NotCgroup2(PathBuf),
    /// The slice's path is empty, absolute, or has `.` or `..` in it.
    #[error("the slice {:?} must be a path below the cgroup2 mount, without `.` and `..`", .0)]
    BadSlice(PathBuf),
    /// The daemon would capture its own connections to the database.
    #[error("this process is itself in the agents' slice {}: start it outside of it", .0.display())]
    InsideSlice(PathBuf),
    /// The pins can't be where they should.
    #[error("{} is not on a bpf file system: mount one with `mount -t bpf bpf /sys/fs/bpf`", .0.display())]
    NotBpffs(PathBuf),
    /// Another daemon has these pins.
    #[error("another weir is running with the pins in {}", .0.display())]
    Locked(PathBuf),
    /// Pins from a version of weir with other maps, or incomplete ones.
    #[error("the pins in {} are {what}: stop the agents, remove that directory, and start again", .dir.display())]
    ForeignPins {
        /// The directory of the pins.
        dir: PathBuf,
        /// What is wrong with them.
        what: &'static str,
    },
    /// A hook that the settings require isn't to be had.
    #[error("the hook {} is required, and this host lacks it: {} (it needs {})", .0.hook.name(), .0.why, .0.hook.needs())]
    Required(Gap),
    /// A program of another tool on the slice excludes ours.
    #[error(
        "{program} can't be attached to the slice: another tool has attached one there that allows no second"
    )]
    Occupied {
        /// Our program.
        program: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// More protected endpoints than the map holds.
    #[error("more than {} protected endpoints", gateway_ebpf::MAX_ENDPOINTS)]
    TooManyEndpoints,
    /// More in egress lists than the map holds.
    #[error(
        "more than {} addresses in egress lists",
        gateway_ebpf::MAX_DESTINATIONS
    )]
    TooManyDestinations,
    /// More cgroups below the slice than the map holds.
    #[error("more than {} cgroups below the slice", gateway_ebpf::MAX_CGROUPS)]
    TooManyCgroups,
    /// [`Capture::watch`], [`Capture::detect`] or [`Capture::egress`] was called twice.
    #[error("the slice is already being watched")]
    AlreadyWatched,
    /// The eBPF object could not be loaded.
    #[error("the eBPF programs can't be loaded")]
    Load(#[from] aya::EbpfError),
    /// One program was refused, mostly by the verifier.
    #[error("the eBPF program {program} can't be loaded")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        source: aya::programs::ProgramError,
    },
    /// A map could not be used.
    #[error("an eBPF map can't be used")]
    Map(#[from] aya::maps::MapError),
    /// The embedded object lacks a part: it was built from other sources.
    #[error("the eBPF object has no {0}: run `cargo xtask ebpf` and build again")]
    Incomplete(&'static str),
    /// A file or system call.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: an I/O error with what was being done.
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// The running capture. Dropping it ends the [`Watcher`] and leaves programs and pins in place: once
/// the listeners are dropped too, agents get ECONNREFUSED.
pub struct Capture {
    loaded: programs::Loaded,
    endpoints: endpoints::Endpoints,
    origins: Origins,
    aliases: endpoints::Aliases,
    generation: generation::Generation,
    outlets: outlets::Outlets,
    namespaces: namespaces::Namespaces,
    governed: detect::Governed,
    slice: place::Slice,
    /// Whether the perimeter is required.
    strict: bool,
    coverage: Coverages,
    watch: Option<worker::Worker>,
    _sweep: worker::Worker,
    detect: Option<worker::Worker>,
    _log: worker::Worker,
    // The last to go: the threads above use the pinned maps.
    _lock: place::Lock,
}

impl Capture {
    /// Makes the slice, loads the programs and attaches them to it, or takes over the pins that an
    /// earlier daemon left, in place.
    ///
    /// # Errors
    /// Anything missing on the host, pins of another daemon or version, or the kernel's refusal.
    pub fn start(settings: &Settings) -> Result<Self, Error> {
        let slice = place::Slice::open(settings)?;
        let lock = place::Lock::take(&settings.pin_dir)?;
        let mut loaded = programs::load(&slice, &settings.pin_dir)?;
        let aliases = endpoints::Aliases::default();
        let generation = generation::Generation::new(&mut loaded)?;
        let outlets = outlets::Outlets::new(&mut loaded)?;
        let endpoints =
            endpoints::Endpoints::new(&mut loaded, generation.clone(), aliases.clone())?;
        let origins = Origins::new(loaded.map("ORIGINS")?, &slice, aliases.clone())?;
        let sweep = sweep::start(origins.fd())?;
        egress::govern(&mut loaded, settings.governed, &generation)?;
        let log = log::start(&mut loaded.ebpf)?;
        loaded.attach(&slice, &settings.require)?;
        for gap in loaded.optional.gaps() {
            tracing::warn!(
                hook = gap.hook.name(),
                why = gap.why,
                "this host lacks a hook: {}",
                gap.hook.consequence()
            );
        }
        Ok(Self {
            loaded,
            endpoints,
            origins,
            aliases,
            generation,
            outlets,
            namespaces: namespaces::Namespaces::default(),
            governed: detect::Governed::default(),
            slice,
            strict: settings.require.contains(&Hook::Perimeter),
            coverage: Coverages::default(),
            watch: None,
            _sweep: sweep,
            detect: None,
            _log: log,
            _lock: lock,
        })
    }

    /// Makes exactly these the protected endpoints, given datastore by datastore; for those on this host,
    /// also its other addresses with their ports. Those that stay are never absent in between.
    ///
    /// # Errors
    /// Too many, or the kernel's refusal; what was protected before then still is.
    pub fn set_endpoints(&mut self, datastores: &[BTreeSet<SocketAddr>]) -> Result<(), Error> {
        self.endpoints.set(datastores)
    }

    /// Starts to open a listener in each network namespace that an agent lives in, but for those of
    /// which one was inherited.
    ///
    /// # Errors
    /// At the second call, or if the thread can't be started.
    pub fn watch(&mut self, inherited: Inherited) -> Result<Watcher, Error> {
        let events = self
            .loaded
            .map("EVENTS")
            .map_err(|_| Error::AlreadyWatched)?;
        let listeners = self.loaded.map("LISTENERS")?;
        let perimeter = match self.loaded.optional.take_perimeter() {
            Some((program, way)) => Some(
                perimeter::Perimeter::new(program, way, self.loaded.pins.clone()).map_err(
                    Error::io("the perimeter of an earlier daemon can't be taken over"),
                )?,
            ),
            None => None,
        };
        let isolated = self.loaded.map("ISOLATED")?;
        let maps = (
            events.try_into()?,
            listeners.try_into()?,
            isolated.try_into()?,
        );
        let pins = self.loaded.hold_pins()?;
        let perimeter = (perimeter, self.strict);
        let known = (&self.coverage, &self.namespaces, &self.outlets);
        let inherited = (inherited, pins);
        let (watcher, worker) = watch::start(&self.slice, maps, perimeter, known, inherited)?;
        self.watch = Some(worker);
        Ok(watcher)
    }

    /// Starts to end connections that speak a database's protocol to an endpoint that isn't protected,
    /// in the namespaces that are being watched. Their packets are dropped without that.
    ///
    /// # Errors
    /// At the second call, or if the thread can't be started.
    pub fn detect(&mut self) -> Result<Detections, Error> {
        let surroundings = detect::Surroundings {
            namespaces: self.namespaces.clone(),
            origins: self.origins.clone(),
            aliases: self.aliases.clone(),
            governed: self.governed.clone(),
        };
        let (detections, worker) = detect::start(&mut self.loaded, surroundings)?;
        self.detect = Some(worker);
        Ok(detections)
    }

    /// From now on, has an endpoint that a cgroup's sockets were found to speak PostgreSQL to mean
    /// this protected one, for their next connections. What was learned stays so.
    pub fn govern(&self, meant: Option<SocketAddr>) {
        self.governed.set(meant);
    }

    /// The egress policies, and the cgroups that want one.
    ///
    /// # Errors
    /// At the second call, or if the thread can't be started.
    pub fn egress(&mut self) -> Result<(Egress, Strangers), Error> {
        let events = self
            .loaded
            .map("STRANGERS")
            .map_err(|_| Error::AlreadyWatched)?;
        let strangers = Strangers::start(events.try_into()?, &self.slice)?;
        let egress = Egress::new(
            &mut self.loaded,
            self.generation.clone(),
            self.outlets.clone(),
        )?;
        Ok((egress, strangers))
    }

    /// Where accepted connections wanted to go.
    #[must_use]
    pub fn origins(&self) -> Origins {
        self.origins.clone()
    }

    /// The hooks that this host lacks.
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        self.loaded.optional.gaps()
    }

    /// Which devices of the agents' namespaces have the perimeter, now and later.
    #[must_use]
    pub fn coverages(&self) -> Coverages {
        self.coverage.clone()
    }

    /// Looks at what this host has of what the capture needs. Changes nothing that stays, and works
    /// beside a running daemon.
    #[must_use]
    pub fn probe(settings: &Settings) -> Vec<Check> {
        probe::run(settings)
    }
}
