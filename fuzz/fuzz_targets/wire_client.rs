//! Frames and messages that a client sends: whatever follows, the same bytes are the same frames.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::{Bind, Execute, HEADER, Parse, Query, Side, Target, frame};

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    while let Ok(Some(found)) = frame(Side::Client, rest) {
        assert!(found.size >= HEADER);
        let Some(whole) = rest.get(..found.size) else {
            break;
        };
        // A frame is what it is, no matter what comes behind it.
        assert_eq!(frame(Side::Client, whole), Ok(Some(found)));
        message(found.tag, &whole[HEADER..]);
        rest = &rest[found.size..];
    }
});

fn message(tag: u8, body: &[u8]) {
    match tag {
        b'Q' => drop(Query::decode(body)),
        b'P' => drop(Parse::decode(body)),
        b'B' => {
            if let Ok(bind) = Bind::decode(body) {
                assert!(bind.formats().count() <= body.len() / 2);
            }
        }
        b'E' => drop(Execute::decode(body)),
        b'D' => drop(Target::decode("Describe", body)),
        b'C' => drop(Target::decode("Close", body)),
        _ => {}
    }
}
