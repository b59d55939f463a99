//! Fuzzing: libFuzzer on each decoder, by cargo-fuzz.
//!
//! Instrumented, all of Weir's crates are built once more, which takes longer than a short run. They
//! are the same in every clone, and kept beside what `setup` installs.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};
use xtask::{
    cache,
    steps::{Steps, cargo, two_at_once},
};

/// Runs every target, or one, for some seconds each. A crash is an error, with the input's path
/// in the output.
pub(crate) fn run(seconds: u32, only: Option<&str>) -> Result<()> {
    let targets: Vec<_> = targets()?
        .into_iter()
        .filter(|name| only.is_none_or(|only| only == name))
        .collect();
    ensure!(
        !targets.is_empty(),
        "there is no such fuzz target: see fuzz/fuzz_targets"
    );
    let mut steps = Steps::new("fuzz", 3);
    let _alone = steps.step("looking for what was built before", take_over)?;
    let mut build = fuzzer("build");
    steps.quietly("building the fuzz targets", &mut build)?;
    let names = targets.join(", ");
    steps.step(&format!("{names}, each for {seconds} s"), || {
        // One keeps a core busy.
        let runs = two_at_once(&targets, |target| run_one(target, seconds));
        runs.into_iter().collect()
    })
}

/// Runs one; what it says is shown if it fails.
fn run_one(target: &str, seconds: u32) -> Result<()> {
    let mut run = fuzzer("run");
    run.arg(target)
        .arg("--")
        .arg(format!("-max_total_time={seconds}"));
    run.args(["-max_len=65536", "-rss_limit_mb=2048", "-timeout=10"]);
    let output = run.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        let mut stderr = std::io::stderr().lock();
        stderr.write_all(&output.stdout)?;
        stderr.write_all(&output.stderr)?;
        bail!("{target}: {}", output.status);
    }
    println!("  {target}");
    Ok(())
}

/// The target directory.
fn built() -> PathBuf {
    cache::installed().join("fuzz")
}

/// Makes what was built this clone's, until the lock is dropped. Weir's own part of it depends on the
/// clone's place: another clone's would stay for ever, and goes.
fn take_over() -> Result<File> {
    let built = built();
    fs::create_dir_all(&built).with_context(|| built.display().to_string())?;
    let lock = File::create(built.join("lock"))?;
    lock.lock()?;
    let owner = built.join("owner");
    let root = cache::root();
    if fs::read_to_string(&owner).is_ok_and(|owner| *owner == *root.to_string_lossy()) {
        return Ok(lock);
    }
    let mut clean = cargo();
    clean.args([
        "clean",
        "--quiet",
        "--release",
        "--manifest-path",
        "fuzz/Cargo.toml",
    ]);
    for package in ["weir", "gateway-ebpf", "weir-fuzz"] {
        clean.args(["--package", package]);
    }
    // What cargo-fuzz builds for.
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    clean.args(["--target", &host, "--target-dir"]).arg(&built);
    let cleaned = clean.status()?;
    ensure!(cleaned.success(), "cargo clean: {cleaned}");
    fs::write(owner, root.to_string_lossy().as_bytes())?;
    Ok(lock)
}

fn fuzzer(verb: &str) -> std::process::Command {
    let mut command = cargo();
    // The crate has no unsafe code that a target reaches, and the sanitizer would not see into
    // libpg_query's C; without it the build takes half the time.
    command.args(["fuzz", verb, "--fuzz-dir", "fuzz", "--sanitizer", "none"]);
    command.arg("--target-dir").arg(built());
    // cargo-fuzz passes unstable options; a stable compiler has them all the same.
    command.env("RUSTC_BOOTSTRAP", "1");
    command
}

fn targets() -> Result<Vec<String>> {
    let folder = cache::root().join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut names: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}
