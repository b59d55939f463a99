//! Debian's kernels, by package.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use xtask::cache;

/// A kernel that the battery runs on. Those that take longest come first: two run at once, and none
/// should be left at the end with a core beside it idle.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub(crate) enum Kernel {
    /// The one that runs here
    Host,
    /// Debian 12's
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's, as Debian 12 has it too
    #[value(name = "6.12")]
    V6_12,
    /// Debian 13's without BPF LSM, with systemd and podman
    #[value(name = "podman")]
    Podman,
    /// Debian 12's without BPF LSM, for what that decides
    #[value(name = "6.1-no-lsm")]
    V6_1NoLsm,
    /// Debian 13's without BPF LSM, for what that decides
    #[value(name = "6.12-no-lsm")]
    V6_12NoLsm,
}

impl Kernel {
    /// The package that depends on the newest build.
    pub(super) fn package(self) -> Option<&'static str> {
        match self {
            Self::Host => None,
            Self::V6_1 | Self::V6_1NoLsm => Some("linux-image-cloud-amd64"),
            Self::V6_12 | Self::V6_12NoLsm | Self::Podman => Some("linux-image-6.12-cloud-amd64"),
        }
    }

    /// The security modules that it boots with.
    pub(super) fn security(self) -> &'static str {
        match self {
            Self::Host | Self::V6_1 | Self::V6_12 => "lockdown,yama,bpf",
            Self::V6_1NoLsm | Self::V6_12NoLsm | Self::Podman => "lockdown,yama",
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Host => "host",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V6_1NoLsm => "6.1-no-lsm",
            Self::V6_12NoLsm => "6.12-no-lsm",
            Self::Podman => "podman",
        })
    }
}

/// A kernel's files, unpacked.
pub(super) struct Files {
    /// The bootable image.
    pub(super) vmlinuz: PathBuf,
    /// `lib/modules/<release>`.
    pub(super) modules: PathBuf,
    /// Its release.
    pub(super) release: String,
}

/// Downloads and unpacks what `package` depends on, if that isn't in the cache.
pub(super) fn fetch(package: &str) -> Result<Files> {
    let image = dependency(package)?;
    let place = cache::installed().join("kernels").join(&image);
    if !place.exists() {
        println!("  downloading {image}");
        download(&image, &place)?;
    }
    let release = image.trim_start_matches("linux-image-").to_owned();
    let files = Files {
        vmlinuz: place.join(format!("boot/vmlinuz-{release}")),
        modules: place.join("lib/modules").join(&release),
        release,
    };
    ensure!(
        files.vmlinuz.exists() && files.modules.exists(),
        "{} has no kernel {}: remove it and run this again",
        place.display(),
        files.release
    );
    Ok(files)
}

/// The package with the kernel itself.
fn dependency(package: &str) -> Result<String> {
    let output = Command::new("apt-cache")
        .args(["depends", package])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let image = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .next();
    let image = image.with_context(|| {
        format!("apt knows no {package}: run `apt-get update` (this takes Debian 12's kernels)")
    })?;
    Ok(format!("linux-image-{image}"))
}

/// Unpacks a package into `place`, whole or not at all.
fn download(package: &str, place: &Path) -> Result<()> {
    let parent = place.parent().context("the cache has a parent")?;
    fs::create_dir_all(parent)?;
    let work = tempfile::Builder::new()
        .prefix("download-")
        .tempdir_in(parent)?;
    let mut get = Command::new("apt-get");
    // The user that apt would change to can't write there.
    get.args(["-q", "-o", "APT::Sandbox::User=root", "download", package]);
    let output = get.current_dir(work.path()).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "apt-get download {package}: {}",
        error.trim()
    );
    let mut archives = fs::read_dir(work.path())?.flatten();
    let archive = archives.next().context("apt-get downloaded nothing")?;
    let root = work.path().join("root");
    let status = Command::new("dpkg")
        .arg("-x")
        .arg(archive.path())
        .arg(&root)
        .status()?;
    ensure!(status.success(), "dpkg -x ended with {status}");
    fs::rename(root, place)?;
    Ok(())
}
