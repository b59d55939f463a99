//! Installs what a build and its tests need.

use anyhow::Result;

/// Brings the machine to where everything else works.
pub(crate) fn run() -> Result<()> {
    Ok(())
}
