//! Journals damaged, cut off, still growing, and hostile ones.

use std::io::Cursor;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

pub(super) fn verify_bytes(bytes: &[u8]) -> (u64, Verification) {
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

/// Where each record begins; where the last one ends is last.
pub(super) fn offsets(bytes: &[u8]) -> Vec<u64> {
    let mut reader = Reader::new(Cursor::new(bytes));
    let mut offsets = Vec::new();
    while let Some(record) = reader.next().unwrap() {
        offsets.push(record.offset);
    }
    offsets.push(reader.offset());
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
fn damage_in_a_record_larger_than_what_is_read_at_once_is_found() {
    let (place, _recorder, mut journal) = session();
    let path = place.path(journal.id());
    let mut sql = vec![0; 300_000];
    blake3::Hasher::new().finalize_xof().fill(&mut sql);
    for id in 1..=3 {
        journal.append(&Entry::Text { id, sql: &sql });
    }
    let _ = block_on(journal.commit()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    let at = offsets(&bytes)[2] as usize + 200_000;
    bytes[at] ^= 1;
    let (records, end) = verify_bytes(&bytes);
    assert_eq!(records, 2);
    assert!(
        matches!(end, Verification::Broken(Broken { record: 3, .. })),
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
    for size in [0, 1, 16 << 10, 50_000] {
        let frames: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        for piece in [1, 8100, 16 << 10, 40_000] {
            let mut digest = RowsDigest::new();
            frames.chunks(piece).for_each(|part| digest.update(part));
            assert_eq!(digest.finalize(), *blake3::hash(&frames).as_bytes());
        }
    }
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
