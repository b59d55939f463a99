//! Journals written, damaged, cut off and read back: what their tests share.

mod index;
mod mapped;
mod reading;
mod writing;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;

pub(super) fn open_of(id: SessionId) -> SessionOpen {
    SessionOpen {
        id,
        at: 1_700_000_000_000_000,
        agent: "coder".into(),
        groups: vec!["agents".into()],
        datastore: "appdb".into(),
        destination: "10.0.3.7:5432".into(),
        cgroup: "weir-agents.slice/coder-1".into(),
        container: None,
        pid: 4711,
        uid: 1000,
        comm: "psql".into(),
        exe: None,
        claimed_user: "postgres".into(),
        database: "app".into(),
        parameters: vec![("application_name".into(), "psql".into())],
        client_tls: None,
        upstream: None,
        policy: "00".into(),
        weir: "0.1.0".into(),
    }
}

pub(super) struct Place {
    pub(super) dir: tempfile::TempDir,
    pub(super) paths: Paths,
}

impl Place {
    pub(super) fn new() -> Place {
        Place::in_dir(tempfile::tempdir().unwrap())
    }

    pub(super) fn in_dir(dir: tempfile::TempDir) -> Place {
        let paths = Paths {
            journal: dir.path().join("journal"),
            index: dir.path().join("index.db"),
        };
        Place { dir, paths }
    }

    pub(super) fn recorder(&self, durability: Durability) -> Recorder {
        Recorder::open(&Settings {
            dir: self.paths.journal.clone(),
            durability,
            index: self.paths.index.clone(),
        })
        .unwrap()
    }

    pub(super) fn path(&self, id: SessionId) -> PathBuf {
        id.path_in(&self.paths.journal)
    }
}

/// A session that has begun, in a place of its own.
pub(super) fn session() -> (Place, Recorder, SessionJournal) {
    session_in(Place::new(), Durability::Os)
}

pub(super) fn session_in(
    place: Place,
    durability: Durability,
) -> (Place, Recorder, SessionJournal) {
    let recorder = place.recorder(durability);
    let journal = recorder.session(&open_of(SessionId::now()));
    let journal = journal.expect("a new place takes a session");
    (place, recorder, journal)
}

/// Bytes that don't compress.
pub(super) fn noise(count: usize) -> Vec<u8> {
    let mut noise = vec![0; count];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    noise
}

/// Runs a future that never waits for anything but the sync thread.
pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

pub(super) fn decision<'a>(statement: u64, rules: &'a [Arc<str>]) -> Entry<'a> {
    Entry::Decision {
        statement,
        at: 1_700_000_000_000_100 + statement,
        text: 1,
        span: 0..8,
        via: Via::Simple,
        parameters: None,
        verdict: Verdict::Allow,
        rules,
        effects: 1,
    }
}

pub(super) fn outcome(statement: u64, rows: u64) -> Entry<'static> {
    Entry::Outcome {
        statement,
        at: 1_700_000_000_000_200 + statement,
        micros: 100,
        status: Status::Completed { tag: b"SELECT 1" },
        rows,
        bytes: rows * 10,
        masked_cells: 0,
        digest: None,
    }
}

/// A session of `statements` statements, closed or dropped.
pub(super) fn write_session(recorder: &Recorder, statements: u64, close: bool) -> SessionId {
    let id = SessionId::now();
    let rules: [Arc<str>; 1] = ["read-customers".into()];
    let mut journal = recorder.session(&open_of(id)).unwrap();
    journal.append(&Entry::Text {
        id: 1,
        sql: b"select 1",
    });
    block_on(async {
        for statement in 1..=statements {
            journal.append(&decision(statement, &rules));
            let _ = journal.commit().await.unwrap();
            journal.append(&Entry::Rows {
                statement,
                columns: 0,
                frames: &[b'D'; 700],
            });
            journal.append(&outcome(statement, 1));
            let _ = journal.commit().await.unwrap();
        }
        if close {
            journal
                .close(1_700_000_000_900_000, CloseReason::ClientQuit)
                .await
                .unwrap();
        }
    });
    id
}
