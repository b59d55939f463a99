//! Where things live that are expensive to make: built once, used by every later run.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_path_buf()
}

/// Cargo's target directory, which moves with `CARGO_TARGET_DIR`.
#[must_use]
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// What `cargo xtask setup` installed for the current user: `$XDG_CACHE_HOME/weir`, or
/// `~/.cache/weir`.
#[must_use]
pub fn installed() -> PathBuf {
    let home = || env::var_os("HOME").map_or_else(|| "/root".into(), PathBuf::from);
    env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| home().join(".cache"), PathBuf::from)
        .join("weir")
}

/// The Python of the virtual environment that holds psycopg, asyncpg and pg8000.
#[must_use]
pub fn python() -> PathBuf {
    installed().join("python/bin/python")
}

/// The folder that holds node-postgres, for `NODE_PATH`.
#[must_use]
pub fn node_modules() -> PathBuf {
    installed().join("node/node_modules")
}

/// Copies what was built to its place, if that has another or none. By content: a build that cargo had
/// at hand is older than the last one; and whoever depends on the place isn't built again for nothing.
pub fn install(built: &Path, place: &Path) -> Result<()> {
    let content = fs::read(built).with_context(|| format!("{} can't be read", built.display()))?;
    if fs::read(place).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let written = || format!("{} can't be written", place.display());
    // Whole or not at all: the place may be read meanwhile, and a program that runs can't be written to.
    let partial = place.with_extension("partial");
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent).with_context(written)?;
    }
    fs::write(&partial, content).with_context(written)?;
    fs::set_permissions(&partial, built.metadata()?.permissions()).with_context(written)?;
    fs::rename(&partial, place).with_context(written)
}
