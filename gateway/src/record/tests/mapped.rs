//! Journals of busy sessions, whose end is mapped: read while they grow, and as a daemon or a machine
//! that died leaves them.

use std::io::Cursor;

use proptest::prelude::*;

use super::reading::{offsets, verify_bytes};
use super::*;

const PAGE: usize = 4096;

/// On a filesystem on which journals are mapped, whatever the tests run on.
fn session() -> (Place, Recorder, SessionJournal) {
    session_with(Durability::Os)
}

fn session_with(durability: Durability) -> (Place, Recorder, SessionJournal) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    session_in(Place::in_dir(dir), durability)
}

/// Commits as many small statements, numbered from `from` on.
fn commit_small(journal: &mut SessionJournal, from: u64, count: u64) {
    let rules: [Arc<str>; 1] = ["read-customers".into()];
    for statement in from..from + count {
        journal.append(&decision(statement, &rules));
        let _ = block_on(journal.commit()).unwrap();
        journal.append(&outcome(statement, 1));
        let _ = block_on(journal.commit()).unwrap();
    }
}

fn commit_large(journal: &mut SessionJournal, statement: u64) {
    journal.append(&Entry::Rows {
        statement,
        columns: 0,
        frames: &noise(100_000),
    });
    let _ = block_on(journal.commit()).unwrap();
}

/// What is in the file of a session of a hundred statements that goes on; records, bytes written.
fn busy_journal() -> (Vec<u8>, u64, usize) {
    let (place, _recorder, mut journal) = session();
    commit_small(&mut journal, 1, 100);
    let bytes = fs::read(place.path(journal.id())).unwrap();
    let written = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    assert!(
        bytes.len().is_multiple_of(PAGE) && bytes.len() - written > PAGE,
        "it isn't mapped: {} bytes of {}",
        written,
        bytes.len()
    );
    // The last link of the chain may end in zeros.
    let end = *offsets(&bytes).last().unwrap() as usize;
    assert!(end.abs_diff(written) < 3);
    (bytes, 1 + 2 * 100, end)
}

#[test]
fn what_a_killed_daemon_leaves_reads_back_whole() {
    let (bytes, records, _) = busy_journal();
    let cut = Verification::Cut { tail: Tail::Whole };
    assert_eq!(verify_bytes(&bytes), (records, cut));
}

#[test]
fn a_closed_journal_ends_where_its_last_record_ends() {
    let (place, _recorder, mut journal) = session();
    let path = place.path(journal.id());
    commit_small(&mut journal, 1, 100);
    block_on(journal.close(7, CloseReason::ClientQuit)).unwrap();
    let found = verify(&path).unwrap();
    assert_eq!(
        (found.records, found.end),
        (1 + 2 * 100 + 1, Verification::Complete)
    );
    let mut reader = Reader::open(&path).unwrap();
    let mut last = 0;
    while let Some(record) = reader.next().unwrap() {
        last = record.offset;
    }
    let close = fs::read(&path).unwrap().split_off(last as usize);
    let length = u32::from_le_bytes(*close.first_chunk().unwrap()) as usize;
    assert_eq!(close.len(), 8 + length + 32);
}

#[test]
fn a_session_that_is_dropped_leaves_no_zeros() {
    let (place, _recorder, mut journal) = session();
    let path = place.path(journal.id());
    commit_small(&mut journal, 1, 100);
    drop(journal);
    let bytes = fs::read(&path).unwrap();
    let (records, end) = verify_bytes(&bytes);
    assert_eq!(records, 1 + 2 * 100);
    assert_eq!(end, Verification::Cut { tail: Tail::Whole });
    assert!(!bytes.ends_with(&[0; 8]), "{} bytes are zeros", bytes.len());
}

#[test]
fn a_commit_that_was_being_copied_is_an_unfinished_record() {
    let (bytes, records, end) = busy_journal();
    let at = offsets(&bytes)[records as usize - 1] as usize;
    for copied in at..end {
        // Any first part of it, and its kind not yet.
        let mut left = bytes.clone();
        left[copied..end].fill(0);
        left[at + 4] = 0;
        let tail = if left[at..].iter().all(|&byte| byte == 0) {
            Tail::Whole
        } else {
            Tail::Torn { offset: at as u64 }
        };
        let cut = Verification::Cut { tail };
        assert_eq!(verify_bytes(&left), (records - 1, cut), "{copied} of {end}");
    }
}

#[test]
fn pages_that_a_machine_lost_are_a_cut_and_not_damage() {
    let (bytes, _, end) = busy_journal();
    let offsets = offsets(&bytes);
    for page in (PAGE..end).step_by(PAGE) {
        let mut left = bytes.clone();
        left[page..].fill(0);
        let whole = offsets.iter().skip(1).filter(|&&o| o <= page as u64);
        let (records, end) = verify_bytes(&left);
        assert_eq!(records, whole.count() as u64);
        assert!(matches!(end, Verification::Cut { .. }), "{page}: {end:?}");
    }
}

#[test]
fn a_page_that_was_lost_before_others_is_damage() {
    let (bytes, _, end) = busy_journal();
    assert!(end > 3 * PAGE);
    let mut left = bytes;
    left[PAGE..2 * PAGE].fill(0);
    let (_, end) = verify_bytes(&left);
    assert!(matches!(end, Verification::Broken(_)), "{end:?}");
}

#[test]
fn zeros_at_the_end_of_a_file_that_was_never_mapped_are_damage() {
    let (bytes, records, end) = busy_journal();
    let (found, verification) = verify_bytes(&bytes[..end + 100]);
    assert_eq!(found, records);
    assert!(
        matches!(verification, Verification::Broken(_)),
        "{verification:?}"
    );
}

#[test]
fn a_reader_follows_through_windows_and_large_commits() {
    let (place, _recorder, mut journal) = session();
    let path = place.path(journal.id());
    let _ = block_on(journal.commit()).unwrap();
    let mut reader = Reader::open(&path).unwrap();
    let mut follow = |expected: u64| {
        while reader.next().unwrap().is_some() {}
        assert_eq!((reader.records(), reader.tail()), (expected, Tail::Whole));
    };
    let (mut records, mut statement, mut longest) = (1, 0, 0);
    for round in 1..=1500 {
        statement += 1;
        commit_small(&mut journal, statement, 1);
        records += 2;
        if round % 500 == 0 {
            statement += 1;
            commit_large(&mut journal, statement);
            // In pieces of 60 KiB.
            records += 2;
            assert!(
                !fs::metadata(&path)
                    .unwrap()
                    .len()
                    .is_multiple_of(PAGE as u64)
            );
        }
        follow(records);
        longest = longest.max(fs::metadata(&path).unwrap().len());
    }
    assert!(longest > 400_000, "{longest}");
    block_on(journal.close(7, CloseReason::ClientQuit)).unwrap();
    follow(records + 1);
    assert_eq!(verify(&path).unwrap().end, Verification::Complete);
}

#[test]
fn a_reader_beside_the_writer_never_sees_half_a_record() {
    let (place, _recorder, mut journal) = session();
    let path = place.path(journal.id());
    let _ = block_on(journal.commit()).unwrap();
    let rounds = 8;
    let follower = std::thread::spawn(move || {
        let mut reader = Reader::open(&path).unwrap();
        while !reader.closed() {
            match reader.next().map(|record| record.is_some()) {
                Ok(true) => {}
                Ok(false) => std::thread::yield_now(),
                Err(broken) => return Err((reader.records(), broken)),
            }
        }
        Ok(reader.records())
    });
    let each = 5000;
    for round in 0..rounds {
        commit_small(&mut journal, 1 + round * each, each);
        commit_large(&mut journal, 1 + round * each);
    }
    block_on(journal.close(7, CloseReason::ClientQuit)).unwrap();
    // A large one is in two pieces.
    let records = 1 + rounds * (2 * each + 2) + 1;
    assert_eq!(follower.join().unwrap().unwrap(), records);
}

#[test]
fn what_has_to_be_on_the_disk_is_never_mapped() {
    let (place, _recorder, mut journal) = session_with(Durability::Disk);
    commit_small(&mut journal, 1, 100);
    let bytes = fs::read(place.path(journal.id())).unwrap();
    assert_eq!(*offsets(&bytes).last().unwrap(), bytes.len() as u64);
    assert_eq!(verify_bytes(&bytes).0, 1 + 2 * 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_changed_byte_of_what_is_written_breaks_its_record(at: prop::sample::Index, flip in 1u8..) {
        let (mut bytes, records, end) = busy_journal();
        let offsets = offsets(&bytes);
        // What the file's own header says is for the journals that are closed.
        let at = 32 + at.index(end - 32);
        let record = offsets[..records as usize].iter().filter(|&&o| o <= at as u64).count();
        let last = at + PAGE >= end;
        let is_kind = offsets.contains(&(at as u64 - 4));
        bytes[at] ^= flip;
        match verify_bytes(&bytes).1 {
            Verification::Broken(b) => prop_assert_eq!(b.record, record as u64),
            // As if it hadn't been finished: no more than cutting it off would do.
            Verification::Cut { .. } if is_kind && bytes[at] == 0 && last => {}
            other => prop_assert!(false, "{:?} for byte {} of record {}", other, at, record),
        }
    }

    #[test]
    fn a_changed_byte_behind_it_adds_no_record(at: prop::sample::Index, to in 1u8..) {
        let (mut bytes, records, end) = busy_journal();
        let at = end + at.index(bytes.len() - end);
        bytes[at] = to;
        let (found, verification) = verify_bytes(&bytes);
        prop_assert_eq!(found, records);
        let torn = Verification::Cut { tail: Tail::Torn { offset: end as u64 } };
        prop_assert!(verification == torn || matches!(verification, Verification::Broken(_)));
        prop_assert!(at < end + PAGE || verification != torn);
    }

    #[test]
    fn skimming_ends_where_reading_does(statements in 1u64..300) {
        let (place, _recorder, mut journal) = session();
        commit_small(&mut journal, 1, statements);
        let bytes = fs::read(place.path(journal.id())).unwrap();
        let mut reader = Reader::new(Cursor::new(&bytes));
        reader.skimming(true);
        while reader.next().unwrap().is_some() {}
        prop_assert_eq!(reader.records(), 1 + 2 * statements);
        prop_assert_eq!(reader.tail(), Tail::Whole);
    }
}
