//! `cargo xtask bench kernel`: what the hooks cost those that pass them.
//!
//! Time in a program is the kernel's own account (`bpf_stats`), read off the daemon's file
//! descriptors. What a client notices is measured without that account, by the same client inside
//! and outside of the slice, in turn.

use std::{collections::HashMap, fmt::Write as _, fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{programs::loaded_programs, sys};
use nix::sys::signal::Signal;
use xtask::{
    cache,
    steps::{Steps, cargo},
    world::{ADDRESS, Agent, Network, PORT, Process, Setup, Weir, World},
};

use super::{
    report::{Target, targets_table},
    subject::POLICY,
};
use crate::{ebpf, setup};

/// Where nothing of interest listens.
const SINK: &str = "127.0.0.1:7433";
const ROUNDS: usize = 5;
/// Few enough that the backlog of who accepts them never overflows.
const CONNECTS: usize = 500;

pub(crate) fn run() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the bench loads eBPF programs and makes cgroups and namespaces: run it as root"
    );
    let mut steps = Steps::new("bench-kernel", 5);
    steps.step("looking for what the bench needs", setup::run)?;
    steps.step("building the eBPF programs", ebpf::run)?;
    let mut build = cargo();
    build.args([
        "build",
        "--release",
        "--package",
        "xtask",
        "--package",
        "weir",
    ]);
    steps.quietly("building for release", &mut build)?;

    let world = World::new()?;
    let inside = world.agent("coder", Network::Host)?;
    let weir = world.weir(Setup::new(cache::target().join("release/weir"), POLICY))?;
    let log = world.dir().join("sink.log");
    let mut sink = world.outside(load());
    sink.args(["sink", SINK]);
    let mut sink = Process::start("sink", sink, &log, Signal::SIGTERM)?;
    // Both have to be there: who takes the connects, and Weir's notice of the agent's network.
    sink.until(Duration::from_secs(30), || {
        let database = format!("{ADDRESS}:{PORT}");
        [SINK, &database].iter().all(|to| {
            let mut once = inside_command(&inside, &["connects", to, "1"]);
            number(&mut once).is_ok()
        })
    })?;
    let programs = steps.step("time in the programs", || programs(&weir, &inside))?;
    let clients = steps.step("what clients notice", || clients(&world, &inside))?;
    let report = report(&programs, &clients)?;
    println!("\n{report}");
    fs::write(cache::root().join("bench/KERNEL.md"), report)?;
    Ok(())
}

/// The program of `load`.
fn load() -> std::path::PathBuf {
    cache::target().join("release/xtask")
}

/// A program's name, its calls, and nanoseconds of all.
type Account = HashMap<String, (u64, u64)>;

/// What each program did while an agent connected to the database and to something else, and sent
/// a stream.
fn programs(weir: &Weir, inside: &Agent) -> Result<Account> {
    let _counting = sys::enable_stats(sys::Stats::RunTime).context("bpf_stats")?;
    let before = account(weir)?;
    let database = format!("{ADDRESS}:{PORT}");
    let mapped = format!("[::ffff:{ADDRESS}]:{PORT}");
    for (to, count) in [
        (&*database, CONNECTS),
        (&*mapped, CONNECTS),
        (SINK, CONNECTS),
    ] {
        number(&mut inside_command(
            inside,
            &["connects", to, &count.to_string()],
        ))?;
    }
    number(&mut inside_command(inside, &["stream", SINK, "3"]))?;
    let mut after = account(weir)?;
    for (name, (calls, nanos)) in &mut after {
        let (calls_before, nanos_before) = before.get(name).copied().unwrap_or_default();
        *calls -= calls_before;
        *nanos -= nanos_before;
    }
    after.retain(|_, (calls, _)| *calls > 0);
    Ok(after)
}

/// The kernel's account of the programs that the daemon holds.
fn account(weir: &Weir) -> Result<Account> {
    let names: HashMap<u32, String> = loaded_programs()
        .filter_map(|info| {
            let info = info.ok()?;
            Some((info.id(), info.name_as_str()?.to_owned()))
        })
        .collect();
    let mut account = Account::new();
    let folder = format!("/proc/{}/fdinfo", weir.process().pid());
    for entry in fs::read_dir(folder)? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let field = |name: &str| -> Option<u64> {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            rest.trim().parse().ok()
        };
        let (Some(id), Some(nanos), Some(calls)) =
            (field("prog_id:"), field("run_time_ns:"), field("run_cnt:"))
        else {
            continue;
        };
        if let Some(name) = names.get(&u32::try_from(id)?) {
            account.insert(name.clone(), (calls, nanos));
        }
    }
    Ok(account)
}

/// What a client sees, inside the slice and outside of it.
struct Clients {
    /// Nanoseconds of a connect.
    connect: [f64; 2],
    /// Bytes a second.
    stream: [f64; 2],
}

fn clients(world: &World, inside: &Agent) -> Result<Clients> {
    let mut connect = [Vec::new(), Vec::new()];
    let mut stream = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (place, samples) in connect.iter_mut().enumerate() {
            let args = ["connects", SINK, &CONNECTS.to_string()];
            samples.push(number(&mut command(world, inside, place, &args))?);
        }
        for (place, samples) in stream.iter_mut().enumerate() {
            let args = ["stream", SINK, "2"];
            samples.push(number(&mut command(world, inside, place, &args))?);
        }
    }
    Ok(Clients {
        connect: connect.map(median),
        stream: stream.map(median),
    })
}

fn command(world: &World, inside: &Agent, place: usize, args: &[&str]) -> Command {
    if place == 0 {
        return inside_command(inside, args);
    }
    let mut command = world.outside(load());
    command.args(args);
    command
}

fn inside_command(inside: &Agent, args: &[&str]) -> Command {
    let mut command = inside.command(load());
    command.args(args);
    command
}

/// Runs a command that prints a number.
fn number(command: &mut Command) -> Result<f64> {
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {error}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim()
        .parse()
        .with_context(|| format!("{command:?} printed {text}"))
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_unstable_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn report(programs: &Account, clients: &Clients) -> Result<String> {
    let mut out = String::from("# What the hooks cost\n\n");
    writeln!(
        out,
        "`cargo xtask bench kernel`, on Linux {}, {} cores. Programs: the kernel's account of {CONNECTS} \
         connects each to a protected endpoint (IPv4 and v4-mapped) and to another one, and of a \
         stream over loopback. Clients: medians of {ROUNDS} rounds.\n",
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        std::thread::available_parallelism()?,
    )?;
    writeln!(out, "| program | calls | ns a call |\n|---|--:|--:|")?;
    let mut sorted: Vec<_> = programs.iter().collect();
    sorted.sort();
    for (name, (calls, nanos)) in sorted {
        writeln!(
            out,
            "| {name} | {calls} | {:.0} |",
            *nanos as f64 / *calls as f64
        )?;
    }
    let [inside, outside] = clients.connect;
    let [within, without] = clients.stream;
    writeln!(
        out,
        "\n| client | in the slice | outside |\n|---|--:|--:|\n\
         | connect to another endpoint, p50 µs | {:.1} | {:.1} |\n\
         | one stream, MiB/s | {:.0} | {:.0} |",
        inside / 1e3,
        outside / 1e3,
        within / 1024.0 / 1024.0,
        without / 1024.0 / 1024.0,
    )?;
    let of = |name: &str| {
        let (calls, nanos) = programs.get(name)?;
        Some(*nanos as f64 / *calls as f64)
    };
    let at_most = |what, ratio, limit| Target {
        what,
        ratio,
        limit,
        at_most: true,
    };
    targets_table(
        &mut out,
        [
            at_most("connect4, ns a call", of("connect4"), 500.0),
            at_most("connect6, ns a call", of("connect6"), 500.0),
            at_most("egress, ns a packet", of("egress"), 100.0),
            Target {
                what: "stream: throughput in the slice, of that outside",
                ratio: Some(within / without),
                limit: 0.97,
                at_most: false,
            },
        ],
    )?;
    Ok(out)
}
