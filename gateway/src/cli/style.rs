//! Colours, on a terminal that wants them.

use std::io::{IsTerminal, stdout};

/// A colour of the terminal's own palette.
#[derive(Debug, Clone, Copy)]
pub(super) enum Colour {
    /// All is well.
    Green,
    /// To be looked at.
    Yellow,
    /// Wrong.
    Red,
}

/// Whether standard output gets colours: a terminal, and `NO_COLOR` (<https://no-color.org>) unset
/// or empty.
pub(super) fn coloured() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}

/// `text` in `colour`, or as it is.
pub(super) fn paint(text: &str, colour: Colour, coloured: bool) -> String {
    let code = match colour {
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Red => 31,
    };
    if coloured {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
