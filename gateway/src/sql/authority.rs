//! The boundary to libpg_query, PostgreSQL's own scanner and grammar (crate `pg_raw_parse`).
//!
//! Read for soundness in version 0.1.0, as far as it is used here (`parse`, the read-only node
//! accessors; never `walk`, `deparse`, `transform` or `make`):
//!
//! - State. All of the parser's globals are `__thread`; the parse tree lies in a memory context
//!   of its own with no parent, so dropping it, on any thread, frees it and nothing else. Each
//!   thread that ever parses keeps one small top context for its lifetime.
//! - Errors. `pg_query_raw_parse` catches PostgreSQL's `longjmp` in C; no Rust frame is jumped
//!   over. The error's text is malloc'ed and freed by its Drop. The call restores the memory
//!   context, since the closure in it can't panic. (libpg_query's redirection of file descriptor
//!   2 during a parse, which would not be thread-safe, is compiled out.)
//! - Types. Every typed accessor, list elements included, compares the node's tag and panics on a
//!   mismatch; nothing is cast unchecked. Text accessors panic on invalid UTF-8.
//! - Stack. The grammar is a table-driven automaton with its own heap stack, capped at 10,000
//!   levels; the parse itself doesn't recurse. Freeing doesn't follow the tree.
//!
//! What remains is out of memory, which ends the process, and the panics: they are caught here
//! and become a failure, and the default hook's message is kept from stderr, where a client could
//! otherwise write at will.

use std::{
    cell::Cell,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    sync::Once,
};

use pg_raw_parse::{Error, StmtList, parse};

use super::failure::{Failure, FailureKind};

thread_local! {
    static EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs what may panic on a hostile tree; a panic is a failure. On this thread and meanwhile, the
/// panic hook is silent.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !EXPECTED.get() {
                previous(info);
            }
        }));
    });
    let outer = EXPECTED.replace(true);
    // Nothing that the closure touched is looked at after a panic.
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    EXPECTED.set(outer);
    outcome.unwrap_or_else(|_| Err(Failure::of(FailureKind::Internal)))
}

/// Parses a text and hands its statements to `work`.
pub(super) fn with_tree<T>(
    text: &str,
    work: impl FnOnce(&StmtList) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if text.len() > super::MAX_TEXT {
        return Err(Failure::of(FailureKind::TooLong));
    }
    if text.contains('\0') {
        return Err(Failure::of(FailureKind::Nul));
    }
    guarded(|| match parse(text) {
        Ok(tree) => work(&tree),
        Err(Error::Parse(e)) => Err(Failure::syntax(text, e.to_string())),
        Err(_) => Err(Failure::of(FailureKind::Internal)),
    })
}

/// The bytes of a statement: `location` and `length` as the grammar gives them, where a length of
/// 0 means up to the end. Blank space around it is left out.
pub(super) fn span(text: &str, location: i32, length: i32) -> Option<Range<usize>> {
    let start = usize::try_from(location).ok()?;
    let end = match usize::try_from(length).ok()? {
        0 => text.len(),
        n => start.checked_add(n)?,
    };
    let slice = text.get(start..end)?;
    let blank = |c: char| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c');
    let start = start + (slice.len() - slice.trim_start_matches(blank).len());
    let end = end - (slice.len() - slice.trim_end_matches(blank).len());
    Some(start..end.max(start))
}
