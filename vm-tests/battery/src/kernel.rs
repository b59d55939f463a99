//! Which kernel this is, and what of it decides how an attack must end.

use std::fs;

use anyhow::{Context as _, Result};

/// The running kernel.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// Its release, such as `6.1.0-56-cloud-amd64`.
    pub(crate) release: String,
    /// Major and minor number.
    pub(crate) version: (u32, u32),
    /// Whether the BPF LSM is on.
    pub(crate) lsm: bool,
}

impl Kernel {
    pub(crate) fn running() -> Result<Self> {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        let release = release.trim().to_owned();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next().and_then(|n| n.parse().ok());
        let version = number().zip(number());
        let version = version.with_context(|| format!("{release:?} is no kernel release"))?;
        let lsm = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
        Ok(Self {
            version,
            lsm: lsm.trim().split(',').any(|name| name == "bpf"),
            release,
        })
    }
}
