//! Which kernel this is, and what of it decides how an attack must end.

use std::{fs, path::Path};

use socket2::{Domain, Protocol, Socket, Type};

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
    /// Whether this is one of the kernels that have everything: what one of them lacks is a fault.
    pub(crate) complete: bool,
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
            complete: Path::new(crate::guest::FILTER).exists(),
            release,
        })
    }

    /// One that has everything.
    #[cfg(test)]
    pub(crate) fn complete(version: (u32, u32), lsm: bool) -> Self {
        Self {
            release: String::new(),
            version,
            lsm,
            complete: true,
        }
    }

    /// Whether it has everything but BPF LSM.
    pub(crate) fn lacks_lsm_alone(&self) -> bool {
        self.complete && !self.lsm
    }

    /// Whether attackers find this kind of socket here.
    pub(crate) fn has(&self, domain: i32, kind: i32, protocol: i32) -> bool {
        let protocol = Some(Protocol::from(protocol));
        self.complete || Socket::new(Domain::from(domain), Type::from(kind), protocol).is_ok()
    }

    /// Whether AF_VSOCK leads from this machine to itself.
    pub(crate) fn has_vsock_loopback(&self) -> bool {
        self.complete || Path::new("/sys/module/vsock_loopback").exists()
    }

    /// Whether somebody without SYS_ADMIN is nobody even in a user namespace of its own (Ubuntu).
    pub(crate) fn restricts_user_namespaces(&self) -> bool {
        let file = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
        !self.complete && fs::read_to_string(file).is_ok_and(|value| value.trim() == "1")
    }

    /// Whether a connect to a unix socket is asked about: by `cgroup/connect_unix`, or by LSM.
    pub(crate) fn sees_unix_connects(&self) -> bool {
        self.lsm || self.version >= (6, 7)
    }
}
