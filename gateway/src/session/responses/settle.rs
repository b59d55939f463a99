//! What an answer of the server's is for: it settles the front of the queue.

use std::cell::RefMut;
use std::rc::Rc;

use super::super::queue::{Batch, Owed, Queue};
use super::super::statement::{Portal, Run, Treatment};

/// COPY FROM's tag says how many rows went in.
pub(super) fn note_copied(run: &mut Run, tag: &[u8]) {
    let count = tag
        .strip_prefix(b"COPY ")
        .and_then(|n| std::str::from_utf8(n).ok());
    if let (0, Some(rows)) = (run.rows, count.and_then(|n| n.parse().ok())) {
        run.rows = rows;
    }
}

pub(super) fn masked_columns(treatment: &Treatment) -> Vec<u16> {
    match treatment {
        Treatment::Mask(plan) => plan.masked().collect(),
        Treatment::Clear | Treatment::Blank => Vec::new(),
    }
}

/// Does something with the run that the server is answering.
pub(super) fn with_run<R>(
    queue: &mut RefMut<'_, Queue>,
    f: impl FnOnce(&mut Run) -> R,
) -> Option<R> {
    match queue.front()? {
        Owed::Execute(portal) => Some(f(&mut portal.run.borrow_mut())),
        Owed::Query(batch) => batch.runs.front_mut().map(f),
        _ => None,
    }
}

/// What a completion is for.
pub(super) enum Front {
    Portal(Rc<Portal>),
    Batch(Option<Run>),
    Other,
}

pub(super) fn take_front(queue: &mut RefMut<'_, Queue>) -> Front {
    match queue.front() {
        Some(Owed::Execute(_)) => match queue.settle() {
            Some(Owed::Execute(portal)) => Front::Portal(portal),
            _ => Front::Other,
        },
        Some(Owed::Query(batch)) => Front::Batch(batch.runs.pop_front()),
        _ => Front::Other,
    }
}

/// What an error is for.
pub(super) enum Failed {
    /// For what was denied: the client gets the denial.
    Denied(Rc<crate::policy::Deny>),
    /// For something of Weir's own.
    Unseen,
    /// For something without a run.
    Plain,
    /// For nothing at all: the server goes on with what comes next, or this is its end.
    Unowed,
    /// For the first of these runs; the others won't happen.
    Runs(Vec<Stopped>),
}

pub(super) enum Stopped {
    Run(Run),
    Portal(Rc<Portal>),
}

impl Stopped {
    pub(super) fn run(&self) -> RunRef<'_> {
        match self {
            Self::Run(run) => RunRef::Plain(run),
            Self::Portal(portal) => RunRef::Shared(portal.run.borrow()),
        }
    }
}

pub(super) enum RunRef<'a> {
    Plain(&'a Run),
    Shared(std::cell::Ref<'a, Run>),
}

impl std::ops::Deref for RunRef<'_> {
    type Target = Run;

    fn deref(&self) -> &Run {
        match self {
            Self::Plain(run) => run,
            Self::Shared(run) => run,
        }
    }
}

pub(super) fn take_failed(queue: &mut RefMut<'_, Queue>) -> Failed {
    if queue.is_empty() && !queue.fail_unowed() {
        return Failed::Unowed;
    }
    match queue.front() {
        Some(Owed::Sync(_)) => {
            queue.answer_query();
            Failed::Plain
        }
        None | Some(Owed::Own(_)) => Failed::Plain,
        Some(Owed::FailTransaction { .. }) => Failed::Unseen,
        Some(Owed::Query(batch)) => failed_batch(batch),
        Some(_) => failed_extended(queue),
    }
}

pub(super) fn failed_batch(batch: &mut Batch) -> Failed {
    match batch.denied.take() {
        Some(deny) => Failed::Denied(deny),
        None if batch.runs.is_empty() => Failed::Plain,
        None => Failed::Runs(batch.runs.drain(..).map(Stopped::Run).collect()),
    }
}

pub(super) fn failed_extended(queue: &mut RefMut<'_, Queue>) -> Failed {
    let mut stopped = Vec::new();
    match queue.fail(|owed| {
        if let Owed::Execute(portal) = owed {
            stopped.push(Stopped::Portal(portal));
        }
    }) {
        Some(Owed::Denied { deny, .. }) => Failed::Denied(deny),
        Some(Owed::Execute(portal)) => {
            stopped.insert(0, Stopped::Portal(portal));
            Failed::Runs(stopped)
        }
        _ => Failed::Plain,
    }
}
