//! `cargo xtask test`: everything, or an error that says why not. Nothing is skipped.

use anyhow::{Result, ensure};
use xtask::steps::{Steps, cargo};

use crate::{ebpf, fuzz, setup, soak, vm};

/// Long enough to find what a change broke at once; `cargo xtask fuzz` looks further.
const SMOKE_SECONDS: u32 = 10;

/// As above; `cargo xtask soak` has fifty times as many.
const SMOKE_CONNECTS: u64 = 2000;

/// Seeds of random sequences of messages, in place of the one that a `cargo test` by hand takes.
const SEEDS: &str = "1..4";

pub(crate) fn run() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the end-to-end tests load eBPF programs and make cgroups and network namespaces, which \
         needs root: run `cargo xtask test` as root, or `cargo test` for the tests that need none"
    );
    let mut steps = Steps::new("test", 6);
    steps.step("looking for what the tests need", setup::run)?;
    steps.step("building the eBPF programs", ebpf::run)?;
    let mut tests = cargo();
    tests.args([
        "test",
        "--workspace",
        "--features",
        "weir/e2e",
        "--no-fail-fast",
    ]);
    tests.env("WEIR_SEEDS", SEEDS);
    steps.openly("unit, property and end-to-end tests", &mut tests)?;
    steps.step("many connects, through restarts", || {
        soak::smoke(SMOKE_CONNECTS)
    })?;
    steps.step("every known way around Weir, on all kernels", || {
        vm::run(&vm::Args::all())
    })?;
    steps.step("fuzz targets, a short run of each", || {
        fuzz::run(SMOKE_SECONDS, None)
    })
}
