//! `cargo xtask`: the one front door for people who develop Weir.

mod ebpf;
mod setup;

use clap::Parser;

/// Tasks of Weir's development.
#[derive(Parser)]
enum Task {
    /// Install everything that building, testing and the demo need
    Setup,
    /// Build the eBPF programs that `weir` embeds
    Ebpf,
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::Setup => setup::run(),
        Task::Ebpf => ebpf::run(),
    }
}
