//! The server's half of a session: every frame settles what the queue says is owed.
//!
//! Rows go out as they came in unless a plan masks them; runs of them are measured by their
//! headers only. Those of a large result are gathered for a moment: a client that is woken for each
//! of the server's pieces costs itself and Weir more than what is in them. Everything that is sent is
//! in the journal before the client gets it. A frame that isn't owed ends the session.

mod describe;
mod settle;

use std::ops::Range;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

use super::buffer::{ReadBuffer, Splice};
use super::link::{End, Error, Link, Results};
use super::queue::{AskedBy, Owed};
use super::rows::{self, Passed};
use super::statement::{Portal, Run, SideEffects};
use crate::record::{Entry, RowsDigest, Status};
use crate::wire::{self, ErrorFields, HEADER, Reply, Side, TxStatus};
use settle::{
    Failed, Front, Stopped, masked_columns, note_copied, take_failed, take_front, with_run,
};

/// Bytes of a result that are dropped behind an exceeded limit before its statement is cancelled:
/// small rests are cheaper to read to their end than to cancel.
const CANCEL_AFTER: u64 = 1 << 20;

/// Bytes in one read that make it one of a large result, of which PostgreSQL sends 8 KiB at a time.
const BULK: usize = 4 << 10;
/// Bytes of a large result that wait for more. As much again has room in the buffer.
const GATHERED: usize = 32 << 10;
/// How long they wait.
const GATHER: Duration = Duration::from_millis(1);

/// Cancels what the server is doing for this session.
pub(super) trait Cancel {
    /// Returns when the server has taken the request, or it failed.
    async fn cancel(&self);
}

/// Runs the half until the server's connection ends.
pub(super) async fn run<C, U, X>(
    link: &Link<C, U>,
    cancel: &X,
    leftover: Vec<u8>,
) -> Result<End, Error>
where
    C: AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
    X: Cancel,
{
    let mut input = ReadBuffer::holding(leftover);
    let mut half = Half {
        link,
        splice: Splice::default(),
        done: 0,
        in_rows: false,
    };
    let mut read = 0;
    loop {
        half.give_own_answers().await?;
        half.handle(input.bytes())?;
        while half.gathers(&input, read) {
            read = half.more_soon(&mut input).await;
            half.handle(input.bytes())?;
        }
        half.send(input.bytes()).await?;
        input.consume(std::mem::take(&mut half.done));
        if half.wants_cancel() {
            cancel.cancel().await;
        }
        if let Some(frame) = next_frame(input.bytes())? {
            input.reserve(frame.size);
        }
        read = half.fill(&mut input).await?;
        if read == 0 {
            return Ok(End::UpstreamLost);
        }
    }
}

fn next_frame(bytes: &[u8]) -> Result<Option<wire::Frame>, Error> {
    wire::frame(Side::Upstream, bytes).map_err(Error::Upstream)
}

struct Half<'l, C, U> {
    link: &'l Link<C, U>,
    splice: Splice,
    /// Bytes read that are handled; what is to be sent of them is in the splice.
    done: usize,
    /// What came last was a row, or is the beginning of one.
    in_rows: bool,
}

/// One frame of the source.
struct Seen<'s> {
    source: &'s [u8],
    range: Range<usize>,
    tag: u8,
}

impl<'s> Seen<'s> {
    fn body(&self) -> &'s [u8] {
        &self.source[self.range.start + HEADER..self.range.end]
    }
}

impl<C, U> Half<'_, C, U>
where
    C: AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Waits for bytes, and meanwhile gives the answers of Weir's own that come to the front.
    async fn fill(&mut self, input: &mut ReadBuffer) -> Result<usize, Error> {
        loop {
            self.give_own_answers().await?;
            let filled = std::future::poll_fn(|cx| {
                if matches!(self.link.queue.borrow_mut().front(), Some(Owed::Own(_))) {
                    return Poll::Ready(None);
                }
                let mut upstream = self.link.upstream.borrow_mut();
                input.poll_fill(cx, &mut *upstream).map(Some)
            });
            match filled.await {
                // A reset is an end like any other.
                Some(read) => return Ok(read.unwrap_or(0)),
                None => continue,
            }
        }
    }

    /// Whether what is to be sent waits for more: only in the middle of a large result.
    fn gathers(&self, input: &ReadBuffer, read: usize) -> bool {
        self.in_rows && read >= BULK && input.bytes().len() <= GATHERED && !self.splice.is_empty()
    }

    /// Waits for bytes as long as what was gathered may wait. 0 if none came, and where the connection
    /// ends, which is found again.
    async fn more_soon(&mut self, input: &mut ReadBuffer) -> usize {
        let mut over = std::pin::pin!(tokio::time::sleep(GATHER));
        std::future::poll_fn(|cx| {
            let mut upstream = self.link.upstream.borrow_mut();
            match input.poll_fill(cx, &mut *upstream) {
                Poll::Ready(read) => Poll::Ready(read.unwrap_or(0)),
                Poll::Pending => over.as_mut().poll(cx).map(|()| 0),
            }
        })
        .await
    }

    async fn give_own_answers(&mut self) -> Result<(), Error> {
        loop {
            let own = {
                let mut queue = self.link.queue.borrow_mut();
                match queue.front() {
                    Some(Owed::Own(bytes)) => std::mem::take(bytes),
                    _ => return Ok(()),
                }
            };
            let recorded = self.link.commit().await?;
            self.link.answer(recorded, &own).await?;
            self.link.queue.borrow_mut().settle();
        }
    }

    /// Handles every whole frame of `source` that isn't handled yet.
    fn handle(&mut self, source: &[u8]) -> Result<(), Error> {
        while let Some(frame) = next_frame(&source[self.done..])? {
            let at = self.done;
            self.in_rows = matches!(frame.tag, b'D' | b'd');
            if self.in_rows {
                match self.rows(source, at)? {
                    Some(used) => self.done += used,
                    None => break,
                }
                continue;
            }
            if source.len() - at < frame.size {
                break;
            }
            let seen = Seen {
                source,
                range: at..at + frame.size,
                tag: frame.tag,
            };
            self.frame(&seen)?;
            self.done += frame.size;
        }
        Ok(())
    }

    async fn send(&mut self, source: &[u8]) -> Result<(), Error> {
        if !self.splice.is_empty() {
            let recorded = self.link.commit().await?;
            self.link
                .answer(recorded, self.splice.bytes(source))
                .await?;
            self.splice.clear();
        }
        Ok(())
    }

    fn wants_cancel(&mut self) -> bool {
        let mut queue = self.link.queue.borrow_mut();
        // The server may be at the next one when it hears of it.
        let alone = !queue.runs_more();
        with_run(&mut queue, |run| {
            let wants = run.over_limit && run.dropped > CANCEL_AFTER && alone;
            if wants {
                run.dropped = 0;
            }
            wants
        })
        .unwrap_or(false)
    }

    fn is_muted(&self) -> bool {
        self.link.queue.borrow().is_muted()
    }

    /// Keeps an answer. What is said to the session as such, asynchronously, is kept even while
    /// the client gets no answers.
    fn keep(&mut self, seen: &Seen<'_>) {
        if !self.is_muted() {
            self.splice.keep(seen.source, seen.range.clone());
        }
    }

    fn frame(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        match seen.tag {
            b'1' | b'2' | b'3' => self.confirmed(seen),
            b't' => self.parameter_description(seen),
            b'T' => self.row_description(seen),
            b'n' => self.no_data(seen),
            b'C' | b'I' => self.completed(seen),
            b's' => self.suspended(seen),
            b'E' => self.failed(seen),
            b'N' => self.notice(seen),
            b'Z' => self.ready(seen),
            b'S' => self.parameter_status(seen),
            b'A' => self.notification(seen),
            b'G' => self.copy_in(seen),
            b'H' | b'c' => {
                self.keep(seen);
                Ok(())
            }
            b'R' => Err(Error::UpstreamSequence(
                "an authentication message after log-in",
            )),
            b'K' => Err(Error::UpstreamSequence("a second cancel key")),
            b'W' => Err(Error::UpstreamSequence("a switch to replication")),
            _ => Err(Error::UpstreamSequence("a message that was not asked for")),
        }
    }

    /// ParseComplete, BindComplete, CloseComplete.
    fn confirmed(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let mut queue = self.link.queue.borrow_mut();
        let asked_by = match (seen.tag, queue.front()) {
            (b'1', Some(Owed::Parse { asked_by, .. })) => *asked_by,
            (b'2', Some(Owed::Bind { .. })) | (b'3', Some(Owed::Close { .. })) => AskedBy::Client,
            _ => return Err(Error::UpstreamSequence("a confirmation that was not owed")),
        };
        queue.settle();
        drop(queue);
        if asked_by == AskedBy::Client {
            self.keep(seen);
        }
        Ok(())
    }

    /// Handles as many rows at `source[at..]` as are whole. Returns their bytes, or `None` if not
    /// even one is whole.
    fn rows(&mut self, source: &[u8], at: usize) -> Result<Option<usize>, Error> {
        if wire::row_run(&source[at..], 1).1 == 0 {
            return Ok(None);
        }
        let columns = self.columns_of_portal()?;
        let before = self.splice.position();
        let passed = {
            let mut queue = self.link.queue.borrow_mut();
            let (splice, muted) = (&mut self.splice, queue.is_muted());
            with_run(&mut queue, |run| {
                // Behind the error that the client has got nothing more may come.
                run.over_limit |= muted;
                rows::pass(run, source, at, splice)
            })
            .ok_or(Error::UpstreamSequence("rows that were not owed"))??
        };
        let Passed {
            used,
            sent,
            over_limit,
        } = passed;
        if sent {
            self.record_rows(source, before, columns);
        }
        if over_limit {
            self.exceeded(source);
        }
        Ok((used > 0 || over_limit).then_some(used))
    }

    /// Rows of a portal have no description of their own in front of them: theirs is planned for
    /// once, and recorded once for all portals of that shape. Returns its number.
    fn columns_of_portal(&mut self) -> Result<u32, Error> {
        let mut queue = self.link.queue.borrow_mut();
        let Some(Owed::Execute(portal)) = queue.front() else {
            return Ok(0);
        };
        let shape = self.shape_by_now(portal)?;
        let (Some(shape), Results::Full) = (shape, self.link.results) else {
            return Ok(0);
        };
        if shape.number.get() == 0 {
            shape.number.set(self.link.next_shape());
            self.link.append(&Entry::Columns {
                statement: portal.run.borrow().statement,
                number: shape.number.get(),
                fields: &shape.fields,
                masked: &masked_columns(&shape.treatment),
            });
        }
        Ok(shape.number.get())
    }

    /// Records the rows that were put into the splice since `before`.
    fn record_rows(&mut self, source: &[u8], before: usize, columns: u32) {
        let frames = self.splice.since(source, before);
        let mut queue = self.link.queue.borrow_mut();
        let statement = with_run(&mut queue, |run| {
            if self.link.results == Results::Digest {
                run.digest
                    .get_or_insert_with(RowsDigest::new)
                    .update(frames);
            }
            run.statement
        });
        drop(queue);
        if let (Some(statement), Results::Full) = (statement, self.link.results) {
            self.link.append(&Entry::Rows {
                statement,
                columns,
                frames,
            });
        }
    }

    /// Tells the client that a limit is exceeded; what the server still sends is dropped.
    fn exceeded(&mut self, source: &[u8]) {
        let mut queue = self.link.queue.borrow_mut();
        queue.exceed();
        let alone = matches!(queue.front(), Some(Owed::Query(_)));
        let wrote = with_run(&mut queue, |run| run.writes).unwrap_or(false);
        // By a simple query the server commits before anybody can know how much it returns.
        let stands = alone && wrote && self.link.status.get() == TxStatus::Idle;
        Reply {
            sqlstate: "54000",
            message: "the result exceeds the row or byte limit of the policy",
            hint: Some(if stands {
                "what the statement wrote stands; narrow what it returns"
            } else {
                "narrow the statement with WHERE or LIMIT"
            }),
        }
        .error(self.splice.insert(source));
    }

    /// CommandComplete and EmptyQueryResponse.
    fn completed(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let tag: &[u8] = match seen.tag {
            b'C' => wire::command_tag(seen.body()).map_err(Error::Upstream)?,
            _ => b"",
        };
        let front = take_front(&mut self.link.queue.borrow_mut());
        match front {
            Front::Portal(portal) => self.portal_completed(&portal, tag),
            Front::Batch(Some(run)) => self.run_completed(run, tag),
            // An empty query has no statement that could run.
            Front::Batch(None) if seen.tag == b'I' => {}
            _ => return Err(Error::UpstreamSequence("a completion that was not owed")),
        }
        self.link.queue.borrow_mut().copy_in().completed();
        self.keep(seen);
        Ok(())
    }

    fn portal_completed(&mut self, portal: &Portal, tag: &[u8]) {
        let effects = {
            let mut run = portal.run.borrow_mut();
            note_copied(&mut run, tag);
            run.side_effects
        };
        self.outcome(&mut portal.run.borrow_mut(), Status::Completed { tag });
        self.apply(effects);
    }

    fn run_completed(&mut self, mut run: Run, tag: &[u8]) {
        note_copied(&mut run, tag);
        self.outcome(&mut run, Status::Completed { tag });
        self.apply(run.side_effects);
    }

    fn outcome(&mut self, run: &mut Run, status: Status<'_>) {
        let status = if run.over_limit { Status::Cut } else { status };
        self.link.record_outcome(run, status);
    }

    fn apply(&mut self, effects: SideEffects) {
        let mut queue = self.link.queue.borrow_mut();
        if effects.statements {
            queue.forget_statements();
        }
        if effects.portals {
            queue.forget_portals();
        }
        drop(queue);
        self.link.judging.borrow().completed(effects);
    }

    fn suspended(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let Front::Portal(portal) = take_front(&mut self.link.queue.borrow_mut()) else {
            return Err(Error::UpstreamSequence("a suspension that was not owed"));
        };
        self.outcome(&mut portal.run.borrow_mut(), Status::Suspended);
        portal.run.borrow_mut().next_part();
        self.keep(seen);
        Ok(())
    }

    fn failed(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let fields = ErrorFields::decode(seen.body()).map_err(Error::Upstream)?;
        let mut queue = self.link.queue.borrow_mut();
        queue.copy_in().failed();
        if queue.is_error_ambiguous() {
            return Err(Error::UpstreamSequence(
                "an error that may be of more than one request",
            ));
        }
        let failed = take_failed(&mut queue);
        drop(queue);
        match failed {
            Failed::Denied(deny) => {
                if !self.is_muted() {
                    super::denial(&deny).error(self.splice.insert(seen.source));
                }
            }
            Failed::Unseen => {}
            Failed::Unowed if !fields.ends_session() => {
                return Err(Error::UpstreamSequence("an error that was not owed"));
            }
            Failed::Unowed | Failed::Plain => self.error_of(seen, &fields, false),
            Failed::Runs(mut runs) => {
                let sensitive = runs.first().is_some_and(|r| r.run().sensitive);
                let sensitive = sensitive || self.link.judging.borrow().tells_of_masked(&fields);
                let mut status = Status::Failed {
                    sqlstate: fields.sqlstate,
                    message: if sensitive { b"" } else { fields.message },
                };
                for stopped in &mut runs {
                    match stopped {
                        Stopped::Run(run) => self.outcome(run, status),
                        Stopped::Portal(p) => self.outcome(&mut p.run.borrow_mut(), status),
                    }
                    // Those behind the one that failed never ran.
                    status = Status::Cut;
                }
                self.error_of(seen, &fields, sensitive);
            }
        }
        Ok(())
    }

    fn error_of(&mut self, seen: &Seen<'_>, fields: &ErrorFields<'_>, sensitive: bool) {
        let sensitive = sensitive || self.link.judging.borrow().tells_of_masked(fields);
        if sensitive && !self.is_muted() {
            Reply::scrubbed(self.splice.insert(seen.source), seen.tag, fields);
        } else {
            self.keep(seen);
        }
    }

    fn notice(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let fields = ErrorFields::decode(seen.body()).map_err(Error::Upstream)?;
        let sensitive =
            with_run(&mut self.link.queue.borrow_mut(), |run| run.sensitive).unwrap_or(false);
        self.error_of(seen, &fields, sensitive);
        Ok(())
    }

    /// Whoever writes to a table can have a trigger tell of its rows by this.
    fn notification(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let (from, payload) = wire::notification(seen.body()).map_err(Error::Upstream)?;
        if payload.is_empty() || !self.link.judging.borrow().masks_anything() {
            self.splice.keep(seen.source, seen.range.clone());
        } else {
            Reply::bare_notification(self.splice.insert(seen.source), from);
        }
        Ok(())
    }

    fn ready(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let status = wire::ready_status(seen.body()).map_err(Error::Upstream)?;
        let owed = {
            let mut queue = self.link.queue.borrow_mut();
            match queue.front() {
                Some(Owed::Sync(_) | Owed::Query(_) | Owed::FailTransaction { .. }) => {}
                _ => return Err(Error::UpstreamSequence("ReadyForQuery that was not owed")),
            }
            queue.ready(status);
            let settled = queue.settle();
            if status == TxStatus::Idle && queue.is_empty() {
                self.link.judging.borrow_mut().transaction_ended();
            }
            settled
        };
        match owed {
            Some(Owed::Sync(AskedBy::Weir) | Owed::FailTransaction { told: true }) => {
                return Ok(());
            }
            // Each of its statements ends by a completion or an error, or this is of another request.
            Some(Owed::Query(batch)) if !batch.runs.is_empty() => {
                return Err(Error::UpstreamSequence(
                    "ReadyForQuery before a statement's end",
                ));
            }
            _ => {}
        }
        let Some(told) = self.link.queue.borrow_mut().end_exceeded(status) else {
            return Ok(());
        };
        self.link.status.set(told);
        if told == status {
            self.keep(seen);
        } else {
            Reply::ready(self.splice.insert(seen.source), told);
        }
        Ok(())
    }

    fn parameter_status(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let (name, value) = wire::parameter_status(seen.body()).map_err(Error::Upstream)?;
        match (name, value) {
            ("standard_conforming_strings", v) if v != "on" => Err(Error::Setting {
                setting: "standard_conforming_strings",
            }),
            ("client_encoding", v) if v != "UTF8" => Err(Error::Setting {
                setting: "client_encoding",
            }),
            _ => {
                self.splice.keep(seen.source, seen.range.clone());
                Ok(())
            }
        }
    }

    fn copy_in(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let mut queue = self.link.queue.borrow_mut();
        let copies = |run: &mut Run| run.side_effects.copies_in.then_some(run.statement);
        let statement = with_run(&mut queue, copies)
            .flatten()
            .ok_or(Error::UpstreamSequence("COPY that was not owed"))?;
        // A client that has an error takes the statement for failed and will send no data.
        let client_knows = !queue.is_muted();
        if !queue.copy_in().begin(statement, client_knows) {
            return Err(Error::UpstreamSequence("a second COPY within one"));
        }
        drop(queue);
        self.keep(seen);
        Ok(())
    }
}
