//! `weir audit`: whether journals are what was written, and the index made anew.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;

use super::replay::{cut, find, quietly};
use crate::record::{Paths, Verification, journals, reindex, show, verify};

/// Verify journals, or make their index anew.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check the hash chain of journals; exit code 1 if one is broken
    Verify(Verify),
    /// Make the index anew from the journals
    Reindex,
}

#[derive(Debug, clap::Args)]
struct Verify {
    /// The session's id, or its beginning
    #[arg(required_unless_present = "all")]
    id: Option<String>,
    /// Every journal
    #[arg(long, conflicts_with = "id")]
    all: bool,
}

/// Exit code 1 if a journal is broken.
///
/// # Errors
/// If there is no such session, or a file can't be read or written.
pub fn run(args: &Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let out = BufWriter::new(io::stdout().lock());
    quietly(match &args.command {
        Command::Verify(args) => verify_journals(args, &paths.journal, out),
        Command::Reindex => rebuild(paths, out),
    })
}

fn rebuild(paths: &Paths, mut out: impl Write) -> anyhow::Result<ExitCode> {
    let count = reindex(&paths.index, &paths.journal)?;
    writeln!(out, "{count} sessions in {}", paths.index.display())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn verify_journals(args: &Verify, journal: &Path, mut out: impl Write) -> anyhow::Result<ExitCode> {
    let paths = match &args.id {
        Some(id) => vec![find(journal, id)?],
        None => journals(journal, "")
            .with_context(|| format!("cannot list the journals in {}", journal.display()))?,
    };
    let mut broken = 0;
    for (_, path) in &paths {
        broken += u64::from(!report(path, &mut out)?);
    }
    if args.all {
        writeln!(out, "{} journals, {broken} broken", paths.len())?;
    }
    out.flush()?;
    Ok(if broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Verifies one journal; whether it is sound.
fn report(path: &Path, out: &mut impl Write) -> anyhow::Result<bool> {
    let found = verify(path).with_context(|| format!("cannot read {}", path.display()))?;
    let state = match &found.end {
        Verification::Complete => "complete".to_owned(),
        Verification::Open => "open, sound until now".to_owned(),
        Verification::Cut { tail } => format!("cut, sound until then: {}", cut(*tail)),
        Verification::Broken(broken) => {
            let after = broken.after.map_or_else(
                || "before the first time that it holds".to_owned(),
                |at| format!("after {} UTC", show::time(at)),
            );
            format!("BROKEN: {broken}; {after}")
        }
    };
    writeln!(
        out,
        "{}: {} records, {state}",
        path.display(),
        found.records
    )?;
    Ok(!matches!(found.end, Verification::Broken(_)))
}

#[cfg(test)]
mod tests {
    use super::super::replay::tests::{Place, session};
    use super::*;

    fn verified(place: &Place, id: Option<String>) -> (String, bool) {
        let all = id.is_none();
        let mut out = Vec::new();
        let code = verify_journals(&Verify { id, all }, &place.paths.journal, &mut out).unwrap();
        (
            String::from_utf8(out).unwrap(),
            format!("{code:?}") == format!("{:?}", ExitCode::SUCCESS),
        )
    }

    #[test]
    fn each_journal_is_said_to_be_complete_open_cut_or_broken() {
        let place = Place::new();
        let recorder = place.recorder();
        let complete = session(&recorder, true).id().to_string();
        let cut = session(&recorder, false).id().to_string();
        let open = session(&recorder, false);
        let (text, sound) = verified(&place, None);
        assert!(sound);
        let line = |text: &str, id: &str| {
            text.lines()
                .find(|line| line.contains(id))
                .map(str::to_owned)
                .unwrap()
        };
        assert!(
            line(&text, &complete).ends_with(": 3 records, complete"),
            "{text}"
        );
        assert!(
            line(&text, &cut).contains(": 2 records, cut, sound until then"),
            "{text}"
        );
        let open = open.id().to_string();
        assert!(
            line(&text, &open).ends_with(": 2 records, open, sound until now"),
            "{text}"
        );
        assert!(text.ends_with("\n3 journals, 0 broken\n"), "{text}");

        let (_, path) = find(&place.paths.journal, &complete).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (text, sound) = verified(&place, Some(complete));
        assert!(!sound);
        assert!(
            text.contains("2 records, BROKEN: record 3 at byte "),
            "{text}"
        );
        assert!(
            text.ends_with("after 2023-11-14 22:13:20.000 UTC\n"),
            "{text}"
        );
        assert!(
            verified(&place, None)
                .0
                .ends_with("\n3 journals, 1 broken\n")
        );
    }
}
