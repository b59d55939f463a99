//! `cargo xtask release`: the binaries as they are shipped, compiled by what their own work looks
//! like (profile-guided), and laid out by it.
//!
//! ```text
//!   build that counts  ->  bench::train: Weir and the relay at work  ->  counts
//!   counts             ->  build that knows which code is used
//!   this, counting     ->  bench::train                              ->  branches
//!   branches           ->  the same code laid out (`bolt`)           ->  target/dist/{weir,xtask}
//! ```
//!
//! A statement's way is much code, each piece of it used once, and the kernel throws it out of the
//! first-level cache in between: Weir waits for its own instructions more than for anything else.
//! A compiler that knows what is used sets that apart from what isn't.
//!
//! The bench's relay is built and trained in the same way, or the comparison would be unfair.

mod bolt;

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use xtask::{
    cache,
    steps::{Steps, cargo},
};

use crate::{bench, ebpf, setup};

/// How many steps [`build`] takes.
pub(crate) const STEPS: usize = 5;

/// What is built: Weir, and the relay that it is measured against.
const PROGRAMS: [&str; 2] = ["weir", "xtask"];

pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::new("release", 2 + STEPS);
    steps.step("looking for what a release needs", setup::release)?;
    steps.step("building the eBPF programs", ebpf::run)?;
    let built = build(&mut steps)?;
    println!("release: {}", built.join("weir").display());
    Ok(())
}

/// Builds for release. Returns the folder that holds the programs.
pub(crate) fn build(steps: &mut Steps) -> Result<PathBuf> {
    bench::needs_root()?;
    let work = cache::target().join("pgo");
    let compiled = compile(steps, &work)?;
    lay_out(steps, &work, &compiled)
}

/// Compiles by counts of what is used at work.
fn compile(steps: &mut Steps, work: &Path) -> Result<PathBuf> {
    let merge = profdata()?;
    let counting = work.join("counting");
    let counts = work.join("counts");
    let profile = work.join("weir.profdata");

    let flags = [
        format!("-Cprofile-generate={}", counts.display()),
        // Which the compiler leaves out where it counts; libpg_query has functions that nobody
        // calls, and that call what this libc doesn't have.
        "-Clink-arg=-Wl,--gc-sections".to_owned(),
    ];
    steps.quietly("building what counts", &mut compiler(&flags))?;
    install(&release_folder(), &counting)?;
    steps.step("counting what is used at work", || {
        // The programs have not changed since: nor has what they use.
        if is_newer(&profile, &counting) {
            return Ok(());
        }
        let _ = fs::remove_dir_all(&counts);
        bench::train(&counting)?;
        let status = Command::new(&merge)
            .args(["merge", "--sparse", "-o"])
            .args([&profile, &counts])
            .status()?;
        if !status.success() {
            bail!("{} ended with {status}", merge.display());
        }
        Ok(())
    })?;
    let flags = [
        format!("-Cprofile-use={}", profile.display()),
        bolt::RELOCATIONS.to_owned(),
    ];
    steps.quietly("building by what is used", &mut compiler(&flags))?;
    Ok(release_folder())
}

/// Lays out what was compiled, by counts of which way it goes at work.
fn lay_out(steps: &mut Steps, work: &Path, compiled: &Path) -> Result<PathBuf> {
    let branching = work.join("branching");
    let branches = work.join("branches");
    steps.step("counting which way it goes at work", || {
        fs::create_dir_all(&branching)?;
        for program in PROGRAMS {
            let counting = branching.join(program);
            bolt::count(&compiled.join(program), &counting, &branches.join(program))?;
        }
        bench::train(&branching)
    })?;
    let laid_out = work.join("laid-out");
    let built = cache::target().join("dist");
    steps.step("laying it out by that", || {
        fs::create_dir_all(&laid_out)?;
        for program in PROGRAMS {
            let result = laid_out.join(program);
            bolt::lay_out(&compiled.join(program), &result, &branches.join(program))?;
        }
        install(&laid_out, &built)
    })?;
    Ok(built)
}

/// Cargo, to build the programs by these flags. A target by name keeps them from build scripts and
/// macros, which then are the same for both builds.
fn compiler(flags: &[String]) -> Command {
    let mut command = cargo();
    command
        .args(["build", "--release", "--target", &target()])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    for program in PROGRAMS {
        command.args(["--package", program]);
    }
    command
}

fn target() -> String {
    format!("{ARCH}-unknown-linux-gnu")
}

/// Where cargo puts what it builds.
fn release_folder() -> PathBuf {
    cache::target().join(target()).join("release")
}

/// Copies the programs to where the next build won't replace them.
fn install(from: &Path, to: &Path) -> Result<()> {
    for program in PROGRAMS {
        cache::install(&from.join(program), &to.join(program))?;
    }
    Ok(())
}

/// Whether a file is there, and newer than another.
fn is_newer(file: &Path, other: &Path) -> bool {
    let modified = |path: &Path| path.metadata()?.modified();
    matches!((modified(file), modified(other)), (Ok(a), Ok(b)) if a > b)
}

/// The program that merges counts. Its version has to be the compiler's: its own if it has one, or
/// Debian's, which comes with what the eBPF programs are built with.
fn profdata() -> Result<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .context("rustc can't be run")?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let own = sysroot
        .join("lib/rustlib")
        .join(target())
        .join("bin/llvm-profdata");
    let debian = PathBuf::from(setup::LLVM).join("bin/llvm-profdata");
    [own, debian]
        .into_iter()
        .find(|program| program.is_file())
        .context("llvm-profdata is missing: run `rustup component add llvm-tools`")
}
