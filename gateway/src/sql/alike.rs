//! Texts that differ in numbers only, and are analysed alike.
//!
//! Clients that put values into their SQL never send the same text twice, but seldom another
//! statement. Which of their bytes can't matter is decided here, narrowly: a run of up to nine
//! digits behind `=`, `<` or `>`, in a text without quotes, comments, `$` and backslashes. There
//! both parsers read an integer constant, whatever the digits, and an analysis looks at the value
//! of an integer only as an item of ORDER BY, GROUP BY and DISTINCT ON, which stands behind none of
//! these. The digits become zeros one by one, so that every other byte keeps its place.

use std::borrow::Cow;

/// An integer constant of more digits may be no `int4`.
const DIGITS: usize = 9;

/// The text that stands for all that are analysed like this one.
pub(super) fn representative(text: &str) -> Cow<'_, str> {
    if !is_simple(text.as_bytes()) {
        return Cow::Borrowed(text);
    }
    let mut blanked = text.as_bytes().to_vec();
    let (mut at, mut before) = (0, b' ');
    while at < blanked.len() {
        let digits = digits_at(&blanked, at);
        if digits == 0 {
            let byte = blanked[at];
            before = if is_blank(byte) { before } else { byte };
            at += 1;
            continue;
        }
        let behind = blanked.get(at + digits).copied();
        let ends = behind.is_none_or(|b| is_blank(b) || matches!(b, b')' | b',' | b';'));
        if ends && digits <= DIGITS && starts_constant(&blanked, at, before) {
            blanked[at..at + digits].fill(b'0');
        }
        before = b'0';
        at += digits;
    }
    String::from_utf8(blanked).map_or(Cow::Borrowed(text), Cow::Owned)
}

/// Whether the bytes of a text can be told apart without a parser's rules for quotes and comments.
fn is_simple(text: &[u8]) -> bool {
    let verb = text.split(|&b| is_blank(b)).next().unwrap_or_default();
    let known = [&b"SELECT"[..], b"INSERT", b"UPDATE", b"DELETE"];
    known.iter().any(|known| verb.eq_ignore_ascii_case(known))
        && text.iter().all(|&b| {
            (is_blank(b) || b.is_ascii_graphic()) && !matches!(b, b'\'' | b'"' | b'$' | b'\\')
        })
        && !text.windows(2).any(|pair| matches!(pair, b"--" | b"/*"))
}

/// Blank space for both parsers, in all their versions.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n')
}

fn digits_at(text: &[u8], at: usize) -> usize {
    text[at..].iter().take_while(|b| b.is_ascii_digit()).count()
}

/// Whether a token starts at `at`, behind a comparison.
fn starts_constant(text: &[u8], at: usize, before: u8) -> bool {
    let adjacent = at.checked_sub(1).map_or(b' ', |i| text[i]);
    let starts = is_blank(adjacent) || adjacent == before;
    starts && matches!(before, b'=' | b'<' | b'>')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::analyse;

    fn of(text: &str) -> String {
        representative(text).into_owned()
    }

    #[test]
    fn numbers_that_are_compared_with_are_blanked_in_place() {
        for (text, expected) in [
            (
                "SELECT a FROM t WHERE id = 417;",
                "SELECT a FROM t WHERE id = 000;",
            ),
            (
                "delete from t where a<5 and b >=\n12",
                "delete from t where a<0 and b >=\n00",
            ),
            (
                "UPDATE t SET n=99, m = 1 WHERE (a=7)",
                "UPDATE t SET n=00, m = 0 WHERE (a=0)",
            ),
        ] {
            assert_eq!(of(text), expected);
        }
    }

    proptest::proptest! {
        /// Whatever is blanked: the analysis is the same, byte positions included.
        #[test]
        fn a_text_and_its_representative_are_analysed_alike(
            words in proptest::collection::vec(proptest::sample::select(WORDS), 0..12),
        ) {
            let text = format!("SELECT a, b FROM t WHERE {}", words.concat());
            let (own, other) = (analyse(&text), analyse(&of(&text)));
            if own.failure.is_none() || other.failure.is_none() {
                proptest::prop_assert_eq!(own, other);
            }
        }
    }

    const WORDS: &[&str] = &[
        "a",
        " = ",
        "=",
        "<",
        " >",
        "1",
        "2",
        "20",
        "07",
        ".5",
        "e3",
        " ",
        "\n",
        "(",
        ")",
        ",",
        ";",
        " ORDER BY ",
        " GROUP BY ",
        " LIMIT ",
        " AND ",
        " IN ",
        "-",
        "+",
        "*",
        "x",
        "a = 1",
        "b < 7 ",
        " OR b = 33",
        " UNION SELECT ",
        " USING ",
    ];

    #[test]
    fn what_could_matter_is_kept() {
        for text in [
            // Positions, counts, arguments.
            "SELECT a, b FROM t ORDER BY 2, 1 LIMIT 5",
            "SELECT f(1, 2), 3 FROM t GROUP BY 3",
            "INSERT INTO t VALUES (1, 2)",
            // Not the start of a token, or not the whole of one.
            "SELECT a FROM t WHERE b = c2",
            "SELECT a FROM t WHERE b = 1.5 OR b = 1e3 OR b = 0x1f OR b = 1_000 OR b = 1AND c",
            "SELECT a FROM t WHERE b = -5 OR b = +5 OR b = (5)",
            "SELECT a FROM t WHERE b = 1234567890",
            "SELECT a FROM t WHERE b =.5",
            // Other statements, and texts in which bytes may mean something else.
            "SET a = 1",
            "EXPLAIN SELECT a FROM t WHERE b = 1",
            "SELECT a FROM t WHERE b = 1 AND c = 'x'",
            "SELECT a FROM t WHERE b = 1 AND \"c\"",
            "SELECT a FROM t WHERE b = $1 AND c = 1",
            "SELECT a FROM t -- b = 1",
            "SELECT a /* b = 1 */ FROM t",
            "SELECT a FROM t WHERE b = 1 AND c = \u{660}",
            "SELECT a FROM t WHERE b =\u{b}1",
        ] {
            assert_eq!(of(text), text);
        }
    }
}
