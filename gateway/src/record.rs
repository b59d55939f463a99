//! The journal, its index, and reading it back.
