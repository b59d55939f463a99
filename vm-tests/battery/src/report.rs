//! Lines that `cargo xtask vm-test` reads, from this process's output or a guest's console.

use std::{io::Write as _, time::Duration};

use crate::{judge::Seen, scenario::Expect};

/// What each line begins with: a console has other things on it too.
const MARK: &str = "@battery";

/// What kernel this is, and how many cases follow.
pub(crate) fn begin(release: &str, cases: usize) {
    line(&["begin", release, &cases.to_string()]);
}

/// One case is over.
pub(crate) fn case(name: &str, expect: Expect, seen: &Seen, time: Duration) {
    let verdict = if seen.is(expect) { "ok" } else { "FAILED" };
    let time = time.as_millis().to_string();
    let expected = expected(expect);
    line(&[
        "case",
        name,
        verdict,
        &expected,
        seen.word(),
        &time,
        seen.detail(),
    ]);
}

/// Something that was measured.
pub(crate) fn note(text: &str) {
    line(&["note", text]);
}

/// All is over.
pub(crate) fn end(failed: usize) {
    line(&["end", &failed.to_string()]);
}

fn expected(expect: Expect) -> String {
    match expect {
        Expect::Governed => "governed".to_owned(),
        Expect::Blocked => "blocked".to_owned(),
        Expect::Absent => "absent".to_owned(),
        Expect::Gap(name) => format!("gap: {name}"),
    }
}

/// Fields between tabs. A detail can hold what an attacker received: nothing but plain text passes.
fn line(fields: &[&str]) {
    let clean = |field: &&str| -> String {
        let kept = |c: char| if c.is_ascii_graphic() { c } else { ' ' };
        field.chars().map(kept).collect()
    };
    let fields: Vec<_> = fields.iter().map(clean).collect();
    let text = format!("{MARK}\t{}\n", fields.join("\t"));
    // In one write, so that the kernel's own messages come between lines. Nobody to read is no
    // reason to end the run early.
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}
