//! The last step of a release: its machine code in the order in which it is used (BOLT).
//!
//! ```text
//!   program  ->  one that counts its branches  ->  at work  ->  counts
//!   program  +   counts                        ->  the same instructions, laid out anew
//! ```
//!
//! The compiler has ordered the blocks of each function as it saw them, before one was put into the
//! other; and functions of different crates, and of C, lie where the linker put them. Here what a
//! statement needs comes to lie together, and half as many branches are taken.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};

use crate::setup;

/// What the linker has to leave in a program that is to be laid out.
pub(super) const RELOCATIONS: &str = "-Clink-arg=-Wl,--emit-relocs";

/// What was written in assembly stays as it is: its authors laid it out, and what they say of its unwinding
/// isn't always what BOLT takes it for.
const ASSEMBLY: &str = "-skip-funcs=ring_core_.*,blake3_.*";

/// Makes of a program one that counts: into the folder `counts`, a file each time that it ends.
pub(super) fn count(program: &Path, counting: &Path, counts: &Path) -> Result<()> {
    let _ = fs::remove_dir_all(counts);
    fs::create_dir_all(counts)?;
    run(tool("llvm-bolt")
        .arg(program)
        .arg("-o")
        .arg(counting)
        .args(["-instrument", "-instrumentation-file-append-pid", ASSEMBLY])
        .arg("-instrumentation-file")
        .arg(counts.join("branches")))
}

/// Lays a program out by all that was counted.
pub(super) fn lay_out(program: &Path, laid_out: &Path, counts: &Path) -> Result<()> {
    let files = fs::read_dir(counts)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    ensure!(
        !files.is_empty(),
        "nothing was counted in {}: the program at work didn't end by itself",
        counts.display()
    );
    let all = counts.with_extension("fdata");
    run(tool("merge-fdata")
        .arg("-q")
        .arg("-o")
        .arg(&all)
        .args(files))?;
    run(tool("llvm-bolt")
        .arg(program)
        .arg("-o")
        .arg(laid_out)
        .arg("-data")
        .arg(&all)
        .args(["-reorder-blocks=ext-tsp", "-reorder-functions=cdsort"])
        .args(["-split-functions", "-split-all-cold", "-split-eh"])
        .args(["-update-debug-sections", ASSEMBLY]))
}

fn tool(name: &str) -> Command {
    Command::new(Path::new(setup::LLVM).join("bin").join(name))
}

/// What it says is of interest only if it fails.
fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{} can't be run", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{} ended with {}: {}",
            command.get_program().display(),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
