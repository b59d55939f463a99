//! Cgroups that are emptied and removed when their value is dropped, and the two kernel file
//! systems that Weir stands on.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

/// A cgroup of the v2 hierarchy, with everything below it.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes it, or takes what is there.
    pub(super) fn new(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its folder.
    #[must_use]
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Kills what runs in a cgroup and removes it with its children.
pub(super) fn remove(path: &Path) {
    for _ in 0..100 {
        // Fails on a cgroup that is gone, which is what is wanted.
        let _ = fs::write(path.join("cgroup.kill"), "1");
        let children = fs::read_dir(path).into_iter().flatten().flatten();
        for child in children.filter(|child| child.path().is_dir()) {
            remove(&child.path());
        }
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                thread::sleep(Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

/// Where the v2 hierarchy is mounted: not always at /sys/fs/cgroup (hybrid layouts).
pub(super) fn root() -> Result<PathBuf> {
    let path = mounted("cgroup2")?;
    path.context("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")
}

/// Where bpffs is mounted; it is mounted at its usual place if it isn't there yet.
pub(super) fn bpffs() -> Result<PathBuf> {
    if let Some(path) = mounted("bpf")? {
        return Ok(path);
    }
    let status = Command::new("mount")
        .args(["-t", "bpf", "bpf", "/sys/fs/bpf"])
        .status()?;
    // Another world may have been quicker: what counts is that it is there.
    let path = mounted("bpf")?;
    ensure!(
        status.success() || path.is_some(),
        "could not mount bpffs at /sys/fs/bpf"
    );
    path.context("bpffs was mounted, and is not in /proc/mounts")
}

fn mounted(kind: &str) -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let mut fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    Ok(fields
        .find(|f| f.get(2) == Some(&kind))
        .and_then(|f| f.get(1).map(PathBuf::from)))
}
