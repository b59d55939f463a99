//! `weir audit`: whether journals are what was written, and the index made anew.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use super::replay::{cut, pick, quietly};
use crate::causes::chain;
use crate::record::{
    Error, Index, Indexed, Paths, SessionId, Verification, journals, misnamed_journals, reindex,
    show, verify,
};

/// Verify journals, or make their index anew.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check journals; exit code 1 if one is broken, cut after its session was closed, or missing
    #[command(after_help = LIMITS)]
    Verify(Verify),
    /// Make the index anew from the journals
    Reindex,
}

const LIMITS: &str = "\
A journal's hash chain shows changes within it. That it is missing, or that its end is, only the
index can tell: what whoever can rewrite both the journals and the index did goes unnoticed, and
`weir audit reindex` makes the index forget what is gone. With durability = \"os\" a power cut too
can take the end of a journal that was closed just before.";

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Verify {
    /// The session's id, or its beginning
    id: Option<String>,
    /// Every journal
    #[arg(long)]
    all: bool,
}

/// Exit code 1 if a journal is broken.
///
/// # Errors
/// If there is no such session, or a file can't be read or written.
pub fn run(args: &Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let out = BufWriter::new(io::stdout().lock());
    quietly(match &args.command {
        Command::Verify(args) => verify_journals(args, paths, out),
        Command::Reindex => rebuild(paths, out),
    })
}

fn rebuild(paths: &Paths, mut out: impl Write) -> anyhow::Result<ExitCode> {
    let count = reindex(&paths.index, &paths.journal)?;
    writeln!(out, "{count} sessions in {}", paths.index.display())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

type Known = BTreeMap<SessionId, Indexed>;

fn verify_journals(args: &Verify, paths: &Paths, mut out: impl Write) -> anyhow::Result<ExitCode> {
    // Before the journals are looked at: what is indexed by now, they must hold.
    let (known, mut broken) = known(&paths.index, &mut out)?;
    let chosen = choose(args, &paths.journal, &known)?;
    for (id, path) in &chosen {
        broken += u64::from(!report(path, known.get(id), &mut out)?);
    }
    if args.all {
        let misnamed = misnamed_journals(&paths.journal)?;
        for path in &misnamed {
            writeln!(
                out,
                "{}: BROKEN: its name is not that of a session's journal",
                shown(path)
            )?;
            broken += 1;
        }
        let count = chosen.len() + misnamed.len();
        writeln!(out, "{count} journals, {broken} broken")?;
    }
    out.flush()?;
    Ok(if broken == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What the index knows, and the number of its faults. Journals can be verified without it, but
/// an index that can't be read must not pass for one that finds nothing missing.
fn known(index: &Path, out: &mut impl Write) -> anyhow::Result<(Known, u64)> {
    let without = "what is missing or cut goes unnoticed";
    match Index::read(index).and_then(|index| index.known()) {
        Ok(known) => Ok((known, 0)),
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            writeln!(out, "{}: no index; {without}", index.display())?;
            Ok((Known::new(), 0))
        }
        Err(e) => {
            writeln!(
                out,
                "{}: BROKEN: {}; {without}",
                index.display(),
                show::escape(&chain(&e))
            )?;
            Ok((Known::new(), 1))
        }
    }
}

/// The journals to verify, and where those should be that only the index knows of.
fn choose(
    args: &Verify,
    journal: &Path,
    known: &Known,
) -> anyhow::Result<Vec<(SessionId, PathBuf)>> {
    let mut all = journals(journal, "")
        .with_context(|| format!("cannot list the journals in {}", journal.display()))?;
    let there: std::collections::HashSet<_> = all.iter().map(|(id, _)| *id).collect();
    let missing = known.keys().filter(|id| !there.contains(id));
    all.extend(missing.map(|id| (*id, id.path_in(journal))));
    all.sort();
    match &args.id {
        Some(id) => Ok(vec![pick(all, journal, id)?]),
        None => Ok(all),
    }
}

/// Verifies one journal; whether it is sound.
fn report(path: &Path, indexed: Option<&Indexed>, out: &mut impl Write) -> anyhow::Result<bool> {
    let found = match (verify(path), indexed) {
        (Ok(found), None) => found,
        (Ok(found), Some(indexed)) => found.against(indexed),
        (Err(e), Some(indexed)) if e.kind() == io::ErrorKind::NotFound => {
            writeln!(
                out,
                "{}: BROKEN: the journal is missing; the index has its session as {} with {} statements",
                shown(path),
                indexed.state.as_str(),
                indexed.statements
            )?;
            return Ok(false);
        }
        (Err(e), _) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    let state = match &found.end {
        Verification::Complete => "complete".to_owned(),
        Verification::Open => "open, sound until now".to_owned(),
        Verification::Cut { tail } => format!("cut, sound until then: {}", cut(*tail)),
        Verification::Lost(loss) => format!("BROKEN: {loss}"),
        Verification::Broken(broken) => {
            let after = broken.after.map_or_else(
                || "before the first time that it holds".to_owned(),
                |at| format!("after {} UTC", show::time(at)),
            );
            format!("BROKEN: {broken}; {after}")
        }
    };
    writeln!(out, "{}: {} records, {state}", shown(path), found.records)?;
    Ok(!matches!(
        found.end,
        Verification::Broken(_) | Verification::Lost(_)
    ))
}

/// A path whose last part anyone may have chosen.
fn shown(path: &Path) -> String {
    show::escape(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::replay::find;
    use super::super::replay::tests::{Place, Session, session, session_as};
    use super::*;

    fn verified(place: &Place, id: Option<String>) -> (String, bool) {
        let all = id.is_none();
        let mut out = Vec::new();
        let code = verify_journals(&Verify { id, all }, &place.paths, &mut out).unwrap();
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

    /// A session with two denied statements, closed, and indexed by the time this returns.
    fn closed_session(place: &Place) -> Session {
        let recorder = place.recorder();
        let mut closed = session(&recorder, false);
        closed.deny(1);
        closed.deny(2);
        closed.close();
        // Waits for the index.
        drop(recorder);
        closed
    }

    fn is_broken(place: &Place, id: SessionId, why: &str) {
        for id in [Some(id.to_string()), None] {
            let (text, sound) = verified(place, id);
            assert!(!sound && text.contains(why), "{why}: {text}");
        }
    }

    #[test]
    fn a_journal_that_was_cut_emptied_or_removed_after_its_session_closed_is_broken() {
        let place = Place::new();
        let id = closed_session(&place).id();
        let (text, sound) = verified(&place, None);
        assert!(
            sound && text.ends_with(", complete\n1 journals, 0 broken\n"),
            "{text}"
        );
        let path = id.path_in(&place.paths.journal);
        let whole = std::fs::read(&path).unwrap();

        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        for (length, statements) in [(whole.len() as u64 - 1, 2), (0, 0)] {
            file.set_len(length).unwrap();
            let why = format!(
                "BROKEN: cut after it was closed: the index has 2 statements, the journal {statements}"
            );
            is_broken(&place, id, &why);
        }
        // Whoever holds its lock doesn't make a session live that has ended.
        file.lock().unwrap();
        is_broken(&place, id, "cut after it was closed");
        drop(file);

        for to in ["x.weir", "y.old"] {
            std::fs::write(&path, &whole).unwrap();
            let to = path.with_file_name(to);
            std::fs::rename(&path, &to).unwrap();
            is_broken(
                &place,
                id,
                "the index has its session as closed with 2 statements",
            );
            let (text, _) = verified(&place, None);
            let stray = format!("{}: BROKEN: its name is not that", to.display());
            assert!(
                text.contains(&stray) && text.ends_with("\n2 journals, 2 broken\n"),
                "{text}"
            );
            std::fs::remove_file(&to).unwrap();
        }
        is_broken(&place, id, "the journal is missing");
    }

    #[test]
    fn a_journal_written_anew_with_fewer_statements_is_broken() {
        let place = Place::new();
        let id = closed_session(&place).id();
        let path = id.path_in(&place.paths.journal);
        std::fs::remove_file(&path).unwrap();
        // What someone who can write a sound chain would put there, known to another index.
        let other = Paths {
            index: place.paths.index.with_file_name("other.db"),
            ..place.paths.clone()
        };
        session_as(&other, id);
        is_broken(
            &place,
            id,
            "statements are missing: the index has 2, the journal 0",
        );
    }

    #[test]
    fn without_an_index_a_journal_is_judged_alone_and_one_that_cant_be_read_is_told() {
        let place = Place::new();
        let id = closed_session(&place).id();
        let path = id.path_in(&place.paths.journal);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
        let index = &place.paths.index;
        std::fs::write(index, "no database").unwrap();
        let (text, sound) = verified(&place, None);
        assert!(
            !sound && text.contains("index.db: BROKEN: the index failed"),
            "{text}"
        );
        std::fs::remove_file(index).unwrap();
        let (text, sound) = verified(&place, None);
        assert!(sound && text.contains("cut, sound until then"), "{text}");
        assert!(
            text.contains("no index; what is missing or cut goes unnoticed"),
            "{text}"
        );
    }

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn verifying_nothing_in_particular_is_told_of_both_ways() {
        let error = Cli::try_parse_from(["audit", "verify"]).unwrap_err();
        assert!(error.to_string().contains("<ID|--all>"), "{error}");
        assert!(Cli::try_parse_from(["audit", "verify", "x", "--all"]).is_err());
        assert!(Cli::try_parse_from(["audit", "verify", "--all"]).is_ok());
    }
}
