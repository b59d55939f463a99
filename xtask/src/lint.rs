//! `cargo xtask lint`: what a reviewer shouldn't have to look for.

mod source;

use anyhow::Result;
use xtask::steps::{Steps, cargo};

use crate::{ebpf, setup};

pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::new("lint", 7);
    // Clippy compiles: it needs libclang and the eBPF object as much as a build does.
    steps.step("looking for what the checks need", setup::run)?;
    steps.step("building the eBPF programs", ebpf::run)?;
    steps.quietly("format", cargo().args(["fmt", "--all", "--check"]))?;
    steps.step("layers, unsafe code and file sizes", source::check)?;

    let strict = ["--all-features", "--", "-D", "warnings"];
    let mut clippy = cargo();
    clippy.args([
        "clippy",
        "--workspace",
        "--exclude",
        "gateway-ebpf",
        "--all-targets",
    ]);
    steps.quietly("clippy", clippy.args(strict))?;
    // Its binary is for the BPF target alone, and checked when it is built.
    let mut clippy = cargo();
    clippy.args(["clippy", "--package", "gateway-ebpf", "--lib"]);
    steps.quietly("clippy of the types shared with eBPF", clippy.args(strict))?;

    let mut deny = cargo();
    // Advisories need their database from the network, which a build machine may not have. The
    // crates of all platforms are read, those that this one doesn't build included.
    deny.args([
        "deny",
        "--all-features",
        "check",
        "bans",
        "licenses",
        "sources",
    ]);
    steps.quietly(
        "dependencies and licences (advisories need the network)",
        &mut deny,
    )
}
