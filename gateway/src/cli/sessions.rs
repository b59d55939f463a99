//! `weir sessions`: the recorded sessions, newest first.

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use time::format_description::well_known::Rfc3339;

use super::replay::quietly;
use crate::record::show::{self, escape};
use crate::record::{Error, Filter, Index, Paths, SessionRow, State, Summary};

/// List recorded sessions, newest first.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only sessions of this agent
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Only sessions to this datastore
    #[arg(long, value_name = "NAME")]
    datastore: Option<String>,
    /// Only sessions active since: 30m, 12h, 7d, 2026-01-31 or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<u64>,
    /// Only sessions in which a statement was denied, or a name refused
    #[arg(long)]
    denied: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// One JSON object per session, on a line each
    #[arg(long)]
    json: bool,
}

/// Always succeeds where the index can be read, also with nothing to list.
///
/// # Errors
/// If there is no index, or it can't be read.
pub fn run(args: &Args, paths: &Paths) -> anyhow::Result<ExitCode> {
    let sessions = list(args, paths)?;
    quietly(print(args, &sessions, BufWriter::new(io::stdout().lock())))
}

fn list(args: &Args, paths: &Paths) -> anyhow::Result<Vec<SessionRow>> {
    let filter = Filter {
        agent: args.agent.clone(),
        datastore: args.datastore.clone(),
        since: args.since,
        denied: args.denied,
        limit: args.limit,
    };
    let mut sessions = Index::read(&paths.index)
        .and_then(|index| index.sessions(&filter))
        .map_err(|e| {
            let advice = advice(&e);
            anyhow::Error::new(e).context(advice)
        })?;
    sessions
        .iter_mut()
        .filter(|s| s.state == State::Open)
        .for_each(|s| refresh(s, paths));
    sessions.retain(|session| {
        let recent = args
            .since
            .is_none_or(|since| session.last_at >= since || session.state == State::Open);
        recent && (!args.denied || session.totals.denied > 0)
    });
    Ok(sessions)
}

/// What to do about an index that can't be read.
fn advice(error: &Error) -> &'static str {
    match error {
        Error::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            "only root may read the index: run this as root"
        }
        Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            "`weir audit reindex` makes the index, if there are journals"
        }
        Error::Index(_) => "`weir audit reindex` makes the index anew from the journals",
        _ => "the index can't be read",
    }
}

/// The index holds of an open session only how it began: its journal knows the rest.
fn refresh(session: &mut SessionRow, paths: &Paths) {
    // A journal that can't be read any more leaves what the index holds.
    if let Ok(Some(now)) = Summary::of(&session.id.path_in(&paths.journal), None) {
        session.state = now.state;
        session.last_at = now.last_at;
        session.totals = now.totals;
        session.reason = now.reason;
    }
}

fn print(args: &Args, sessions: &[SessionRow], mut out: impl Write) -> anyhow::Result<ExitCode> {
    if args.json {
        for session in sessions {
            let json = serde_json::to_string(session)?;
            writeln!(out, "{}", show::escape_json(&json))?;
        }
    } else {
        table(sessions, &mut out)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

const HEADER: [&str; 9] = [
    "SESSION",
    "STARTED (UTC)",
    "STATE",
    "AGENT",
    "DATASTORE",
    "STATEMENTS",
    "DENIED",
    "ROWS",
    "ENDED BY",
];

fn table(sessions: &[SessionRow], out: &mut impl Write) -> io::Result<()> {
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(sessions.iter().map(|session| {
        [
            session.id.to_string(),
            show::time(session.started),
            session.state.as_str().to_owned(),
            escape(&session.agent).into_owned(),
            place(session),
            session.totals.statements.to_string(),
            session.totals.denied.to_string(),
            session.totals.rows.to_string(),
            session
                .reason
                .as_deref()
                .map_or_else(String::new, |r| escape(r).into_owned()),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..HEADER.len())
        .map(|column| width(column).unwrap_or(0))
        .collect();
    for row in &rows {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// The datastore and the database, where there is one.
fn place(session: &SessionRow) -> String {
    let datastore = escape(&session.datastore);
    if session.database.is_empty() {
        return datastore.into_owned();
    }
    format!("{datastore}/{}", escape(&session.database))
}

/// Microseconds since the epoch of a time, or of now less a duration.
fn since(text: &str) -> Result<u64, String> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|e| e.to_string())?;
    let now = u64::try_from(now.as_micros()).map_err(|e| e.to_string())?;
    since_from(text, now).map_err(|e| e.to_string())
}

fn since_from(text: &str, now: u64) -> anyhow::Result<u64> {
    let wrong = || anyhow!("use 30m, 12h, 7d, 2026-01-31 or 2026-01-31T12:00:00Z");
    let units = [('s', 1u64), ('m', 60), ('h', 3600), ('d', 86_400)];
    for (unit, seconds) in units {
        if let Some(count) = text.strip_suffix(unit) {
            let count: u64 = count.parse().map_err(|_| wrong())?;
            let back = count.checked_mul(seconds * 1_000_000).ok_or_else(wrong)?;
            return Ok(now.saturating_sub(back));
        }
    }
    let full = if text.len() == 10 {
        format!("{text}T00:00:00Z")
    } else {
        text.to_owned()
    };
    let at = time::OffsetDateTime::parse(&full, &Rfc3339).map_err(|_| wrong())?;
    u64::try_from(at.unix_timestamp_nanos() / 1000).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::super::replay::tests::{Place, session};
    use super::*;

    fn args(denied: bool) -> Args {
        Args {
            agent: None,
            datastore: None,
            since: None,
            denied,
            limit: 9,
            json: false,
        }
    }

    #[test]
    fn an_open_session_is_listed_with_what_it_came_to_until_now() {
        let place = Place::new();
        let recorder = place.recorder();
        let mut open = session(&recorder, false);
        session(&recorder, true);
        let listed = |denied| list(&args(denied), &place.paths).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while listed(false).len() < 2 {
            assert!(std::time::Instant::now() < deadline, "not indexed");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        assert!(listed(true).is_empty());
        open.deny(1);
        let denied = listed(true);
        assert_eq!(denied.len(), 1);
        assert_eq!((denied[0].id, denied[0].state), (open.id(), State::Open));

        let mut out = Vec::new();
        print(&args(true), &denied, &mut out).unwrap();
        let expected = format!(
            "{:36}  STARTED (UTC)            STATE  AGENT  DATASTORE  STATEMENTS  DENIED  ROWS  ENDED BY\n\
             {}  2023-11-14 22:13:20.000  open   coder  appdb/app  1           1       0\n",
            "SESSION",
            open.id()
        );
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn an_index_that_cant_be_read_is_told_with_what_helps() {
        let place = Place::new();
        session(&place.recorder(), true);
        let index = &place.paths.index;
        let told = || format!("{:#}", list(&args(false), &place.paths).unwrap_err());
        let whole = std::fs::read(index).unwrap();
        let mut damaged = whole.clone();
        damaged[4096..].fill(0x5a);
        for bytes in [&b"no database"[..], b"", &damaged] {
            std::fs::write(index, bytes).unwrap();
            assert!(
                told().starts_with("`weir audit reindex` makes the index anew from the journals: "),
                "{}",
                told()
            );
            crate::record::reindex(index, &place.paths.journal).unwrap();
            assert_eq!(list(&args(false), &place.paths).unwrap().len(), 1);
        }
        std::fs::remove_file(index).unwrap();
        assert!(told().starts_with("`weir audit reindex` makes the index, if"));

        let forbidden = Error::Io {
            doing: "open the index",
            path: index.clone(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert_eq!(
            advice(&forbidden),
            "only root may read the index: run this as root"
        );
    }

    #[test]
    fn since_takes_durations_and_times() {
        let now = 1_700_000_000_000_000;
        assert_eq!(since_from("90s", now).unwrap(), now - 90_000_000);
        assert_eq!(since_from("2h", now).unwrap(), now - 7_200_000_000);
        assert_eq!(
            since_from("2023-11-14", now).unwrap(),
            1_699_920_000_000_000
        );
        assert_eq!(since_from("2023-11-14T22:13:20Z", now).unwrap(), now);
        for wrong in [
            "",
            "h",
            "yesterday",
            "2023-13-01",
            "99999999999999999d",
            "-1h",
        ] {
            assert!(since_from(wrong, now).is_err(), "{wrong}");
        }
    }
}
