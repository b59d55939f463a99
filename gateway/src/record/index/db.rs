//! The index's tables.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Row, Transaction, named_params, params};
use serde::Serialize;

use super::super::Error;
use super::super::entry::Totals;
use super::super::open::SessionId;
use super::super::summary::{State, Summary};

/// Of the tables below; a file with another one is made anew.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE sessions (
    id TEXT PRIMARY KEY, started INTEGER NOT NULL, last_at INTEGER NOT NULL, state TEXT NOT NULL,
    agent TEXT NOT NULL, datastore TEXT NOT NULL, database TEXT NOT NULL,
    claimed_user TEXT NOT NULL, cgroup TEXT NOT NULL, pid INTEGER NOT NULL, uid INTEGER NOT NULL,
    comm TEXT NOT NULL, reason TEXT, statements INTEGER NOT NULL, denied INTEGER NOT NULL,
    rows INTEGER NOT NULL, bytes INTEGER NOT NULL, masked_cells INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_time ON sessions (started DESC);
CREATE TABLE statements (
    session TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
    digest BLOB, text TEXT NOT NULL, decision TEXT NOT NULL, rules TEXT NOT NULL,
    count INTEGER NOT NULL, rows INTEGER NOT NULL,
    first_at INTEGER NOT NULL, last_at INTEGER NOT NULL
) STRICT;
CREATE INDEX statements_by_session ON statements (session);
";

const INSERT_SESSION: &str = "
INSERT INTO sessions VALUES (:id, :started, :last_at, :state, :agent, :datastore, :database,
    :claimed_user, :cgroup, :pid, :uid, :comm, :reason, :statements, :denied, :rows, :bytes,
    :masked_cells)";

const SELECT_SESSIONS: &str = "
SELECT id, started, last_at, state, agent, datastore, database, claimed_user, cgroup, pid, uid,
    comm, reason, statements, denied, rows, bytes, masked_cells
FROM sessions
WHERE (:agent IS NULL OR agent = :agent) AND (:datastore IS NULL OR datastore = :datastore)
    AND (:since IS NULL OR last_at >= :since OR state = 'open')
    AND (NOT :denied OR denied > 0 OR state = 'open')
ORDER BY started DESC, id DESC";

/// Which sessions to show.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only of this agent.
    pub agent: Option<String>,
    /// Only to this datastore.
    pub datastore: Option<String>,
    /// Only those active since: microseconds since the Unix epoch.
    pub since: Option<u64>,
    /// Only those with a denied statement.
    pub denied: bool,
    /// At most so many, the newest.
    pub limit: usize,
}

/// A session in the index. All texts but `id` and `state` may hold anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "as the fields of SessionOpen and Summary")]
pub struct SessionRow {
    pub id: SessionId,
    pub started: u64,
    pub last_at: u64,
    #[serde(serialize_with = "state_word")]
    pub state: State,
    pub agent: String,
    pub datastore: String,
    pub database: String,
    pub claimed_user: String,
    pub cgroup: String,
    pub pid: u32,
    pub uid: u32,
    pub comm: String,
    pub reason: Option<String>,
    #[serde(flatten)]
    pub totals: Totals,
}

/// What the index holds of a session for verifying its journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Indexed {
    /// How it stood when it was indexed.
    pub state: State,
    /// Its statements by then.
    pub statements: u64,
}

fn state_word<S: serde::Serializer>(state: &State, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(state.as_str())
}

/// The index's file.
#[derive(Debug)]
pub struct Index(Connection);

impl Index {
    /// Opens the index to write it; makes it where it is missing, of another version or not a
    /// database (it holds nothing that the journals don't).
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Index`].
    pub fn open(path: &Path) -> Result<Index, Error> {
        Index::try_open(path).or_else(|e| match e {
            damaged if damaged.is_damage() => Index::open_anew(path),
            other => Err(other),
        })
    }

    /// Makes the index anew, whatever is there.
    pub(super) fn open_anew(path: &Path) -> Result<Index, Error> {
        remove(path)?;
        Index::try_open(path)
    }

    fn try_open(path: &Path) -> Result<Index, Error> {
        // SQLite would make it readable for everybody; it gives its WAL the mode of the file.
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| Error::io("create", path, e))?;
        let mut db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        db.busy_timeout(Duration::from_secs(10))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // What a power cut takes is indexed again from the journals.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.pragma_update(None, "foreign_keys", true)?;
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let version: i64 = tx.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if version != SCHEMA_VERSION {
            tx.execute_batch("DROP TABLE IF EXISTS statements; DROP TABLE IF EXISTS sessions;")?;
            tx.execute_batch(SCHEMA)?;
            tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        tx.commit()?;
        Ok(Index(db))
    }

    /// Opens an index that is there, only to read it; the daemon may run.
    ///
    /// # Errors
    /// [`Error::Io`] if there is none, [`Error::Index`].
    pub fn read(path: &Path) -> Result<Index, Error> {
        // SQLite doesn't tell a file that is missing from one that may not be read.
        fs::File::open(path).map_err(|e| Error::io("open the index", path, e))?;
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        db.busy_timeout(Duration::from_secs(10))?;
        Ok(Index(db))
    }

    /// The sessions that `filter` lets through, newest first. Open ones are let through whatever
    /// they came to by the time they were indexed.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn sessions(&self, filter: &Filter) -> Result<Vec<SessionRow>, Error> {
        let mut select = self.0.prepare(SELECT_SESSIONS)?;
        let rows = select.query_map(
            named_params! {
                ":agent": filter.agent,
                ":datastore": filter.datastore,
                ":since": filter.since.map(signed),
                ":denied": filter.denied,
            },
            session_row,
        )?;
        Ok(rows.take(filter.limit).collect::<Result<_, _>>()?)
    }

    /// Every session that the index knows.
    ///
    /// # Errors
    /// [`Error::Index`].
    pub fn known(&self) -> Result<BTreeMap<SessionId, Indexed>, Error> {
        let mut select = self
            .0
            .prepare("SELECT id, state, statements FROM sessions")?;
        let known = select.query_map([], |row| {
            let state: String = row.get(1)?;
            let indexed = Indexed {
                state: State::from_word(&state).unwrap_or(State::Broken),
                statements: row.get::<_, i64>(2)?.unsigned_abs(),
            };
            Ok((id(row, 0)?, indexed))
        })?;
        Ok(known.collect::<Result<_, _>>()?)
    }

    /// The sessions that have ended: nothing about them will change.
    pub(super) fn settled(&self) -> Result<HashSet<SessionId>, Error> {
        let mut select = self
            .0
            .prepare("SELECT id FROM sessions WHERE state <> 'open'")?;
        let ids = select.query_map([], |row| id(row, 0))?;
        Ok(ids.collect::<Result<_, _>>()?)
    }

    /// Writes what sessions came to, over what was there about them.
    pub(super) fn store(&mut self, summaries: &[Summary]) -> Result<(), Error> {
        let tx = self.0.transaction()?;
        summaries.iter().try_for_each(|summary| put(&tx, summary))?;
        tx.commit()?;
        Ok(())
    }

    /// Writes what sessions came to, in place of everything that was there.
    pub(super) fn replace(
        &mut self,
        summaries: &mut dyn Iterator<Item = Result<Summary, Error>>,
    ) -> Result<usize, Error> {
        let tx = self
            .0
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        tx.execute_batch("DELETE FROM statements; DELETE FROM sessions;")?;
        let mut count = 0;
        for summary in summaries {
            put(&tx, &summary?)?;
            count += 1;
        }
        tx.commit()?;
        Ok(count)
    }

    /// Everything in the tables, as text in a fixed order.
    #[cfg(test)]
    pub(in crate::record) fn dump(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for table in ["sessions", "statements"] {
            let mut select = self.0.prepare(&format!("SELECT * FROM {table}")).unwrap();
            let columns = select.column_count();
            let rows = select.query_map([], |row| {
                (0..columns)
                    .map(|i| row.get::<_, rusqlite::types::Value>(i))
                    .collect()
            });
            let rows: Result<Vec<Vec<_>>, _> = rows.unwrap().collect();
            lines.extend(rows.unwrap().iter().map(|row| format!("{table} {row:?}")));
        }
        lines.sort();
        lines
    }
}

fn put(tx: &Transaction<'_>, summary: &Summary) -> Result<(), Error> {
    let (open, totals) = (&summary.open, &summary.totals);
    let id = open.id.to_string();
    tx.prepare_cached("DELETE FROM sessions WHERE id = ?")?
        .execute([&id])?;
    tx.prepare_cached(INSERT_SESSION)?.execute(named_params! {
        ":id": id,
        ":started": signed(open.at),
        ":last_at": signed(summary.last_at),
        ":state": summary.state.as_str(),
        ":agent": &*open.agent,
        ":datastore": &*open.datastore,
        ":database": open.database,
        ":claimed_user": open.claimed_user,
        ":cgroup": open.cgroup,
        ":pid": open.pid,
        ":uid": open.uid,
        ":comm": open.comm,
        ":reason": summary.reason,
        ":statements": signed(totals.statements),
        ":denied": signed(totals.denied),
        ":rows": signed(totals.rows),
        ":bytes": signed(totals.bytes),
        ":masked_cells": signed(totals.masked_cells),
    })?;
    let mut insert =
        tx.prepare_cached("INSERT INTO statements VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")?;
    for group in &summary.groups {
        insert.execute(params![
            id,
            group.digest,
            group.text,
            group.decision,
            group.rules,
            signed(group.count),
            signed(group.rows),
            signed(group.first_at),
            signed(group.last_at),
        ])?;
    }
    Ok(())
}

fn session_row(row: &Row<'_>) -> rusqlite::Result<SessionRow> {
    let count = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
    let state: String = row.get(3)?;
    Ok(SessionRow {
        id: id(row, 0)?,
        started: count(1)?,
        last_at: count(2)?,
        state: State::from_word(&state).unwrap_or(State::Broken),
        agent: row.get(4)?,
        datastore: row.get(5)?,
        database: row.get(6)?,
        claimed_user: row.get(7)?,
        cgroup: row.get(8)?,
        pid: row.get(9)?,
        uid: row.get(10)?,
        comm: row.get(11)?,
        reason: row.get(12)?,
        totals: Totals {
            statements: count(13)?,
            denied: count(14)?,
            rows: count(15)?,
            bytes: count(16)?,
            masked_cells: count(17)?,
        },
    })
}

fn id(row: &Row<'_>, column: usize) -> rusqlite::Result<SessionId> {
    let text: String = row.get(column)?;
    text.parse().map_err(|e: uuid::Error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}

/// SQLite has signed integers only; what is above them can't be told from the largest.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Error {
    /// Whether the file of the index is no database, or one that is damaged.
    pub(super) fn is_damage(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
        let Error::Index(e) = self else { return false };
        matches!(e.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
    }
}

/// Removes an index with its WAL.
fn remove(path: &Path) -> Result<(), Error> {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let path = PathBuf::from(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &path, e));
            }
            _ => {}
        }
    }
    Ok(())
}
