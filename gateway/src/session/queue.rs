//! What the server still owes, in order, and what the names of statements and portals mean.
//!
//! Every request that is forwarded is entered here; every answer of the server settles the front.
//! The server's own rules are followed exactly, because a name that means one statement to Weir
//! and another to the server is a bypass:
//!
//! - After an error in the extended protocol the server discards everything up to the next Sync:
//!   so does [`Queue::fail`], and what a client sends until that Sync is never entered.
//! - A name changes only when the server confirms it (ParseComplete, BindComplete,
//!   CloseComplete). A request that uses a name which an unsettled request *of the same segment*
//!   sets is safe to judge by that: either both happen or neither. One of an earlier segment may
//!   yet fail, and then the name keeps its old meaning: [`Found::Wait`].

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::statement::{Portal, Prepared, Run};
use crate::policy::Deny;
use crate::wire::{TargetKind, TxStatus};

/// Statements and portals that a session may have under names, and bytes of these statements' texts:
/// all of it is kept until it is closed.
const MAX_NAMES: usize = 10_000;
const MAX_TEXTS: usize = 64 << 20;

/// Who asked for something: only a client's requests are answered to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AskedBy {
    Client,
    Weir,
}

/// One thing that the server owes.
#[derive(Debug)]
pub(super) enum Owed {
    /// ParseComplete.
    Parse {
        name: Box<[u8]>,
        prepared: Rc<Prepared>,
        asked_by: AskedBy,
    },
    /// An error: a text that can't be parsed stands in for what was denied.
    Denied(Rc<Deny>),
    /// BindComplete.
    Bind { name: Box<[u8]>, portal: Rc<Portal> },
    /// RowDescription or NoData, after a ParameterDescription for a statement. Of what Weir didn't
    /// see being made (a cursor of SQL's) there is no statement; looking at it shows only names.
    Describe {
        prepared: Option<Rc<Prepared>>,
        portal: Option<Rc<Portal>>,
        asked_by: AskedBy,
    },
    /// Rows, and how they end.
    Execute(Rc<Portal>),
    /// CloseComplete.
    Close { kind: TargetKind, name: Box<[u8]> },
    /// ReadyForQuery.
    Sync(AskedBy),
    /// The results of a simple query's statements, then ReadyForQuery.
    Query(Box<Batch>),
    /// An error for Weir, which makes the server's transaction fail, and a ReadyForQuery: for Weir
    /// too if the client has been told its status already.
    FailTransaction { told: bool },
    /// Nothing: an answer of Weir's own, whose turn comes when it is at the front.
    Own(Vec<u8>),
}

/// A simple query under way.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) runs: VecDeque<Run>,
    /// The text was denied: the server's error is swapped for this.
    pub(super) denied: Option<Rc<Deny>>,
}

#[derive(Debug)]
struct Entry {
    segment: u64,
    /// Stands behind messages of the extended protocol without a Sync.
    unsynced: bool,
    owed: Owed,
}

/// What a name means now.
#[derive(Debug)]
pub(super) enum Found<T> {
    /// This.
    Is(T),
    /// Nothing that Weir saw being made.
    Unknown,
    /// It depends on answers that haven't come.
    Wait,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    segment: u64,
    /// The server discards, or will, what comes until the next Sync.
    discarding: bool,
    /// Something of the extended protocol was entered since the last Sync or simple query: its
    /// effects are neither committed nor rolled back, even once all of it is answered.
    unsynced: bool,
    /// Something in the segment is bound or run.
    binds: bool,
    /// Something in the segment writes.
    writes: bool,
    /// Something that was entered since the server last owed nothing may exceed a limit.
    limited: bool,
    /// Something that was entered since then is a COPY from the client.
    copies: bool,
    statements: BTreeMap<Box<[u8]>, Rc<Prepared>>,
    /// Bytes of the texts of `statements`.
    texts: usize,
    portals: BTreeMap<Box<[u8]>, Rc<Portal>>,
    /// The portal without a name, which nearly all are.
    unnamed_portal: Option<Rc<Portal>>,
}

fn is_limited(owed: &Owed) -> bool {
    match owed {
        Owed::Execute(portal) => portal.run.borrow().limited,
        Owed::Query(batch) => batch.runs.iter().any(|run| run.limited),
        _ => false,
    }
}

/// How many COPYs read data from the client.
fn copies_in(owed: &Owed) -> usize {
    match owed {
        Owed::Execute(portal) => portal.run.borrow().side_effects.copies_in.into(),
        Owed::Query(batch) => {
            let runs = batch.runs.iter();
            runs.filter(|run| run.side_effects.copies_in).count()
        }
        _ => 0,
    }
}

impl Queue {
    /// Whether the server owes nothing.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the server would read a new request at once and on its own: nothing owed, nothing
    /// to be discarded, nothing that waits for its Sync.
    pub(super) fn is_at_rest(&self) -> bool {
        self.entries.is_empty() && !self.discarding && !self.unsynced
    }

    /// Enters what a request that goes upstream now makes the server owe.
    pub(super) fn push(&mut self, owed: Owed) {
        match owed {
            Owed::Sync(_) => self.discarding = false,
            _ if self.discarding => return,
            _ => {}
        }
        // It will fail for certain: what follows needs not even be sent.
        self.discarding |= matches!(owed, Owed::Denied(_));
        let unsynced = self.unsynced;
        let ends_segment = matches!(
            owed,
            Owed::Sync(_) | Owed::Query(_) | Owed::FailTransaction { .. }
        );
        self.unsynced = !ends_segment && (self.unsynced || !matches!(owed, Owed::Own(_)));
        let binds = matches!(owed, Owed::Bind { .. } | Owed::Execute(_));
        self.binds = !ends_segment && (self.binds || binds);
        let writes = matches!(&owed, Owed::Execute(portal) if portal.run.borrow().writes);
        self.writes = !ends_segment && (self.writes || writes);
        self.limited |= is_limited(&owed);
        self.copies |= copies_in(&owed) > 0;
        self.entries.push_back(Entry {
            segment: self.segment,
            unsynced,
            owed,
        });
        if ends_segment {
            self.segment += 1;
        }
    }

    /// Whether the server discards what comes until the next Sync.
    pub(super) fn is_discarding(&self) -> bool {
        self.discarding
    }

    /// Whether anything of the extended protocol was entered since the last Sync.
    pub(super) fn is_unsynced(&self) -> bool {
        self.unsynced
    }

    /// The segment that requests belong to which are entered now.
    pub(super) fn segment(&self) -> u64 {
        self.segment
    }

    /// The segment of what is owed next.
    pub(super) fn front_segment(&self) -> Option<u64> {
        self.entries.front().map(|e| e.segment)
    }

    /// Whether a Sync is to come, and would end nothing: nothing has been bound.
    pub(super) fn is_only_prepared(&self) -> bool {
        self.unsynced && !self.binds && !self.discarding
    }

    /// Whether anything in the segment writes.
    pub(super) fn writes(&self) -> bool {
        self.writes
    }

    /// Whether the segment has a result that isn't whole yet, and may exceed a limit.
    pub(super) fn owes_limited(&self) -> bool {
        let here = self.entries.iter().rev();
        here.take_while(|e| e.segment == self.segment)
            .any(|e| is_limited(&e.owed))
    }

    /// Whether a limit may yet be exceeded by what the server owes.
    pub(super) fn may_exceed(&self) -> bool {
        self.limited && !self.entries.is_empty()
    }

    /// Whether there is no room for one more name, of a statement with a text of so many bytes.
    pub(super) fn is_full(&self, text: usize) -> bool {
        self.statements.len() + self.portals.len() >= MAX_NAMES || self.texts + text > MAX_TEXTS
    }

    /// Whether a description of `prepared` is still owed.
    pub(super) fn awaits_description(&self, prepared: &Rc<Prepared>) -> bool {
        self.entries.iter().any(
            |e| matches!(&e.owed, Owed::Describe { prepared: Some(p), .. } if Rc::ptr_eq(p, prepared)),
        )
    }

    /// Whether a COPY is owed that reads data from the client.
    pub(super) fn owes_copy_in(&self) -> bool {
        self.copies_owed() > 0
    }

    /// How many of them.
    pub(super) fn copies_owed(&self) -> usize {
        match self.copies {
            true => self.entries.iter().map(|e| copies_in(&e.owed)).sum(),
            false => 0,
        }
    }

    /// Whether the server has something to run behind what it answers now.
    pub(super) fn runs_more(&self) -> bool {
        let runs = |owed: &Owed| matches!(owed, Owed::Execute(_) | Owed::Query(_));
        self.entries.iter().skip(1).any(|e| runs(&e.owed))
    }

    /// Whether anything is owed from before the last Sync or simple query.
    pub(super) fn has_earlier_segments(&self) -> bool {
        self.entries
            .front()
            .is_some_and(|e| e.segment != self.segment)
    }

    /// Whether an error may be of something before the query at the front: a time-out, say, behind
    /// messages that have been answered. The server then ignores the query, and all up to a Sync.
    pub(super) fn is_error_ambiguous(&self) -> bool {
        self.entries.front().is_some_and(|e| {
            e.unsynced && matches!(e.owed, Owed::Query(_) | Owed::FailTransaction { .. })
        })
    }

    /// An error came for nothing that is owed. Whether that can be: behind messages of the extended
    /// protocol, whose rest up to a Sync the server then ignores.
    pub(super) fn fail_unowed(&mut self) -> bool {
        self.discarding |= self.unsynced;
        self.unsynced
    }

    /// What is owed next.
    pub(super) fn front(&mut self) -> Option<&mut Owed> {
        self.entries.front_mut().map(|e| &mut e.owed)
    }

    /// Settles the front. A confirmed name takes its new meaning.
    pub(super) fn settle(&mut self) -> Option<Owed> {
        let entry = self.entries.pop_front()?;
        self.limited &= !self.entries.is_empty();
        self.copies &= !self.entries.is_empty();
        match &entry.owed {
            Owed::Parse { name, prepared, .. } => {
                self.texts += prepared.text_length();
                let replaced = self.statements.insert(name.clone(), Rc::clone(prepared));
                self.texts -= replaced.map_or(0, |old| old.text_length());
            }
            Owed::Bind { name, portal } if name.is_empty() => {
                self.unnamed_portal = Some(Rc::clone(portal));
            }
            Owed::Bind { name, portal } => {
                self.portals.insert(name.clone(), Rc::clone(portal));
            }
            Owed::Close {
                kind: TargetKind::Statement,
                name,
            } => {
                let closed = self.statements.remove(name);
                self.texts -= closed.map_or(0, |old| old.text_length());
            }
            Owed::Close {
                kind: TargetKind::Portal,
                name,
            } => {
                if name.is_empty() {
                    self.unnamed_portal = None;
                }
                self.portals.remove(name);
            }
            _ => {}
        }
        Some(entry.owed)
    }

    /// The server reported an error for the front, which belongs to the extended protocol: it and
    /// everything up to the next Sync is off. Returns what failed; `off` gets the rest.
    pub(super) fn fail(&mut self, mut off: impl FnMut(Owed)) -> Option<Owed> {
        let failed = self.entries.pop_front().map(|e| e.owed);
        while self
            .entries
            .front()
            .is_some_and(|e| !matches!(e.owed, Owed::Sync(_)))
        {
            if let Some(entry) = self.entries.pop_front() {
                off(entry.owed);
            }
        }
        match self.front() {
            // A look ahead failed as its query would: the error, and the ReadyForQuery behind it,
            // are the query's answer.
            Some(Owed::Sync(asked_by)) => *asked_by = AskedBy::Client,
            // With a Sync entered, what came after it isn't concerned.
            _ => self.discarding = true,
        }
        failed
    }

    /// A ReadyForQuery came: portals end with their transaction.
    pub(super) fn ready(&mut self, status: TxStatus) {
        if status == TxStatus::Idle {
            self.forget_portals();
        }
    }

    /// Forgets all prepared statements: SQL has changed what names mean.
    pub(super) fn forget_statements(&mut self) {
        self.statements.clear();
        self.texts = 0;
    }

    /// Forgets all portals: SQL has changed what names mean.
    pub(super) fn forget_portals(&mut self) {
        self.unnamed_portal = None;
        self.portals.clear();
    }

    /// What a prepared statement's name means to a request that is entered now.
    pub(super) fn statement(&self, name: &[u8]) -> Found<Rc<Prepared>> {
        for entry in self.entries.iter().rev() {
            let here = entry.segment == self.segment;
            match &entry.owed {
                Owed::Parse {
                    name: n, prepared, ..
                } if **n == *name => {
                    return if here {
                        Found::Is(Rc::clone(prepared))
                    } else {
                        Found::Wait
                    };
                }
                Owed::Close {
                    kind: TargetKind::Statement,
                    name: n,
                } if **n == *name => {
                    return if here { Found::Unknown } else { Found::Wait };
                }
                Owed::Execute(p) if p.run.borrow().side_effects.statements => {
                    return if here { Found::Unknown } else { Found::Wait };
                }
                // A simple query also drops the unnamed statement.
                Owed::Query(b)
                    if name.is_empty() || b.runs.iter().any(|r| r.side_effects.statements) =>
                {
                    return Found::Wait;
                }
                _ => {}
            }
        }
        self.statements
            .get(name)
            .map_or(Found::Unknown, |p| Found::Is(Rc::clone(p)))
    }

    /// What a portal's name means to a request that is entered now.
    pub(super) fn portal(&self, name: &[u8]) -> Found<Rc<Portal>> {
        for entry in self.entries.iter().rev() {
            if entry.segment != self.segment {
                // Whether the transaction, and with it the portal, lives on isn't known yet.
                return Found::Wait;
            }
            match &entry.owed {
                Owed::Bind { name: n, portal } if **n == *name => {
                    return Found::Is(Rc::clone(portal));
                }
                Owed::Close {
                    kind: TargetKind::Portal,
                    name: n,
                } if **n == *name => {
                    return Found::Unknown;
                }
                Owed::Execute(p) if p.run.borrow().side_effects.portals => return Found::Unknown,
                _ => {}
            }
        }
        let known = match name {
            [] => self.unnamed_portal.as_ref(),
            _ => self.portals.get(name),
        };
        known.map_or(Found::Unknown, |p| Found::Is(Rc::clone(p)))
    }
}
