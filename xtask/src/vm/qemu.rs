//! Booting a kernel in a virtual machine, with its serial console as our input.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Kernel, follow, image, kernel::Files, table::Run};

/// A guest that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(1800);
/// A kernel under KVM is up in less than one.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// What a machine is made of.
pub(super) struct Machine<'a> {
    pub(super) files: &'a Files,
    pub(super) initrd: &'a Path,
    /// Its disk, which it can't change.
    pub(super) disk: Option<&'a Path>,
    /// Parameters of the kernel.
    pub(super) parameters: &'a str,
}

/// Boots a machine that runs a battery, under KVM or emulated, and follows it to its end.
pub(super) fn boot(kernel: Kernel, machine: &Machine<'_>, kvm: bool) -> Result<Run> {
    println!(
        "  {kernel}: booting {} under {}",
        machine.files.release,
        if kvm { "KVM" } else { "TCG" }
    );
    let mut guest = Guest::start(machine, kvm)?;
    let output = guest.0.stdout.take().context("stdout is a pipe")?;
    let pid = guest.0.id();
    let watchdog = Watchdog::new(pid, LIMIT);
    let run = follow(kernel, output);
    drop((watchdog, guest));
    run
}

/// Whether /dev/kvm is there and a kernel really runs under it. On some nested hosts it is there,
/// and a guest hangs.
pub(super) fn kvm_works(files: &Files) -> Result<bool> {
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(false);
    }
    let probe = Machine {
        files,
        initrd: &image::probe()?,
        disk: None,
        parameters: "quiet",
    };
    let mut guest = Guest::start(&probe, true)?;
    let start = Instant::now();
    while start.elapsed() < PROBE_LIMIT {
        // The probe's process 1 switches the machine off.
        if let Some(status) = guest.0.try_wait()? {
            return Ok(status.success());
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(false)
}

/// A virtual machine. Dropping it switches it off.
struct Guest(Child);

impl Guest {
    fn start(machine: &Machine<'_>, kvm: bool) -> Result<Self> {
        let mut qemu = Command::new("qemu-system-x86_64");
        if kvm {
            qemu.args(["-accel", "kvm", "-cpu", "host"]);
        } else {
            // One thread for both processors: with two, a kernel that changes its own code while the
            // host is busy can die of an instruction that is half of each (6.12 has, in its first
            // seconds). It costs little, as the machine has seldom work for both.
            qemu.args(["-accel", "tcg,thread=single", "-cpu", "max"]);
        }
        qemu.args(["-smp", "2", "-m", "3000", "-no-reboot", "-nodefaults"]);
        qemu.args(["-display", "none", "-serial", "stdio", "-kernel"]);
        qemu.arg(&machine.files.vmlinuz);
        qemu.arg("-initrd").arg(machine.initrd);
        let parameters = format!("console=ttyS0 panic=-1 {}", machine.parameters);
        qemu.args(["-append", &parameters]);
        if let Some(disk) = machine.disk {
            let options = "if=virtio,format=raw,snapshot=on,cache=unsafe";
            let drive = format!("file={},{options}", disk.display());
            qemu.args(["-drive", &drive]);
        }
        qemu.stdin(Stdio::null()).stdout(Stdio::piped());
        qemu.spawn()
            .map(Self)
            .context("could not run qemu-system-x86_64")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Ends a process that takes too long, unless this is dropped before.
struct Watchdog(
    #[expect(dead_code, reason = "what counts is when it goes")] std::sync::mpsc::Sender<()>,
);

impl Watchdog {
    fn new(pid: u32, limit: Duration) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        thread::spawn(move || {
            if receiver.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
                // It may have ended by itself just now.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        });
        Self(sender)
    }
}
