//! Builds the eBPF programs.

use anyhow::Result;

/// Builds the eBPF object that the daemon embeds.
pub(crate) fn run() -> Result<()> {
    Ok(())
}
