//! `cargo xtask`: the one front door for people who develop Weir. CI calls nothing else.

mod bench;
mod demo;
mod ebpf;
mod fuzz;
mod lint;
mod load;
mod relay;
mod release;
mod setup;
mod soak;
mod test;
mod vm;

use std::{net::SocketAddr, process::ExitCode};

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
    /// Show the main job on a throw-away database, as one transcript (needs root)
    Demo,
    /// Build the binary that is shipped, to target/dist (needs root)
    Release,
    /// Measure Weir beside a bare relay and pgbouncer; writes bench/RESULTS.md (needs root)
    Bench(bench::Args),
    /// Connect very often through restarts, and look for mix-ups and leaks (needs root)
    Soak(soak::Args),
    /// Try every known way around Weir, on this kernel and on others under QEMU (needs root)
    VmTest(vm::Args),
    /// Run each fuzz target for a while (needs no root)
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Only this target
        target: Option<String>,
    },
    /// The bench's bare relay
    #[command(hide = true)]
    Relay {
        listen: SocketAddr,
        upstream: SocketAddr,
    },
    /// Takes what `connects` and `stream` send
    #[command(hide = true)]
    Sink { listen: SocketAddr },
    /// Connects again and again
    #[command(hide = true)]
    Connects { to: SocketAddr, count: usize },
    /// The soak's client
    #[command(hide = true)]
    Dials(soak::Client),
    /// Sends as much as it can
    #[command(hide = true)]
    Stream { to: SocketAddr, seconds: u64 },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Setup => setup::run(),
        Command::Ebpf => ebpf::run(),
        Command::Lint => lint::run(),
        Command::Test => test::run(),
        Command::Demo => demo::run(),
        Command::Release => release::run(),
        Command::VmTest(args) => vm::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::Dials(args) => soak::client(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Relay { listen, upstream } => relay::run(listen, upstream),
        Command::Sink { listen } => load::sink(listen),
        Command::Connects { to, count } => load::connects(to, count),
        Command::Stream { to, seconds } => load::stream(to, seconds),
        Command::Fuzz { seconds, target } => fuzz::run(seconds, target.as_deref()),
    }
}
