//! Unix sockets: those of databases, and Weir's own, by the last part of their name.
//!
//! A database's socket has the same file name wherever its directory is mounted and whatever path
//! leads there, so the last part decides. What a connect's address doesn't show is a name of the
//! agent's own making, a symbolic or hard link: `lsm_unix_stream_connect` asks the socket itself,
//! where BPF LSM is on.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext, Global,
    cty::c_void,
    helpers::{bpf_probe_read_kernel, generated},
    macros::{cgroup_sock_addr, lsm},
    programs::{LsmContext, SockAddrContext},
};

use super::{ALLOW, DENY, task};

/// The start of `struct bpf_sock_addr_kern` of `linux/filter.h`. The daemon compares it with the
/// running kernel's type information before it loads `connect_unix`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Kernel {
    sk: u64,
    address: u64,
    temporary: u64,
    context: u64,
    length: u32,
}

/// Where an address's name begins: behind the family.
const NAME: u64 = 2;
/// `sizeof(struct sockaddr_un)`.
const MAX_ADDRESS: u64 = 110;
/// The longest name.
const MAX_NAME: usize = 108;
/// The room for the last part of one.
const PART_ROOM: u64 = 16;

/// Where in `struct unix_sock` its address is, in `struct unix_address` the length, and the
/// `struct sockaddr_un`; the daemon finds out.
#[unsafe(no_mangle)]
static UNIX_SOCK_ADDR: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static UNIX_ADDRESS_LEN: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static UNIX_ADDRESS_NAME: Global<u64> = Global::new(0);

/// aya knows no `cgroup/connect_unix`; the daemon loads this as one. Until it can have maps there,
/// it uses none.
#[cgroup_sock_addr(connect4)]
pub(crate) fn connect_unix(ctx: SockAddrContext) -> i32 {
    // The verifier's view of the context hides a unix socket's address, the memory has it.
    // SAFETY: the context is valid while the program runs.
    let Ok(kernel) = (unsafe { bpf_probe_read_kernel(ctx.as_ptr().cast::<Kernel>()) }) else {
        return DENY;
    };
    if is_forbidden(kernel.address, u64::from(kernel.length)) {
        return DENY;
    }
    ALLOW
}

/// By the name that the server has bound, whatever name the client used.
#[lsm(hook = "unix_stream_connect")]
pub(crate) fn lsm_unix_stream_connect(ctx: LsmContext) -> i32 {
    if !task::is_agent() {
        return 0;
    }
    let other: *const c_void = ctx.arg(1);
    // SAFETY: the helper fails at a bad address.
    let address =
        unsafe { bpf_probe_read_kernel((other as u64 + UNIX_SOCK_ADDR.load()) as *const u64) };
    let Ok(address) = address else {
        return -1;
    };
    if address == 0 {
        // A socket without a name (of a socketpair) can't be connected to.
        return 0;
    }
    // SAFETY: as above.
    let length =
        unsafe { bpf_probe_read_kernel((address + UNIX_ADDRESS_LEN.load()) as *const u32) };
    let Ok(length) = length else {
        return -1;
    };
    if is_forbidden(address + UNIX_ADDRESS_NAME.load(), u64::from(length)) {
        return -1;
    }
    0
}

/// Whether a `sockaddr_un` in the kernel's memory has a forbidden name, or can't be read.
#[inline(always)]
fn is_forbidden(address: u64, length: u64) -> bool {
    if length <= NAME || length > MAX_ADDRESS {
        return true;
    }
    let length = length - NAME;
    let mut words = MaybeUninit::<[u64; MAX_NAME.div_ceil(8)]>::uninit();
    clear(&mut words);
    if !read(words.as_mut_ptr().cast(), length, address + NAME) {
        return true;
    }
    // SAFETY: bytes of an array that is written, and outlives the reference.
    let name = unsafe { &*words.as_ptr().cast::<[u8; MAX_NAME]>() };
    let abstract_name = name[0] == 0;
    let mut start = 0;
    let mut end = length;
    for place in 0..MAX_NAME {
        let byte = name[place];
        let place = place as u64;
        if place >= length || (byte == 0 && !abstract_name) {
            end = place;
            break;
        }
        if byte == b'/' || (byte == 0 && place == 0) {
            start = place + 1;
        }
    }
    let length = end.wrapping_sub(start);
    let mut part = MaybeUninit::<[u64; 2]>::uninit();
    clear(&mut part);
    if !read(
        part.as_mut_ptr().cast(),
        length.min(PART_ROOM),
        address + NAME + start,
    ) {
        return true;
    }
    // SAFETY: it was cleared.
    let part = unsafe { part.assume_init_ref() };
    POSTGRES.matches(part, length)
        || MYSQLD.matches(part, length)
        || MYSQL.matches(part, length)
        || MYSQLX.matches(part, length)
        || WEIR.matches(part, length)
}

/// PostgreSQL's and pgbouncer's, whatever their port.
const POSTGRES: Pattern = Pattern::beginning(b".s.PGSQL.");
/// MySQL's and MariaDB's.
const MYSQLD: Pattern = Pattern::whole(b"mysqld.sock");
const MYSQL: Pattern = Pattern::whole(b"mysql.sock");
const MYSQLX: Pattern = Pattern::whole(b"mysqlx.sock");
/// The daemon's own; the kernel knows its control socket by the name that it was made under.
const WEIR: Pattern = Pattern::beginning(b"weir.");

/// What the last part of a name is, or begins with: its bytes, and which bits they are.
#[derive(Clone, Copy)]
struct Pattern {
    words: [u64; 2],
    masks: [u64; 2],
    shortest: u64,
    longest: u64,
}

impl Pattern {
    const fn beginning(name: &[u8]) -> Self {
        let (mut bytes, mut mask) = ([[0; 8]; 2], [[0; 8]; 2]);
        let mut place = 0;
        while place < name.len() {
            bytes[place / 8][place % 8] = name[place];
            mask[place / 8][place % 8] = 0xff;
            place += 1;
        }
        Self {
            words: [u64::from_ne_bytes(bytes[0]), u64::from_ne_bytes(bytes[1])],
            masks: [u64::from_ne_bytes(mask[0]), u64::from_ne_bytes(mask[1])],
            shortest: name.len() as u64,
            longest: MAX_ADDRESS,
        }
    }

    const fn whole(name: &[u8]) -> Self {
        let mut pattern = Self::beginning(name);
        pattern.longest = pattern.shortest;
        pattern
    }

    #[inline(always)]
    fn matches(self, part: &[u64; 2], length: u64) -> bool {
        length >= self.shortest
            && length <= self.longest
            && part[0] & self.masks[0] == self.words[0]
            && part[1] & self.masks[1] == self.words[1]
    }
}

/// Fills with zeros in place, without the function that the compiler calls for an array of them.
#[inline(always)]
fn clear<const WORDS: usize>(words: &mut MaybeUninit<[u64; WORDS]>) {
    let first = words.as_mut_ptr().cast::<u64>();
    for place in 0..WORDS {
        // SAFETY: within the array.
        unsafe { first.add(place).write_volatile(0) };
    }
}

/// Copies bytes from the kernel's memory; false if they can't be.
#[inline(always)]
fn read(to: *mut u64, bytes: u64, from: u64) -> bool {
    // SAFETY: the verifier checks that `to` has room; the helper fails at a bad address.
    unsafe { generated::bpf_probe_read_kernel(to.cast(), bytes as u32, from as *const c_void) == 0 }
}
