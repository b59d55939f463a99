//! Fuzzing: libFuzzer on each decoder, by cargo-fuzz.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use xtask::{
    cache,
    steps::{Steps, cargo},
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
    let mut steps = Steps::new("fuzz", targets.len() + 1);
    let mut build = fuzzer("build");
    steps.quietly("building the fuzz targets", &mut build)?;
    for target in targets {
        let mut run = fuzzer("run");
        run.arg(&target)
            .arg("--")
            .arg(format!("-max_total_time={seconds}"));
        run.args(["-max_len=65536", "-rss_limit_mb=2048", "-timeout=10"]);
        steps.quietly(&format!("{target} for {seconds} s"), &mut run)?;
    }
    Ok(())
}

fn fuzzer(verb: &str) -> std::process::Command {
    let mut command = cargo();
    // The crate has no unsafe code that a target reaches, and the sanitizer would not see into
    // libpg_query's C; without it the build takes half the time.
    command.args(["fuzz", verb, "--fuzz-dir", "fuzz", "--sanitizer", "none"]);
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
