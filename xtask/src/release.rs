//! `cargo xtask release`: the binaries as they are shipped, compiled by what their own work looks
//! like (profile-guided).
//!
//! ```text
//!   build that counts  ->  bench::train: Weir and the relay at work  ->  counts
//!   counts             ->  build that knows which code is used       ->  target/dist/{weir,xtask}
//! ```
//!
//! A statement's way is much code, each piece of it used once, and the kernel throws it out of the
//! first-level cache in between: Weir waits for its own instructions more than for anything else.
//! A compiler that knows what is used sets that apart from what isn't.
//!
//! The bench's relay is built and trained in the same way, or the comparison would be unfair.

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
pub(crate) const STEPS: usize = 3;

/// What is built: Weir, and the relay that it is measured against.
const PROGRAMS: [&str; 2] = ["weir", "xtask"];

pub(crate) fn run() -> Result<()> {
    let mut steps = Steps::new("release", 2 + STEPS);
    steps.step("looking for what a release needs", setup::run)?;
    steps.step("building the eBPF programs", ebpf::run)?;
    let built = build(&mut steps)?;
    println!("release: {}", built.join("weir").display());
    Ok(())
}

/// Builds for release. Returns the folder that holds the programs.
pub(crate) fn build(steps: &mut Steps) -> Result<PathBuf> {
    bench::needs_root()?;
    let merge = profdata()?;
    let counting = cache::target().join("pgo/counting");
    let counts = cache::target().join("pgo/counts");
    let profile = cache::target().join("pgo/weir.profdata");

    let flags = [
        format!("-Cprofile-generate={}", counts.display()),
        // Which the compiler leaves out where it counts; libpg_query has functions that nobody
        // calls, and that call what this libc doesn't have.
        "-Clink-arg=-Wl,--gc-sections".to_owned(),
    ];
    steps.quietly("building what counts", &mut compiler(&flags))?;
    install(&counting)?;
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
    let flags = [format!("-Cprofile-use={}", profile.display())];
    steps.quietly("building for release", &mut compiler(&flags))?;
    let built = cache::target().join("dist");
    install(&built)?;
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

/// Copies what was built to where the next build won't replace it.
fn install(folder: &Path) -> Result<()> {
    let built = cache::target().join(target()).join("release");
    for program in PROGRAMS {
        cache::install(&built.join(program), &folder.join(program))?;
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
