//! `weir run`.

use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;

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
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    /// Lines for people
    Human,
    /// One JSON object per line
    Json,
}

pub(super) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let config = Config::load(config)?;
    log(args.log_format);
    daemon::run(config)?;
    Ok(ExitCode::SUCCESS)
}

fn log(format: LogFormat) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    match format {
        LogFormat::Human => {
            let colours =
                stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            log.with_ansi(colours).with_target(false).init();
        }
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
}
