//! The battery as process 1 of a virtual machine: makes a host of it, runs, and switches it off.

use std::{fs, os::unix::fs::symlink, process::Command, thread, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// What `cargo xtask vm-test` put into the image.
const WEIR: &str = "/usr/bin/weir";
/// Modules that the attacks need where the kernel doesn't have them built in, one a line.
const MODULES: &str = "/etc/battery/modules";
/// Parts of scenarios' names, one a line.
pub(crate) const FILTER: &str = "/etc/battery/filter";

/// Never returns: the machine is switched off.
pub(crate) fn init() -> ! {
    match live() {
        Ok(status) => println!("@battery\texit\t{status}"),
        Err(error) => println!("@battery\texit\t{error:#}"),
    }
    // The console needs a moment.
    thread::sleep(Duration::from_millis(200));
    let _ = reboot(RebootMode::RB_POWER_OFF);
    std::process::exit(1)
}

fn live() -> Result<i32> {
    for (what, place, kind) in [
        ("proc", "/proc", "proc"),
        ("sysfs", "/sys", "sysfs"),
        ("devtmpfs", "/dev", "devtmpfs"),
        ("cgroup2", "/sys/fs/cgroup", "cgroup2"),
        ("bpf", "/sys/fs/bpf", "bpf"),
        ("securityfs", "/sys/kernel/security", "securityfs"),
        ("tmpfs", "/tmp", "tmpfs"),
        ("tmpfs", "/run", "tmpfs"),
        ("tmpfs", "/dev/shm", "tmpfs"),
    ] {
        fs::create_dir_all(place)?;
        let mounted = mount(
            Some(what),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        );
        mounted.with_context(|| format!("{kind} at {place}"))?;
    }
    symlink("/proc/self/fd", "/dev/fd")?;
    run("ip", &["link", "set", "lo", "up"])?;
    load_modules()?;
    let mut battery = Command::new("/usr/bin/battery");
    battery.args(["run", "--weir", WEIR]);
    for filter in fs::read_to_string(FILTER)?.lines() {
        battery.args(["--filter", filter]);
    }
    battery
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("CARGO_TARGET_DIR", "/var/cache/battery")
        .env("BATTERY_SLOW", "1");
    let child = battery.spawn().context("the battery can't be started")?;
    wait_for(child.id())
}

/// Loads the modules that the attacks need where the kernel has them as such.
pub(crate) fn load_modules() -> Result<()> {
    for module in fs::read_to_string(MODULES)?.lines() {
        run("modprobe", &[module])?;
    }
    Ok(())
}

/// Buries everybody's children until our own has ended.
fn wait_for(child: u32) -> Result<i32> {
    loop {
        let ended = waitpid(None::<Pid>, None::<WaitPidFlag>)?;
        let (pid, status) = match ended {
            WaitStatus::Exited(pid, code) => (pid, code),
            WaitStatus::Signaled(pid, signal, _) => (pid, 128 + signal as i32),
            _ => continue,
        };
        if pid.as_raw().cast_unsigned() == child {
            return Ok(status);
        }
    }
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .with_context(|| program.to_owned())?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        println!("{program} {}: {}", args.join(" "), error.trim());
    }
    Ok(())
}
