//! The maps, and the few things that programs do with them.
//!
//! `ENDPOINTS`, `ADDRESSES`, `LOCAL_PORTS`, `LISTENERS`, `SOCKETS`, `ORIGINS`, `FLOWS`, `GENERATION`,
//! `ALL_OPEN`, `CGROUPS`, `DESTINATIONS` and `OUTLETS` are pinned by the daemon and outlive it; the
//! others belong to one daemon. Only `ORIGINS` may forget: a forgotten origin closes a session.

use core::ptr;

use aya_ebpf::{
    Global,
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::{Array, HashMap, LpmTrie, LruHashMap, RingBuf, SkStorage, lpm_trie::Key},
    cty::c_void,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_get_current_cgroup_id, bpf_sk_storage_get},
    },
    macros::btf_map,
};
use gateway_ebpf::{
    ANYWHERE, Address, Destination, Detection, Endpoint, Event, Flow, Learned, MAX_CGROUPS,
    MAX_DESTINATIONS, MAX_ENDPOINTS, MAX_LEARNED, MAX_NAMESPACES, MAX_ORIGINS, MAX_OUTLETS,
    MAX_SHARED, NOTHING, OPEN, OriginKey, Outlet, PORT_WORDS, STRANGER, Socket,
};

/// Endpoints that an agent reaches only through Weir, with the namespaces that this counts in.
#[btf_map]
static ENDPOINTS: HashMap<Endpoint, u8, MAX_ENDPOINTS> = HashMap::new();

/// The addresses of these endpoints: for packets whose port can't be known.
#[btf_map]
static ADDRESSES: HashMap<Address, u8, MAX_ENDPOINTS> = HashMap::new();

/// Ports at which a database listens on this host itself, at whatever address.
#[btf_map]
static LOCAL_PORTS: Array<u64, PORT_WORDS> = Array::new();

/// Network namespace cookie to the port of Weir's listener in it.
#[btf_map]
pub(crate) static LISTENERS: HashMap<u64, u32, MAX_NAMESPACES> = HashMap::new();

/// What is known about each stream socket that was made below the slice.
#[btf_map]
static SOCKETS: SkStorage<Socket> = SkStorage::new();

/// What was seen of each TCP socket's packets.
#[btf_map]
static FLOWS: SkStorage<Flow> = SkStorage::new();

/// Which generation of endpoints and policies this is. The daemon counts on after each change; 0
/// until it has made the first.
#[btf_map]
static GENERATION: Array<u32, 1> = Array::new();

/// Endpoints that a cgroup's sockets reach only through Weir, since they have tried.
#[btf_map]
static LEARNED: HashMap<Learned, u8, MAX_LEARNED> = HashMap::new();

/// Origins of connections that the daemon hasn't accepted yet.
#[btf_map]
pub(crate) static ORIGINS: LruHashMap<OriginKey, Socket, MAX_ORIGINS> = LruHashMap::new();

/// Threads whose network namespace the daemon should look at. A full buffer loses events: the
/// daemon's own scan finds the namespace a little later.
#[btf_map]
static EVENTS: RingBuf<Event, 65536> = RingBuf::new();

/// Sockets that speak a database's protocol. What is lost is told again with the socket's next packet.
#[btf_map]
static DETECTIONS: RingBuf<Detection, 65536> = RingBuf::new();

/// Cookies of network namespaces that nothing leads out of.
#[btf_map]
static ISOLATED: HashMap<u64, u8, MAX_NAMESPACES> = HashMap::new();

/// 1 if every agent may send anything anywhere: then no cgroup has to be known.
#[btf_map]
static ALL_OPEN: Array<u32, 1> = Array::new();

/// Cgroup id to the egress policy of the agent that it belongs to.
#[btf_map]
static CGROUPS: HashMap<u64, u32, MAX_CGROUPS> = HashMap::new();

/// The egress policies that are lists.
#[btf_map]
static DESTINATIONS: LpmTrie<Destination, u8, MAX_DESTINATIONS> = LpmTrie::new();

/// The index of a device, at the host's end, to what may leave the namespace that it leads to.
#[btf_map]
static OUTLETS: HashMap<u32, Outlet, MAX_OUTLETS> = HashMap::new();

/// Cgroups that have no egress policy and want one. A lost event only costs time: whoever is refused
/// again says so again.
#[btf_map]
static STRANGERS: RingBuf<u64, 65536> = RingBuf::new();

/// The slice's cgroup id; the daemon sets it before it loads the programs.
#[unsafe(no_mangle)]
pub(crate) static SLICE: Global<u64> = Global::new(0);

/// The cookie of the host's own network namespace; set as above.
#[unsafe(no_mangle)]
pub(crate) static HOST: Global<u64> = Global::new(0);

/// For whom something is protected: what the maps above have as values, or not at all.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope(u8);

impl Scope {
    pub(crate) const NOBODY: Self = Self(0);

    pub(crate) fn is_anywhere(self) -> bool {
        self.0 == ANYWHERE
    }

    /// Whether a socket of the network namespace with this cookie is meant.
    #[inline(always)]
    pub(crate) fn covers(self, netns: u64) -> bool {
        self != Self::NOBODY && (self.is_anywhere() || netns == HOST.load())
    }
}

/// Who has no other way to an endpoint than Weir.
#[inline(always)]
pub(crate) fn endpoint_scope(endpoint: &Endpoint) -> Scope {
    // SAFETY: the value is copied at once; the daemon replaces it whole.
    unsafe { ENDPOINTS.get(endpoint) }.map_or(Scope::NOBODY, |scope| Scope(*scope))
}

/// Who has no other way than Weir to some port at an address.
#[inline(always)]
pub(crate) fn address_scope(address: &Address) -> Scope {
    // SAFETY: as above.
    unsafe { ADDRESSES.get(address) }.map_or(Scope::NOBODY, |scope| Scope(*scope))
}

/// Whether a database of this host listens at a port.
#[inline(always)]
pub(crate) fn is_local_port(port: u16) -> bool {
    LOCAL_PORTS
        .get(u32::from(port >> 6))
        .is_some_and(|word| word >> (port & 63) & 1 == 1)
}

/// The generation of endpoints and policies; 0 if nothing may be kept of what they say.
#[inline(always)]
pub(crate) fn generation() -> u32 {
    GENERATION.get(0).copied().unwrap_or(0)
}

/// Whether a cgroup's sockets reach an endpoint only through Weir because they have tried otherwise.
#[inline(always)]
pub(crate) fn is_learned(cgroup: u64, endpoint: Endpoint) -> bool {
    let key = Learned {
        cgroup,
        endpoint,
        reserved: 0,
    };
    // SAFETY: the value isn't looked at.
    unsafe { LEARNED.get(&key) }.is_some()
}

/// What was seen of a socket, if anything was.
///
/// # Safety
/// `sk` is the socket pointer of the running program's context.
#[inline(always)]
pub(crate) unsafe fn flow(sk: *mut c_void) -> Option<&'static mut Flow> {
    // SAFETY: as the caller says.
    unsafe { storage(&FLOWS, sk, 0) }
}

/// The same, or a new record, all zeros; `None` without memory.
///
/// # Safety
/// `sk` is the socket pointer of the running program's context.
#[inline(always)]
pub(crate) unsafe fn flow_or_new(sk: *mut c_void) -> Option<&'static mut Flow> {
    // SAFETY: as the caller says.
    unsafe { storage(&FLOWS, sk, BPF_SK_STORAGE_GET_F_CREATE.into()) }
}

/// Tells the daemon of a socket; false if that has to be tried again.
#[inline(always)]
pub(crate) fn report_detection(detection: Detection) -> bool {
    DETECTIONS.output(detection, 0).is_ok()
}

/// Whether nothing leads out of a network namespace, as far as the daemon knows.
#[inline(always)]
pub(crate) fn is_isolated(netns: u64) -> bool {
    // SAFETY: the value isn't looked at.
    unsafe { ISOLATED.get(netns) }.is_some()
}

/// Whether every agent may send anything anywhere.
#[inline(always)]
pub(crate) fn is_all_open() -> bool {
    ALL_OPEN.get(0).is_some_and(|all| *all == 1)
}

/// The egress policy of a cgroup, or [`STRANGER`].
#[inline(always)]
pub(crate) fn policy(cgroup: u64) -> u32 {
    // SAFETY: the value is copied at once; the daemon replaces it whole.
    unsafe { CGROUPS.get(cgroup) }.map_or(STRANGER, |policy| *policy)
}

/// What may leave a namespace by the device with this index at the host's end: nothing as long as
/// nobody is known to live there.
#[inline(always)]
pub(crate) fn outlet(device: u32) -> Outlet {
    let mut outlet = [NOTHING; MAX_SHARED];
    if is_all_open() {
        outlet[0] = OPEN;
    // SAFETY: the value is copied at once; the daemon replaces it whole.
    } else if let Some(known) = unsafe { OUTLETS.get(device) } {
        outlet = *known;
    }
    outlet
}

/// Whether a list has an entry that covers this.
#[inline(always)]
pub(crate) fn is_listed(destination: Destination) -> bool {
    DESTINATIONS
        .get(&Key::new(Destination::BITS, destination))
        .is_some()
}

/// Asks the daemon whose cgroup this is.
#[inline(always)]
pub(crate) fn report_stranger(cgroup: u64) {
    let _ = STRANGERS.output(cgroup, 0);
}

/// The record of a socket, if it has one.
///
/// # Safety
/// `sk` is the socket pointer of the running program's context.
#[inline(always)]
pub(crate) unsafe fn socket(sk: *mut c_void) -> Option<&'static mut Socket> {
    // SAFETY: as the caller says.
    unsafe { storage(&SOCKETS, sk, 0) }
}

/// What a map has for a socket.
///
/// # Safety
/// `sk` is the socket pointer of the running program's context.
#[inline(always)]
unsafe fn storage<T>(
    map: &'static SkStorage<T>,
    sk: *mut c_void,
    flags: u64,
) -> Option<&'static mut T> {
    if sk.is_null() {
        return None;
    }
    let map = ptr::from_ref(map).cast_mut().cast();
    // SAFETY: the verifier checks both pointers; the storage lives as long as the socket, which the
    // kernel holds (and, in the connect hooks, locks) while the program runs.
    unsafe {
        bpf_sk_storage_get(map, sk, ptr::null_mut(), flags)
            .cast::<T>()
            .as_mut()
    }
}

/// Begins the record of a new socket. Without memory there is none, and its connects are denied.
///
/// # Safety
/// `sk` is the socket pointer of the running program's context.
#[inline(always)]
pub(crate) unsafe fn begin_socket(sk: *mut c_void, mut record: Socket) {
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast();
    let create = u64::from(BPF_SK_STORAGE_GET_F_CREATE);
    // SAFETY: the verifier checks the pointers; the kernel copies the record.
    unsafe { bpf_sk_storage_get(map, sk, ptr::from_mut(&mut record).cast(), create) };
}

/// Asks the daemon to look at the current thread's network namespace.
#[inline(always)]
pub(crate) fn report_namespace() {
    let event = Event {
        // SAFETY: a helper without arguments.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        tid: bpf_get_current_pid_tgid() as u32,
        reserved: 0,
    };
    // A lost event only costs time (see EVENTS).
    let _ = EVENTS.output(event, 0);
}
