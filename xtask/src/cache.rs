//! Where things live that are expensive to make: built once, used by every later run.

use std::{
    env,
    path::{Path, PathBuf},
};

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
