//! The system calls for which neither aya nor nix has a function, each as a safe one.

use std::ffi::CString;
use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use aya::Pod;
use aya::maps::{self, MapData, MapError};
use aya_obj::generated::bpf_insn;
use nix::libc;

/// `enum bpf_cmd` of `linux/bpf.h`.
#[derive(Clone, Copy)]
enum Command {
    MapLookup = 1,
    ProgLoad = 5,
    ObjPin = 6,
    ObjGet = 7,
    ObjGetInfoByFd = 15,
    MapLookupAndDelete = 21,
    LinkCreate = 28,
    LinkUpdate = 29,
}

/// Where on a cgroup a program goes: `enum bpf_attach_type` of `linux/bpf.h`.
#[derive(Clone, Copy, Debug)]
pub(super) enum AttachType {
    Ingress = 0,
    Egress = 1,
    SockCreate = 2,
    SockOps = 3,
    Connect4 = 10,
    Connect6 = 11,
    PostBind4 = 12,
    PostBind6 = 13,
    SendMsg4 = 14,
    SendMsg6 = 15,
    RecvMsg4 = 19,
    RecvMsg6 = 20,
    SetSockOpt = 22,
    GetPeerName4 = 29,
    GetPeerName6 = 30,
    ConnectUnix = 49,
}

/// `BPF_LSM_MAC`.
const LSM_MAC: u32 = 27;

/// `BPF_TCX_INGRESS`.
const TCX_INGRESS: u32 = 46;

/// `BPF_F_BEFORE`: without saying before which, before all.
const BEFORE: u32 = 1 << 3;

/// `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
const CGROUP_SOCK_ADDR: u32 = 18;

/// `SO_NETNS_COOKIE` of `asm-generic/socket.h`.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// `SIOCGSKNS` of `linux/sockios.h`.
const SIOCGSKNS: libc::Ioctl = 0x894c;

/// `FILEID_KERNFS` of `linux/exportfs.h`: the handle is a cgroup's id.
const FILEID_KERNFS: libc::c_int = 0xfe;

/// `bpf(2)` with an attribute of the shape that `command` wants.
fn bpf<T>(command: Command, attribute: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attribute` is a valid, initialised `repr(C)` structure of the size that is passed;
    // the callers below match its shape to the command, with pointers that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_int,
            std::ptr::from_mut(attribute),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// The new file descriptor in a system call's result.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for the caller, nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
struct ObjAttribute {
    path: u64,
    fd: u32,
    flags: u32,
}

impl ObjAttribute {
    fn new(path: &CString, fd: u32) -> Self {
        Self {
            path: path.as_ptr() as u64,
            fd,
            flags: 0,
        }
    }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// Pins a link or map at a path on bpffs.
pub(super) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(Command::ObjPin, &mut ObjAttribute::new(&path, raw(object)))?;
    Ok(())
}

/// Opens what is pinned at a path.
pub(super) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    owned(bpf(Command::ObjGet, &mut ObjAttribute::new(&path, 0))?)
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a cgroup and everything below it, beside the programs of child cgroups
/// (links are always `BPF_F_ALLOW_MULTI`).
pub(super) fn attach(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    let mut attribute = LinkCreate {
        program: raw(program),
        target: raw(cgroup),
        attach_type: attach_type as u32,
        flags: 0,
    };
    owned(bpf(Command::LinkCreate, &mut attribute)?)
}

/// Attaches an LSM program to the hook that it was loaded for, beside those that are there.
pub(super) fn attach_lsm(program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut attribute = LinkCreate {
        program: raw(program),
        target: 0,
        attach_type: LSM_MAC,
        flags: 0,
    };
    owned(bpf(Command::LinkCreate, &mut attribute)?)
}

/// Attaches a classifier to what arrives at a device, before all others (Linux 6.6).
pub(super) fn attach_tcx(program: BorrowedFd<'_>, device: u32) -> io::Result<OwnedFd> {
    let mut attribute = LinkCreate {
        program: raw(program),
        target: device,
        attach_type: TCX_INGRESS,
        flags: BEFORE,
    };
    owned(bpf(Command::LinkCreate, &mut attribute)?)
}

/// The start of `BPF_PROG_LOAD`'s attribute.
#[repr(C)]
struct ProgLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    device: u32,
    expected_attach_type: u32,
}

/// As often as libbpf does.
const LOAD_ATTEMPTS: usize = 5;

/// Loads a program for connects of unix sockets (Linux 6.7).
pub(super) fn load_connect_unix(instructions: &[bpf_insn]) -> io::Result<OwnedFd> {
    let mut attribute = ProgLoad {
        kind: CGROUP_SOCK_ADDR,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: *b"connect_unix\0\0\0\0",
        device: 0,
        expected_attach_type: AttachType::ConnectUnix as u32,
    };
    let mut loaded = bpf(Command::ProgLoad, &mut attribute);
    for _ in 1..LOAD_ATTEMPTS {
        match loaded {
            // A signal came while the verifier was at it: to begin again is all there is to do.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => {
                loaded = bpf(Command::ProgLoad, &mut attribute);
            }
            _ => break,
        }
    }
    owned(loaded?)
}

#[repr(C)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

/// Replaces a link's program. The kernel swaps a pointer: each call meets the old or the new one.
pub(super) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attribute = LinkUpdate {
        link: raw(link),
        program: raw(program),
        flags: 0,
        old_program: 0,
    };
    bpf(Command::LinkUpdate, &mut attribute)?;
    Ok(())
}

/// The start of `struct bpf_link_info`; what follows differs by the link's kind.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    reserved: u32,
    target: [u32; 2],
    attach_type: u32,
    padding: u32,
}

#[repr(C)]
struct InfoAttribute {
    fd: u32,
    length: u32,
    info: u64,
}

/// The id of the cgroup that a cgroup's link is attached to; 0 once that cgroup was removed.
pub(super) fn attached_cgroup(link: BorrowedFd<'_>) -> io::Result<u64> {
    let [low, high] = link_info(link)?.target.map(u32::to_ne_bytes);
    let mut id = [0; 8];
    id[..4].copy_from_slice(&low);
    id[4..].copy_from_slice(&high);
    Ok(u64::from_ne_bytes(id))
}

/// The index of the device that a tcx link is attached to; 0 once that device is gone.
pub(super) fn attached_device(link: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(link_info(link)?.target[0])
}

fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attribute = InfoAttribute {
        fd: raw(link),
        length: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(Command::ObjGetInfoByFd, &mut attribute)?;
    Ok(info)
}

#[repr(C)]
struct ElementAttribute {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Takes an element out of a hash map. The caller's types are those of the map.
pub(super) fn take_element<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    element(Command::MapLookupAndDelete, map, key)
}

/// Copies an element of a hash map. The caller's types are those of the map.
pub(super) fn find_element<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K) -> io::Result<Option<V>> {
    element(Command::MapLookup, map, key)
}

/// Deletes an element of a hash map, if it is there: to aya an absent one is an error like any other.
pub(super) fn delete_element<K: Pod, V: Pod>(
    map: &mut maps::HashMap<MapData, K, V>,
    key: &K,
) -> Result<(), MapError> {
    match map.remove(key) {
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        deleted => deleted,
    }
}

fn element<K: Pod, V: Pod>(
    command: Command,
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = MaybeUninit::<V>::uninit();
    let mut attribute = ElementAttribute {
        map: raw(map),
        reserved: 0,
        key: std::ptr::from_ref(key) as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    match bpf(command, &mut attribute) {
        // SAFETY: the kernel has written the whole value, and any bit pattern is a `V` (Pod).
        Ok(_) => Ok(Some(unsafe { value.assume_init() })),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The value at the start of these bytes, which are a map's; `None` if they are too few.
pub(super) fn value<T: Pod>(bytes: &[u8]) -> Option<T> {
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are as many bytes as a `T` has, and any bit pattern is one (Pod).
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// The cookie of the network namespace that a socket is in: unique until the next boot.
pub(super) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: both pointers are to live locals, and `length` is the size of the first.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(cookie)
}

/// The network namespace that a socket is in, as an open `/proc/<pid>/ns/net` would be (needs
/// CAP_NET_ADMIN there).
pub(super) fn namespace_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // SAFETY: a call without pointers; the descriptor is a live one.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    owned(fd.into())
}

/// The descriptors that the service manager passed to this process, with their names. The second call
/// finds none.
pub(super) fn passed_descriptors() -> io::Result<Vec<(OwnedFd, String)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let passed = sd_notify::listen_fds_with_names()?;
    let own = |(fd, name)| {
        // SAFETY: it is open (`listen_fds` has set a flag of each), it was opened for this process
        // alone, and nobody but this call, the only one, takes it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        (fd, name)
    };
    Ok(passed.map(own).collect())
}

/// `struct file_handle` with the room that a cgroup's takes.
#[repr(C)]
struct CgroupHandle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    id: [u8; 8],
}

/// Opens the cgroup with this id (needs CAP_DAC_READ_SEARCH); ESTALE if it is gone.
pub(super) fn open_cgroup(mount: impl AsFd, id: u64) -> io::Result<OwnedFd> {
    let mut handle = CgroupHandle {
        bytes: mem::size_of::<u64>() as libc::c_uint,
        kind: FILEID_KERNFS,
        id: id.to_ne_bytes(),
    };
    // SAFETY: `handle` has the layout of `struct file_handle` with 8 bytes of handle, and says so.
    let fd = unsafe {
        libc::open_by_handle_at(
            mount.as_fd().as_raw_fd(),
            (&raw mut handle).cast(),
            libc::O_PATH | libc::O_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    owned(fd.into())
}

/// Has the calling thread run before others that wait for the processor (needs CAP_SYS_NICE).
pub(super) fn hurry() -> io::Result<()> {
    // On Linux, 0 is the calling thread.
    // SAFETY: a call without pointers.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -15) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
