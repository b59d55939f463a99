//! Every known way around a gateway, tried by a real attacker against a real database behind Weir.
//!
//! ```text
//!   run        builds a world (xtask's), starts Weir in it, and for each scenario and state:
//!    +- control    the attack from a container that nothing governs must reach the database
//!    +- attack     the same from an agent's container: what was seen is held against the table
//!   contain    the container engine: namespaces, mounts, capabilities; then becomes ..
//!   attack     .. the attacker, which knows the database's address and a role without password
//!   init       the same as `run`, as process 1 of a virtual machine
//!   podman     scenarios in containers of podman's, as a unit of a machine with systemd
//! ```
//!
//! The attacker wins when the database says the canary's word to it, or when the database's own
//! log has a connection that isn't Weir's.

mod attack;
mod container;
mod guest;
mod judge;
mod kernel;
mod podman;
mod props;
mod report;
mod runner;
mod scenario;
mod scenarios;
mod stage;
mod sys;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Tries every known way around Weir on this kernel.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the scenarios whose name contains one of the filters, or all
    Run {
        /// The `weir` binary
        #[arg(long)]
        weir: PathBuf,
        /// Parts of scenarios' names
        #[arg(long)]
        filter: Vec<String>,
    },
    /// List the scenarios
    List,
    /// Make what a guest can't make for itself, and print its path: the database's template
    Prepare,
    #[command(hide = true)]
    Contain(container::Plan),
    #[command(hide = true, subcommand)]
    Accomplice(props::Role),
    #[command(hide = true)]
    Attack { scenario: String },
    /// Run as a unit of a machine that has systemd and podman
    #[command(hide = true)]
    Podman,
    #[command(hide = true)]
    AttackEach { scenarios: Vec<String> },
    #[command(hide = true)]
    Hammer,
}

fn main() -> ExitCode {
    if std::process::id() == 1 && std::env::args().len() < 2 {
        guest::init();
    }
    let result = match Args::parse().command {
        Command::Run { weir, filter } => runner::run(&weir, &filter),
        Command::List => list(),
        Command::Prepare => stage::prepare(),
        Command::Contain(plan) => container::contain(&plan),
        Command::Accomplice(role) => props::main(&role),
        Command::Attack { scenario } => attack::main(&scenario),
        Command::Podman => podman::run(),
        Command::AttackEach { scenarios } => attack::each(&scenarios),
        Command::Hammer => attack::hammer::main(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<()> {
    for scenario in scenarios::ALL {
        println!("{:<28} {}", scenario.name, scenario.story);
    }
    Ok(())
}
