//! Loading the programs, and attaching them to the slice: anew, or in place of an earlier daemon's.
//!
//! Pins are in `<pin_dir>/layout-<n>`. The pinned maps are reused, so that a new program sees the
//! endpoints and listeners from its first call; a pinned link gets the new program by one exchange
//! of a pointer.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::lpm_trie::Key;
use aya::maps::{Map, MapInfo};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader};
use gateway_ebpf::{Address, Destination, Endpoint, Flow, LAYOUT, OriginKey, Outlet, Socket};
use nix::errno::Errno;
use tracing::level_filters::LevelFilter;

use super::btf::Types;
use super::hook::{Gap, Hook};
use super::kernel::{self, AttachType};
use super::optional::{OFFSETS, Optional};
use super::pins::Pins;
use super::place::Slice;
use super::unix::CONNECT_UNIX;
use super::{Error, netns, perimeter};

/// What `cargo xtask ebpf` built.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("WEIR_EBPF_OBJECT"));

/// The programs on the slice, in the order in which they are attached: what redirects comes last,
/// when all that it relies on is there.
const PROGRAMS: [(&str, AttachType); 15] = [
    ("sock_create", AttachType::SockCreate),
    ("setsockopt", AttachType::SetSockOpt),
    ("post_bind4", AttachType::PostBind4),
    ("post_bind6", AttachType::PostBind6),
    ("ingress", AttachType::Ingress),
    ("egress", AttachType::Egress),
    ("sendmsg4", AttachType::SendMsg4),
    ("sendmsg6", AttachType::SendMsg6),
    ("tcp_connect", AttachType::SockOps),
    ("recvmsg4", AttachType::RecvMsg4),
    ("recvmsg6", AttachType::RecvMsg6),
    ("getpeername4", AttachType::GetPeerName4),
    ("getpeername6", AttachType::GetPeerName6),
    ("connect4", AttachType::Connect4),
    ("connect6", AttachType::Connect6),
];

/// Runs only while the daemon does, so it isn't pinned.
const EXEC: &str = "sched_process_exec";

/// How often a program is loaded until its verification is undisturbed.
const LOADS: usize = 5;

/// The maps that outlive the daemon, with the sizes of their keys and values in bytes.
const PINNED_MAPS: [(&str, usize, usize); 12] = [
    ("ENDPOINTS", size_of::<Endpoint>(), size_of::<u8>()),
    ("ADDRESSES", size_of::<Address>(), size_of::<u8>()),
    ("LOCAL_PORTS", size_of::<u32>(), size_of::<u64>()),
    ("LISTENERS", size_of::<u64>(), size_of::<u32>()),
    ("SOCKETS", size_of::<i32>(), size_of::<Socket>()),
    ("ORIGINS", size_of::<OriginKey>(), size_of::<Socket>()),
    ("FLOWS", size_of::<i32>(), size_of::<Flow>()),
    ("GENERATION", size_of::<u32>(), size_of::<u32>()),
    ("ALL_OPEN", size_of::<u32>(), size_of::<u32>()),
    ("CGROUPS", size_of::<u64>(), size_of::<u32>()),
    (
        "DESTINATIONS",
        size_of::<Key<Destination>>(),
        size_of::<u8>(),
    ),
    ("OUTLETS", size_of::<u32>(), size_of::<Outlet>()),
];

/// Programs that are loaded, and may be attached.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) pins: PathBuf,
    pub(super) optional: Optional,
}

/// Loads the programs, with the pinned maps where there are some.
pub(super) fn load(slice: &Slice, pin_dir: &Path) -> Result<Loaded, Error> {
    let pins = pin_dir.join(format!("layout-{LAYOUT}"));
    check_pins(pin_dir, &pins)?;
    fs::create_dir_all(&pins).map_err(Error::io(format!("{} can't be made", pins.display())))?;

    let (ebpf, optional) = load_object(slice.id, Some(&pins))?;
    Ok(Loaded {
        ebpf,
        pins,
        optional,
    })
}

/// Loads and attaches everything to a cgroup without pins, and lets go of it. What this kernel lacks
/// of the optional programs is returned.
pub(super) fn try_out(id: u64, cgroup: BorrowedFd<'_>) -> Result<Vec<Gap>, Error> {
    let (ebpf, mut optional) = load_object(id, None)?;
    for (name, attach_type) in PROGRAMS {
        kernel::attach(program_fd(&ebpf, name)?, cgroup, attach_type)
            .map_err(Error::io(format!("{name} can't be attached")))?;
    }
    let attach = |program: BorrowedFd<'_>| {
        kernel::attach(program, cgroup, AttachType::ConnectUnix).map(drop)
    };
    optional.attach(attach, None);
    Ok(optional.gaps().to_vec())
}

fn load_object(slice: u64, pins: Option<&Path>) -> Result<(Ebpf, Optional), Error> {
    let level = log_level();
    let types = Types::of_kernel();
    let offset = |structure, member| {
        let types = types.as_ref().ok();
        types.and_then(|types| types.offset(structure, member))
    };
    // 0 where there is none: then the program that would use it isn't loaded.
    let offsets = OFFSETS.map(|(_, structure, member)| offset(structure, member).unwrap_or(0));
    let host = netns::own_cookie().map_err(Error::io("this network namespace has no cookie"))?;
    let mut loader = EbpfLoader::new();
    loader.override_global("SLICE", &slice, true);
    loader.override_global("HOST", &host, true);
    loader.override_global(aya_log::LEVEL, &level, true);
    for ((global, ..), offset) in OFFSETS.iter().zip(&offsets) {
        loader.override_global(global, offset, true);
    }
    for (pins, (name, ..)) in pins
        .iter()
        .flat_map(|pins| PINNED_MAPS.map(|map| (pins, map)))
    {
        loader.map_pin_path(name, pins.join(name));
    }
    let mut ebpf = loader.load(OBJECT)?;
    for (name, _) in PROGRAMS {
        load_one(&mut ebpf, name)?;
    }
    load_one(&mut ebpf, EXEC)?;
    let optional = Optional::load(&mut ebpf, OBJECT, &types);
    Ok((ebpf, optional))
}

pub(super) fn program_fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, Error> {
    let program = ebpf.program(name).ok_or(Error::Incomplete(name))?;
    let fd = program.fd().map_err(|source| Error::Program {
        program: name,
        source,
    })?;
    Ok(fd.as_fd())
}

impl Loaded {
    /// Takes a map out. Each can be taken once.
    pub(super) fn map(&mut self, name: &'static str) -> Result<Map, Error> {
        self.ebpf.take_map(name).ok_or(Error::Incomplete(name))
    }

    /// Makes these programs the slice's. From its return on, until the pins are removed, the slice
    /// has them, whoever lives. The optional ones come first: without one that is `required`, nothing
    /// else changes.
    pub(super) fn attach(&mut self, slice: &Slice, required: &[Hook]) -> Result<(), Error> {
        self.check_required(required)?;
        let pin = self.pins.join(format!("link_{CONNECT_UNIX}"));
        let attach =
            |program: BorrowedFd<'_>| attach_one(slice, program, &pin, AttachType::ConnectUnix);
        self.optional.attach(attach, Some(&self.pins));
        self.check_required(required)?;
        for (name, attach_type) in PROGRAMS {
            let program = program_fd(&self.ebpf, name)?;
            let pin = self.pins.join(format!("link_{name}"));
            attach_one(slice, program, &pin, attach_type).map_err(|source| {
                if source.raw_os_error() == Some(Errno::EPERM as i32) {
                    return Error::Occupied {
                        program: name,
                        source,
                    };
                }
                Error::io(format!(
                    "{name} can't be attached to {}",
                    slice.path.display()
                ))(source)
            })?;
        }
        let failed = |source| Error::Program {
            program: EXEC,
            source,
        };
        match self.ebpf.program_mut(EXEC) {
            Some(Program::RawTracePoint(exec)) => exec.attach(EXEC).map_err(failed)?,
            _ => return Err(Error::Incomplete(EXEC)),
        };
        Ok(())
    }
}

impl Loaded {
    /// Holds the pinned maps, and the links from [`Loaded::attach`] on; the perimeter holds its own.
    pub(super) fn hold_pins(&self) -> Result<Pins, Error> {
        let failed = Error::io(format!("the pins in {} can't be held", self.pins.display()));
        Pins::hold(&self.pins, |name| !name.starts_with(perimeter::PIN)).map_err(failed)
    }

    fn check_required(&self, required: &[Hook]) -> Result<(), Error> {
        let gaps = self.optional.gaps();
        let missing = gaps.iter().find(|gap| required.contains(&gap.hook));
        missing.map_or(Ok(()), |gap| Err(Error::Required(gap.clone())))
    }
}

/// Loads a program. The verifier gives up with EAGAIN where a signal comes meanwhile.
pub(super) fn load_one(ebpf: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    for _ in 1..LOADS {
        match load_once(ebpf, name) {
            Err(Error::Program {
                source: ProgramError::LoadError { io_error, .. },
                ..
            }) if io_error.raw_os_error() == Some(Errno::EAGAIN as i32) => {}
            result => return result,
        }
    }
    load_once(ebpf, name)
}

fn load_once(ebpf: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    let result = match ebpf.program_mut(name) {
        Some(Program::CgroupSkb(program)) => program.load(),
        Some(Program::CgroupSock(program)) => program.load(),
        Some(Program::CgroupSockopt(program)) => program.load(),
        Some(Program::CgroupSockAddr(program)) => program.load(),
        Some(Program::SockOps(program)) => program.load(),
        Some(Program::RawTracePoint(program)) => program.load(),
        Some(Program::SchedClassifier(program)) => program.load(),
        Some(_) => Err(ProgramError::UnexpectedProgramType),
        None => return Err(Error::Incomplete(name)),
    };
    result.map_err(|source| Error::Program {
        program: name,
        source,
    })
}

/// Puts a program into the pinned link, or attaches and pins it where there is no link, or one whose
/// cgroup was removed (a cgroup made anew at the same path isn't covered by it).
fn attach_one(
    slice: &Slice,
    program: BorrowedFd<'_>,
    pin: &Path,
    attach_type: AttachType,
) -> io::Result<()> {
    match kernel::open_pinned(pin) {
        Ok(link) if kernel::attached_cgroup(link.as_fd())? == slice.id => {
            return kernel::replace(link.as_fd(), program);
        }
        Ok(_) => fs::remove_file(pin)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let link: OwnedFd = kernel::attach(program, slice.dir.as_fd(), attach_type)?;
    kernel::pin(link.as_fd(), pin)
}

/// Refuses pins whose maps can't be reused: with fresh maps, an agent would find the way open until
/// the endpoints are written.
fn check_pins(pin_dir: &Path, pins: &Path) -> Result<(), Error> {
    let foreign = |what| Error::ForeignPins {
        dir: pin_dir.to_owned(),
        what,
    };
    let failed = || Error::io(format!("{} can't be read", pin_dir.display()));
    for entry in fs::read_dir(pin_dir).map_err(failed())? {
        if entry.map_err(failed())?.path() != pins {
            return Err(foreign("of another version"));
        }
    }
    let linked = PROGRAMS
        .iter()
        .any(|(name, _)| pins.join(format!("link_{name}")).exists());
    for (name, key, value) in PINNED_MAPS {
        let pin = pins.join(name);
        if pin.exists() {
            let info = MapInfo::from_pin(&pin)?;
            if (info.key_size() as usize, info.value_size() as usize) != (key, value) {
                return Err(foreign("of another version"));
            }
        } else if linked {
            return Err(foreign("incomplete"));
        }
    }
    Ok(())
}

/// How much the programs log: what tracing would show, in aya's numbers.
fn log_level() -> u8 {
    let level = match LevelFilter::current() {
        LevelFilter::OFF => return 0,
        LevelFilter::ERROR => aya_log::Level::Error,
        LevelFilter::WARN => aya_log::Level::Warn,
        LevelFilter::INFO => aya_log::Level::Info,
        LevelFilter::DEBUG => aya_log::Level::Debug,
        LevelFilter::TRACE => aya_log::Level::Trace,
    };
    level as u8
}
