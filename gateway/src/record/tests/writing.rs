//! What is written, when, and that it reads back.

use super::*;

#[test]
fn a_session_reads_back_as_it_was_recorded() {
    let (place, _recorder, mut journal) = session();
    let id = journal.id();
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
    let (place, _recorder, mut journal) = session();
    let id = journal.id();
    // Half of it compresses, half doesn't.
    let frames = [vec![b'x'; 100_000], noise(100_000)].concat();
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
    let (_place, _recorder, mut journal) = session();
    let noise = noise(4000);
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
    let (_place, _recorder, mut journal) = session();
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
    let (place, _recorder, mut journal) = session();
    let id = journal.id();
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
    let (place, _recorder, mut journal) = session();
    let id = journal.id();
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
    let (place, _recorder, mut journal) = session();
    let id = journal.id();
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
