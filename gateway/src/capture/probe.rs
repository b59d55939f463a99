//! What `weir doctor` asks about the kernel: each check with what to do if it fails.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::sys::statfs::BPF_FS_MAGIC;
use nix::sys::utsname::uname;

use super::{Error, Gap, Hook, Settings, place, programs};
use crate::causes::chain;

/// The oldest kernel that Weir is tested on.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Capabilities by their bits in `linux/capability.h`.
const CAPABILITIES: [(u32, &str); 6] = [
    (2, "CAP_DAC_READ_SEARCH"),
    (12, "CAP_NET_ADMIN"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// One question about the host, answered.
#[derive(Debug)]
pub struct Check {
    /// What was looked at, in a few words.
    pub name: &'static str,
    /// What was found, or what is wrong.
    pub outcome: Result<String, Problem>,
}

/// What is wrong, and what to do about it.
#[derive(Debug)]
pub struct Problem {
    /// What was found.
    pub what: String,
    /// What a person can do.
    pub fix: String,
    /// Whether the daemon doesn't start with it.
    pub fatal: bool,
}

impl Problem {
    fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            fix: fix.into(),
            fatal: true,
        }
    }

    fn of(error: &Error, fix: &str) -> Self {
        Self::new(chain(error), fix)
    }
}

/// All checks, in the order in which one depends on the other.
pub(super) fn run(settings: &Settings) -> Vec<Check> {
    let mut checks = vec![
        check("kernel", kernel()),
        check("kernel type information", btf()),
        check("capabilities", capabilities()),
        check("cgroup v2", cgroup2(settings)),
        check("bpf file system", bpffs(settings)),
    ];
    match attach(settings) {
        Ok(gaps) => {
            checks.push(check(
                "attaching programs",
                Ok("all that are needed".into()),
            ));
            checks
                .extend(Hook::ALL.map(|hook| check(label(hook), optional(hook, &gaps, settings))));
        }
        Err(problem) => checks.push(check("attaching programs", Err(problem))),
    }
    checks
}

fn check(name: &'static str, outcome: Result<String, Problem>) -> Check {
    Check { name, outcome }
}

fn label(hook: Hook) -> &'static str {
    match hook {
        Hook::ConnectUnix => "hook connect-unix",
        Hook::Perimeter => "hook perimeter",
        Hook::Lsm => "hook lsm",
    }
}

/// A hook that may be missing: without it the daemon runs, unless the settings say otherwise.
fn optional(hook: Hook, gaps: &[Gap], settings: &Settings) -> Result<String, Problem> {
    let Some(gap) = gaps.iter().find(|gap| gap.hook == hook) else {
        return Ok("loads and attaches".into());
    };
    let what = format!("{}; so {}", gap.why, hook.consequence());
    let required = settings.require.contains(&hook);
    let fix = if required {
        format!(
            "it needs {}; capture.require lists it, so the daemon doesn't start",
            hook.needs()
        )
    } else {
        format!("it needs {}", hook.needs())
    };
    Err(Problem {
        fatal: required,
        ..Problem::new(what, fix)
    })
}

fn kernel() -> Result<String, Problem> {
    let release = uname().map(|names| names.release().to_string_lossy().into_owned());
    let release = release.unwrap_or_else(|error| error.to_string());
    if version(&release).is_some_and(|version| version >= OLDEST_KERNEL) {
        return Ok(format!("Linux {release}"));
    }
    let (major, minor) = OLDEST_KERNEL;
    Err(Problem::new(
        format!("Linux {release}"),
        format!("use Linux {major}.{minor} or newer"),
    ))
}

/// Major and minor number of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn btf() -> Result<String, Problem> {
    let place = Path::new("/sys/kernel/btf/vmlinux");
    if place.exists() {
        return Ok(place.display().to_string());
    }
    Err(Problem::new(
        format!("{} is missing", place.display()),
        "use a kernel that was built with CONFIG_DEBUG_INFO_BTF=y",
    ))
}

fn capabilities() -> Result<String, Problem> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let missing = missing_capabilities(&status);
    if missing.is_empty() {
        return Ok("all that are needed".into());
    }
    Err(Problem::new(
        format!("missing: {}", missing.join(", ")),
        "run weir as root, or give its systemd unit these capabilities",
    ))
}

/// The capabilities that `/proc/self/status` doesn't have in effect.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let missing = CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective & (1 << bit) == 0);
    missing.map(|&(_, name)| name).collect()
}

fn cgroup2(settings: &Settings) -> Result<String, Problem> {
    let fix = "mount one: `mount -t cgroup2 none /sys/fs/cgroup`, or set capture.cgroup_root";
    place::cgroup_root(settings)
        .map(|root| root.display().to_string())
        .map_err(|error| Problem::of(&error, fix))
}

fn bpffs(settings: &Settings) -> Result<String, Problem> {
    let pins = &settings.pin_dir;
    match pins.ancestors().find(|ancestor| ancestor.exists()) {
        Some(existing) if place::is_on(existing, BPF_FS_MAGIC) => Ok(pins.display().to_string()),
        _ if pins.starts_with("/sys/fs/bpf") => Ok("not mounted yet; `weir run` mounts it".into()),
        _ => Err(Problem::new(
            format!("{} is not on a bpf file system", pins.display()),
            "set capture.pin_dir to a directory below /sys/fs/bpf",
        )),
    }
}

/// Loads all programs and attaches them to a cgroup made for that, then lets go of both. Returns what
/// there isn't of the optional ones.
fn attach(settings: &Settings) -> Result<Vec<Gap>, Problem> {
    let probe = Settings {
        slice: format!("weir-probe-{}", std::process::id()).into(),
        ..settings.clone()
    };
    let slice = place::Slice::open(&probe)
        .map_err(|error| Problem::of(&error, "run weir as root, outside of the agents' slice"))?;
    let result = programs::try_out(slice.id, slice.dir.as_fd());
    let removed = fs::remove_dir(&slice.path);
    let fix = "check the kernel's configuration: CONFIG_CGROUP_BPF, CONFIG_BPF_SYSCALL, lockdown";
    let gaps = result.map_err(|error| Problem::of(&error, fix))?;
    removed.map_err(|error: io::Error| {
        Problem::new(
            format!("{} can't be removed: {error}", slice.path.display()),
            "remove it with rmdir",
        )
    })?;
    Ok(gaps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_by_their_numbers() {
        assert_eq!(version("6.1.0-13-amd64"), Some((6, 1)));
        assert_eq!(version("6.18.44"), Some((6, 18)));
        assert_eq!(version("x"), None);
        assert!(version("6.12.1") >= Some(OLDEST_KERNEL));
        assert!(version("5.19.1") < Some(OLDEST_KERNEL));
    }

    #[test]
    fn capabilities_are_missing_one_by_one() {
        assert!(missing_capabilities("CapEff:\t000001ffffffffff\n").is_empty());
        assert_eq!(
            missing_capabilities("CapEff:\t0000017fffffffff\n"),
            ["CAP_BPF"]
        );
        assert_eq!(missing_capabilities("").len(), CAPABILITIES.len());
    }
}
