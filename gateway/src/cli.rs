//! The command line: what there is to say, and what becomes of it.
//!
//! Exit codes: 0 all is well · 1 it failed, or a check found something · 2 wrong usage · 3 the
//! daemon isn't running. Text from databases and agents is escaped before it reaches a terminal.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config};
use crate::control;

mod agents;
mod attach;
pub mod audit;
mod ca;
mod completions;
mod doctor;
mod log;
pub mod policy;
pub mod replay;
mod run;
pub mod sessions;
mod status;
mod style;
pub mod tail;

const NOT_RUNNING: u8 = 3;

const EXAMPLES: &str = "\
Getting started:
  weir doctor                        what this host lacks, and how to get it
  weir policy check                  everything that is wrong with the policy files
  weir run                           the daemon, in the foreground
  weir status                        how the daemon is
  weir agents                        who is governed, and what would let them out
  weir sessions                      who did what
  weir replay ID                     one session, as it happened

Exit codes:
  0  all is well
  1  it failed, or a check found something
  2  wrong usage
  3  the daemon is not running";

/// Nothing reaches the database that was not judged and recorded first.
#[derive(Debug, Parser)]
#[command(name = "weir", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    /// The configuration [default: /etc/weir/weir.toml]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon in the foreground
    Run(run::Args),
    /// Show how the daemon is
    Status(status::Args),
    /// Show who is governed, and what would let them out
    Agents(agents::Args),
    /// Move the processes of a cgroup below the agents' slice
    Attach(attach::Args),
    /// Check that this host and the configuration have what Weir needs
    Doctor(doctor::Args),
    /// Print the certificate that agents need for sslmode=verify-full
    Ca(ca::Args),
    /// Check, test and explain policy files
    #[command(subcommand)]
    Policy(policy::Command),
    /// List recorded sessions
    Sessions(sessions::Args),
    /// Show a recorded session as it happened
    Replay(replay::Args),
    /// Follow what agents do
    Tail(tail::Args),
    /// Verify journals, or make their index anew
    Audit(audit::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// The whole program, once the process is set up.
pub fn main() -> ExitCode {
    // Wrong usage ends here, with 2.
    let cli = Cli::parse();
    outcome(cli.dispatch())
}

impl Cli {
    fn config_file(&self) -> &Path {
        let usual = Path::new(config::DEFAULT_PATH);
        self.config.as_deref().unwrap_or(usual)
    }

    fn dispatch(self) -> anyhow::Result<ExitCode> {
        let file = self.config_file();
        let config = || Config::load(file);
        let paths = || config().map(|config| config.paths.record());
        match &self.command {
            Command::Run(args) => run::run(args, file),
            Command::Status(args) => status::run(args, &config()?.paths.socket()),
            Command::Agents(args) => agents::run(args, &config()?.paths.socket()),
            Command::Attach(args) => attach::run(args, &config()?),
            Command::Doctor(args) => doctor::run(args, file),
            Command::Ca(args) => ca::run(args, &config()?.paths.ca()),
            Command::Policy(command) => policy::run(command, self.config.as_deref()),
            Command::Sessions(args) => sessions::run(args, &paths()?),
            Command::Replay(args) => replay::run(args, &paths()?),
            Command::Tail(args) => tail::run(args, &paths()?),
            Command::Audit(args) => audit::run(args, &paths()?),
            Command::Completions(args) => completions::run(args),
        }
    }
}

/// The one place where errors are told.
fn outcome(result: anyhow::Result<ExitCode>) -> ExitCode {
    let error = match result {
        Ok(code) => return code,
        Err(error) => error,
    };
    // `weir status | head -1`: a reader that has enough is no failure.
    let pipe = |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe;
    if error.downcast_ref::<io::Error>().is_some_and(pipe) {
        return ExitCode::SUCCESS;
    }
    // If standard error is gone too, the exit code is all that is left to say.
    let _ = writeln!(io::stderr(), "weir: {error:#}");
    match error.downcast_ref::<control::Error>() {
        Some(control::Error::NotRunning { .. }) => ExitCode::from(NOT_RUNNING),
        _ => ExitCode::FAILURE,
    }
}

/// A runtime for a command that asks something and ends.
fn block_on<T>(future: impl Future<Output = T>) -> io::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_can_be_named_before_and_after_the_command() {
        for args in [
            ["weir", "--config", "/x", "status"],
            ["weir", "status", "--config", "/x"],
        ] {
            assert_eq!(
                Cli::try_parse_from(args).unwrap().config_file(),
                Path::new("/x")
            );
        }
        let cli = Cli::try_parse_from(["weir", "status"]).unwrap();
        assert_eq!(cli.config_file(), Path::new(config::DEFAULT_PATH));
        let help = Cli::command().render_help().to_string();
        assert!(help.contains(&format!("[default: {}]", config::DEFAULT_PATH)));
    }

    #[test]
    fn wrong_usage_is_2_and_help_is_0() {
        let code = |args: &[&str]| Cli::try_parse_from(args).unwrap_err().exit_code();
        assert_eq!(code(&["weir", "nonsense"]), 2);
        assert_eq!(code(&["weir", "--help"]), 0);
    }

    #[test]
    fn a_missing_daemon_is_3_a_closed_pipe_0_and_anything_else_1() {
        let not_running = control::Error::NotRunning { path: "/x".into() };
        assert_eq!(outcome(Err(not_running.into())), ExitCode::from(3));
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(outcome(Err(pipe.into())), ExitCode::SUCCESS);
        assert_eq!(outcome(Err(anyhow::anyhow!("x"))), ExitCode::FAILURE);
    }
}
