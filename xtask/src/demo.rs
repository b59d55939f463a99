//! `cargo xtask demo`: Weir's main job as one transcript, on a database that it brings along.
//!
//! Everything runs in a world of its own and is gone afterwards. What the reader is told to see
//! is checked; if any of it isn't so, the demo fails.

use anyhow::{Context as _, Result, ensure};
use xtask::{
    cache,
    steps::{Steps, cargo},
    world::{ADDRESS, Agent, Network, Setup, Weir, World},
};

use crate::{ebpf, setup};

const POLICY: &str = include_str!("../../policies/demo.toml");
const SCRIPT: &str = include_str!("demo/agent.sql");

pub(crate) fn run() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the demo loads eBPF programs and makes a cgroup and network namespaces: run it as root"
    );
    let mut steps = Steps::new("demo", 5);
    steps.step("looking for what the demo needs", setup::run)?;
    steps.step("building the eBPF programs", ebpf::run)?;
    let mut build = cargo();
    steps.quietly("building Weir", build.args(["build", "--package", "weir"]))?;
    let world = steps.step(
        "starting a PostgreSQL with customers and orders",
        World::new,
    )?;
    let setup = Setup::new(cache::target().join("debug/weir"), POLICY);
    let weir = steps.step("starting Weir in front of it", || world.weir(setup))?;

    let mut checks = Checks { failed: 0 };
    let mut agent = world.agent("coder", Network::OnlyLo)?;
    agent.settle()?;
    tell("Weir's policy: policies/demo.toml (without its tests)");
    show(POLICY.split("[[test]]").next().unwrap_or(POLICY).trim_end());
    the_agent_has_no_network(&agent, &mut checks)?;
    the_agent_works(&agent, &world, &mut checks)?;
    the_session_is_on_record(&weir, &mut checks)?;
    without_weir_there_is_no_database(weir, &agent, &mut checks)?;
    drop((agent, world));

    ensure!(
        checks.failed == 0,
        "{} of the above are not as they should be",
        checks.failed
    );
    println!("\nAll of it was so. Nothing of it is left on this machine.");
    Ok(())
}

fn the_agent_has_no_network(agent: &Agent, checks: &mut Checks) -> Result<()> {
    tell("An agent: a cgroup, and a network namespace with nothing but lo");
    let output = shell(agent, "ip -brief link; ip route")?;
    checks.see("there is no route to anywhere", output.lines().count() == 1);
    Ok(())
}

fn the_agent_works(agent: &Agent, world: &World, checks: &mut Checks) -> Result<()> {
    tell(&format!(
        "Inside: psql to the database's own address, {ADDRESS}, with any password"
    ));
    std::fs::write(agent.home().join("agent.sql"), SCRIPT)?;
    let output = shell(agent, "psql -X -a -f agent.sql 2>&1")?;
    checks.see(
        "the ssn is masked",
        output.contains("*******6789") && !output.contains("123-45"),
    );
    checks.see(
        "DROP TABLE is refused, with the rule's words",
        output.contains("schema changes go through migrations"),
    );
    checks.see(
        "UPDATE without WHERE is refused",
        output.contains("say which rows"),
    );
    checks.see(
        "the connection went on working",
        output.contains("UPDATE 1"),
    );
    let unharmed = "SELECT string_agg(paid::text, ',' ORDER BY id) FROM orders";
    let paid = world.postgres().sql(unharmed)?;
    checks.see(
        "the database has only the allowed update",
        paid == "true,true,false,true",
    );
    Ok(())
}

fn the_session_is_on_record(weir: &Weir, checks: &mut Checks) -> Result<()> {
    tell("Outside: what happened, from the journal");
    let sessions = cli(weir, &["sessions"])?;
    checks.see("the session is listed", sessions.contains("coder"));
    let json = weir.cli(&["sessions", "--json"])?.stdout;
    let id = json
        .split("\"id\":\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    let id = id.with_context(|| format!("no session in {json:?}"))?;
    let replay = cli(weir, &["replay", id])?;
    checks.see(
        "the replay has the refused statement",
        replay.contains("DROP TABLE customers"),
    );
    checks.see("and the rule that refused it", replay.contains("no-ddl"));
    checks.see(
        "and the rows as the agent saw them",
        replay.contains("*******6789"),
    );
    let verified = weir.cli(&["audit", "verify", "--all"])?;
    checks.see("the journal's hash chain is whole", verified.ok());
    Ok(())
}

fn without_weir_there_is_no_database(
    mut weir: Weir,
    agent: &Agent,
    checks: &mut Checks,
) -> Result<()> {
    tell("kill -9 of Weir: the agent has no database at all");
    weir.kill()?;
    let output = shell(agent, "psql -X -c 'SELECT 1' 2>&1")?;
    checks.see(
        "the agent is refused",
        output.contains("Connection refused"),
    );
    println!("  host$ weir run &");
    weir.restart()?;
    let output = shell(
        agent,
        "psql -X -At -c 'SELECT ssn FROM customers WHERE id = 1' 2>&1",
    )?;
    checks.see(
        "and served again once Weir is back",
        output == "*******6789",
    );
    Ok(())
}

/// Runs a line in the agent, shown with what it writes.
fn shell(agent: &Agent, line: &str) -> Result<String> {
    println!("  agent$ {line}");
    let output = agent.run("sh", &["-c", line])?.stdout;
    show(&output);
    Ok(output)
}

/// Runs a command of Weir's CLI, shown with what it writes.
fn cli(weir: &Weir, args: &[&str]) -> Result<String> {
    println!("  host$ weir {}", args.join(" "));
    let finished = weir.cli(args)?;
    let output = format!("{}\n{}", finished.stdout, finished.stderr);
    show(output.trim_end());
    Ok(output)
}

fn show(output: &str) {
    for line in output.lines() {
        println!("    {line}");
    }
}

fn tell(what: &str) {
    println!("\n== {what}\n");
}

/// What the reader is told to see, and how much of it wasn't there.
struct Checks {
    failed: usize,
}

impl Checks {
    fn see(&mut self, what: &str, holds: bool) {
        println!("  {} {what}", if holds { "[ok]    " } else { "[FAILED]" });
        self.failed += usize::from(!holds);
    }
}
