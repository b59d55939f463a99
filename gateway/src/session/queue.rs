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
//!
//! What the server's half finds out and the client's half has to act upon is here too, so that it is
//! one value with what is owed: [`Asked`].

mod copy_in;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use self::copy_in::CopyIn;
use super::statement::{Portal, Prepared, Run};
use crate::policy::Deny;
use crate::wire::{TargetKind, TxStatus};

/// Statements and portals that a session may have under names, and bytes that these statements take:
/// all of it is kept until it is closed.
const MAX_NAMES: usize = 10_000;
const MAX_WEIGHT: usize = 64 << 20;
/// Bytes of statements whose names the server hasn't confirmed yet.
const MAX_UNCONFIRMED: usize = 16 << 20;

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
    Denied {
        deny: Rc<Deny>,
        /// It takes the place of the statement without a name, which is gone behind it.
        unnamed: bool,
    },
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

/// What the client's half has to do for the server's half before anything else.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Send a CopyFail: the client doesn't know that data are read.
    EndCopy,
    /// Send so many Syncs that were held back.
    Sync(usize),
    /// Make the server's transaction fail.
    FailTransaction {
        /// The client has been told its status already.
        told: bool,
    },
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
    copy_in: CopyIn,
    /// The segment whose result has exceeded a limit, until its end: the client has its error and gets
    /// nothing more, and the server knows nothing of it.
    exceeded: Option<u64>,
    /// The server's transaction has to be made to fail; whether the client has been told its status
    /// already. It is entered when it is sent, not before: nothing overtakes it there.
    to_fail: Option<bool>,
    /// The client takes its transaction for failed, which it is once `to_fail` is done.
    tells_failed: bool,
    /// A question of Weir's in front of a query has failed: the error, and the ReadyForQuery behind it,
    /// are the query's answer.
    answered: bool,
    statements: BTreeMap<Box<[u8]>, Rc<Prepared>>,
    /// Bytes that `statements` take.
    weight: usize,
    /// Bytes that those take whose names are still owed.
    unconfirmed: usize,
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

/// Bytes of a statement whose name is owed.
fn unconfirmed(owed: &Owed) -> usize {
    match owed {
        Owed::Parse { prepared, .. } => prepared.weight(),
        _ => 0,
    }
}

/// Whether it takes the place of the statement without a name, even if it fails.
fn replaces_unnamed(owed: &Owed) -> bool {
    match owed {
        Owed::Parse { name, .. } => name.is_empty(),
        Owed::Denied { unnamed, .. } => *unnamed,
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
        self.entries.is_empty() && !self.discarding && !self.unsynced && self.to_fail.is_none()
    }

    /// Enters what a request that goes upstream now makes the server owe.
    pub(super) fn push(&mut self, owed: Owed) {
        match owed {
            Owed::Sync(_) => self.discarding = false,
            _ if self.discarding => return,
            _ => {}
        }
        let unsynced = self.unsynced;
        self.unsynced = true;
        let mut ends_segment = false;
        match &owed {
            Owed::Parse { .. } => self.unconfirmed += unconfirmed(&owed),
            Owed::Bind { .. } => self.binds = true,
            Owed::Execute(portal) => {
                let run = portal.run.borrow();
                self.binds = true;
                self.writes |= run.writes;
                self.limited |= run.limited;
                self.copies |= run.side_effects.copies_in;
            }
            Owed::Query(_) => {
                ends_segment = true;
                self.limited |= is_limited(&owed);
                self.copies |= copies_in(&owed) > 0;
            }
            Owed::Sync(_) | Owed::FailTransaction { .. } => ends_segment = true,
            Owed::Own(_) => self.unsynced = unsynced,
            // It will fail for certain: what follows needs not even be sent.
            Owed::Denied { .. } => self.discarding = true,
            Owed::Describe { .. } | Owed::Close { .. } => {}
        }
        if ends_segment {
            (self.unsynced, self.binds, self.writes) = (false, false, false);
        }
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

    /// Whether what comes until the next Sync is to be skipped: the server discards it, or a limit was
    /// exceeded in front of it and the client takes it for discarded.
    pub(super) fn skips(&self) -> bool {
        self.discarding || self.has_exceeded()
    }

    /// Whether anything of the extended protocol was entered since the last Sync.
    pub(super) fn is_unsynced(&self) -> bool {
        self.unsynced
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

    /// What the server answers now has exceeded a limit.
    pub(super) fn exceed(&mut self) {
        self.exceeded = self.entries.front().map(|e| e.segment);
    }

    /// Whether the client gets no answers: a limit was exceeded in the segment that is answered now.
    pub(super) fn is_muted(&self) -> bool {
        self.exceeded.is_some()
    }

    /// Whether a limit was exceeded in the segment that requests belong to which are entered now.
    pub(super) fn has_exceeded(&self) -> bool {
        self.exceeded == Some(self.segment)
    }

    /// Whether a limit may yet be exceeded by what the server owes, or has been and the server doesn't
    /// know of it.
    pub(super) fn may_exceed(&self) -> bool {
        (self.limited || self.is_muted()) && !self.entries.is_empty()
    }

    /// Whether there is no room for one more name, of something that takes so many bytes.
    pub(super) fn is_full(&self, weight: usize) -> bool {
        self.statements.len() + self.portals.len() >= MAX_NAMES || self.weight + weight > MAX_WEIGHT
    }

    /// Whether so much is owed a name that the server is to answer before there is more.
    pub(super) fn is_heavy(&self) -> bool {
        self.unconfirmed > MAX_UNCONFIRMED
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

    /// Whether one is owed whose data the server hasn't asked for yet.
    pub(super) fn awaits_copy_in(&self) -> bool {
        let ended = usize::from(self.copy_in == CopyIn::Ended);
        self.copy_in.reading().is_none() && self.copies_owed() > ended
    }

    /// What becomes of the data of the COPY that the server answers.
    pub(super) fn copy_in(&mut self) -> &mut CopyIn {
        &mut self.copy_in
    }

    /// The statement whose COPY data the server reads.
    pub(super) fn reads_copy(&self) -> Option<u64> {
        self.copy_in.reading()
    }

    /// Whether there is neither a COPY nor a transaction that is to fail, which is so as a rule: then
    /// the next request has nothing to wait for.
    pub(super) fn is_free(&self) -> bool {
        !self.copies && self.copy_in == CopyIn::None && self.to_fail.is_none()
    }

    /// Whether there is anything to do for the server's half, and the server is ready for it.
    pub(super) fn asks(&self) -> bool {
        let copy = matches!(self.copy_in, CopyIn::Refused | CopyIn::Failed { .. });
        // The server would take it for the COPY's data.
        copy || self.to_fail.is_some() && !self.owes_copy_in()
    }

    /// Takes what is to be done next for the server's half.
    pub(super) fn asked(&mut self) -> Option<Asked> {
        let asked = match self.copy_in {
            CopyIn::Refused => Asked::EndCopy,
            CopyIn::Failed { syncs } => Asked::Sync(syncs),
            _ if !self.owes_copy_in() => {
                let told = self.to_fail.take()?;
                return Some(Asked::FailTransaction { told });
            }
            _ => return None,
        };
        self.copy_in = CopyIn::None;
        Some(asked)
    }

    /// Whether the server's transaction is still to be made to fail.
    pub(super) fn is_to_fail(&self) -> bool {
        self.to_fail.is_some()
    }

    /// Whether a question of Weir's was answered in place of the query behind it; once for each. To the
    /// client that query takes the places of both without a name.
    pub(super) fn take_answered(&mut self) -> bool {
        let answered = std::mem::take(&mut self.answered);
        if answered {
            self.forget_unnamed();
        }
        answered
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

    fn pop_front(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.unconfirmed -= unconfirmed(&entry.owed);
        Some(entry)
    }

    /// Settles the front. A confirmed name takes its new meaning.
    pub(super) fn settle(&mut self) -> Option<Owed> {
        let entry = self.pop_front()?;
        self.limited &= !self.entries.is_empty();
        self.copies &= !self.entries.is_empty();
        match &entry.owed {
            Owed::Parse {
                name,
                prepared,
                asked_by: AskedBy::Client,
            } => {
                self.weight += prepared.weight();
                let replaced = self.statements.insert(name.clone(), Rc::clone(prepared));
                self.weight -= replaced.map_or(0, |old| old.weight());
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
            } => self.forget_statement(name),
            // What stands under no name at the server is Weir's now, and nothing to a client.
            Owed::Parse {
                asked_by: AskedBy::Weir,
                ..
            } => self.forget_statement(&[]),
            // A simple query takes the places of both without a name. One that was denied does so to
            // its client.
            Owed::Query(_) | Owed::FailTransaction { .. } | Owed::Own(_) => self.forget_unnamed(),
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
        let failed = self.pop_front().map(|e| e.owed);
        if failed.as_ref().is_some_and(replaces_unnamed) {
            // The server has dropped the old one before it read the new one's text.
            self.forget_statement(&[]);
        }
        while self
            .entries
            .front()
            .is_some_and(|e| !matches!(e.owed, Owed::Sync(_)))
        {
            if let Some(entry) = self.pop_front() {
                off(entry.owed);
            }
        }
        // With a Sync entered, what came after it isn't concerned.
        self.discarding |= !matches!(self.front(), Some(Owed::Sync(_)));
        self.answer_query();
        failed
    }

    /// The server reported an error in front of a Sync, or for it. If that is Weir's, of a question
    /// that failed as its query would, it is the query's: with its ReadyForQuery it is the answer.
    pub(super) fn answer_query(&mut self) {
        if let Some(Owed::Sync(asked_by @ AskedBy::Weir)) = self.front() {
            *asked_by = AskedBy::Client;
            self.answered = true;
        }
    }

    /// A ReadyForQuery came: portals end with their transaction.
    pub(super) fn ready(&mut self, status: TxStatus) {
        self.tells_failed &= status == TxStatus::InBlock;
        if status == TxStatus::Idle {
            self.forget_portals();
        }
    }

    /// It is one for the client. Where a limit was exceeded the client saw an error, and the server none:
    /// its transaction is to fail. Returns what the client is told now, if anything: it is told after
    /// that, unless it has asked for more already. Where that is nothing but the status, it is told what
    /// the status will be.
    pub(super) fn end_exceeded(&mut self, status: TxStatus) -> Option<TxStatus> {
        if self.exceeded.take().is_some() && status == TxStatus::InBlock {
            let told = !self.entries.is_empty();
            // If an earlier statement has asked for it already, one does for both.
            self.to_fail = Some(told);
            self.tells_failed = self
                .entries
                .iter()
                .all(|e| matches!(e.owed, Owed::Sync(AskedBy::Client)));
            if !told {
                return None;
            }
        }
        Some(match self.tells_failed {
            true => TxStatus::Failed,
            false => status,
        })
    }

    fn forget_statement(&mut self, name: &[u8]) {
        let forgotten = self.statements.remove(name);
        self.weight -= forgotten.map_or(0, |old| old.weight());
    }

    fn forget_unnamed(&mut self) {
        self.forget_statement(&[]);
        self.unnamed_portal = None;
    }

    /// Forgets all prepared statements that have names: SQL has changed what they mean. The one without
    /// is out of its reach.
    pub(super) fn forget_statements(&mut self) {
        let unnamed = self.statements.remove(&[][..]);
        self.weight = unnamed.as_ref().map_or(0, |u| u.weight());
        self.statements.clear();
        self.statements
            .extend(unnamed.map(|unnamed| (Box::default(), unnamed)));
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
                    name: n,
                    prepared,
                    asked_by: AskedBy::Client,
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
                Owed::Execute(p) if !name.is_empty() && p.run.borrow().side_effects.statements => {
                    return if here { Found::Unknown } else { Found::Wait };
                }
                Owed::Denied { unnamed: true, .. } if name.is_empty() => {
                    return if here { Found::Unknown } else { Found::Wait };
                }
                Owed::Query(b) if b.runs.iter().any(|r| r.side_effects.statements) => {
                    return Found::Wait;
                }
                // A simple query also drops the unnamed statement.
                Owed::Query(_) | Owed::FailTransaction { .. } if name.is_empty() => {
                    return Found::Wait;
                }
                // So does one that Weir has answered by itself, which is of this segment: there is
                // nothing to wait for.
                Owed::Own(_) if name.is_empty() => return Found::Unknown,
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
