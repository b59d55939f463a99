//! `weir policy`: checking, testing and explaining policy files, without a daemon or a server.

mod case;
mod explain;
mod test;

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{
    mask::Key,
    policy::{self, Diagnostic, Policy, Severity, Source},
    policy_store::{self, read_sources},
    record::show::{escape, escape_lines},
};

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
    #[arg(default_value = "/etc/weir/policies", value_name = "PATH")]
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
    /// A group that it is in; can be given again
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

/// Runs a command. Exit code 1 where files are wrong or cases fail.
///
/// # Errors
/// If files can't be read, or the output can't be written.
pub fn run(command: &Command) -> anyhow::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let outcome = match command {
        Command::Check(files) => check(files, &mut out),
        Command::Test(args) => test(args, &mut out),
        Command::Explain(args) => explain(args, &mut out),
        Command::Schema => schema(&mut out),
    };
    match outcome {
        // A reader that has gone (`weir policy schema | head`) is no error.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        other => other,
    }
}

/// Reports everything that is wrong with policy files.
///
/// # Errors
/// If files can't be read, or the output can't be written.
pub fn check(files: &Files, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let sources = sources(&files.paths)?;
    let Some(policy) = load(&sources)? else {
        return Ok(ExitCode::FAILURE);
    };
    let (rules, tests) = (policy.rules.len(), policy.tests.len());
    writeln!(
        out,
        "ok: {} files, {rules} rules, {tests} tests",
        sources.len()
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the `[[test]]` cases of policy files.
///
/// # Errors
/// If files can't be read, or the output can't be written.
pub fn test(args: &Test, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    match load(&sources(&args.files.paths)?)? {
        Some(policy) => test::run(&policy, args.json, out),
        None => Ok(ExitCode::FAILURE),
    }
}

/// Shows what a statement does, what becomes of it, and why. The exit code doesn't depend on that.
///
/// # Errors
/// If files can't be read, or the output can't be written.
pub fn explain(args: &Explain, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    match load(&sources(&args.files.paths)?)? {
        Some(policy) => explain::run(&policy, args, out),
        None => Ok(ExitCode::FAILURE),
    }
}

/// Prints the JSON Schema of policy files.
///
/// # Errors
/// If the output can't be written.
pub fn schema(out: &mut impl Write) -> anyhow::Result<ExitCode> {
    writeln!(out, "{:#}", policy::json_schema())?;
    Ok(ExitCode::SUCCESS)
}

fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, policy_store::Error> {
    let mut sources = Vec::new();
    for path in paths {
        sources.extend(read_sources(Path::new(path))?);
    }
    Ok(sources)
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
