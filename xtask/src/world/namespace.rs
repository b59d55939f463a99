//! A network namespace that lives exactly as long as its value (and the processes in it).
//!
//! Held by a file descriptor rather than a name under /run/netns, so that nothing is left behind
//! however the owner ends.

use std::{
    fs::File,
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::{self, Command},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};

/// A network namespace whose only interface is `lo`, up.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes one; `lo` gets `addresses` (in CIDR form) beside 127.0.0.1 and ::1.
    pub(super) fn new(addresses: &'static [&'static str]) -> Result<Self> {
        // A namespace belongs to a thread: this one makes it, fits it out, and ends.
        let made = thread::spawn(move || -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("could not make a network namespace")?;
            ip(&["link", "set", "lo", "up"])?;
            for address in addresses {
                // No duplicate detection: the address is needed now, and nobody else is there.
                let nodad: &[_] = if address.contains(':') {
                    &["nodad"]
                } else {
                    &[]
                };
                ip(&[&["address", "add", address, "dev", "lo"], nodad].concat())?;
            }
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made
            .join()
            .map_err(|_| anyhow!("making a network namespace panicked"))??;
        Ok(Self { file })
    }

    /// A path to enter it by, good while this value lives.
    #[must_use]
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd()).into()
    }
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .context("could not run ip")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ip {}: {}",
        args.join(" "),
        error.trim()
    );
    Ok(())
}
