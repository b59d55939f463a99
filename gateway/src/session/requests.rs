//! The client's half of a session: every statement is judged and recorded, then forwarded.
//!
//! What was allowed goes upstream as the client's own bytes. In place of what was denied the
//! server gets a text that can't be parsed, so that its own state machine does the rest
//! (transactions, savepoints, pipelines); its error is swapped for the denial. Only a simple query
//! that is denied while nothing is under way is answered without the server.
//!
//! A statement that reads masked columns runs only after the server has described its result: a
//! column whose origin isn't plain is a denial.

mod copy;
mod extended;
mod waiting;

use std::ops::{ControlFlow, Range};
use std::rc::Rc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use super::buffer::{ReadBuffer, Splice};
use super::judging::{limit_exceeded, query_before_sync};
use super::link::{End, Error, Link, now};
use super::queue::{AskedBy, Batch, Owed};
use super::statement::{Columns, Judged, Prepared, Run, Verdict};
use crate::judge;
use crate::mask::Planned;
use crate::policy::{Decision, Deny};
use crate::record::{self, Entry, Via};
use crate::sql::{self, Analysis};
use crate::wire::{self, HEADER, Reply, Side, TxStatus, request};

/// Texts from this size on take milliseconds to analyse.
const LONG_TEXT: usize = 64 << 10;

/// What a Parse that can't succeed is called: the statement without a name stays.
const REFUSED: &[u8] = b"weir_refused";

/// Long texts are analysed two at a time, of all sessions: they may take seconds and much memory, and
/// the threads that do it are those that others need to log in.
static ANALYSING: Semaphore = Semaphore::const_new(2);

/// Runs the half until the client ends the session.
pub(super) async fn run<C, U>(link: &Link<C, U>) -> Result<End, Error>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = ReadBuffer::default();
    let mut half = Half {
        link,
        splice: Splice::default(),
        ahead: ReadBuffer::default(),
    };
    loop {
        let (used, end) = half.turn(input.bytes()).await?;
        if let Some(end) = end {
            return Ok(end);
        }
        input.consume(used);
        if let Some(frame) = next_frame(input.bytes())? {
            input.reserve(frame.size);
        }
        if half.fill(&mut input).await? == 0 {
            return Ok(End::ClientLost);
        }
    }
}

fn next_frame(bytes: &[u8]) -> Result<Option<wire::Frame>, Error> {
    wire::frame(Side::Client, bytes).map_err(Error::Client)
}

struct Half<'l, C, U> {
    link: &'l Link<C, U>,
    splice: Splice,
    /// What came while the half waited for the server.
    ahead: ReadBuffer,
}

/// One frame of the source.
#[derive(Clone)]
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

/// What a look at a statement's result, before it runs, came to.
enum Looked {
    /// Every column's origin is plain.
    Plain,
    /// One isn't.
    Refused(Rc<Deny>),
    /// The server refused the statement; the client has its error.
    Failed,
}

impl<C, U> Half<'_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    /// Waits for bytes, and meanwhile does what the server's half asks for.
    async fn fill(&mut self, input: &mut ReadBuffer) -> Result<usize, Error> {
        loop {
            self.do_as_asked(&[]).await?;
            if !self.ahead.bytes().is_empty() {
                let more = self.ahead.bytes().len();
                input.append(&mut self.ahead);
                return Ok(more);
            }
            let filled = std::future::poll_fn(|cx| {
                if self.link.queue.borrow().asks() {
                    return Poll::Ready(None);
                }
                let mut client = self.link.client.borrow_mut();
                input.poll_fill(cx, &mut *client).map(Some)
            });
            if let Some(read) = filled.await {
                // A reset is an end like any other.
                return Ok(read.unwrap_or(0));
            }
        }
    }

    /// Handles every whole frame of `source`. Returns the bytes used, and how the session ends.
    async fn turn(&mut self, source: &[u8]) -> Result<(usize, Option<End>), Error> {
        let mut at = 0;
        while let Some(frame) = next_frame(&source[at..])? {
            if source.len() - at < frame.size {
                break;
            }
            let seen = Seen {
                source,
                range: at..at + frame.size,
                tag: frame.tag,
            };
            at += frame.size;
            if let ControlFlow::Break(end) = self.frame(seen).await? {
                self.send(source).await?;
                return Ok((at, Some(end)));
            }
        }
        self.send(source).await?;
        Ok((at, None))
    }

    /// Forwards what was allowed so far; the journal has it first.
    async fn send(&mut self, source: &[u8]) -> Result<(), Error> {
        if !self.splice.is_empty() {
            let recorded = self.link.commit().await?;
            self.link
                .forward(recorded, self.splice.bytes(source))
                .await?;
            self.splice.clear();
        }
        Ok(())
    }

    fn keep(&mut self, seen: &Seen<'_>) {
        self.splice.keep(seen.source, seen.range.clone());
    }

    fn push(&self, owed: Owed) {
        self.link.queue.borrow_mut().push(owed);
    }

    async fn frame(&mut self, seen: Seen<'_>) -> Result<ControlFlow<End>, Error> {
        let free = self.link.queue.borrow().is_free();
        if !free {
            self.heed(&seen).await?;
        }
        // What the server doesn't get needs no judging.
        let skipped = self.link.queue.borrow().skips();
        match seen.tag {
            b'S' | b'X' | b'H' | b'c' if !seen.body().is_empty() => {
                // The server fails at it, and then ignores what comes, or doesn't.
                return Err(Error::Client(wire::Error::Malformed("empty")));
            }
            b'S' => self.sync(&seen).await?,
            b'X' => {
                self.quit(&seen).await?;
                return Ok(ControlFlow::Break(End::ClientQuit));
            }
            _ if skipped => {}
            b'Q' => self.query(&seen).await?,
            b'P' => self.parse(&seen).await?,
            b'B' => self.bind(&seen).await?,
            b'D' => self.describe(&seen).await?,
            b'E' => self.execute(&seen).await?,
            b'C' => self.close(&seen)?,
            b'H' => self.keep(&seen),
            b'd' => self.copy_data(&seen).await?,
            b'c' | b'f' => self.copy_end(&seen).await?,
            b'F' => self.function_call(&seen).await?,
            _ => return Err(Error::ClientSequence("a password that was not asked for")),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The server reads a Terminate once it has done what came before: a client that says it in one
    /// go with its last statement, and stays for the answer, gets it. What it hasn't asked for by a Sync
    /// it gets too, which is as if a Flush came before.
    async fn quit(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let waits = |link: &Link<C, U>| {
            let queue = link.queue.borrow();
            queue.reads_copy().is_none() && !queue.is_empty()
        };
        if waits(self.link) {
            self.flush(seen);
            self.wait_while(seen, waits).await?;
        }
        self.keep(seen);
        Ok(())
    }

    async fn sync(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        // While COPY data is read the server ignores a Sync.
        self.await_copy(seen).await?;
        if self.link.queue.borrow_mut().copy_in().hold_sync() {
            return Ok(());
        }
        self.before_commit(seen).await?;
        self.push(Owed::Sync(AskedBy::Client));
        self.keep(seen);
        Ok(())
    }

    /// What ends a segment commits it. Where it writes, and has a result that may exceed a limit,
    /// that is waited for: if it does, the client takes all of the segment for rolled back, and so
    /// the server is made to.
    async fn before_commit(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let waits = |link: &Link<C, U>| {
            let queue = link.queue.borrow();
            // A COPY into which the client won't send anything any more is ended first.
            queue.writes() && (queue.owes_limited() || queue.has_exceeded() && queue.owes_copy_in())
        };
        if waits(self.link) {
            self.splice
                .insert(seen.source)
                .extend_from_slice(&request::FLUSH);
            self.wait_while(seen, waits).await?;
        }
        let queue = self.link.queue.borrow();
        let commits = queue.writes() && !queue.is_discarding() && queue.has_exceeded();
        drop(queue);
        if commits {
            self.refuse_extended(seen, &Rc::new(limit_exceeded()));
        }
        Ok(())
    }

    /// A COMMIT, and whatever else a failed transaction takes otherwise, waits until no result before
    /// it can exceed its limit any more: the client takes the transaction of one that does for failed,
    /// and so the server is made to.
    async fn before_transaction_control(
        &mut self,
        seen: &Seen<'_>,
        judged: &Judged,
    ) -> Result<(), Error> {
        let waits = |link: &Link<C, U>| {
            let queue = link.queue.borrow();
            // A COPY gets its data from behind this.
            queue.may_exceed() && !queue.owes_copy_in()
        };
        if judged.ruling.side_effects.transacts && waits(self.link) {
            self.flush(seen);
            self.wait_while(seen, waits).await?;
        }
        Ok(())
    }

    /// Judges a text and makes the journal know it.
    async fn judge(&mut self, seen: &Seen<'_>, text: &str) -> Result<Rc<Judged>, Error> {
        let analysis = match text.len() {
            LONG_TEXT.. => {
                let analysis = analyse_apart(text).await;
                self.heed(seen).await?;
                Some(analysis)
            }
            _ => None,
        };
        let mut judging = self.link.judging.borrow_mut();
        if let Some(sha256) = judging.follow() {
            self.link.append(&Entry::Policy { at: now(), sha256 });
        }
        let (judged, new) = judging.judge(text, analysis);
        if new {
            self.link.append(&Entry::Text {
                id: judged.text_id,
                sql: text.as_bytes(),
            });
        }
        Ok(judged)
    }

    /// A prepared statement's judgement under the policy and catalog that hold now.
    fn current(&mut self, prepared: &Prepared) -> Rc<Judged> {
        let mut judging = self.link.judging.borrow_mut();
        if let Some(sha256) = judging.follow() {
            self.link.append(&Entry::Policy { at: now(), sha256 });
        }
        let old = Rc::clone(&prepared.judged.borrow());
        if old.ruling.generation == judging.generation() {
            return old;
        }
        let judged = judging.judge_again(&old);
        *prepared.judged.borrow_mut() = Rc::clone(&judged);
        judged
    }

    async fn query(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let text = wire::Query::decode(seen.body())
            .map_err(Error::Client)?
            .text;
        let judged = self.judge(seen, text).await?;
        if !self.separate(seen).await? {
            return Ok(());
        }
        if let Some(deny) = &judged.ruling.denied {
            self.deny_query(seen, &judged, deny).await;
            return Ok(());
        }
        if let Some(deny) = self.barred_by_segment(&judged) {
            self.deny_query(seen, &judged, &Rc::new(deny)).await;
            return Ok(());
        }
        self.before_commit(seen).await?;
        self.before_transaction_control(seen, &judged).await?;
        if self.link.queue.borrow().skips() {
            return Ok(());
        }
        if judged.ruling.sensitive && !judged.probed.get() {
            match self.look_ahead(seen, &judged).await? {
                Looked::Plain => judged.probed.set(true),
                Looked::Refused(deny) => {
                    self.deny_query(seen, &judged, &deny).await;
                    return Ok(());
                }
                Looked::Failed => return Ok(()),
            }
        }
        let runs = judged
            .ruling
            .verdicts
            .iter()
            .zip(&judged.ruling.analysis.statements)
            .map(|(verdict, statement)| {
                let span = statement.span.clone();
                let id = self.record_allowed(&judged, verdict, span, (Via::Simple, None));
                Run::new(id, &judged, Some(verdict))
            })
            .collect();
        self.link.judging.borrow_mut().forwarded(&judged);
        self.push(Owed::Query(Box::new(Batch { runs, denied: None })));
        self.keep(seen);
        Ok(())
    }

    /// Why a query may not come behind messages that no Sync has ended, and which it ends itself.
    fn barred_by_segment(&self, judged: &Judged) -> Option<Deny> {
        let queue = self.link.queue.borrow();
        if !queue.is_unsynced() {
            return None;
        }
        // It would commit what the client takes for rolled back.
        let commits = queue.writes() && judged.ruling.verdicts.iter().any(|v| v.limited);
        let asks = judged.ruling.sensitive && !judged.probed.get() && looks_ahead(judged);
        (commits || asks).then(query_before_sync)
    }

    /// Denies a simple query: at once where nothing is under way, else through the server.
    async fn deny_query(&mut self, seen: &Seen<'_>, judged: &Judged, deny: &Rc<Deny>) {
        self.record_denied(judged, deny, Via::Simple);
        self.refuse_query(seen, deny).await;
    }

    async fn refuse_query(&mut self, seen: &Seen<'_>, deny: &Rc<Deny>) {
        if self.link.at_rest() && self.splice.is_empty() {
            let mut out = Vec::new();
            super::denial(deny).error(&mut out);
            Reply::ready(&mut out, TxStatus::Idle);
            self.push(Owed::Own(out));
            self.link.wake_server_half().await;
        } else if self.link.queue.borrow().is_unsynced() {
            // A query's error can be told from one of what came before only if none is there. Like a query
            // it takes the place of the statement without a name.
            self.refuse_under(seen.source, b"", deny);
            self.push(Owed::Sync(AskedBy::Client));
            let sync = request::SYNC;
            self.splice.insert(seen.source).extend_from_slice(&sync);
        } else {
            let batch = Batch {
                runs: [].into(),
                denied: Some(Rc::clone(deny)),
            };
            self.push(Owed::Query(Box::new(batch)));
            request::query(
                self.splice.insert(seen.source),
                &refused_text(deny.rule.as_deref()),
            );
        }
    }

    async fn function_call(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let deny = Rc::new(Deny {
            rule: None,
            message: "FunctionCall messages are not allowed: they name functions by number".into(),
            hint: Some("call the function in a SELECT".into()),
            sqlstate: "42501",
        });
        let judged = self.judge(seen, "(FunctionCall)").await?;
        if self.separate(seen).await? {
            self.deny_query(seen, &judged, &deny).await;
        }
        Ok(())
    }

    /// Asks the server how a simple query's sensitive statements would answer, before they run.
    async fn look_ahead(&mut self, seen: &Seen<'_>, judged: &Judged) -> Result<Looked, Error> {
        for (verdict, statement) in judged
            .ruling
            .verdicts
            .iter()
            .zip(&judged.ruling.analysis.statements)
        {
            if !is_looked_at(verdict, statement) {
                continue;
            }
            let Some(text) = judged.text.get(statement.span.clone()) else {
                continue;
            };
            self.settle(seen).await?;
            if self.link.queue.borrow().skips() {
                return Ok(Looked::Failed);
            }
            let prepared = Prepared::new(Rc::new(self.link.judging.borrow_mut().judge_part(text)));
            for owed in [
                Owed::Parse {
                    name: [].into(),
                    prepared: Rc::clone(&prepared),
                    asked_by: AskedBy::Weir,
                },
                Owed::Describe {
                    prepared: Some(Rc::clone(&prepared)),
                    portal: None,
                    asked_by: AskedBy::Weir,
                },
                Owed::Sync(AskedBy::Weir),
            ] {
                self.push(owed);
            }
            let out = self.splice.insert(seen.source);
            request::parse(out, b"", text);
            request::describe_statement(out, b"");
            out.extend_from_slice(&request::SYNC);
            self.settle(seen).await?;
            if self.link.queue.borrow_mut().take_answered() {
                return Ok(Looked::Failed);
            }
            match self.looked(&prepared)? {
                Looked::Plain => {}
                other => return Ok(other),
            }
        }
        Ok(Looked::Plain)
    }

    /// What the description of a sensitive statement means for it.
    fn looked(&self, prepared: &Prepared) -> Result<Looked, Error> {
        let columns = prepared.columns.borrow();
        let body = match &*columns {
            Columns::Unknown => return Ok(Looked::Failed),
            Columns::None => return Ok(Looked::Plain),
            Columns::Rows(body) => body,
        };
        match self
            .link
            .judging
            .borrow()
            .plan(body, true)
            .map_err(Error::Upstream)?
        {
            Planned::Refuse(refusal) => {
                Ok(Looked::Refused(Rc::new(refused_column(body, &refusal))))
            }
            Planned::Clear | Planned::Mask(_) => Ok(Looked::Plain),
        }
    }

    fn record_allowed(
        &self,
        judged: &Judged,
        verdict: &Verdict,
        span: Range<usize>,
        (via, parameters): (Via, Option<&[u8]>),
    ) -> u64 {
        let statement = self.link.next_statement();
        let Decision::Allow(allow) = &verdict.decision else {
            return statement;
        };
        let observed = allow.observed.as_ref();
        self.link.append(&Entry::Decision {
            statement,
            at: now(),
            text: judged.text_id,
            span: narrow(span),
            via,
            parameters,
            verdict: observed.map_or(record::Verdict::Allow, |deny| record::Verdict::Observe {
                sqlstate: deny.sqlstate,
                message: &deny.message,
            }),
            rules: &allow.rules,
            effects: verdict.effects,
        });
        self.link.tally.allowed();
        statement
    }

    fn record_denied(&self, judged: &Judged, deny: &Deny, via: Via) {
        self.link.append(&Entry::Decision {
            statement: self.link.next_statement(),
            at: now(),
            text: judged.text_id,
            span: narrow(0..judged.text.len()),
            via,
            parameters: None,
            verdict: record::Verdict::Deny {
                sqlstate: deny.sqlstate,
                message: &deny.message,
            },
            rules: deny.rule.as_slice(),
            effects: judged
                .ruling
                .verdicts
                .iter()
                .fold(0, |bits, v| bits | v.effects),
        });
        self.link.tally.denied();
    }
}

/// Whether the server is asked for the columns of a simple query's statement before it runs.
fn is_looked_at(verdict: &Verdict, statement: &sql::Statement) -> bool {
    verdict.sensitive && statement.shape.returns_rows
}

/// Whether it is of any of them.
fn looks_ahead(judged: &Judged) -> bool {
    let verdicts = judged.ruling.verdicts.iter();
    let mut both = verdicts.zip(&judged.ruling.analysis.statements);
    both.any(|(verdict, statement)| is_looked_at(verdict, statement))
}

/// Analyses a text where it holds up no other session.
async fn analyse_apart(text: &str) -> Analysis {
    let turn = ANALYSING.acquire().await;
    let text = text.to_owned();
    // Whoever leaves meanwhile has had its turn only when the thread is done.
    let analysed = tokio::task::spawn_blocking(move || {
        let analysis = sql::analyse(&text);
        drop(turn);
        analysis
    });
    match analysed.await {
        Ok(analysis) => analysis,
        // It panicked, or the runtime ends: this session ends with it.
        Err(error) => std::panic::resume_unwind(Box::new(error)),
    }
}

/// Texts are below 16 MiB.
fn narrow(span: Range<usize>) -> Range<u32> {
    let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    narrow(span.start)..narrow(span.end)
}

fn refused_column(description: &[u8], refusal: &crate::mask::Refusal) -> Deny {
    let name = wire::fields(description)
        .ok()
        .and_then(|mut fields| fields.nth(refusal.column))
        .and_then(Result::ok)
        .map_or_else(
            || "?".into(),
            |f| String::from_utf8_lossy(f.name).into_owned(),
        );
    judge::non_plain_output_denied(&name)
}

/// A text that no PostgreSQL parses, with a comment for the server's own log.
fn refused_text(rule: Option<&str>) -> String {
    let rule: String = rule
        .unwrap_or("(none)")
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_()".contains(*c))
        .collect();
    format!("/* refused by Weir, rule {rule} */ weir refused this")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_long_text_waits_while_two_others_are_analysed() {
        let turns = ANALYSING.acquire_many(2).await.expect("never closed");
        let mut analysis = std::pin::pin!(analyse_apart("SELECT 1"));
        let early = tokio::time::timeout(Duration::from_millis(100), &mut analysis).await;
        assert!(early.is_err(), "it has not waited");
        drop(turns);
        assert_eq!(analysis.await.statements.len(), 1);
    }
}
