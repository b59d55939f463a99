//! Where things are on this host: the cgroup v2 mount and the agents' slice in it, the bpf file
//! system, and the lock that keeps a second daemon off the same pins.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, FsType, statfs};

use super::{CgroupId, Error, Settings, kernel};

/// Where every Linux has its bpf file system.
const BPFFS: &str = "/sys/fs/bpf";

/// The agents' cgroup.
pub(super) struct Slice {
    /// The cgroup v2 mount.
    pub(super) root: PathBuf,
    /// The slice, an absolute path.
    pub(super) path: PathBuf,
    /// The slice's cgroup id, which is its inode's number.
    pub(super) id: u64,
    /// The slice, open.
    pub(super) dir: File,
}

impl Slice {
    /// Finds the mount, and finds or makes the slice in it.
    pub(super) fn open(settings: &Settings) -> Result<Self, Error> {
        let root = cgroup_root(settings)?;
        let proper = |part| matches!(part, Component::Normal(_));
        if settings.slice.as_os_str().is_empty() || !settings.slice.components().all(proper) {
            return Err(Error::BadSlice(settings.slice.clone()));
        }
        if own_cgroup()?.starts_with(&settings.slice) {
            return Err(Error::InsideSlice(settings.slice.clone()));
        }
        let path = root.join(&settings.slice);
        let failed = || Error::io(format!("the slice {} can't be made", path.display()));
        fs::create_dir_all(&path).map_err(failed())?;
        let dir = File::open(&path).map_err(failed())?;
        let id = dir.metadata().map_err(failed())?.ino();
        Ok(Self {
            root,
            path,
            id,
            dir,
        })
    }
}

/// The cgroups below the slice, by their ids. Cloning shares the open mount.
#[derive(Clone, Debug)]
pub struct Cgroups(Arc<Opened>);

#[derive(Debug)]
struct Opened {
    root: PathBuf,
    mount: File,
    slice: PathBuf,
}

impl Cgroups {
    pub(super) fn open(slice: &Slice) -> Result<Self, Error> {
        let failed = || Error::io(format!("{} can't be opened", slice.root.display()));
        Ok(Self(Arc::new(Opened {
            root: slice.root.clone(),
            mount: File::open(&slice.root).map_err(failed())?,
            slice: slice.path.clone(),
        })))
    }

    /// The slice, an absolute path.
    pub(super) fn slice(&self) -> &Path {
        &self.0.slice
    }

    /// The path of a cgroup below the slice, relative to the mount. The kernel finds it by its id,
    /// so it costs the same however many cgroups an agent makes.
    ///
    /// # Errors
    /// It is gone, or not below the slice.
    pub fn path(&self, cgroup: CgroupId) -> io::Result<String> {
        let dir = kernel::open_cgroup(&self.0.mount, cgroup.0)?;
        let path = fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
        if !path.starts_with(&self.0.slice) {
            return Err(io::Error::other("it is outside of the slice"));
        }
        relative(&path, &self.0.root).ok_or_else(|| io::Error::other("its name is not UTF-8"))
    }
}

fn relative(path: &Path, root: &Path) -> Option<String> {
    Some(path.strip_prefix(root).ok()?.to_str()?.to_owned())
}

/// The cgroup v2 mount: the one that was set, or the first in `/proc/mounts`.
pub(super) fn cgroup_root(settings: &Settings) -> Result<PathBuf, Error> {
    if let Some(root) = &settings.cgroup_root {
        return if is_on(root, CGROUP2_SUPER_MAGIC) {
            Ok(root.clone())
        } else {
            Err(Error::NotCgroup2(root.clone()))
        };
    }
    let mounts =
        fs::read_to_string("/proc/mounts").map_err(Error::io("/proc/mounts can't be read"))?;
    cgroup2_mount(&mounts).ok_or(Error::NoCgroup2)
}

/// The first cgroup v2 mount in the text of `/proc/mounts`.
fn cgroup2_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (place, kind) = (fields.next()?, fields.next()?);
        // The kernel writes blanks and backslashes in octal; nothing mounts cgroups at such a path.
        (kind == "cgroup2" && !place.contains('\\')).then(|| place.into())
    })
}

/// This process's cgroup, relative to the mount.
fn own_cgroup() -> Result<PathBuf, Error> {
    let text = fs::read_to_string("/proc/self/cgroup")
        .map_err(Error::io("/proc/self/cgroup can't be read"))?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    Ok(own.unwrap_or_default().into())
}

/// Whether a path exists and is on a file system of this kind.
pub(super) fn is_on(path: &Path, kind: FsType) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == kind)
}

/// The right to use a directory of pins. The kernel gives it back when the process ends, however.
pub(super) struct Lock {
    _dir: File,
}

impl Lock {
    /// Makes the directory (mounting bpffs at its usual place if that lacks one), and locks it.
    pub(super) fn take(pin_dir: &Path) -> Result<Self, Error> {
        mount_bpffs(pin_dir)?;
        let failed = || Error::io(format!("{} can't be made", pin_dir.display()));
        fs::create_dir_all(pin_dir).map_err(failed())?;
        if !is_on(pin_dir, BPF_FS_MAGIC) {
            // Don't leave an empty directory behind where somebody mistyped.
            let _ = fs::remove_dir(pin_dir);
            return Err(Error::NotBpffs(pin_dir.to_owned()));
        }
        let dir = File::open(pin_dir).map_err(failed())?;
        match dir.try_lock() {
            Ok(()) => Ok(Self { _dir: dir }),
            Err(TryLockError::WouldBlock) => Err(Error::Locked(pin_dir.to_owned())),
            Err(TryLockError::Error(error)) => Err(failed()(error)),
        }
    }
}

/// Mounts bpffs at its usual place, if the pins shall be there and it isn't mounted.
fn mount_bpffs(pin_dir: &Path) -> Result<(), Error> {
    let place = Path::new(BPFFS);
    if !pin_dir.starts_with(place) || is_on(place, BPF_FS_MAGIC) {
        return Ok(());
    }
    let failed = || Error::io(format!("a bpf file system can't be mounted at {BPFFS}"));
    // Two daemons that mount at once would hide each other's pins.
    let below = File::open(place).map_err(failed())?;
    below.lock().map_err(failed())?;
    if is_on(place, BPF_FS_MAGIC) {
        return Ok(());
    }
    mount(
        Some("bpf"),
        place,
        Some("bpf"),
        MsFlags::empty(),
        Some("mode=0700"),
    )
    .map_err(io::Error::from)
    .map_err(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_in_hybrid_and_unified_layouts() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "none /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(cgroup2_mount(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup2_mount("cgroup2 /x tmpfs rw 0 0\n\n"), None);
    }

    #[test]
    fn a_slice_that_leaves_the_mount_is_refused() {
        for slice in ["", "/a", "../a", "a/../b", "a/.."] {
            let settings = Settings {
                slice: slice.into(),
                pin_dir: "/nowhere".into(),
                cgroup_root: None,
                require: Vec::new(),
                governed: false,
            };
            let result = Slice::open(&settings);
            assert!(
                matches!(result, Err(Error::BadSlice(_) | Error::NoCgroup2)),
                "{slice:?}"
            );
        }
    }
}
