//! Why a text could not be analysed.

use std::fmt;

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// PostgreSQL's grammar refuses the text (SQLSTATE 42601).
    Syntax,
    /// Longer than [`MAX_TEXT`](super::MAX_TEXT).
    TooLong,
    /// Nested more deeply than the analysis follows.
    TooDeep,
    /// More work than a statement of its length should make.
    TooMuchWork,
    /// A NUL byte, which no text of the protocol can hold.
    Nul,
    /// The tree was not what it should be; for example, an escape made invalid UTF-8.
    Internal,
    /// The second parser reads the text otherwise.
    Disagreement,
}

/// Why a text could not be analysed. Its Display may be shown to the client: it says nothing but
/// what the client itself sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// Byte offset in the text, where it is known without doubt.
    pub position: Option<usize>,
    message: Box<str>,
}

impl Failure {
    pub(super) fn of(kind: FailureKind) -> Failure {
        let message = match kind {
            FailureKind::Syntax => "syntax error",
            FailureKind::TooLong => "the statement is longer than 16 MiB",
            FailureKind::TooDeep => "the statement is nested too deeply to be analysed",
            FailureKind::TooMuchWork => {
                "the statement would take far more work to analyse than its length allows"
            }
            FailureKind::Nul => "the statement holds a NUL byte",
            FailureKind::Internal => "the statement could not be analysed",
            FailureKind::Disagreement => "two parsers read the statement differently",
        };
        Failure {
            kind,
            position: None,
            message: message.into(),
        }
    }

    pub(super) fn because(kind: FailureKind, message: String) -> Failure {
        Failure {
            message: message.into(),
            ..Failure::of(kind)
        }
    }

    /// A syntax error, in the words of PostgreSQL's parser. The crate keeps the parser's cursor
    /// to itself, so the position is known only where the word it stumbled on is there once.
    pub(super) fn syntax(text: &str, message: String) -> Failure {
        let at = |word: &str| {
            let found = text.find(word)?;
            (text.rfind(word) == Some(found)).then_some(found)
        };
        let position = if message.ends_with("at end of input") {
            Some(text.len())
        } else {
            message
                .split_once("at or near \"")
                .and_then(|(_, word)| word.strip_suffix('"'))
                .and_then(at)
        };
        Failure {
            position,
            ..Failure::because(FailureKind::Syntax, message)
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
