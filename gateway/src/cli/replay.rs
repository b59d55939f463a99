//! `weir replay`: a whole session as it happened, verified while it is shown.

mod json;
mod story;
#[cfg(test)]
pub(super) mod tests;
mod transcript;

use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};

pub(super) use json::event;
pub(super) use story::{Story, Told};
pub(super) use transcript::one_line;

use crate::record::{
    Paths, ReadError, Reader, SessionId, Stored, Tail, is_live, journals, misnamed, show,
};

/// Show a recorded session.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The session's id, or its beginning
    id: String,
    /// Pause as the session did, N times as fast; 0 shows everything at once
    #[arg(long, value_name = "N", default_value_t = 0.0, value_parser = speed)]
    speed: f64,
    /// One JSON object per record, on a line each
    #[arg(long)]
    json: bool,
    /// Leave out result rows and COPY data
    #[arg(long)]
    statements_only: bool,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if speed.is_finite() && speed >= 0.0 => Ok(speed),
        _ => Err("a number from 0 on".to_owned()),
    }
}

/// Exit code 1 if the journal is damaged.
///
/// # Errors
/// If there is no such session, or it can't be read or shown.
pub fn run(args: &Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let (_, path) = find(&paths.journal, &args.id)?;
    let out = BufWriter::new(io::stdout().lock());
    quietly(replay(args, &path, out))
}

/// A reader that has gone (`weir replay | head`) is no error.
pub(super) fn quietly(result: anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    match result {
        Err(e) if e.downcast_ref::<io::Error>().is_some_and(is_broken_pipe) => {
            Ok(ExitCode::SUCCESS)
        }
        other => other,
    }
}

fn is_broken_pipe(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::BrokenPipe
}

/// The one journal whose session's id begins with `prefix`.
pub(super) fn find(journal: &Path, prefix: &str) -> anyhow::Result<(SessionId, PathBuf)> {
    let all = journals(journal, "")
        .with_context(|| format!("cannot list the journals in {}", journal.display()))?;
    pick(all, journal, prefix)
}

/// The one of `all` whose session's id begins with `prefix`.
pub(super) fn pick(
    all: Vec<(SessionId, PathBuf)>,
    journal: &Path,
    prefix: &str,
) -> anyhow::Result<(SessionId, PathBuf)> {
    let wanted = prefix.to_ascii_lowercase();
    let mut found: Vec<_> = all
        .into_iter()
        .filter(|(id, _)| id.to_string().starts_with(&wanted))
        .collect();
    match (found.pop(), found.first()) {
        (Some(one), None) => Ok(one),
        (None, _) => {
            bail!(
                "no session {} in {}; `weir sessions` lists them",
                show::escape(prefix),
                journal.display()
            )
        }
        (Some((last, _)), Some((first, _))) => bail!(
            "{} sessions begin with {}, from {first} to {last}",
            found.len() + 1,
            show::escape(prefix)
        ),
    }
}

fn replay(args: &Args, path: &Path, mut out: impl Write) -> anyhow::Result<ExitCode> {
    let live = is_live(path).context("cannot open the journal")?;
    let mut reader = Reader::open(path).context("cannot open the journal")?;
    let mut story = Story::default();
    let mut view = transcript::Transcript::default();
    let mut clock = None;
    let broken = loop {
        let record = match reader.next() {
            Ok(Some(record)) => record,
            Ok(None) => break None,
            Err(ReadError::Broken(broken)) => break Some(broken),
            Err(ReadError::Io(e)) => return Err(e).context("cannot read the journal"),
        };
        if let Stored::Open(open) = &record.entry
            && let Some(broken) = misnamed(path, open.id)
        {
            break Some(broken);
        }
        pause(&mut clock, record.entry.at(), args.speed, &mut out)?;
        let bulk = matches!(record.entry, Stored::Rows { .. } | Stored::CopyIn { .. });
        if bulk && args.statements_only {
            continue;
        }
        for told in story.tell(record.entry) {
            if !args.json {
                view.show(&story, told, &mut out)?;
            } else if let Some(event) = event(&story, &told) {
                writeln!(out, "{}", show::escape_json(&event.to_string()))?;
            }
        }
    };
    let (state, line) = match &broken {
        Some(broken) => (
            "broken",
            format!("{broken}; nothing from there on can be trusted"),
        ),
        None if reader.closed() => ("closed", String::new()),
        None if live => ("open", "the session is still open".to_owned()),
        None => ("cut", cut(reader.tail()).to_owned()),
    };
    if args.json {
        let end = serde_json::json!({ "type": "end", "state": state, "text": line });
        writeln!(out, "{end}")?;
    } else {
        view.finish(&mut out)?;
        if !line.is_empty() {
            writeln!(out, "\n{line}")?;
        }
    }
    out.flush()?;
    Ok(if broken.is_some() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What a journal without `Close` says about its session.
pub(super) fn cut(tail: Tail) -> &'static str {
    match tail {
        Tail::Whole => "the journal ends here without a close: the daemon died, or could not write",
        Tail::Torn { .. } => {
            "the journal ends within a record: the daemon or the machine died while writing it"
        }
    }
}

/// Sleeps as long as the session took from its last record to this one, by `speed`.
fn pause(
    clock: &mut Option<u64>,
    at: Option<u64>,
    speed: f64,
    out: &mut impl Write,
) -> io::Result<()> {
    let Some(at) = at else { return Ok(()) };
    if let Some(before) = clock.replace(at)
        && speed > 0.0
    {
        out.flush()?;
        let micros = at.saturating_sub(before) as f64 / speed;
        // A time that a Duration can't hold comes from a damaged clock.
        std::thread::sleep(Duration::try_from_secs_f64(micros / 1e6).unwrap_or_default());
    }
    Ok(())
}
