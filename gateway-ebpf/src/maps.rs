//! The maps, and the few things that programs do with them.
//!
//! `ENDPOINTS`, `LISTENERS` and `SOCKETS` are pinned by the daemon and outlive it; the others belong
//! to one daemon. Only `ORIGINS` may forget: a forgotten origin closes a session.

use core::ptr;

use aya_ebpf::{
    Global,
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::{HashMap, LruHashMap, RingBuf, SkStorage},
    cty::c_void,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_sk_storage_get},
    macros::btf_map,
};
use gateway_ebpf::{
    Endpoint, Event, MAX_ENDPOINTS, MAX_NAMESPACES, MAX_ORIGINS, OriginKey, Socket,
};

/// Endpoints that an agent reaches only through Weir.
#[btf_map]
pub(crate) static ENDPOINTS: HashMap<Endpoint, u8, MAX_ENDPOINTS> = HashMap::new();

/// Network namespace cookie to the port of Weir's listener in it.
#[btf_map]
pub(crate) static LISTENERS: HashMap<u64, u32, MAX_NAMESPACES> = HashMap::new();

/// What is known about each stream socket that was made below the slice.
#[btf_map]
static SOCKETS: SkStorage<Socket> = SkStorage::new();

/// Origins of connections that the daemon hasn't accepted yet.
#[btf_map]
pub(crate) static ORIGINS: LruHashMap<OriginKey, Socket, MAX_ORIGINS> = LruHashMap::new();

/// Threads whose network namespace the daemon should look at. A full buffer loses events: the
/// daemon's own scan finds the namespace a little later.
#[btf_map]
static EVENTS: RingBuf<Event, 65536> = RingBuf::new();

/// The slice's cgroup id; the daemon sets it before it loads the programs.
#[unsafe(no_mangle)]
pub(crate) static SLICE: Global<u64> = Global::new(0);

/// The record of a socket, if it has one.
///
/// # Safety
/// `sk` is the socket pointer of the running program's context.
#[inline(always)]
pub(crate) unsafe fn socket(sk: *mut c_void) -> Option<&'static mut Socket> {
    if sk.is_null() {
        return None;
    }
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast();
    // SAFETY: the verifier checks both pointers; the storage lives as long as the socket, which the
    // kernel holds (and, in the connect hooks, locks) while the program runs.
    unsafe {
        bpf_sk_storage_get(map, sk, ptr::null_mut(), 0)
            .cast::<Socket>()
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
        tid: bpf_get_current_pid_tgid() as u32,
    };
    // A lost event only costs time (see EVENTS).
    let _ = EVENTS.output(event, 0);
}
