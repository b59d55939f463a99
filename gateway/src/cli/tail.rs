//! `weir tail`: what all sessions do, as they do it.
//!
//! Reads the journals as they grow, so that it needs nothing of the daemon and can't slow it down.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use super::replay::{Story, Told, cut, event, one_line, quietly};
use crate::record::{
    Broken, CloseReason, Paths, ReadError, Reader, SessionId, Stored, Told as Answer, Verdict,
    is_live, journals, misnamed, show,
};

/// How often the directory is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Every so many looks at an idle journal, whether its session still lives.
const LIVE_EVERY: u32 = 25;

/// Follow all sessions, from now on.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only sessions of this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only statements that were denied, or would be but for observe mode, names refused, and the
    /// ends of sessions with any of them or that were refused themselves
    #[arg(long)]
    denied: bool,
    /// One JSON object per record, on a line each
    #[arg(long)]
    json: bool,
}

/// Ends only when interrupted.
///
/// # Errors
/// If the journals can't be listed.
pub fn run(args: &Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let out = io::stdout().lock();
    let mut follower = Follower::start(&paths.journal)?;
    quietly(follow(args, &mut follower, out))
}

fn follow(args: &Args, follower: &mut Follower, mut out: impl Write) -> anyhow::Result<ExitCode> {
    loop {
        follower.look(args, &mut out)?;
        out.flush()?;
        std::thread::sleep(POLL);
    }
}

/// The journals that are followed.
struct Follower {
    dir: PathBuf,
    /// Journals of earlier days are not new any more.
    day: String,
    followed: HashMap<SessionId, Journal>,
    /// Those that ended.
    done: HashSet<SessionId>,
}

struct Journal {
    path: PathBuf,
    reader: Reader<File>,
    story: Story,
    last_at: u64,
    idle: u32,
    /// It was found to be of another session before it was followed.
    misnamed: Option<Broken>,
}

impl Follower {
    /// Passes over what is recorded by now.
    fn start(dir: &Path) -> anyhow::Result<Follower> {
        let day = SessionId::now().day();
        let mut follower = Follower {
            dir: dir.to_owned(),
            day,
            followed: HashMap::new(),
            done: HashSet::new(),
        };
        for (id, path) in follower.list("")? {
            if !is_live(&path)? {
                follower.done.insert(id);
                continue;
            }
            let mut journal = Journal::open(path)?;
            journal.reader.skimming(true);
            while let Ok(Some(record)) = journal.reader.next() {
                journal.misnamed = foreign(&journal.path, &record.entry);
                if journal.misnamed.is_some() {
                    break;
                }
                let _ = journal.story.tell(record.entry);
            }
            journal.reader.skimming(false);
            follower.followed.insert(id, journal);
        }
        Ok(follower)
    }

    fn list(&self, from: &str) -> anyhow::Result<Vec<(SessionId, PathBuf)>> {
        journals(&self.dir, from)
            .with_context(|| format!("cannot list the journals in {}", self.dir.display()))
    }

    /// Shows what was recorded since the last look.
    fn look(&mut self, args: &Args, out: &mut impl Write) -> anyhow::Result<()> {
        let today = SessionId::now().day();
        for (id, path) in self.list(&self.day)? {
            if !self.done.contains(&id) && !self.followed.contains_key(&id) {
                self.followed.insert(id, Journal::open(path)?);
            }
        }
        self.day = today;
        let mut ended = Vec::new();
        for (id, journal) in &mut self.followed {
            if journal.look(args, out)? {
                ended.push(*id);
            }
        }
        for id in ended {
            self.followed.remove(&id);
            self.done.insert(id);
        }
        Ok(())
    }
}

impl Journal {
    fn open(path: PathBuf) -> anyhow::Result<Journal> {
        let reader =
            Reader::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Journal {
            path,
            reader,
            story: Story::default(),
            last_at: 0,
            idle: 0,
            misnamed: None,
        })
    }

    /// Shows what is new; whether the session has ended.
    fn look(&mut self, args: &Args, out: &mut impl Write) -> anyhow::Result<bool> {
        if let Some(broken) = self.misnamed.take() {
            self.end(args, &broken.to_string(), out)?;
            return Ok(true);
        }
        self.idle += 1;
        // Before reading: what the session wrote last is read after it has ended.
        let live = !self.idle.is_multiple_of(LIVE_EVERY) || is_live(&self.path)?;
        loop {
            let record = match self.reader.next() {
                Ok(Some(record)) => record,
                Ok(None) => break,
                Err(ReadError::Broken(broken)) => {
                    self.end(args, &broken.to_string(), out)?;
                    return Ok(true);
                }
                Err(ReadError::Io(e)) => return Err(e).context("cannot read a journal"),
            };
            if let Some(broken) = foreign(&self.path, &record.entry) {
                self.end(args, &broken.to_string(), out)?;
                return Ok(true);
            }
            self.idle = 0;
            self.last_at = record.entry.at().unwrap_or(self.last_at);
            for told in self.story.tell(record.entry) {
                show(args, &self.story, &told, self.last_at, out)?;
            }
        }
        if !live && !self.reader.closed() {
            self.end(args, cut(self.reader.tail()), out)?;
            return Ok(true);
        }
        Ok(self.reader.closed())
    }

    /// Says why a session without `Close` is not followed any more. One that didn't begin is told
    /// by its file.
    fn end(&self, args: &Args, why: &str, out: &mut impl Write) -> anyhow::Result<()> {
        if args.json {
            let id = self.story.open.as_ref().map(|open| open.id);
            let end = serde_json::json!({
                "type": "end", "session": id, "file": self.path, "text": why,
            });
            writeln!(out, "{}", show::escape_json(&end.to_string()))?;
        } else if self.story.open.is_none() {
            writeln!(out, "{}: {why}", self.path.display())?;
        } else if wanted(args, &self.story) {
            writeln!(out, "{}  {why}", heading(&self.story, self.last_at))?;
        }
        Ok(())
    }
}

/// What is wrong if a journal opens another session than it is named for.
fn foreign(path: &Path, entry: &Stored<'_>) -> Option<Broken> {
    match entry {
        Stored::Open(open) => misnamed(path, open.id),
        _ => None,
    }
}

fn wanted(args: &Args, story: &Story) -> bool {
    let Some(open) = &story.open else { return true };
    args.agent
        .as_deref()
        .is_none_or(|agent| agent == &*open.agent)
}

fn show(
    args: &Args,
    story: &Story,
    told: &Told<'_>,
    at: u64,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let denied = match told {
        Told::Decision { decision, .. } => decision.verdict != Verdict::Allow,
        Told::Plain(Stored::Question(question)) => question.told == Answer::Refused,
        // A session that was stopped at its beginning has no statement to be denied.
        Told::Plain(Stored::Close(close)) => {
            let stopped = matches!(
                close.reason,
                CloseReason::Refused(_) | CloseReason::Bypass(_)
            );
            stopped || close.totals.denied > 0
        }
        _ => false,
    };
    let bulk = matches!(
        told,
        Told::Rows { .. } | Told::CopyIn { .. } | Told::Columns { .. }
    );
    if bulk || (args.denied && !denied) || !wanted(args, story) {
        return Ok(());
    }
    if args.json {
        if let Some(event) = event(story, told) {
            writeln!(out, "{}", show::escape_json(&event.to_string()))?;
        }
    } else if let Some(line) = one_line(told) {
        writeln!(out, "{}  {line}", heading(story, at))?;
    }
    Ok(())
}

/// When, which session, who, where.
fn heading(story: &Story, at: u64) -> String {
    let time = show::time(at);
    let time = time.split_once(' ').map_or(time.as_str(), |(_, time)| time);
    match &story.open {
        Some(open) => format!(
            "{time}  {}  {}@{}",
            open.id,
            show::escape(&open.agent),
            show::escape(&open.datastore)
        ),
        None => time.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::replay::tests::{Place, session};
    use super::*;

    fn looked(follower: &mut Follower, args: &Args) -> String {
        let mut out = Vec::new();
        follower.look(args, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn sessions_are_followed_from_now_on_to_their_end() {
        let place = Place::new();
        let recorder = place.recorder();
        let args = Args {
            agent: None,
            denied: false,
            json: false,
        };
        let old = session(&recorder, true);
        let mut open = session(&recorder, false);
        let mut follower = Follower::start(&place.paths.journal).unwrap();
        assert_eq!(looked(&mut follower, &args), "");
        open.deny(9);
        let id = open.id().to_string();
        let shown = looked(&mut follower, &args);
        assert!(shown.starts_with(&format!("22:13:29.000  {id}  coder@appdb  DENY")));
        assert!(
            shown.ends_with("42501 not yours  select \\x1b[2J * from customers\n"),
            "{shown}"
        );
        let new = session(&recorder, false);
        let shown = looked(&mut follower, &args);
        assert!(shown.contains(&new.id().to_string()) && shown.contains("opened by psql"));
        assert!(!shown.contains(&old.id().to_string()));
        open.close();
        assert!(looked(&mut follower, &args).contains("closed, client quit"));
        assert_eq!(follower.followed.len(), 1);
        assert_eq!(looked(&mut follower, &args), "");
    }

    #[test]
    fn filters_leave_out_other_agents_and_what_was_allowed() {
        let place = Place::new();
        let recorder = place.recorder();
        let other = Args {
            agent: Some("analyst".into()),
            denied: false,
            json: false,
        };
        let denied = Args {
            agent: Some("coder".into()),
            denied: true,
            json: true,
        };
        let mut follower = Follower::start(&place.paths.journal).unwrap();
        let mut open = session(&recorder, false);
        assert_eq!(looked(&mut follower, &other), "");
        open.deny(9);
        assert_eq!(looked(&mut follower, &other), "");
        let mut follower = Follower::start(&place.paths.journal).unwrap();
        assert_eq!(looked(&mut follower, &denied), "");
        open.deny(10);
        let shown = looked(&mut follower, &denied);
        assert_eq!(shown.lines().count(), 1);
        assert!(shown.contains(r#""decision":"deny""#) && shown.contains(r#""statement":10"#));
    }

    #[test]
    fn of_the_denied_the_end_is_shown_only_where_something_was() {
        let place = Place::new();
        let recorder = place.recorder();
        let args = Args {
            agent: None,
            denied: true,
            json: false,
        };
        let mut follower = Follower::start(&place.paths.journal).unwrap();
        session(&recorder, true);
        assert_eq!(looked(&mut follower, &args), "");
        let mut denied = session(&recorder, false);
        denied.deny(1);
        denied.close();
        let shown = looked(&mut follower, &args);
        assert!(
            shown.lines().count() == 2 && shown.contains("closed, client quit"),
            "{shown}"
        );
        for (reason, lines) in [
            (CloseReason::Refused("not yours".into()), 1),
            (CloseReason::Bypass("at x".into()), 1),
            (CloseReason::Drained, 0),
        ] {
            session(&recorder, false).close_as(reason);
            assert_eq!(looked(&mut follower, &args).lines().count(), lines);
        }
    }

    #[test]
    fn a_journal_under_another_sessions_name_is_not_shown_as_that_session() {
        let place = Place::new();
        let recorder = place.recorder();
        let args = Args {
            agent: None,
            denied: false,
            json: false,
        };
        let live = session(&recorder, false);
        let moved = |id: SessionId| {
            let to = SessionId::now().path_in(&place.paths.journal);
            std::fs::rename(id.path_in(&place.paths.journal), &to).unwrap();
            to.display().to_string()
        };
        let before = moved(live.id());
        let mut follower = Follower::start(&place.paths.journal).unwrap();
        let after = moved(session(&recorder, true).id());
        let shown = looked(&mut follower, &args);
        for path in [before, after] {
            let told = format!("{path}: record 0 at byte 0 is broken: the file belongs to another");
            assert!(shown.contains(&told), "{shown}");
        }
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert!(follower.followed.is_empty());
    }
}
