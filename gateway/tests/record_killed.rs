//! What is recorded survives `kill -9` of the process that records.
#![allow(
    clippy::unwrap_used,
    reason = "a test, also outside of its #[test] functions"
)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir::record::{
    Durability, Entry, Filter, Index, Recorder, SessionId, SessionOpen, Settings, State, Status,
    Verdict, Verification, Via, journals, verify,
};

/// Set in the process that is killed: where it records.
const CHILD: &str = "WEIR_TEST_RECORD_UNTIL_KILLED";
/// Bytes of the largest result.
const LARGEST: usize = 1_600_000;

fn settings(dir: &Path) -> Settings {
    Settings {
        dir: dir.join("journal"),
        durability: Durability::Os,
        index: dir.join("index.db"),
    }
}

fn open(id: SessionId) -> SessionOpen {
    SessionOpen {
        id,
        at: 1,
        agent: "coder".into(),
        groups: Vec::new(),
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
        parameters: Vec::new(),
        client_tls: None,
        upstream: None,
        policy: String::new(),
        weir: String::new(),
    }
}

/// Records statements until it is killed: with results from small to large, or a few small ones only.
/// The number of the last that was recorded is in a file of its own.
fn record(dir: &Path, largest: usize) -> ! {
    let recorder = Recorder::open(&settings(dir)).unwrap();
    let id = SessionId::now();
    let mut journal = recorder.session(&open(id)).unwrap();
    let recorded = File::create(dir.join(id.to_string())).unwrap();
    let rules: [Arc<str>; 1] = ["read".into()];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let rows: Vec<u8> = (0..largest as u32 / 4).flat_map(u32::to_be_bytes).collect();
    for statement in 1.. {
        journal.append(&Entry::Decision {
            statement,
            at: statement,
            text: 1,
            span: 0..0,
            via: Via::Simple,
            parameters: None,
            verdict: Verdict::Allow,
            rules: &rules,
            effects: 1,
        });
        let _ = runtime.block_on(journal.commit()).unwrap();
        recorded.write_at(&statement.to_le_bytes(), 0).unwrap();
        let frames = &rows[..rows.len() >> (statement % 16)];
        journal.append(&Entry::Rows {
            statement,
            columns: 0,
            frames,
        });
        journal.append(&Entry::Outcome {
            statement,
            at: statement,
            micros: 1,
            status: Status::Completed { tag: b"SELECT" },
            rows: 1,
            bytes: 1,
            masked_cells: 0,
            digest: None,
        });
        let _ = runtime.block_on(journal.commit()).unwrap();
    }
    unreachable!("u64 has not run out")
}

/// Starts a test as a process that records into `dir`, and kills it after `time` of recording.
fn record_and_kill(test: &str, dir: &Path, time: Duration) {
    let known = journals(&dir.join("journal"), "").map_or(0, |all| all.len());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(CHILD, dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let recording = || {
        let all = journals(&dir.join("journal"), "").unwrap_or_default();
        all.len() > known
            && all
                .iter()
                .all(|(_, path)| path.metadata().unwrap().len() > 4096)
    };
    while !recording() {
        assert!(Instant::now() < deadline, "it does not record");
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(time);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
}

/// Kills six of a test's recorders. What each leaves is sound, and has all that was recorded.
fn are_sound_when_killed(test: &str, dir: &Path) {
    for round in 0..6 {
        record_and_kill(test, dir, Duration::from_millis(3 * round));
    }
    let all = journals(&dir.join("journal"), "").unwrap();
    assert_eq!(all.len(), 6);
    for (id, path) in &all {
        let found = verify(path).unwrap();
        assert!(matches!(found.end, Verification::Cut { .. }), "{found:?}");
        let recorded = std::fs::read(dir.join(id.to_string())).unwrap();
        let recorded = u64::from_le_bytes(recorded.try_into().unwrap());
        assert!(found.statements >= recorded, "{recorded}: {found:?}");
        assert!(recorded > 1, "{found:?}");
    }
}

#[test]
fn a_recorder_of_a_busy_session_loses_nothing_that_it_has_recorded_when_it_is_killed() {
    if let Some(dir) = std::env::var_os(CHILD) {
        record(Path::new(&dir), 64);
    }
    // On a filesystem on which it is mapped, whatever this runs on.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    are_sound_when_killed(
        "a_recorder_of_a_busy_session_loses_nothing_that_it_has_recorded_when_it_is_killed",
        dir.path(),
    );
    for (_, path) in journals(&dir.path().join("journal"), "").unwrap() {
        let bytes = std::fs::read(path).unwrap();
        assert!(bytes.ends_with(&[0; 64]), "it wasn't mapped");
    }
}

#[test]
fn a_killed_recorder_leaves_sound_journals_that_the_next_one_indexes() {
    if let Some(dir) = std::env::var_os(CHILD) {
        record(Path::new(&dir), LARGEST);
    }
    let dir = tempfile::tempdir().unwrap();
    are_sound_when_killed(
        "a_killed_recorder_leaves_sound_journals_that_the_next_one_indexes",
        dir.path(),
    );
    // The next daemon finds them, and none is listed as open any more.
    let indexed = || {
        let filter = Filter {
            limit: usize::MAX,
            ..Filter::default()
        };
        Index::read(&dir.path().join("index.db"))
            .unwrap()
            .sessions(&filter)
            .unwrap()
    };
    let recorder = Recorder::open(&settings(dir.path())).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while indexed().len() < 6 || indexed().iter().any(|session| session.state == State::Open) {
        assert!(Instant::now() < deadline, "{:?}", indexed());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(indexed().iter().all(|session| session.state == State::Cut));
    assert!(
        indexed()
            .iter()
            .all(|session| session.totals.statements > 0)
    );
    drop(recorder);
}
