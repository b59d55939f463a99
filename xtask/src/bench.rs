//! `cargo xtask bench`: Weir beside a bare relay, pgbouncer and nothing at all.
//!
//! All of it in one run on one machine: subjects take turns within each workload, rounds are
//! repeated, and the report gives medians and ratios. Absolute figures say more about the machine
//! than about Weir.

mod kernel;
mod report;
mod subject;
mod train;
mod workload;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use xtask::{
    cache,
    steps::{Steps, cargo},
    world::{Agent, Network, Process, World},
};

use self::{
    subject::Running,
    workload::{ALL, Sample, Workload, median},
};
pub(crate) use self::{subject::Subject, train::train};
use crate::{ebpf, release, setup};

const IDLE_SESSIONS: u64 = 200;

/// What is to be measured.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// One short round of a plain build, to see that it works
    #[arg(long)]
    quick: bool,
    /// Only these subjects
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Subject>,
    /// Only the workloads whose names contain this
    #[arg(long, default_value = "", hide_default_value = true)]
    workload: String,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// What the hooks cost: writes bench/KERNEL.md
    Kernel,
}

/// The medians of a run.
pub(crate) struct Results {
    pub(crate) rounds: usize,
    pub(crate) length: Duration,
    /// Bytes of memory of an idle session.
    pub(crate) idle: Option<u64>,
    /// The folder of the programs.
    binaries: PathBuf,
    subjects: Vec<Subject>,
    samples: HashMap<(&'static str, usize), Vec<Sample>>,
}

impl Results {
    /// A workload's figures of one subject.
    pub(crate) fn of(&self, workload: &'static str, subject: Subject) -> Option<Sample> {
        let place = self.subjects.iter().position(|other| *other == subject)?;
        self.samples
            .get(&(workload, place))
            .map(|samples| median(samples))
    }

    /// The subjects of a workload in turn, with their places, as often as a round has them.
    fn turns(&self, workload: &Workload) -> Vec<(usize, Subject)> {
        let turn = self.subjects.iter().copied().enumerate();
        turn.cycle()
            .take(self.subjects.len() * workload.turns())
            .collect()
    }

    /// A workload's figures of all subjects.
    pub(crate) fn all(&self, workload: &'static str) -> impl Iterator<Item = (Subject, Sample)> {
        let of = move |subject: &Subject| Some((*subject, self.of(workload, *subject)?));
        self.subjects.iter().filter_map(of)
    }
}

/// # Errors
/// If this isn't root.
pub(crate) fn needs_root() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "this makes namespaces and cgroups: run it as root"
    );
    Ok(())
}

/// A build as everybody makes it: quicker than a release.
fn plain(steps: &mut Steps) -> Result<PathBuf> {
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
    Ok(cache::target().join("release"))
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(What::Kernel) = args.what {
        return kernel::run();
    }
    needs_root()?;
    let subjects = if args.only.is_empty() {
        use Subject::{Direct, Pgbouncer, Relay, WeirDigest, WeirFull};
        vec![Direct, Pgbouncer, Relay, WeirFull, WeirDigest]
    } else {
        args.only.clone()
    };
    let chosen = |w: &Workload| w.name.contains(&args.workload);
    let workloads: Vec<_> = ALL.into_iter().filter(chosen).collect();
    ensure!(
        !workloads.is_empty(),
        "no workload's name contains \"{}\"",
        args.workload
    );
    let whole = args.only.is_empty() && args.workload.is_empty();
    let (rounds, seconds) = if args.quick { (1, 2) } else { (5, 3) };
    let builds = if args.quick { 1 } else { release::STEPS };
    let with_weir = subjects.iter().any(|subject| subject.is_weir());
    let mut steps = Steps::new(
        "bench",
        2 + builds + rounds + usize::from(with_weir && whole),
    );
    steps.step(
        "looking for what the bench needs",
        match args.quick {
            true => setup::run,
            false => setup::release,
        },
    )?;
    steps.step("building the eBPF programs", ebpf::run)?;
    let binaries = match args.quick {
        true => plain(&mut steps)?,
        false => release::build(&mut steps)?,
    };

    let world = World::new()?;
    world.postgres().sql(
        "CREATE TABLE export AS SELECT n AS id, 'label ' || n AS label, n * 1.25 AS amount \
         FROM generate_series(1, 1000000) n; ALTER TABLE export OWNER TO weir_agents",
    )?;
    world.postgres().sql("VACUUM ANALYZE export")?;
    let agent = world.agent("coder", Network::OnlyLo)?;
    let length = Duration::from_secs(seconds);
    let mut results = Results {
        binaries,
        rounds,
        length,
        idle: None,
        subjects,
        samples: HashMap::new(),
    };
    for round in 1..=rounds {
        steps.step(&format!("round {round} of {rounds}"), || {
            measure(&world, &agent, &workloads, &mut results)
        })?;
    }
    if with_weir && whole {
        let idle = || idle_session(&world, &agent, &results.binaries);
        results.idle = Some(steps.step("memory of idle sessions", idle)?);
    }
    let report = report::text(&results)?;
    println!("\n{report}");
    // A part of it would replace what the whole has shown.
    if whole {
        std::fs::write(cache::root().join("bench/RESULTS.md"), report)?;
    }
    Ok(())
}

/// One round: each workload, by each subject in turn.
fn measure(
    world: &World,
    agent: &Agent,
    workloads: &[Workload],
    results: &mut Results,
) -> Result<()> {
    for workload in workloads {
        for (place, subject) in results.turns(workload) {
            // A fresh start for each: two Weirs can't have one slice, and nobody has it warmer.
            let running = Running::start(subject, world, agent, &results.binaries)?;
            let context = || format!("{}, {subject}", workload.name);
            let run = |length| measure_once(workload, length, world, &running);
            run(Duration::from_secs(1)).with_context(context)?;
            let sample = run(results.length).with_context(context)?;
            println!(
                "      {:40} {subject:14} {:10.1} tx/s {:8.1} µs",
                workload.name, sample.rate, sample.cpu
            );
            results
                .samples
                .entry((workload.name, place))
                .or_default()
                .push(sample);
        }
    }
    Ok(())
}

fn measure_once(
    workload: &Workload,
    length: Duration,
    world: &World,
    running: &Running<'_>,
) -> Result<Sample> {
    let client = |program: &str| running.client(program);
    workload::run(
        workload,
        length,
        world.dir(),
        running.gateway().map(Process::pid),
        &client,
    )
}

/// Bytes that one more idle session costs Weir.
fn idle_session(world: &World, agent: &Agent, binaries: &Path) -> Result<u64> {
    const OPEN: &str = "import psycopg, sys, time\n\
        all = [psycopg.connect() for _ in range(int(sys.argv[1]))]\n\
        [db.execute('SELECT 1') for db in all]\n\
        print('open', flush=True)\ntime.sleep(600)\n";
    let running = Running::start(Subject::WeirFull, world, agent, binaries)?;
    let gateway = running.gateway().context("Weir runs")?;
    let python = cache::python().display().to_string();
    let open = |count: u64| -> Result<Process> {
        let mut sessions = agent.start(&python, &["-c", OPEN, &count.to_string()])?;
        sessions.until_says("open", Duration::from_secs(60))?;
        Ok(sessions)
    };
    // The first ones pay for what all share.
    let _first = open(8)?;
    let before = gateway.resident()?;
    let _many = open(IDLE_SESSIONS)?;
    Ok(gateway.resident()?.saturating_sub(before) / IDLE_SESSIONS)
}
