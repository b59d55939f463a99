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
/// Room for the longest name and a zero.
const COPY_WORDS: usize = 14;

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

/// Whether a `sockaddr_un` in the kernel's memory has a forbidden name, or can't be read. Without a
/// loop over the name, of which the verifier would walk each turn for each place of a slash.
#[inline(always)]
fn is_forbidden(address: u64, length: u64) -> bool {
    if length <= NAME || length > MAX_ADDRESS {
        return true;
    }
    let (name, length) = (address + NAME, length - NAME);
    // SAFETY: the helper fails at a bad address.
    let end = match unsafe { bpf_probe_read_kernel(name as *const u8) } {
        // An abstract name ends where the address does.
        Ok(0) => length,
        Ok(_) => text_length(name, length),
        Err(_) => return true,
    };
    // What lies before a shorter name is read too, and not counted.
    // SAFETY: as above.
    let Ok(last) = (unsafe { bpf_probe_read_kernel((name + end - WINDOW) as *const Last) }) else {
        return true;
    };
    FORBIDDEN.iter().any(|name| last.is(end, name))
}

/// The length of a text that ends with a zero, or after `length` bytes; 0 if it can't be read.
#[inline(always)]
fn text_length(text: u64, length: u64) -> u64 {
    let mut copy = MaybeUninit::<[u64; COPY_WORDS]>::uninit();
    let first = copy.as_mut_ptr().cast::<u64>();
    // One by one, or the compiler calls a function for it.
    for place in 0..COPY_WORDS {
        // SAFETY: within the array.
        unsafe { first.add(place).write_volatile(0) };
    }
    // SAFETY: `length` is at most 108, so that there is room for it and the zero; the helper fails at
    // a bad address.
    let copied = unsafe {
        generated::bpf_probe_read_kernel_str(first.cast(), length as u32 + 1, text as *const c_void)
    };
    if copied > 0 { copied as u64 - 1 } else { 0 }
}

/// How much of a name's end is looked at.
const WINDOW: u64 = 16;

/// A last part of names.
struct Name {
    length: u64,
    /// Which of the window's bits tell, and what they are.
    mask: [u64; 2],
    bits: [u64; 2],
}

impl Name {
    /// Of `length` bytes, of which the first are these.
    const fn new(length: u64, begin: &[u8]) -> Self {
        let from = (WINDOW - length) as usize;
        let (mut mask, mut bits) = ([0; 2], [0; 2]);
        let mut place = 0;
        while place < begin.len() {
            let (word, byte) = ((from + place) / 8, (from + place) % 8);
            mask[word] |= 0xff << (byte * 8);
            bits[word] |= (begin[place] as u64) << (byte * 8);
            place += 1;
        }
        Self { length, mask, bits }
    }
}

const FORBIDDEN: [Name; 9] = [
    // PostgreSQL's and pgbouncer's, with a port of one to five digits.
    Name::new(10, b".s.PGSQL."),
    Name::new(11, b".s.PGSQL."),
    Name::new(12, b".s.PGSQL."),
    Name::new(13, b".s.PGSQL."),
    Name::new(14, b".s.PGSQL."),
    // MySQL's and MariaDB's.
    Name::new(11, b"mysqld.sock"),
    Name::new(10, b"mysql.sock"),
    Name::new(11, b"mysqlx.sock"),
    // Weir's.
    Name::new(9, b"weir.sock"),
];

/// The last bytes of a name, and what is before a shorter one.
#[derive(Clone, Copy)]
struct Last([u64; 2]);

impl Last {
    /// Whether the last part of a name that is `end` bytes long is this one.
    #[inline(always)]
    fn is(&self, end: u64, name: &Name) -> bool {
        let before = WINDOW - name.length - 1;
        let before = self.0[before as usize / 8] >> (before % 8 * 8) & 0xff;
        // Zero if the part begins there; an abstract name has a zero before it.
        let outside = (end ^ name.length) * (before ^ u64::from(b'/')) * before;
        // All at once: the verifier would follow each comparison both ways.
        let differing = ((self.0[0] & name.mask[0]) ^ name.bits[0])
            | ((self.0[1] & name.mask[1]) ^ name.bits[1])
            | outside;
        differing == 0 && end >= name.length
    }
}
