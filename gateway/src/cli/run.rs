//! `weir run`.

use std::path::Path;
use std::process::ExitCode;

use super::log;
use crate::config::Config;
use crate::daemon;

const HELP: &str = "\
The daemon needs root, or the capabilities that `weir doctor` names. SIGTERM lets open sessions
end and stops it; SIGHUP has it look at the policy files, which it also does each second.

Examples:
  weir run
  weir run --config ./weir.toml
  RUST_LOG=weir=debug weir run --log-format json";

/// Run the daemon in the foreground.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// How the log on standard error is written
    #[arg(long, value_enum, default_value = "human", value_name = "FORMAT")]
    log_format: log::Format,
}

pub(super) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(config)?;
    log::start(args.log_format);
    daemon::run(config)?;
    Ok(ExitCode::SUCCESS)
}
