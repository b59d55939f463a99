//! Making text from agents and databases fit for a terminal.
//!
//! Whatever an agent can put into a statement, a name or a value must not move the cursor, change
//! colours, reorder the line or hide in it: the person who reads a replay has to see what ran.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character can't be shown as it is: it controls the terminal, reorders text, or is
/// invisible.
fn is_unsafe(c: char) -> bool {
    match c {
        // C0, DEL and C1: escape sequences, and CSI as one character.
        '\0'..='\x1f' | '\x7f'..='\u{9f}' => true,
        // Soft hyphen, grapheme joiner, Arabic letter mark, Hangul fillers, Mongolian ones.
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' => {
            true
        }
        '\u{180b}'..='\u{180f}' => true,
        // Zero widths and marks; line and paragraph separators, embeddings and overrides;
        // joiners, invisible operators, isolates.
        '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => true,
        // Variation selectors, byte order mark, annotations.
        '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}' => true,
        // Private use, tags and more selectors, private planes.
        '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}' => true,
        _ => false,
    }
}

/// The text on one line, with everything that could deceive made visible: newline, tab and
/// carriage return as `\n`, `\t`, `\r`, other characters as `\x1b` or `\u{202e}`.
///
/// Backslashes stay as they are, so that ordinary text reads as it is; what is exact is `--json`.
pub fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    text.chars().for_each(|c| push_escaped(&mut out, c));
    Cow::Owned(out)
}

/// As [`escape`], but line feeds and tabs stay: for statements that are shown on many lines.
pub fn escape_lines(text: &str) -> Cow<'_, str> {
    let keeps = |c| matches!(c, '\n' | '\t');
    if !text.contains(|c| is_unsafe(c) && !keeps(c)) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if keeps(c) {
            out.push(c)
        } else {
            push_escaped(&mut out, c)
        }
    }
    Cow::Owned(out)
}

/// As [`escape`]; invalid UTF-8 as `\xff`.
pub fn escape_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&escape(chunk.valid()));
        chunk
            .invalid()
            .iter()
            .for_each(|byte| push(&mut out, format_args!("\\x{byte:02x}")));
    }
    out
}

/// JSON that means the same and is fit for a terminal: what [`escape`] would change is written as
/// `\uXXXX`. Such characters can stand only inside strings.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_unsafe(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                push(&mut out, format_args!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\t' => out.push_str("\\t"),
        '\r' => out.push_str("\\r"),
        c if !is_unsafe(c) => out.push(c),
        c if u32::from(c) < 0x100 => push(out, format_args!("\\x{:02x}", u32::from(c))),
        c => push(out, format_args!("\\u{{{:x}}}", u32::from(c))),
    }
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String can't fail.
    let _ = out.write_fmt(text);
}

/// A time as `2026-01-31 12:00:00.000` in UTC; `micros` since the Unix epoch.
pub fn time(micros: u64) -> String {
    let nanos = i128::from(micros) * 1000;
    match time::OffsetDateTime::from_unix_timestamp_nanos(nanos) {
        Ok(t) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
            t.year(),
            u8::from(t.month()),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.millisecond()
        ),
        Err(_) => format!("{micros} µs"),
    }
}

/// A duration in µs, ms or s, whichever reads best.
pub fn duration(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!(
            "{}.{:02} s",
            micros / 1_000_000,
            micros % 1_000_000 / 10_000
        ),
    }
}

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    bytes
        .iter()
        .for_each(|byte| push(&mut out, format_args!("{byte:02x}")));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_controls_a_terminal_is_shown_and_not_obeyed() {
        assert_eq!(escape("a\x1b[2Jb\u{9b}c\x7f"), "a\\x1b[2Jb\\x9bc\\x7f");
        assert_eq!(escape("a\nb\tc\r"), "a\\nb\\tc\\r");
        assert_eq!(
            escape("\u{202e}drop\u{2066}\u{200b}\u{feff}"),
            "\\u{202e}drop\\u{2066}\\u{200b}\\u{feff}"
        );
        assert_eq!(escape("\u{e0041}\u{2028}"), "\\u{e0041}\\u{2028}");
        assert_eq!(escape_bytes(b"a\xff\x1b"), "a\\xff\\x1b");
        assert_eq!(escape_lines("a\n\tb\r\x1b"), "a\n\tb\\r\\x1b");
    }

    #[test]
    fn ordinary_text_stays() {
        for text in [
            "select 'ä', '漢字', '😀' from \"T\" \\ x",
            "Ελληνικά עברית العربية",
        ] {
            assert!(matches!(escape(text), Cow::Borrowed(same) if same == text));
        }
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left(text: String, bytes: Vec<u8>) {
            prop_assert!(!escape(&text).contains(is_unsafe));
            prop_assert!(!escape_bytes(&bytes).contains(is_unsafe));
            prop_assert!(!escape_lines(&text).contains(|c| is_unsafe(c) && c != '\n' && c != '\t'));
        }

        #[test]
        fn escaped_json_means_the_same(text in "[a\\\\\"\u{202e}\u{e0041}\u{9b}\u{1b}ä😀]*") {
            let json = serde_json::to_string(&text).unwrap();
            let shown = escape_json(&json);
            prop_assert!(!shown.contains(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }

    #[test]
    fn times_and_durations_read_well() {
        assert_eq!(time(1_700_000_000_123_456), "2023-11-14 22:13:20.123");
        assert_eq!(time(u64::MAX), format!("{} µs", u64::MAX));
        assert_eq!(duration(999), "999 µs");
        assert_eq!(duration(1_250), "1.2 ms");
        assert_eq!(duration(2_345_678), "2.34 s");
    }
}
