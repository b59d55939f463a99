//! `cargo xtask soak`: very many connects from eight agents, through restarts of the daemon, and then a
//! look at what is left of them. Nobody may be taken for somebody else, and nothing may be left.
//!
//! Three of the agents share the host's network, so that nothing but their cgroup tells them apart.
//! The daemon has a service manager that keeps its listeners: a connect waits while there is none.

mod client;
mod leaks;

use std::{
    collections::HashMap,
    fmt::Write as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::{
    cache,
    steps::{Steps, cargo},
    world::{ADDRESS, Agent, Network, PORT, Process, Setup, Weir, World},
};

pub(crate) use self::client::{Args as Client, run as client};
use self::{client::Told, leaks::Left};
use crate::{ebpf, setup};

/// What the agents ask for.
const VALUE: &str = "123-45-6789";

const NETWORKS: [Network; 8] = [
    Network::OnlyLo,
    Network::OnlyLo,
    Network::OnlyLo,
    Network::Bridge,
    Network::Bridge,
    Network::Host,
    Network::Host,
    Network::Host,
];

/// How long there is no daemon, beside the time that it takes to start.
const GAP: Duration = Duration::from_millis(200);
/// Until nothing moves any more: an origin that nobody asks for is forgotten after 60 to 70 seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// How much.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Connects of all agents together
    #[arg(long, default_value_t = 100_000)]
    connects: u64,
}

/// The whole, with Weir as it is released.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the soak makes namespaces and cgroups: run it as root"
    );
    let mut steps = Steps::new("soak", 4);
    steps.step("looking for what the soak needs", setup::run)?;
    steps.step("building the eBPF programs", ebpf::run)?;
    let mut build = cargo();
    build.args(["build", "--release", "--package", "weir"]);
    steps.quietly("building for release", &mut build)?;
    let what = format!("{} connects from {} agents", args.connects, NETWORKS.len());
    steps.step(&what, || {
        soak(cache::target().join("release/weir"), args.connects)
    })
}

/// A short one, with Weir as tests build it.
pub(crate) fn smoke(connects: u64) -> Result<()> {
    soak(cache::target().join("debug/weir"), connects)
}

fn soak(binary: PathBuf, connects: u64) -> Result<()> {
    let world = World::new()?;
    let names: Vec<_> = (1..=NETWORKS.len())
        .map(|number| format!("soak{number}"))
        .collect();
    let mut weir = world.weir(Setup {
        managed: true,
        results: "digest",
        more: names
            .iter()
            .map(|name| declare(&world, name))
            .collect::<Result<_>>()?,
        ..Setup::new(binary, policy(&names))
    })?;
    let before = warm_up(&world, &weir)?;

    let start = Instant::now();
    let agents = names.iter().zip(NETWORKS).map(|(name, network)| {
        let mut agent = world.agent(name, network)?;
        agent.settle()?;
        Ok(agent)
    });
    let agents = agents.collect::<Result<Vec<_>>>()?;
    let each = connects / agents.len() as u64;
    let mut clients = Vec::new();
    for (number, (agent, name)) in agents.iter().zip(&names).enumerate() {
        // The host's network has no process of its own that stays.
        until_served(agent, name, number)?;
        clients.push(dial(agent, name, each, number)?);
    }
    let restarts = run_through_restarts(&mut weir, &mut clients, each)?;
    let took = start.elapsed();
    let told = clients.iter().map(|client| Told::last(&client.output()));
    let told = told.collect::<Result<Vec<_>>>()?;
    let misjudged = check_records(&weir, &names, &told)?;
    drop((clients, agents));
    let after = Left::settled(&weir, &world, &before, PATIENCE)?;

    let all = told
        .iter()
        .copied()
        .fold(Told::default(), |sum, one| sum + one);
    let soaked = Soaked {
        all,
        misjudged,
        restarts,
        took,
        before,
        after,
    };
    println!("\n{}", soaked.table());
    soaked.verdict(connects / names.len() as u64 * names.len() as u64)
}

/// Everything that comes and goes has been there once: what is left then is what has to be.
fn warm_up(world: &World, weir: &Weir) -> Result<Left> {
    let mut agent = world.agent("soak1", Network::OnlyLo)?;
    agent.settle()?;
    until_served(&agent, "soak1", 0)?;
    drop(agent);
    Left::quiet(weir, world, PATIENCE)
}

/// Waits until a whole session of this agent has had its answer.
fn until_served(agent: &Agent, name: &str, number: usize) -> Result<()> {
    let start = Instant::now();
    loop {
        let mut once = dial(agent, name, 1, number)?;
        once.wait(Duration::from_secs(60))?;
        if Told::last(&once.output())?.whole == 1 {
            return Ok(());
        }
        ensure!(
            start.elapsed() < Duration::from_secs(30),
            "{name} isn't served: {}",
            once.output()
        );
    }
}

fn dial(agent: &Agent, name: &str, count: u64, number: usize) -> Result<Process> {
    let program = std::env::current_exe()?.display().to_string();
    let to = format!("{ADDRESS}:{PORT}");
    let (count, answer) = (count.to_string(), masked(number + 1));
    agent.start(&program, &["dials", &to, name, &count, &answer])
}

/// Restarts the daemon, by turns without warning and in order, until all clients are done.
fn run_through_restarts(weir: &mut Weir, clients: &mut [Process], each: u64) -> Result<u64> {
    let total = each * clients.len() as u64;
    // Twenty of a large one.
    let every = (total / 21).max(400);
    let (mut restarts, mut next) = (0, every);
    let mut shown = 0;
    loop {
        let counts = clients.iter().map(|client| Told::last(&client.output()));
        let counts = counts.collect::<Result<Vec<_>>>()?;
        let done: u64 = counts.iter().map(Told::all).sum();
        if done * 10 / total > shown {
            shown = done * 10 / total;
            println!("      {done} of {total}, {restarts} restarts");
        }
        let mut ended = true;
        for client in &mut *clients {
            ended &= client.exited()?.is_some();
        }
        if ended {
            return Ok(restarts);
        }
        if done >= next && done + every / 2 < total {
            if u64::is_multiple_of(restarts, 2) {
                weir.kill()?;
            } else {
                let status = weir.drain(Duration::from_secs(30))?;
                ensure!(status.success(), "the daemon ended with {status}");
            }
            thread::sleep(GAP);
            weir.restart()?;
            restarts += 1;
            next = done + every;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// How many sessions are on record under an agent that isn't the one which claims to be the user; an
/// error if one that was answered isn't on record, or a record isn't whole.
fn check_records(weir: &Weir, names: &[String], told: &[Told]) -> Result<u64> {
    let verified = weir.cli(&["audit", "verify", "--all"])?;
    ensure!(verified.ok(), "{} {}", verified.stdout, verified.stderr);
    let start = Instant::now();
    loop {
        let listed = weir.cli(&["sessions", "--json", "--limit", "100000000"])?;
        let (mut of, mut misjudged) = (HashMap::<&str, u64>::new(), 0);
        for line in listed.stdout.lines() {
            let (agent, user) = (field(line, "agent")?, field(line, "claimed_user")?);
            let cgroup = field(line, "cgroup")?;
            let own = cgroup
                .rsplit('/')
                .next()
                .is_some_and(|last| last.starts_with(user));
            misjudged += u64::from(agent != user || !own);
            *of.entry(agent).or_default() += 1;
        }
        let missing = names.iter().zip(told).find(|(name, told)| {
            of.get(name.as_str()).copied().unwrap_or_default() < told.right + told.whole
        });
        // The index follows the journals a little later.
        match missing {
            None => return Ok(misjudged),
            Some((name, told)) if start.elapsed() > PATIENCE => {
                bail!(
                    "{name} was answered as {told:?}, and has {:?} sessions",
                    of.get(&**name)
                )
            }
            Some(_) => thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// A text of one line of JSON, of which it is known that nothing in it is escaped.
fn field<'a>(line: &'a str, name: &str) -> Result<&'a str> {
    let rest = line
        .split_once(&format!("\"{name}\":\""))
        .map(|(_, rest)| rest);
    let text = rest
        .and_then(|rest| rest.split_once('"'))
        .map(|(text, _)| text);
    text.with_context(|| format!("no {name} in {line}"))
}

/// An agent's part of the configuration.
fn declare(world: &World, name: &str) -> Result<String> {
    let slice = world.slice().file_name().context("a slice has a name")?;
    let slice = slice.to_string_lossy();
    Ok(format!(
        "\n[agent.{name}]\nmatch = {{ cgroup = \"{slice}/{name}-*\" }}\npreflight = \"warn\"\n"
    ))
}

/// Each agent sees one more of the value's characters than the one before it.
fn policy(names: &[String]) -> String {
    let mut text = "version = 1\n".to_owned();
    for (number, name) in names.iter().enumerate() {
        // Writing to a String doesn't fail.
        let _ = write!(
            text,
            "\n[[rule]]\nname = \"{name}\"\nagents = [\"{name}\"]\neffects = [\"read\"]\n\
             objects = [\"public.customers\"]\ndecision = \"allow\"\n  [[rule.mask]]\n  \
             columns = [\"ssn\"]\n  with = \"partial\"\n  keep_last = {}\n",
            number + 1
        );
    }
    text
}

fn masked(kept: usize) -> String {
    let hidden = VALUE.len().saturating_sub(kept);
    "*".repeat(hidden) + &VALUE[hidden..]
}

/// What came of it all.
struct Soaked {
    all: Told,
    misjudged: u64,
    restarts: u64,
    took: Duration,
    before: Left,
    after: Left,
}

impl Soaked {
    fn table(&self) -> String {
        let all = &self.all;
        let mut text = String::new();
        let mut row = |what: &str, figure: String| {
            // Writing to a String doesn't fail.
            let _ = writeln!(text, "{what:44} {figure}");
        };
        let seconds = self.took.as_secs_f64();
        row("connects", format!("{} in {seconds:.0} s", all.all()));
        row(
            "  refused for their database, rightly",
            all.right.to_string(),
        );
        row(
            "  whole sessions with their own answer",
            all.whole.to_string(),
        );
        row("  cut by a restart", all.cut.to_string());
        row("  refused by the kernel", all.refused.to_string());
        row("  wrong", all.wrong.to_string());
        row("on record as somebody else's", self.misjudged.to_string());
        row(
            "restarts, every other one a kill",
            self.restarts.to_string(),
        );
        for (what, before, after) in self.before.beside(&self.after) {
            row(what, format!("{after} (before: {before})"));
        }
        text
    }

    fn verdict(&self, wanted: u64) -> Result<()> {
        let all = &self.all;
        ensure!(
            all.all() == wanted,
            "{} of {wanted} connects were made",
            all.all()
        );
        ensure!(
            all.wrong == 0 && self.misjudged == 0,
            "somebody got what wasn't theirs"
        );
        ensure!(
            all.refused == 0,
            "a connect was refused where it had to wait"
        );
        // Those that are open when the daemon goes; two at a time of each agent.
        let most = (self.restarts + 1) * 2 * NETWORKS.len() as u64;
        ensure!(all.cut <= most, "{} connections were cut", all.cut);
        self.after.check(&self.before)
    }
}
