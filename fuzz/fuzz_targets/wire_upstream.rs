//! Frames and messages that a server sends: the fast way over runs of rows must see what the
//! careful one sees.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::wire::{
    ErrorFields, HEADER, Side, command_tag, fields, frame, notification, parameter_status, ready_status,
    row_run,
};

fuzz_target!(|data: &[u8]| {
    let (run, rows) = row_run(data, u64::MAX);
    assert!(run <= data.len());
    let (mut at, mut counted) = (0, 0);
    while at < run {
        let found = frame(Side::Upstream, &data[at..]);
        let Ok(Some(found)) = found else {
            panic!("a run of rows has something that is no frame: {found:?}");
        };
        at += found.size;
        counted += 1;
    }
    assert_eq!((at, counted), (run, rows));

    let mut rest = data;
    while let Ok(Some(found)) = frame(Side::Upstream, rest) {
        let Some(whole) = rest.get(..found.size) else {
            break;
        };
        message(found.tag, &whole[HEADER..]);
        rest = &rest[found.size..];
    }
});

fn message(tag: u8, body: &[u8]) {
    match tag {
        b'T' => drop(fields(body).map(Iterator::count)),
        b'E' | b'N' => drop(ErrorFields::decode(body)),
        b'A' => drop(notification(body)),
        b'C' => drop(command_tag(body)),
        b'S' => drop(parameter_status(body)),
        b'Z' => drop(ready_status(body)),
        _ => {}
    }
}
