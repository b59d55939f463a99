//! `cargo xtask`: the one front door for people who develop Weir. CI calls nothing else.

mod ebpf;
mod fuzz;
mod lint;
mod setup;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Build, check, try and measure Weir.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing on this machine (Debian or Ubuntu); quick when nothing is
    Setup,
    /// Build the eBPF programs
    Ebpf,
    /// Check format, lints, module layers, licences and dependencies
    Lint,
    /// Run every test, end-to-end ones included (needs root)
    Test,
    /// Run each fuzz target for a while (needs no root)
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Only this target
        target: Option<String>,
    },
}

fn main() -> Result<()> {
    match Args::parse().command {
        Command::Setup => setup::run(),
        Command::Ebpf => ebpf::run(),
        Command::Lint => lint::run(),
        Command::Test => test::run(),
        Command::Fuzz { seconds, target } => fuzz::run(seconds, target.as_deref()),
    }
}
