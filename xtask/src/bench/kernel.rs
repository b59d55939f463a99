//! `cargo xtask bench kernel`: what the hooks cost those that pass them.
//!
//! Time in a program is the kernel's own account (`bpf_stats`), read off the daemon's file
//! descriptors. What a client notices is measured without that account, by the same client inside
//! and outside of the slice, in turn.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::{programs::loaded_programs, sys};
use nix::sys::signal::Signal;
use xtask::{
    cache,
    steps::Steps,
    world::{ADDRESS, Agent, Network, PORT, Process, Setup, Weir, World},
};

use super::{
    needs_root, plain,
    report::{Target, targets_table},
    subject::POLICY,
};
use crate::{ebpf, setup};

/// Where nothing of interest listens.
const SINK: &str = "127.0.0.1:7433";
/// Many short ones: a machine that is shared is slow for seconds at a time.
const ROUNDS: usize = 21;
/// Few enough that the backlog of who accepts them never overflows.
const CONNECTS: usize = 200;

pub(crate) fn run() -> Result<()> {
    needs_root()?;
    let mut steps = Steps::new("bench-kernel", 5);
    steps.step("looking for what the bench needs", setup::run)?;
    steps.step("building the eBPF programs", ebpf::run)?;
    let binaries = plain(&mut steps)?;

    let world = World::new()?;
    let inside = world.agent("coder", Network::Host)?;
    let weir = world.weir(Setup::new(binaries.join("weir"), POLICY))?;
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

/// A program's name, and nanoseconds a call in each round that had any.
type Costs = BTreeMap<String, Vec<f64>>;

/// What each program costs.
#[derive(Default)]
struct Programs {
    /// While an agent connects to the database and to something else: a connection's first packets
    /// and its last.
    connects: Costs,
    /// While it sends a stream.
    stream: Costs,
}

fn programs(weir: &Weir, inside: &Agent) -> Result<Programs> {
    let _counting = sys::enable_stats(sys::Stats::RunTime).context("bpf_stats")?;
    let database = format!("{ADDRESS}:{PORT}");
    let mapped = format!("[::ffff:{ADDRESS}]:{PORT}");
    let count = CONNECTS.to_string();
    let mut programs = Programs::default();
    for _ in 0..ROUNDS {
        let before = account(weir)?;
        for to in [&*database, &*mapped, SINK] {
            number(&mut inside_command(inside, &["connects", to, &count]))?;
        }
        let between = account(weir)?;
        number(&mut inside_command(inside, &["stream", SINK, "1"]))?;
        spent(&before, &between, &mut programs.connects);
        spent(&between, &account(weir)?, &mut programs.stream);
    }
    Ok(programs)
}

/// Adds a round, given the accounts before and after it.
fn spent(before: &Account, after: &Account, costs: &mut Costs) {
    for (name, (calls, nanos)) in after {
        let (calls_before, nanos_before) = before.get(name).copied().unwrap_or_default();
        if *calls > calls_before {
            let cost = (nanos - nanos_before) as f64 / (calls - calls_before) as f64;
            costs.entry(name.clone()).or_default().push(cost);
        }
    }
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

/// What a client sees in each round, inside the slice and outside of it.
struct Clients {
    /// Nanoseconds of a connect.
    connect: Vec<[f64; 2]>,
    /// Bytes a second.
    stream: Vec<[f64; 2]>,
}

fn clients(world: &World, inside: &Agent) -> Result<Clients> {
    let mut clients = Clients {
        connect: Vec::new(),
        stream: Vec::new(),
    };
    for round in 0..ROUNDS {
        // Neither is always the first.
        let first = round % 2;
        let both = |args: &[&str]| -> Result<[f64; 2]> {
            let mut samples = [0.0; 2];
            for place in [first, 1 - first] {
                samples[place] = number(&mut command(world, inside, place, args))?;
            }
            Ok(samples)
        };
        clients
            .connect
            .push(both(&["connects", SINK, &CONNECTS.to_string()])?);
        clients.stream.push(both(&["stream", SINK, "1"])?);
    }
    Ok(clients)
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

fn median(samples: impl Iterator<Item = f64>) -> f64 {
    let mut samples: Vec<f64> = samples.collect();
    samples.sort_unstable_by(f64::total_cmp);
    samples[samples.len() / 2]
}

fn report(programs: &Programs, clients: &Clients) -> Result<String> {
    let mut out = String::from("# What the hooks cost\n\n");
    writeln!(
        out,
        "`cargo xtask bench kernel`, on Linux {}, {} cores. Programs: the kernel's account of {CONNECTS} \
         connects each to a protected endpoint (IPv4 and v4-mapped) and to another one, and of a \
         stream over loopback. All figures are medians of {ROUNDS} rounds, the stream's ratio that \
         of the rounds' own.\n",
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        std::thread::available_parallelism()?,
    )?;
    let cost = |costs: &Costs, name: &str| Some(median(costs.get(name)?.iter().copied()));
    let cell = |cost: Option<f64>| cost.map_or("–".to_owned(), |nanos| format!("{nanos:.0}"));
    writeln!(
        out,
        "| program, ns a call | connects | stream |\n|---|--:|--:|"
    )?;
    for name in programs.connects.keys() {
        let connects = cell(cost(&programs.connects, name));
        let stream = cell(cost(&programs.stream, name));
        writeln!(out, "| {name} | {connects} | {stream} |")?;
    }
    let of_place =
        |rounds: &[[f64; 2]], place: usize| median(rounds.iter().map(|both| both[place]));
    writeln!(
        out,
        "\n| client | in the slice | outside |\n|---|--:|--:|\n\
         | connect to another endpoint, p50 µs | {:.1} | {:.1} |\n\
         | one stream, MiB/s | {:.0} | {:.0} |",
        of_place(&clients.connect, 0) / 1e3,
        of_place(&clients.connect, 1) / 1e3,
        of_place(&clients.stream, 0) / 1024.0 / 1024.0,
        of_place(&clients.stream, 1) / 1024.0 / 1024.0,
    )?;
    let at_most = |what, ratio, limit| Target {
        what,
        ratio,
        limit,
        at_most: true,
    };
    targets_table(
        &mut out,
        [
            at_most(
                "connect4, ns a call",
                cost(&programs.connects, "connect4"),
                500.0,
            ),
            at_most(
                "connect6, ns a call",
                cost(&programs.connects, "connect6"),
                500.0,
            ),
            at_most(
                "egress, ns a packet of a stream",
                cost(&programs.stream, "egress"),
                100.0,
            ),
            Target {
                what: "stream: throughput in the slice, of that outside",
                ratio: Some(median(clients.stream.iter().map(|both| both[0] / both[1]))),
                limit: 0.97,
                at_most: false,
            },
        ],
    )?;
    Ok(out)
}
