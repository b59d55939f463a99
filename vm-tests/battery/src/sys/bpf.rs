//! `bpf(2)`, as an attacker without libraries calls it.

use std::{
    ffi::CString,
    io,
    net::SocketAddrV4,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

// Commands, from `enum bpf_cmd` of linux/bpf.h.
const MAP_DELETE_ELEM: i32 = 3;
const MAP_GET_NEXT_KEY: i32 = 4;
const PROG_LOAD: i32 = 5;
const OBJ_GET: i32 = 7;
const OBJ_GET_INFO_BY_FD: i32 = 15;
const LINK_CREATE: i32 = 28;
const LINK_GET_FD_BY_ID: i32 = 30;
const LINK_GET_NEXT_ID: i32 = 31;
const LINK_DETACH: i32 = 34;

const CGROUP_SOCK_ADDR: u64 = 18;
const CGROUP_INET4_CONNECT: u64 = 10;
/// `BPF_LINK_TYPE_CGROUP`.
const CGROUP_LINK: u32 = 3;

/// `union bpf_attr`, in words.
type Attribute = [u64; 18];

/// The first words of an attribute, the rest zeros.
fn attribute(words: &[u64]) -> Attribute {
    let mut attribute = [0; 18];
    attribute[..words.len()].copy_from_slice(words);
    attribute
}

/// Two numbers of an attribute in one word.
fn pair(first: u64, second: u64) -> u64 {
    first | second << 32
}

fn number(fd: RawFd) -> u64 {
    u64::from(fd.cast_unsigned())
}

/// # Safety
/// What the attribute points to is valid for what the command does with it.
unsafe fn call(command: i32, attribute: &mut Attribute) -> io::Result<i32> {
    let size = size_of_val(attribute);
    // SAFETY: the attribute has that size; the caller answers for its pointers.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attribute.as_mut_ptr(), size) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

/// # Safety
/// As [`call`]; the command makes a descriptor.
unsafe fn open(command: i32, attribute: &mut Attribute) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; and the kernel has just made the descriptor for us.
    unsafe { call(command, attribute).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

/// A `cgroup/connect4` program that leads every connect to `address`.
pub(crate) fn rewriting_connect(address: SocketAddrV4) -> io::Result<OwnedFd> {
    let instruction = |code: u64, registers: u64, offset: u64, value: u32| {
        code | registers << 8 | offset << 16 | u64::from(value) << 32
    };
    let (move_value, store, exit) = (0xb4, 0x63, 0x95);
    let ip = u32::from_ne_bytes(address.ip().octets());
    let port = u32::from(address.port().to_be());
    // r2 = ip; ctx->user_ip4 = r2; r2 = port; ctx->user_port = r2; return 1.
    let program = [
        instruction(move_value, 0x02, 0, ip),
        instruction(store, 0x21, 4, 0),
        instruction(move_value, 0x02, 0, port),
        instruction(store, 0x21, 24, 0),
        instruction(move_value, 0x00, 0, 1),
        instruction(exit, 0x00, 0, 0),
    ];
    let license = c"GPL";
    let mut load = attribute(&[
        pair(CGROUP_SOCK_ADDR, program.len() as u64),
        program.as_ptr() as u64,
        license.as_ptr() as u64,
    ]);
    load[8] = pair(0, CGROUP_INET4_CONNECT);
    // SAFETY: the program and its licence outlive the call.
    unsafe { open(PROG_LOAD, &mut load) }
}

/// Attaches it to a cgroup, and leaves it there until this process ends.
pub(crate) fn attach_connect(cgroup: RawFd, program: &OwnedFd) -> io::Result<()> {
    let fds = pair(number(program.as_raw_fd()), number(cgroup));
    let mut create = attribute(&[fds, CGROUP_INET4_CONNECT]);
    // SAFETY: the attribute has no pointers.
    let link = unsafe { open(LINK_CREATE, &mut create) }?;
    std::mem::forget(link);
    Ok(())
}

/// Detaches all links from the cgroup with this id.
pub(crate) fn detach_all(cgroup: u64) -> io::Result<()> {
    let mut id = 0;
    loop {
        let mut next = attribute(&[id]);
        // SAFETY: the attribute has no pointers.
        if let Err(error) = unsafe { call(LINK_GET_NEXT_ID, &mut next) } {
            let over = error.raw_os_error() == Some(libc::ENOENT);
            return if over { Ok(()) } else { Err(error) };
        }
        id = next[0] >> 32;
        // SAFETY: as above.
        let Ok(link) = (unsafe { open(LINK_GET_FD_BY_ID, &mut attribute(&[id])) }) else {
            // It went meanwhile, or is nothing for us.
            continue;
        };
        if cgroup_of(&link)? == Some(cgroup) {
            let mut detach = attribute(&[number(link.as_raw_fd())]);
            // SAFETY: as above.
            unsafe { call(LINK_DETACH, &mut detach) }?;
        }
    }
}

/// The id of the cgroup that a link is attached to, if it is one to a cgroup.
fn cgroup_of(link: &OwnedFd) -> io::Result<Option<u64>> {
    let mut info = [0_u64; 16];
    let what = pair(number(link.as_raw_fd()), size_of_val(&info) as u64);
    let mut ask = attribute(&[what, info.as_mut_ptr() as u64]);
    // SAFETY: the kernel writes at most the size of the information.
    unsafe { call(OBJ_GET_INFO_BY_FD, &mut ask) }?;
    let kind = info[0] as u32;
    Ok((kind == CGROUP_LINK).then_some(info[2]))
}

/// Removes all entries of a map that is pinned here.
pub(crate) fn empty_map(pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes()).map_err(io::Error::other)?;
    let mut get = attribute(&[path.as_ptr() as u64]);
    // SAFETY: the path outlives the call.
    let map = unsafe { open(OBJ_GET, &mut get) }?;
    let map = number(map.as_raw_fd());
    // Longer than any key of Weir's.
    let mut key = [0_u64; 32];
    loop {
        let mut next = attribute(&[map, 0, key.as_mut_ptr() as u64]);
        // SAFETY: the kernel writes one key.
        if let Err(error) = unsafe { call(MAP_GET_NEXT_KEY, &mut next) } {
            let empty = error.raw_os_error() == Some(libc::ENOENT);
            return if empty { Ok(()) } else { Err(error) };
        }
        let mut delete = attribute(&[map, key.as_ptr() as u64]);
        // SAFETY: the kernel reads one key.
        unsafe { call(MAP_DELETE_ELEM, &mut delete) }?;
    }
}
