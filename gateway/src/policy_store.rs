//! Loading policy files and following their changes.
