//! What a mount namespace shows, by its text in `/proc/PID/mountinfo` alone: no path of an agent is
//! ever walked, as its file systems may answer as they like, or never.

use std::collections::HashMap;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of mountinfo: `proc_pid_mountinfo(5)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// `major:minor`.
    pub(super) device: String,
    /// What of the file system is mounted.
    pub(super) root: PathBuf,
    /// Where.
    pub(super) place: PathBuf,
    /// Whether it can be written, by the mount's and the file system's options.
    pub(super) writable: bool,
    /// The kind of file system.
    pub(super) kind: String,
}

/// A file on some file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    device: String,
    path: PathBuf,
}

/// The mounts of a namespace, which may be as many as an agent likes: nothing here takes longer for
/// each of them the more there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    /// In the kernel's order.
    all: Vec<Mount>,
    /// The last one at each place.
    last: HashMap<PathBuf, usize>,
}

impl Mounts {
    /// Reads mountinfo. A line that isn't understood is left out; the kernel writes none.
    pub(super) fn parse(text: &[u8]) -> Self {
        let all: Vec<_> = text.split(|&b| b == b'\n').filter_map(mount).collect();
        let places = all.iter().map(|mount| mount.place.clone());
        let last = places.zip(0..).collect();
        Self { all, last }
    }

    /// Where the file at an absolute path really is.
    pub(super) fn locate(&self, path: &Path) -> Option<Location> {
        let mount = self.governs(path)?;
        let rest = path.strip_prefix(&mount.place).ok()?;
        Some(Location {
            device: mount.device.clone(),
            path: join(&mount.root, rest),
        })
    }

    /// Whether a file can be seen anywhere in this namespace.
    pub(super) fn shows(&self, file: &Location) -> bool {
        self.views(file).next().is_some()
    }

    /// Whether it can be seen where the file system can be written.
    pub(super) fn shows_writable(&self, file: &Location) -> bool {
        self.views(file).any(|mount| mount.writable)
    }

    /// The mounts through which a file can be seen.
    fn views(&self, file: &Location) -> impl Iterator<Item = &Mount> {
        self.all.iter().filter(|mount| {
            let rest = file.path.strip_prefix(&mount.root);
            mount.device == file.device
                && rest.is_ok_and(|rest| self.governs(&join(&mount.place, rest)) == Some(mount))
        })
    }

    /// The parts of a kind of file system that can be written and aren't hidden by other mounts.
    pub(super) fn writable(&self, kind: &str) -> impl Iterator<Item = &Path> {
        self.all
            .iter()
            .filter(move |m| m.kind == kind && m.writable && self.governs(&m.place) == Some(m))
            .map(|m| m.root.as_path())
    }

    /// The mount in which a path is: the deepest, and of several at one place the last.
    fn governs(&self, path: &Path) -> Option<&Mount> {
        let deepest = path.ancestors().find_map(|place| self.last.get(place))?;
        self.all.get(*deepest)
    }
}

fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() {
        base.to_owned()
    } else {
        base.join(rest)
    }
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ').skip(2);
    let device = fields.next()?;
    let (root, place) = (path(fields.next()?), path(fields.next()?));
    let options = fields.next()?;
    let mut fields = fields.skip_while(|&f| f != b"-").skip(1);
    let kind = fields.next()?;
    let of_file_system = fields.nth(1)?;
    let writable = |options: &[u8]| options.split(|&b| b == b',').any(|o| o == b"rw");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Mount {
        device: text(device),
        root,
        place,
        writable: writable(options) && writable(of_file_system),
        kind: text(kind),
    })
}

/// The kernel writes blanks and backslashes as `\` and three octal digits.
fn path(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = |b: u8| (b'0'..=b'7').contains(&b);
        match after {
            [a, b, c, after @ ..] if byte == b'\\' && [*a, *b, *c].into_iter().all(octal) => {
                let digit = |b: u8| u32::from(b - b'0');
                // Three octal digits of a byte: what is above it is lost, and isn't written.
                out.push((digit(*a) * 64 + digit(*b) * 8 + digit(*c)) as u8);
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
24 22 0:22 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=1024k
30 22 0:27 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
";

    fn mounts(text: &str) -> Mounts {
        Mounts::parse(text.as_bytes())
    }

    fn docker() -> Location {
        mounts(HOST).locate(Path::new("/run/docker.sock")).unwrap()
    }

    fn cgroups(text: &str) -> Vec<PathBuf> {
        let mounts = mounts(text);
        mounts.writable("cgroup2").map(Into::into).collect()
    }

    #[test]
    fn a_file_is_where_its_deepest_mount_has_it() {
        let expected = Location {
            device: "0:22".into(),
            path: "/docker.sock".into(),
        };
        assert_eq!(docker(), expected);
        let etc = mounts(HOST).locate(Path::new("/etc/weir")).unwrap();
        assert_eq!((&*etc.device, &*etc.path), ("8:1", Path::new("/etc/weir")));
    }

    #[test]
    fn a_socket_is_seen_by_itself_in_its_folder_and_under_another_name() {
        assert!(mounts(HOST).shows(&docker()), "the host's own namespace");
        let own = "1 0 0:90 / / rw - overlay overlay rw\n";
        assert!(!mounts(own).shows(&docker()));
        for bound in [
            "2 1 0:22 /docker.sock /var/run/docker.sock rw - tmpfs tmpfs rw\n",
            "2 1 0:22 /docker.sock /innocent\\040name ro - tmpfs tmpfs rw\n",
            "2 1 0:22 / /host/run ro - tmpfs tmpfs rw\n",
        ] {
            assert!(mounts(&format!("{own}{bound}")).shows(&docker()), "{bound}");
        }
        let other = "2 1 0:22 /docker.sock.old /x rw - tmpfs tmpfs rw\n";
        assert!(!mounts(&format!("{own}{other}")).shows(&docker()));
    }

    #[test]
    fn what_another_mount_hides_is_not_seen() {
        let hidden = format!("{HOST}40 24 0:99 / /run/docker.sock ro - tmpfs tmpfs rw\n");
        assert!(!mounts(&hidden).shows(&docker()));
        let hidden = format!("{HOST}40 22 0:99 / /run rw - tmpfs tmpfs rw\n");
        assert!(!mounts(&hidden).shows(&docker()), "the later of two");
    }

    #[test]
    fn a_cgroup_file_system_is_writable_if_mount_and_file_system_are() {
        assert_eq!(cgroups(HOST), [PathBuf::from("/")]);
        let ro = HOST.replace("/sys/fs/cgroup rw", "/sys/fs/cgroup ro");
        assert!(cgroups(&ro).is_empty());
        let over = format!("{HOST}40 30 0:99 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n");
        assert!(cgroups(&over).is_empty());
        let again = format!("{HOST}40 30 0:27 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n");
        assert!(cgroups(&again).is_empty(), "remounted over itself");
    }

    #[test]
    fn twenty_thousand_mounts_are_looked_at_one_by_one() {
        let place = |n| format!("{n} 1 0:27 /a.slice /m/{n} rw - cgroup2 cgroup2 rw\n");
        let many: String = (0..20_000).map(place).collect();
        assert_eq!(cgroups(&many).len(), 20_000);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\PC|[ \n/\\\\0-9:-]){0,200}", path in "/\\PC{0,20}") {
            let mounts = mounts(&text);
            if let Some(at) = mounts.locate(Path::new(&path)) {
                mounts.shows(&at);
            }
            mounts.writable("cgroup2").count();
        }
    }
}
