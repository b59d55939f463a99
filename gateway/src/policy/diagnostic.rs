//! What is wrong with a policy file, and where.
//!
//! `Display` is the one-line form that editors and CI understand; [`Diagnostic::pretty`] is for a
//! terminal. Neither escapes anything: text from a policy file is the operator's own.

use std::{fmt, ops::Range};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The policy is used all the same.
    Warning,
    /// The policy isn't used.
    Error,
}

/// One thing that is wrong at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, as its [`super::Source`] names it.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong; lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Whether the policy can be used.
    pub severity: Severity,
    /// The line of the file, and how many characters of it from `column` on are meant.
    excerpt: (String, usize),
}

impl Diagnostic {
    /// An error at a byte range of `text`. A range out of bounds means the end.
    pub fn error(file: &str, text: &str, at: Range<usize>, message: String) -> Diagnostic {
        let start = floor_boundary(text, at.start);
        let end = floor_boundary(text, at.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..]
            .find('\n')
            .map_or(text.len(), |newline| start + newline);
        let width = text[start..end.min(line_end).max(start)].chars().count();
        Diagnostic {
            file: file.to_owned(),
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            message,
            help: None,
            severity: Severity::Error,
            excerpt: (
                text[line_start..line_end].trim_end_matches('\r').to_owned(),
                width.max(1),
            ),
        }
    }

    /// The same with advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// The same as a warning.
    #[must_use]
    pub fn warning(mut self) -> Diagnostic {
        self.severity = Severity::Warning;
        self
    }

    /// Several lines: the message, the line of the file with a caret under the place, the help.
    pub fn pretty(&self) -> String {
        let (line, width) = &self.excerpt;
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs are kept in the indent, so that the caret stands right whatever their width is.
        let indent: String = line
            .chars()
            .take(self.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        let mut out = format!(
            "{}: {}\n{margin}--> {}:{}:{}\n{margin} |\n{number} | {line}\n{margin} | {indent}{}\n",
            self.severity,
            self.message,
            self.file,
            self.line,
            self.column,
            "^".repeat(*width),
        );
        if let Some(help) = &self.help {
            out.push_str(&format!("{margin} = help: {help}\n"));
        }
        out
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Diagnostic {
            file,
            line,
            column,
            severity,
            message,
            ..
        } = self;
        write!(f, "{file}:{line}:{column}: {severity}: {message}")?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The one of `known` that `word` is probably a misspelling of.
pub(crate) fn did_you_mean<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let limit = word.chars().count().div_ceil(3);
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Edit distance by single characters, over two rows of the usual table.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_is_counted_in_lines_and_characters_from_one() {
        let text = "a = 1\r\né = \"ü\" # x\n";
        let at = text.find("\"ü").unwrap();
        let d = Diagnostic::error("p.toml", text, at..at + 4, "bad".into()).help("don't");
        assert_eq!(d.to_string(), "p.toml:2:5: error: bad\n  help: don't");
        assert_eq!(
            d.pretty(),
            "error: bad\n --> p.toml:2:5\n  |\n2 | é = \"ü\" # x\n  |     ^^^\n  = help: don't\n"
        );
    }

    #[test]
    fn a_place_outside_the_text_or_inside_a_character_is_still_a_place() {
        assert_eq!(Diagnostic::error("f", "é", 1..9, "m".into()).column, 1);
        assert_eq!(Diagnostic::error("f", "a\n", 90..99, "m".into()).line, 2);
        assert_eq!(Diagnostic::error("f", "", 0..0, "m".into()).line, 1);
    }

    #[test]
    fn a_misspelt_word_finds_the_nearest_and_a_foreign_one_finds_none() {
        let known = ["read", "insert", "update", "delete"];
        assert_eq!(did_you_mean("updtae", known), Some("update"));
        assert_eq!(did_you_mean("reads", known), Some("read"));
        assert_eq!(did_you_mean("approve", known), None);
    }
}
