//! `cargo xtask vm-test`: the bypass battery on a matrix of kernels.
//!
//! The battery itself (`vm-tests/battery`) is one program. `host` runs it as it is; for the other
//! kernels it becomes process 1 of a virtual machine that has nothing but it, Weir, PostgreSQL and
//! their libraries. `podman` is a machine with systemd, on which it is a unit, Weir another, and agents
//! are podman's containers. Each says line by line what it saw, and this prints a table of it.

mod image;
mod kernel;
mod packages;
mod qemu;
mod systemd;
mod table;

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::{
    cache,
    steps::{Steps, cargo, two_at_once},
};

pub(crate) use self::kernel::Kernel;
use self::table::{Line, Run};
use crate::{ebpf, setup};

/// Which kernels, and which scenarios.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kernels to run on; all of them if none is named
    #[arg(long, value_enum)]
    kernel: Vec<Kernel>,
    /// Only scenarios whose name has one of these in it
    #[arg(long, value_name = "SUBSTR")]
    filter: Vec<String>,
}

impl Args {
    /// Everything.
    pub(crate) fn all() -> Self {
        Self {
            kernel: Vec::new(),
            filter: Vec::new(),
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let all = <Kernel as clap::ValueEnum>::value_variants();
    let kernels = if args.kernel.is_empty() {
        all
    } else {
        &args.kernel
    };
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the battery loads eBPF programs and makes cgroups and network namespaces: run it as root"
    );
    let (hosts, machines): (Vec<Kernel>, Vec<Kernel>) = kernels
        .iter()
        .partition(|kernel| kernel.package().is_none());
    let batteries = hosts.len() + usize::from(!machines.is_empty());
    let mut steps = Steps::new("vm-test", 3 + batteries);
    steps.step("looking for what the battery needs", || {
        setup::run()?;
        setup::battery(!machines.is_empty())
    })?;
    steps.step("building the eBPF programs", ebpf::run)?;
    let mut build = cargo();
    build.args(["build", "--package", "weir", "--package", "weir-battery"]);
    steps.quietly("building Weir and the battery", &mut build)?;
    let mut runs = Vec::new();
    for host in hosts {
        let name = format!("the battery on {host}");
        runs.push(steps.step(&name, || natively(&args.filter))?);
    }
    if !machines.is_empty() {
        let names: Vec<String> = machines.iter().map(Kernel::to_string).collect();
        let name = format!("the battery on {}", names.join(", "));
        runs.extend(steps.step(&name, || in_machines(&machines, &args.filter))?);
    }
    table::print(&runs);
    let failed: usize = runs.iter().map(Run::failed).sum();
    ensure!(failed == 0, "{failed} cases are not as they should be");
    Ok(())
}

/// The battery on each of these kernels: an emulated machine has use for little more than one core.
fn in_machines(kernels: &[Kernel], filter: &[String]) -> Result<Vec<Run>> {
    // Kernels share files, which are made one after the other.
    let making = Mutex::new(());
    let runs = two_at_once(kernels, |kernel| in_a_machine(*kernel, filter, &making));
    runs.into_iter().collect()
}

fn in_a_machine(kernel: Kernel, filter: &[String], making: &Mutex<()>) -> Result<Run> {
    let made = making.lock().unwrap_or_else(PoisonError::into_inner);
    let package = kernel.package().context("the host is no machine")?;
    let files = &kernel::fetch(package)?;
    let kvm = qemu::kvm_works(files)?;
    let parameters = format!("lsm={} loglevel=4", kernel.security());
    if kernel == Kernel::Podman {
        // The disk's changes are nobody's: writing them back takes time, and 6.12 has died of it.
        let quiet = "sysctl.vm.dirty_writeback_centisecs=0 systemd.show_status=0";
        let disk = systemd::make(files, filter)?;
        drop(made);
        let machine = qemu::Machine {
            files,
            initrd: &disk.initrd,
            disk: Some(&disk.image),
            parameters: &format!("{parameters} {quiet} systemd.log_level=warning"),
        };
        return qemu::boot(kernel, &machine, kvm);
    }
    let initrd = &image::make(files, filter)?;
    drop(made);
    let machine = qemu::Machine {
        files,
        initrd,
        disk: None,
        parameters: &parameters,
    };
    qemu::boot(kernel, &machine, kvm)
}

fn natively(filter: &[String]) -> Result<Run> {
    let debug = cache::target().join("debug");
    let mut command = Command::new(debug.join("battery"));
    command.arg("run").arg("--weir").arg(debug.join("weir"));
    for part in filter {
        command.arg("--filter").arg(part);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let output = child.stdout.take().context("stdout is a pipe")?;
    let run = follow(Kernel::Host, output)?;
    // That some cases failed is in the table; anything else ends without the last line.
    child.wait()?;
    Ok(run)
}

/// Takes in what a battery says, shows its cases as they come, and keeps the rest in a log.
fn follow(kernel: Kernel, output: impl Read) -> Result<Run> {
    let folder = cache::target().join("xtask");
    std::fs::create_dir_all(&folder)?;
    let log = folder.join(format!("vm-test-{kernel}.log"));
    let mut file = File::create(&log)?;
    let mut run = Run::new(kernel);
    let start = Instant::now();
    let mut reader = BufReader::new(output);
    let mut bytes = Vec::new();
    // A console isn't always UTF-8.
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        file.write_all(text.as_bytes())?;
        match Line::parse(&text) {
            Some(Line::Begin { release, cases }) => {
                let seconds = start.elapsed().as_secs_f64();
                println!("  {kernel}: Linux {release}, {cases} cases, ready after {seconds:.1} s");
                run.expected = Some(cases);
            }
            Some(Line::Case(case)) => {
                run.cases.push(case);
                run.show_last();
            }
            Some(Line::Note(text)) => println!("  {kernel}: {text}"),
            Some(Line::End) => run.ended = true,
            None => {}
        }
        bytes.clear();
    }
    if !run.ended {
        let said = std::fs::read_to_string(&log)?;
        let lines: Vec<_> = said
            .lines()
            .filter(|line| !line.contains("@battery\tcase"))
            .collect();
        let last = lines[lines.len().saturating_sub(40)..].join("\n");
        bail!(
            "the battery on {kernel} didn't come to its end ({}):\n{last}",
            log.display()
        );
    }
    Ok(run)
}
