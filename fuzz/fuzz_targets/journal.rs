//! Reading a journal that somebody tampered with, with and without checking its chain.
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use weir::record::Reader;

fuzz_target!(|data: &[u8]| {
    // Skimming trusts the chain, so that hostile records reach their decoders.
    for skim in [false, true] {
        let mut reader = Reader::new(Cursor::new(data));
        reader.skimming(skim);
        while let Ok(Some(record)) = reader.next() {
            assert!(record.offset < data.len() as u64);
        }
        assert!(reader.records() <= data.len() as u64);
    }
});
