//! Journals written, damaged, cut off and read back.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;

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
        let dir = tempfile::tempdir().unwrap();
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

fn verify_bytes(bytes: &[u8]) -> (u64, Verification) {
    let mut reader = Reader::new(Cursor::new(bytes));
    let end = loop {
        match reader.next().map(|record| record.is_some()) {
            Ok(true) => {}
            Ok(false) if reader.closed() => break Verification::Complete,
            Ok(false) => {
                break Verification::Cut {
                    tail: reader.tail(),
                };
            }
            Err(ReadError::Broken(broken)) => break Verification::Broken(broken),
            Err(ReadError::Io(e)) => panic!("{e}"),
        }
    };
    (reader.records(), end)
}

/// Where each record begins; the file's end is last.
fn offsets(bytes: &[u8]) -> Vec<u64> {
    let mut reader = Reader::new(Cursor::new(bytes));
    let mut offsets = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        offsets.push(record.offset);
    }
    offsets.push(bytes.len() as u64);
    offsets
}

fn closed_journal() -> Vec<u8> {
    static JOURNAL: OnceLock<Vec<u8>> = OnceLock::new();
    let write = || {
        let place = Place::new();
        let recorder = place.recorder(Durability::Os);
        let id = write_session(&recorder, 5, true);
        fs::read(place.path(id)).unwrap()
    };
    JOURNAL.get_or_init(write).clone()
}

#[test]
fn a_session_reads_back_as_it_was_recorded() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let id = SessionId::now();
    let mut journal = recorder.session(&open_of(id)).unwrap();
    let rules: [Arc<str>; 2] = ["a".into(), "b".into()];
    let text = b"select $1".repeat(200);
    journal.append(&Entry::Text { id: 1, sql: &text });
    journal.append(&Entry::Types {
        text: 1,
        oids: &[[0, 0, 0, 23], [0; 4]],
    });
    journal.append(&Entry::Decision {
        statement: 1,
        at: 77,
        text: 1,
        span: 3..9,
        via: Via::Execute,
        parameters: Some(&[0, 0, 0, 0]),
        verdict: Verdict::Deny {
            sqlstate: "42501",
            message: "no",
        },
        rules: &rules,
        effects: 0b101,
    });
    journal.append(&Entry::Columns {
        statement: 1,
        number: 300,
        fields: &[0, 0],
        masked: &[2, 300],
    });
    journal.append(&Entry::CopyIn {
        statement: 1,
        frames: b"d\0\0\0\x05x",
    });
    journal.append(&Entry::Outcome {
        statement: 1,
        at: 88,
        micros: 9,
        status: Status::Failed {
            sqlstate: b"22P02",
            message: b"\xff",
        },
        rows: 1,
        bytes: 2,
        masked_cells: 3,
        digest: Some([7; 32]),
    });
    journal.append(&Entry::Policy {
        at: 99,
        sha256: [9; 32],
    });
    journal.append(&Entry::Note {
        at: 100,
        kind: "cancel",
        text: "by the agent",
    });
    block_on(journal.close(101, CloseReason::Drained)).unwrap();

    let mut reader = Reader::open(&place.path(id)).unwrap();
    let mut next = |expected: Stored<'_>| {
        assert_eq!(
            reader.next().unwrap().map(|record| record.entry),
            Some(expected)
        );
    };
    next(Stored::Open(Box::new(open_of(id))));
    next(Stored::Text { id: 1, sql: &text });
    next(Stored::Types {
        text: 1,
        oids: vec![23, 0],
    });
    next(Stored::Decision(Box::new(StoredDecision {
        statement: 1,
        at: 77,
        text: 1,
        span: 3..9,
        via: Via::Execute,
        parameters: Some(&[0, 0, 0, 0]),
        verdict: Verdict::Deny {
            sqlstate: "42501",
            message: "no",
        },
        rules: vec!["a", "b"],
        effects: 0b101,
    })));
    next(Stored::Columns {
        statement: 1,
        number: 300,
        fields: &[0, 0],
        masked: vec![2, 300],
    });
    next(Stored::CopyIn {
        statement: 1,
        frames: b"d\0\0\0\x05x",
    });
    next(Stored::Outcome(Box::new(StoredOutcome {
        statement: 1,
        at: 88,
        micros: 9,
        status: Status::Failed {
            sqlstate: b"22P02",
            message: b"\xff",
        },
        rows: 1,
        bytes: 2,
        masked_cells: 3,
        digest: Some([7; 32]),
    })));
    next(Stored::Policy {
        at: 99,
        sha256: [9; 32],
    });
    next(Stored::Note {
        at: 100,
        kind: "cancel",
        text: "by the agent",
    });
    let totals = Totals {
        statements: 1,
        denied: 1,
        rows: 1,
        bytes: 2,
        masked_cells: 3,
    };
    next(Stored::Close(Box::new(Close {
        at: 101,
        reason: CloseReason::Drained,
        totals,
    })));
    assert_eq!(reader.next().unwrap(), None);
    assert_eq!(verify(&place.path(id)).unwrap().end, Verification::Complete);
}

#[test]
fn bulk_data_is_cut_into_pieces_that_make_up_the_same_stream() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let id = SessionId::now();
    let mut journal = recorder.session(&open_of(id)).unwrap();
    // Half of it compresses, half doesn't.
    let mut noise = vec![0; 100_000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let frames = [vec![b'x'; 100_000], noise].concat();
    journal.append(&Entry::Rows {
        statement: 1,
        columns: 0,
        frames: &frames,
    });
    let _ = block_on(journal.commit()).unwrap();
    assert!(
        fs::metadata(place.path(id)).unwrap().len() < 150_000,
        "nothing was compressed"
    );

    let mut reader = Reader::open(&place.path(id)).unwrap();
    let mut read = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        if let Stored::Rows { frames, .. } = record.entry {
            read.extend_from_slice(frames);
        }
    }
    assert!(read == frames);
}

#[test]
fn compressing_is_given_up_for_noise_and_taken_up_again() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let mut journal = recorder.session(&open_of(SessionId::now())).unwrap();
    let mut noise = vec![0; 4000];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    journal.append(&Entry::Rows {
        statement: 1,
        columns: 0,
        frames: &noise,
    });
    let mut sizes = Vec::new();
    for _ in 0..20 {
        let before = journal.bytes_pending();
        journal.append(&Entry::Rows {
            statement: 1,
            columns: 0,
            frames: &[b'x'; 4000],
        });
        sizes.push(journal.bytes_pending() - before);
    }
    let raw = sizes.iter().take_while(|&&size| size > 4000).count();
    assert_eq!(raw, 15);
    assert!(sizes[raw..].iter().all(|&size| size < 100), "{sizes:?}");
}

#[test]
fn an_idle_session_holds_no_buffer() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let mut journal = recorder.session(&open_of(SessionId::now())).unwrap();
    journal.append(&Entry::Rows {
        statement: 1,
        columns: 0,
        frames: &[b'x'; 300_000],
    });
    assert!(journal.buffer_held() > 0);
    let _ = block_on(journal.commit()).unwrap();
    assert_eq!(journal.buffer_held(), 0);
}

#[test]
fn nothing_is_written_before_a_commit_and_nothing_pending_stays_after_it() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let id = SessionId::now();
    let mut journal = recorder.session(&open_of(id)).unwrap();
    let pending = journal.bytes_pending();
    assert!(pending > 0);
    assert_eq!(fs::metadata(place.path(id)).unwrap().len(), 0);
    let _ = block_on(journal.commit()).unwrap();
    assert_eq!(journal.bytes_pending(), 0);
    assert_eq!(fs::metadata(place.path(id)).unwrap().len(), pending as u64);
    let _ = block_on(journal.commit()).unwrap();
    assert_eq!(fs::metadata(place.path(id)).unwrap().len(), pending as u64);
}

#[test]
fn an_entry_that_is_too_large_ends_the_journal_and_leaves_it_sound() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let id = SessionId::now();
    let mut journal = recorder.session(&open_of(id)).unwrap();
    let _ = block_on(journal.commit()).unwrap();
    journal.append(&Entry::Text {
        id: 1,
        sql: &vec![0; MAX_PAYLOAD + 1],
    });
    assert!(matches!(
        block_on(journal.commit()),
        Err(Error::TooLarge { .. })
    ));
    journal.append(&Entry::Text {
        id: 1,
        sql: b"select 1",
    });
    assert!(matches!(block_on(journal.commit()), Err(Error::Dead)));
    drop(journal);
    let found = verify(&place.path(id)).unwrap();
    assert_eq!(found.records, 1);
    assert_eq!(found.end, Verification::Cut { tail: Tail::Whole });
}

#[test]
fn a_journal_is_open_while_its_session_lives_and_cut_once_it_is_gone() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let id = SessionId::now();
    let mut journal = recorder.session(&open_of(id)).unwrap();
    let _ = block_on(journal.commit()).unwrap();
    assert_eq!(verify(&place.path(id)).unwrap().end, Verification::Open);
    drop(journal);
    let cut = Verification::Cut { tail: Tail::Whole };
    assert_eq!(verify(&place.path(id)).unwrap().end, cut);
}

#[test]
fn only_the_owner_can_read_journals() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let id = write_session(&recorder, 0, true);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.path(id)), 0o600);
    assert_eq!(mode(place.path(id).parent().unwrap()), 0o700);
    assert_eq!(mode(&place.paths.journal), 0o700);
}

#[test]
fn a_session_id_is_recorded_once() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let id = write_session(&recorder, 1, true);
    assert!(matches!(
        recorder.session(&open_of(id)),
        Err(Error::Io {
            doing: "create",
            ..
        })
    ));
}

#[test]
fn a_second_daemon_is_kept_out_of_the_directory() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let settings = Settings {
        dir: place.paths.journal.clone(),
        durability: Durability::Os,
        index: place.dir.path().join("other.db"),
    };
    assert!(matches!(
        Recorder::open(&settings),
        Err(Error::Locked { .. })
    ));
    drop(recorder);
    assert!(Recorder::open(&settings).is_ok());
}

#[test]
fn a_directory_that_is_gone_is_not_writable() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    recorder.check_writable().unwrap();
    fs::remove_dir_all(&place.paths.journal).unwrap();
    assert!(matches!(recorder.check_writable(), Err(Error::Io { .. })));
    assert!(recorder.session(&open_of(SessionId::now())).is_err());
}

#[test]
fn sessions_that_commit_together_are_all_on_the_disk() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Disk);
    let sessions: Vec<_> = (0..8)
        .map(|_| {
            let recorder = recorder.clone();
            std::thread::spawn(move || write_session(&recorder, 20, true))
        })
        .collect();
    for session in sessions {
        let found = verify(&place.path(session.join().unwrap())).unwrap();
        assert_eq!(
            (found.records, found.end),
            (2 + 20 * 3 + 1, Verification::Complete)
        );
    }
}

#[test]
fn a_commit_that_was_not_waited_for_is_synced_by_the_next() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Disk);
    let mut journal = recorder.session(&open_of(SessionId::now())).unwrap();
    block_on(async {
        // Polled once, then dropped: written, but not known to be on the disk.
        let pending = {
            let mut commit = std::pin::pin!(journal.commit());
            std::future::poll_fn(|cx| std::task::Poll::Ready(commit.as_mut().poll(cx).is_pending()))
                .await
        };
        assert!(pending, "the commit did not wait for the disk");
        assert!(journal.is_unsynced());
        let _ = journal.commit().await.unwrap();
        assert!(!journal.is_unsynced());
    });
}

#[test]
fn records_behind_the_close_are_broken() {
    let mut bytes = closed_journal();
    let records = verify_bytes(&bytes).0;
    bytes.push(0);
    let (sound, end) = verify_bytes(&bytes);
    assert_eq!(sound, records);
    assert!(matches!(
        end,
        Verification::Broken(Broken {
            fault: Fault::Order,
            ..
        })
    ));
}

#[test]
fn a_journal_under_another_sessions_name_is_broken() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let (a, b) = (
        write_session(&recorder, 1, true),
        write_session(&recorder, 1, true),
    );
    fs::copy(place.path(a), place.path(b)).unwrap();
    let end = verify(&place.path(b)).unwrap().end;
    assert!(
        matches!(
            end,
            Verification::Broken(Broken {
                fault: Fault::Name,
                ..
            })
        ),
        "{end:?}"
    );
}

#[test]
fn a_record_that_was_taken_out_is_missed() {
    let bytes = closed_journal();
    let at = offsets(&bytes);
    let without = [&bytes[..at[3] as usize], &bytes[at[4] as usize..]].concat();
    let (_, end) = verify_bytes(&without);
    assert!(
        matches!(end, Verification::Broken(Broken { record: 4, .. })),
        "{end:?}"
    );
}

#[test]
fn a_growing_journal_is_followed() {
    let bytes = closed_journal();
    let place = Place::new();
    let path = place.dir.path().join("growing");
    fs::write(&path, &bytes[..40]).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    let mut records = 0;
    for end in (40..bytes.len()).step_by(7).chain([bytes.len()]) {
        fs::write(&path, &bytes[..end]).unwrap();
        while reader.next().unwrap().is_some() {
            records += 1;
        }
    }
    assert!(reader.closed());
    assert_eq!(records, verify_bytes(&bytes).0);
}

#[test]
fn skimming_sees_everything_but_bulk_data_and_can_go_back_to_checking() {
    let bytes = closed_journal();
    let mut reader = Reader::new(Cursor::new(&bytes));
    reader.skimming(true);
    let mut seen = 0;
    while seen < 6 {
        assert!(!matches!(
            reader.next().unwrap().unwrap().entry,
            Stored::Rows { .. }
        ));
        seen += 1;
    }
    reader.skimming(false);
    let mut rows = 0;
    while let Some(record) = reader.next().unwrap() {
        rows += u32::from(matches!(record.entry, Stored::Rows { .. }));
    }
    assert!(reader.closed());
    assert!(rows > 0);
}

#[test]
fn a_digest_of_rows_does_not_depend_on_the_pieces_in_which_they_came() {
    let (mut whole, mut pieces) = (RowsDigest::new(), RowsDigest::new());
    whole.update(b"frames");
    pieces.update(b"fra");
    assert_ne!(whole.finalize(), pieces.finalize());
    pieces.update(b"mes");
    assert_eq!(whole.finalize(), pieces.finalize());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_changed_byte_breaks_its_record(at: prop::sample::Index, flip in 1u8..) {
        let mut bytes = closed_journal();
        let offsets = offsets(&bytes);
        let at = at.index(bytes.len());
        // The number of the record that holds the byte; 0 is the file's header.
        let record = offsets.iter().filter(|&&offset| offset <= at as u64).count() as u64;
        bytes[at] ^= flip;
        match verify_bytes(&bytes).1 {
            // A changed session id shows where the first header does not fit it.
            Verification::Broken(b) if record == 0 => prop_assert!(b.record <= 1),
            Verification::Broken(b) => prop_assert_eq!(b.record, record),
            other => prop_assert!(false, "{:?} for byte {} of record {}", other, at, record),
        }
    }

    #[test]
    fn a_journal_cut_anywhere_is_not_complete_and_keeps_what_was_whole(at: prop::sample::Index) {
        let bytes = closed_journal();
        let offsets = offsets(&bytes);
        let at = at.index(bytes.len());
        let (records, end) = verify_bytes(&bytes[..at]);
        let whole = offsets.iter().skip(1).filter(|&&offset| offset <= at as u64).count() as u64;
        prop_assert_eq!(records, whole);
        let clean = at == 0 || at == 32 || offsets.contains(&(at as u64));
        let begin = offsets.iter().copied().filter(|&o| o <= at as u64).max().unwrap_or(0);
        let tail = if clean { Tail::Whole } else { Tail::Torn { offset: begin } };
        prop_assert_eq!(end, Verification::Cut { tail });
    }

    #[test]
    fn reading_anything_neither_panics_nor_trusts_it(bytes: Vec<u8>, skim: bool) {
        let journal = closed_journal();
        let header = &journal[..offsets(&journal)[2] as usize];
        for bytes in [bytes.clone(), [header, &bytes].concat()] {
            let mut reader = Reader::new(Cursor::new(&bytes));
            reader.skimming(skim);
            while let Ok(Some(_)) = reader.next() {}
            prop_assert!(!reader.closed());
        }
    }

    #[test]
    fn decoding_any_payload_does_not_panic(kind: u8, payload: Vec<u8>) {
        let _ = Stored::decode(kind, &payload);
    }
}

/// Waits for the index's thread, which gathers for a quarter of a second.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..200 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("not within 5 s: {what}");
}

fn all() -> Filter {
    Filter {
        limit: usize::MAX,
        ..Filter::default()
    }
}

#[test]
fn a_rebuilt_index_equals_one_that_was_kept_live() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    for session in 0..5 {
        write_session(&recorder, session, session != 3);
    }
    drop(recorder);
    let live = Index::read(&place.paths.index).unwrap().dump();
    // Five sessions, of which four have a group of statements.
    assert_eq!(live.len(), 5 + 4);
    let rebuilt = place.dir.path().join("rebuilt.db");
    assert_eq!(reindex(&rebuilt, &place.paths.journal).unwrap(), 5);
    assert_eq!(Index::read(&rebuilt).unwrap().dump(), live);
    assert_eq!(
        reindex(&place.paths.index, &place.paths.journal).unwrap(),
        5
    );
    assert_eq!(Index::read(&place.paths.index).unwrap().dump(), live);
}

fn question<'a>(name: &'a str, told: Told<'static>) -> Entry<'a> {
    Entry::Question(Question {
        at: 1_700_000_000_000_300,
        pid: 4711,
        comm: "getent",
        name,
        record_type: "A",
        told,
    })
}

#[test]
fn questions_are_summed_up_as_statements_and_refused_ones_as_denied() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let id = SessionId::now();
    let mut journal = recorder.session(&open_of(id)).unwrap();
    let addresses = vec![[10, 0, 0, 1].into()];
    journal.append(&question("db.internal", Told::Addresses(addresses.into())));
    journal.append(&question("db.internal", Told::Addresses(vec![].into())));
    journal.append(&question("x.evil.example", Told::Refused));
    journal.append(&question("db.internal.svc", Told::Nonexistent));
    journal.append(&question("api.example", Told::Failed));
    let totals = journal.totals();
    assert_eq!((totals.statements, totals.denied), (5, 1));
    let reason = CloseReason::Questions("none for 60 s".into());
    block_on(journal.close(1_700_000_000_900_000, reason)).unwrap();
    assert_eq!(verify(&place.path(id)).unwrap().records, 7);
    let summary = Summary::of(&place.path(id), None).unwrap().unwrap();
    assert_eq!(summary.totals, totals);
    let reason = summary.reason.as_deref();
    assert_eq!(reason, Some("end of questions: none for 60 s"));
    let groups = summary.groups.iter();
    let groups: Vec<_> = groups
        .map(|group| (&*group.text, group.decision, group.count))
        .collect();
    let expected = [
        ("A db.internal", "allow", 2),
        ("A x.evil.example", "deny", 1),
        ("A db.internal.svc", "allow", 1),
        ("A api.example", "allow", 1),
    ];
    assert_eq!(groups, expected);
    drop(recorder);
    let live = Index::read(&place.paths.index).unwrap().dump();
    assert_eq!(live.len(), 1 + 4);
    let rebuilt = place.dir.path().join("rebuilt.db");
    assert_eq!(reindex(&rebuilt, &place.paths.journal).unwrap(), 1);
    assert_eq!(Index::read(&rebuilt).unwrap().dump(), live);
}

#[test]
fn an_index_that_was_lost_or_damaged_is_made_anew_at_the_next_start() {
    let place = Place::new();
    let id = write_session(&place.recorder(Durability::Os), 2, true);
    fs::write(
        &place.paths.index,
        "this is not a database, and it is long enough",
    )
    .unwrap();
    let _recorder = place.recorder(Durability::Os);
    eventually("the session is indexed again", || {
        let sessions = Index::read(&place.paths.index)
            .unwrap()
            .sessions(&all())
            .unwrap();
        sessions.len() == 1 && sessions[0].id == id && sessions[0].totals.statements == 2
    });
}

#[test]
fn a_session_is_listed_as_open_then_as_closed() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let state = || {
        let sessions = Index::read(&place.paths.index)
            .unwrap()
            .sessions(&all())
            .unwrap();
        sessions.first().map(|session| session.state)
    };
    let mut journal = recorder.session(&open_of(SessionId::now())).unwrap();
    let _ = block_on(journal.commit()).unwrap();
    eventually("the session is open", || state() == Some(State::Open));
    block_on(journal.close(1_700_000_000_900_000, CloseReason::ClientQuit)).unwrap();
    eventually("the session is closed", || state() == Some(State::Closed));
}

#[test]
fn sessions_are_filtered_and_the_newest_come_first() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let mut ids = Vec::new();
    for (minute, agent) in ["coder", "analyst", "coder"].into_iter().enumerate() {
        let id = SessionId::now();
        let at = 1_000_000 + minute as u64 * 60_000_000;
        let open = SessionOpen {
            agent: agent.into(),
            at,
            ..open_of(id)
        };
        let mut journal = recorder.session(&open).unwrap();
        if minute == 0 {
            journal.append(&Entry::Decision {
                statement: 1,
                at,
                text: 1,
                span: 0..0,
                via: Via::Parse,
                parameters: None,
                verdict: Verdict::Deny {
                    sqlstate: "42501",
                    message: "no",
                },
                rules: &[],
                effects: 0,
            });
        }
        block_on(journal.close(at + 1, CloseReason::ClientQuit)).unwrap();
        ids.push(id);
    }
    drop(recorder);
    let index = Index::read(&place.paths.index).unwrap();
    let listed = |filter: Filter| -> Vec<SessionId> {
        index
            .sessions(&filter)
            .unwrap()
            .into_iter()
            .map(|session| session.id)
            .collect()
    };
    assert_eq!(listed(all()), [ids[2], ids[1], ids[0]]);
    assert_eq!(listed(Filter { limit: 1, ..all() }), [ids[2]]);
    assert_eq!(
        listed(Filter {
            agent: Some("coder".into()),
            ..all()
        }),
        [ids[2], ids[0]]
    );
    assert_eq!(
        listed(Filter {
            datastore: Some("other".into()),
            ..all()
        }),
        []
    );
    assert_eq!(
        listed(Filter {
            since: Some(61_000_001),
            ..all()
        }),
        [ids[2], ids[1]]
    );
    assert_eq!(
        listed(Filter {
            denied: true,
            ..all()
        }),
        [ids[0]]
    );
}
