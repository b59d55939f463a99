//! `weir policy`: checking, testing and explaining policy files, without a daemon or a server.
//!
//! The policy is the files that are named; otherwise that of the configuration, which also tells
//! the groups of its agents. On a machine without one it is what lies in the usual place.

mod case;
mod explain;
mod test;

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use crate::{
    config::{self, Config},
    mask::Key,
    policy::{self, Diagnostic, Policy, Severity, Source},
    policy_store::{self, read_sources},
    record::show::{escape, escape_lines},
};

/// Where policies are on a machine without a configuration, as without its `[paths]`.
const USUAL: &str = "/etc/weir/policies";

/// Check, test and explain policy files
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Report everything that is wrong with policy files
    Check(Files),
    /// Run the [[test]] cases of policy files
    Test(Test),
    /// Show what a statement does, what becomes of it, and why
    Explain(Explain),
    /// Print the JSON Schema of policy files, for editors
    Schema,
}

/// Where the policy is.
#[derive(Debug, clap::Args)]
pub struct Files {
    /// Policy files, or directories of them; all together are one policy
    /// [default: those of the configuration]
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Arguments of `weir policy test`.
#[derive(Debug, clap::Args)]
pub struct Test {
    #[command(flatten)]
    files: Files,
    /// Print one JSON object per case
    #[arg(long)]
    json: bool,
}

/// Arguments of `weir policy explain`.
#[derive(Debug, clap::Args)]
pub struct Explain {
    #[command(flatten)]
    files: Files,
    /// The agent that asks
    #[arg(long, value_name = "NAME")]
    agent: String,
    /// A group that it is in; can be given again [default: its groups in the configuration]
    #[arg(long, value_name = "NAME")]
    group: Vec<String>,
    /// The datastore that it asks [default: the only one that rules name]
    #[arg(long, value_name = "NAME")]
    datastore: Option<String>,
    /// What it says
    #[arg(long, value_name = "STATEMENT")]
    sql: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs a command, with the configuration that was `given`. Exit code 1 where files are wrong or
/// cases fail.
///
/// # Errors
/// If files can't be read, the configuration is wrong, or the output can't be written.
pub fn run(command: &Command, given: Option<&Path>) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    match to(command, given, &mut out) {
        // A reader that has gone (`weir policy schema | head`) is no error.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        other => other,
    }
}

fn to(command: &Command, given: Option<&Path>, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let (Command::Check(files)
    | Command::Test(Test { files, .. })
    | Command::Explain(Explain { files, .. })) = command
    else {
        return schema(out);
    };
    let config = config(files, given)?;
    let sources = sources(files, config.as_ref())?;
    let Some(policy) = load(&sources)? else {
        return Ok(ExitCode::FAILURE);
    };
    match command {
        Command::Test(args) => test::run(&policy, args.json, out),
        Command::Explain(args) => explain::run(&policy, args, &groups(args, config.as_ref()), out),
        _ => checked(&policy, sources.len(), out),
    }
}

fn checked(policy: &Policy, files: usize, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let (rules, tests) = (policy.rules.len(), policy.tests.len());
    writeln!(out, "ok: {files} files, {rules} rules, {tests} tests")?;
    Ok(ExitCode::SUCCESS)
}

/// The configuration that was given, or else the usual one, which need not be there or be
/// readable to whoever writes policies.
fn config(files: &Files, given: Option<&Path>) -> Result<Option<Config>, config::Error> {
    match given {
        Some(path) => Config::load(path).map(Some),
        None if !files.paths.is_empty() => Ok(None),
        None => match Config::load(Path::new(config::DEFAULT_PATH)) {
            Err(config::Error::Read { .. }) => Ok(None),
            other => other.map(Some),
        },
    }
}

fn sources(files: &Files, config: Option<&Config>) -> Result<Vec<Source>, policy_store::Error> {
    if files.paths.is_empty() {
        let usual = Path::new(USUAL);
        return read_sources(config.map_or(usual, |config| &config.paths.policies));
    }
    let mut sources = Vec::new();
    for path in &files.paths {
        sources.extend(read_sources(path)?);
    }
    Ok(sources)
}

/// The groups that were said, or else those of the agent in the configuration.
fn groups(args: &Explain, config: Option<&Config>) -> Vec<Arc<str>> {
    if !args.group.is_empty() {
        return args
            .group
            .iter()
            .map(|group| group.as_str().into())
            .collect();
    }
    config
        .into_iter()
        .flat_map(|config| config.agents.agents())
        .find(|agent| *agent.name == *args.agent)
        .map_or_else(Vec::new, |agent| agent.groups.to_vec())
}

fn schema(out: &mut impl Write) -> anyhow::Result<ExitCode> {
    writeln!(out, "{:#}", policy::json_schema())?;
    Ok(ExitCode::SUCCESS)
}

/// Parses, and tells what is wrong on standard error. Keys aren't read: policies are checked on
/// machines that have no business with them, and nothing is masked here.
fn load(sources: &[Source]) -> anyhow::Result<Option<Policy>> {
    match policy::parse_with(sources, &|_| Ok(Key::new(vec![0; 32]))) {
        Ok(policy) => Ok(Some(policy)),
        Err(diagnostics) => {
            report(&diagnostics, &mut io::stderr().lock())?;
            Ok(None)
        }
    }
}

fn report(diagnostics: &[Diagnostic], out: &mut (impl Write + IsTerminal)) -> io::Result<()> {
    let pretty = out.is_terminal();
    for diagnostic in diagnostics {
        let text = if pretty {
            diagnostic.pretty()
        } else {
            diagnostic.to_string()
        };
        writeln!(out, "{}", escape_lines(&text))?;
    }
    let errors = diagnostics
        .iter()
        .filter(|d| d.severity == Severity::Error)
        .count();
    writeln!(
        out,
        "{errors} {}",
        if errors == 1 { "error" } else { "errors" }
    )
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A statement on one line, cut where it is long.
fn one_line(sql: &str) -> String {
    const MOST: usize = 100;
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{} ...", escape(&line[..cut])),
        None => escape(&line).into_owned(),
    }
}

#[cfg(test)]
mod tests;
