//! The programs that a kernel may lack: tried one by one, with a [`Gap`] for each that isn't to be
//! had.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::programs::Program;
use aya::{Btf, Ebpf};

use super::btf::Types;
use super::hook::{Gap, Hook};
use super::kernel;
use super::perimeter::{self, Way};
use super::{programs, unix};
use crate::causes::chain;

/// The kernel's list of security modules that are on.
const LSM_LIST: &str = "/sys/kernel/security/lsm";

/// The LSM programs with the hooks that they are for.
const LSM: [(&str, &str); 3] = [
    ("lsm_socket_create", "socket_create"),
    ("lsm_unix_stream_connect", "unix_stream_connect"),
    ("lsm_bpf", "bpf"),
];

/// The classifier's name.
const PERIMETER: &str = "perimeter";

/// Members of the kernel's structures that `lsm_unix_stream_connect` reads: the global with the
/// offset, the structure, the member.
pub(super) const OFFSETS: [(&str, &str, &str); 3] = [
    ("UNIX_SOCK_ADDR", "unix_sock", "addr"),
    ("UNIX_ADDRESS_LEN", "unix_address", "len"),
    ("UNIX_ADDRESS_NAME", "unix_address", "name"),
];

/// What there is of the optional programs, loaded.
#[derive(Default)]
pub(super) struct Optional {
    connect_unix: Option<OwnedFd>,
    lsm: Vec<(&'static str, OwnedFd)>,
    perimeter: Option<(OwnedFd, Way)>,
    gaps: Vec<Gap>,
}

impl Optional {
    /// Loads what this kernel takes.
    pub(super) fn load(ebpf: &mut Ebpf, object: &[u8], types: &io::Result<Types>) -> Self {
        let mut all = Self::default();
        let types = types
            .as_ref()
            .map_err(|error| format!("the kernel's types can't be read: {error}"));
        let connect_unix = types.clone().and_then(|types| unix::load(object, types));
        all.connect_unix = all.or_gap(Hook::ConnectUnix, connect_unix);
        let perimeter = load_perimeter(ebpf);
        all.perimeter = all.or_gap(Hook::Perimeter, perimeter);
        let lsm = types.and_then(|types| load_lsm(ebpf, types));
        all.lsm = all.or_gap(Hook::Lsm, lsm).unwrap_or_default();
        all
    }

    fn or_gap<T>(&mut self, hook: Hook, result: Result<T, String>) -> Option<T> {
        match result {
            Ok(loaded) => Some(loaded),
            Err(why) => {
                self.gaps.push(Gap { hook, why });
                None
            }
        }
    }

    /// Attaches what can be: `connect_unix` by a function that pins it too, the LSM programs with
    /// their pins in `pins`, or without. The perimeter waits for its devices.
    pub(super) fn attach(
        &mut self,
        attach_to_slice: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
        pins: Option<&Path>,
    ) {
        if let Some(program) = self.connect_unix.take() {
            let result = attach_to_slice(program.as_fd());
            let result = result.map_err(|error| format!("it can't be attached: {error}"));
            self.or_gap(Hook::ConnectUnix, result);
        }
        for (name, program) in std::mem::take(&mut self.lsm) {
            let pin = pins.map(|pins| pins.join(format!("link_{name}")));
            let result = attach_lsm(program.as_fd(), pin.as_deref());
            let result = result.map_err(|error| format!("{name} can't be attached: {error}"));
            if self.or_gap(Hook::Lsm, result).is_none() {
                break;
            }
        }
    }

    /// The classifier and its way, once.
    pub(super) fn take_perimeter(&mut self) -> Option<(OwnedFd, Way)> {
        self.perimeter.take()
    }

    /// What there isn't.
    pub(super) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }
}

fn load_perimeter(ebpf: &mut Ebpf) -> Result<(OwnedFd, Way), String> {
    programs::load_one(ebpf, PERIMETER).map_err(|error| chain(&error))?;
    let fd = programs::program_fd(ebpf, PERIMETER).map_err(|error| chain(&error))?;
    let fd = fd.try_clone_to_owned();
    let fd = fd.map_err(|error| error.to_string())?;
    let way = perimeter::find_way(fd.as_fd())?;
    Ok((fd, way))
}

fn load_lsm(ebpf: &mut Ebpf, types: &Types) -> Result<Vec<(&'static str, OwnedFd)>, String> {
    let list = fs::read_to_string(LSM_LIST)
        .map_err(|error| format!("{LSM_LIST} can't be read ({error}): mount securityfs there"))?;
    if !is_listed(&list) {
        return Err(format!("BPF LSM isn't on: {LSM_LIST} has {}", list.trim()));
    }
    for (_, structure, member) in OFFSETS {
        if types.offset(structure, member).is_none() {
            return Err(format!("the kernel's {structure} has no {member}"));
        }
    }
    let btf = Btf::from_sys_fs().map_err(|error| chain(&error))?;
    LSM.iter()
        .map(|&(name, hook)| {
            let program = match ebpf.program_mut(name) {
                Some(Program::Lsm(program)) => program,
                _ => return Err(format!("the eBPF object has no {name}")),
            };
            let refused = |error: &dyn std::error::Error| format!("{name}: {}", chain(error));
            program.load(hook, &btf).map_err(|error| refused(&error))?;
            let fd = program.fd().map_err(|error| refused(&error))?;
            let fd = fd.as_fd().try_clone_to_owned();
            Ok((name, fd.map_err(|error| refused(&error))?))
        })
        .collect()
}

/// Whether `bpf` is in the kernel's list of security modules.
fn is_listed(list: &str) -> bool {
    list.trim().split(',').any(|module| module == "bpf")
}

/// Attaches and pins; the link that an earlier daemon has pinned there goes when the new one is in
/// force, as an LSM link's program can't be replaced.
fn attach_lsm(program: BorrowedFd<'_>, pin: Option<&Path>) -> io::Result<()> {
    let link = kernel::attach_lsm(program)?;
    let Some(pin) = pin else { return Ok(()) };
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => kernel::pin(link.as_fd(), pin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpf_is_listed_by_its_whole_name() {
        assert!(is_listed("lockdown,capability,bpf\n"));
        assert!(is_listed("bpf"));
        assert!(!is_listed("lockdown,bpfx\n"));
        assert!(!is_listed(""));
    }
}
