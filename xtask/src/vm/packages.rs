//! A Debian with systemd and podman for a guest: its packages, unpacked, in the cache.
//!
//! No package's scripts run, and nothing of this machine's is looked at but where its apt downloads
//! from.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use xtask::cache;

use super::image::run;

/// What is asked for; their dependencies come with them.
const PACKAGES: [&str; 9] = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "podman",
    "crun",
    "netavark",
    "iptables",
    "iproute2",
    "nftables",
];
/// What nobody reads there.
const NEEDLESS: [&str; 7] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/perl",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/lib/x86_64-linux-gnu/perl-base",
];

/// The root file system, made if it isn't in the cache.
pub(super) fn root() -> Result<PathBuf> {
    let parent = cache::installed().join("guests");
    let place = parent.join(PACKAGES.join("-"));
    if place.exists() {
        return Ok(place);
    }
    fs::create_dir_all(&parent)?;
    let work = tempfile::Builder::new()
        .prefix("download-")
        .tempdir_in(&parent)?;
    let names = closure(work.path())?;
    println!(
        "  downloading {} packages for a guest with systemd",
        names.len()
    );
    let mut get = apt(&["download"]);
    run(get
        .args(names)
        .current_dir(work.path())
        .stdout(Stdio::null()))?;
    let root = work.path().join("root");
    merged(&root)?;
    for entry in fs::read_dir(work.path())?.flatten() {
        let file = entry.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            unpack(&file, &root)?;
        }
    }
    for folder in NEEDLESS {
        match fs::remove_dir_all(root.join(folder)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    fs::rename(root, &place)?;
    Ok(place)
}

/// The names of all packages that these need on a machine that has none.
fn closure(work: &Path) -> Result<Vec<String>> {
    let status = work.join("status");
    File::create(&status)?;
    let mut simulate = apt(&["install", "--simulate", "--no-install-recommends"]);
    simulate
        .arg("-o")
        .arg(format!("Dir::State::status={}", status.display()));
    let output = simulate.args(PACKAGES).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "apt doesn't find what the guest needs (run `apt-get update`): {}",
        error.trim()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let names = text.lines().filter_map(|line| {
        let name = line.strip_prefix("Inst ")?.split(' ').next()?;
        Some(name.to_owned())
    });
    Ok(names.collect())
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    // The user that apt would change to can't write there.
    command.args(["-q", "-o", "APT::Sandbox::User=root"]);
    command.args(args);
    command
}

/// The links that make `/bin` and the like part of `/usr`, which no package has.
fn merged(root: &Path) -> Result<()> {
    for folder in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(folder))?;
        symlink(format!("usr/{folder}"), root.join(folder))?;
    }
    Ok(())
}

/// What `dpkg-deb -x` does, which would put folders in the place of those links.
fn unpack(package: &Path, root: &Path) -> Result<()> {
    let mut files = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("could not run dpkg-deb")?;
    let stdout = files.stdout.take().context("stdout is a pipe")?;
    let mut tar = Command::new("tar");
    tar.args(["-x", "--keep-directory-symlink", "-C"]).arg(root);
    run(tar.stdin(stdout))?;
    let status = files.wait()?;
    ensure!(status.success(), "{}: {status}", package.display());
    Ok(())
}
