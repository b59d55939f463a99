//! The extended protocol: names are made, looked up, judged again when they are used.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::judging::{
    ambiguous_name, bound_before_change, too_many_names, unknown_portal, unknown_statement,
};
use super::super::link::{Error, Link};
use super::super::queue::{AskedBy, Found, Owed};
use super::super::rows;
use super::super::statement::{Columns, Judged, Portal, Prepared, Run, Shape, Treatment};
use super::{Half, REFUSED, Seen, refused_column, refused_text};
use crate::mask::{Planned, Refusal};
use crate::policy::Deny;
use crate::record::Via;
use crate::wire::{self, TargetKind, request};

impl<C, U> Half<'_, C, U>
where
    C: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) async fn parse(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let parse = wire::Parse::decode(seen.body()).map_err(Error::Client)?;
        if self.refuse_ambiguous(seen, &[parse.name]) {
            return Ok(());
        }
        if self.link.queue.borrow().is_heavy() {
            self.settle(seen).await?;
        }
        let judged = self.judge(seen, parse.text).await?;
        if self.link.queue.borrow().skips() {
            return Ok(());
        }
        if !parse.name.is_empty() && self.link.queue.borrow().is_full(judged.weight()) {
            self.refuse_extended(seen, &Rc::new(too_many_names()));
            return Ok(());
        }
        if let Some(deny) = &judged.ruling.denied {
            self.record_denied(&judged, deny, Via::Parse);
            // The server drops the statement without a name before it reads the new one's text.
            let name: &[u8] = if parse.name.is_empty() { b"" } else { REFUSED };
            self.refuse_under(seen.source, name, deny);
            return Ok(());
        }
        for (verdict, statement) in judged
            .ruling
            .verdicts
            .iter()
            .zip(&judged.ruling.analysis.statements)
        {
            self.record_allowed(&judged, verdict, statement.span.clone(), (Via::Parse, None));
        }
        if judged.types.borrow().is_empty() {
            // What it leaves to the server is told by a description, if the client asks for one.
            self.link.record_types(&judged, parse.types);
        }
        self.link.judging.borrow_mut().prepared(parse.name, &judged);
        let prepared = Prepared::new(Rc::clone(&judged));
        self.push(Owed::Parse {
            name: parse.name.into(),
            prepared: Rc::clone(&prepared),
            asked_by: AskedBy::Client,
        });
        self.keep(seen);
        if judged.ruling.sensitive {
            self.learn_columns(seen, parse.name, &prepared).await?;
        }
        Ok(())
    }

    /// Asks the server for the columns of a prepared statement, and waits for them.
    async fn learn_columns(
        &mut self,
        seen: &Seen<'_>,
        name: &[u8],
        prepared: &Rc<Prepared>,
    ) -> Result<(), Error> {
        // Answers to the client's own questions of before come first.
        let waits = |link: &Link<C, U>| link.queue.borrow().awaits_description(prepared);
        if waits(self.link) {
            self.flush(seen);
            self.wait_while(seen, waits).await?;
        }
        prepared.asked(self.link.judging.borrow().generation());
        self.push(Owed::Describe {
            prepared: Some(Rc::clone(prepared)),
            portal: None,
            asked_by: AskedBy::Weir,
        });
        let out = self.splice.insert(seen.source);
        request::describe_statement(out, name);
        out.extend_from_slice(&request::FLUSH);
        self.wait_while(seen, |link| {
            link.queue.borrow().awaits_description(prepared)
        })
        .await
    }

    pub(super) async fn bind(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let bind = wire::Bind::decode(seen.body()).map_err(Error::Client)?;
        if self.refuse_ambiguous(seen, &[bind.portal, bind.statement]) {
            return Ok(());
        }
        if !bind.portal.is_empty() && self.link.queue.borrow().is_full(0) {
            self.refuse_extended(seen, &Rc::new(too_many_names()));
            return Ok(());
        }
        let Some(prepared) = self.statement(seen, bind.statement).await? else {
            self.refuse_extended(seen, &Rc::new(unknown_statement()));
            return Ok(());
        };
        let judged = self.current(&prepared);
        self.link.judging.borrow_mut().opened(bind.portal, &judged);
        // The name may have changed on what terms it runs.
        let judged = self.current(&prepared);
        if let Some(deny) = &judged.ruling.denied {
            self.deny_extended(seen, &judged, deny, Via::Execute);
            return Ok(());
        }
        let formats = prepared.formats(bind.formats());
        let shape = match self
            .shape(seen, &bind, (&prepared, &judged), &formats)
            .await?
        {
            Ok(shape) => shape,
            Err(deny) => {
                self.deny_extended(seen, &judged, &deny, Via::Execute);
                return Ok(());
            }
        };
        if self.link.queue.borrow().skips() {
            return Ok(());
        }
        let run = self.start_portal(&judged, Some(bind.arguments), shape.as_deref());
        let portal = Portal {
            prepared,
            formats,
            shape: RefCell::new(shape),
            run: RefCell::new(run),
            generation: Cell::new(judged.ruling.generation),
        };
        self.push(Owed::Bind {
            name: bind.portal.into(),
            portal: Rc::new(portal),
        });
        self.keep(seen);
        Ok(())
    }

    /// What a portal's rows will look like, as far as that is known, or why it may not run.
    async fn shape(
        &mut self,
        seen: &Seen<'_>,
        bind: &wire::Bind<'_>,
        (prepared, judged): (&Rc<Prepared>, &Judged),
        formats: &[i16],
    ) -> Result<Result<Option<Rc<Shape>>, Rc<Deny>>, Error> {
        if judged.ruling.sensitive && prepared.is_stale(judged.ruling.generation) {
            // Judged otherwise when it was prepared, or under another path or catalog.
            self.learn_columns(seen, bind.statement, prepared).await?;
        }
        let planned = self.plan_shape(prepared, judged, formats)?;
        Ok(
            planned.map_err(|refusal| match &*prepared.columns.borrow() {
                Columns::Rows(body) => Rc::new(refused_column(body, &refusal)),
                Columns::Unknown | Columns::None => Rc::new(refused_column(&[], &refusal)),
            }),
        )
    }

    /// The shape of a statement's portals, if its columns are known; or the column because of which
    /// a sensitive statement may not run.
    fn plan_shape(
        &self,
        prepared: &Prepared,
        judged: &Judged,
        formats: &[i16],
    ) -> Result<Result<Option<Rc<Shape>>, Refusal>, Error> {
        if let Some(shape) = prepared.shape_for(judged.ruling.generation, formats) {
            return Ok(Ok(Some(shape)));
        }
        let columns = prepared.columns.borrow();
        let Columns::Rows(body) = &*columns else {
            return Ok(Ok(None));
        };
        let fields = rows::with_formats(body, formats).map_err(Error::Upstream)?;
        let judging = self.link.judging.borrow();
        let planned = judging
            .plan(&fields, judged.ruling.sensitive)
            .map_err(Error::Upstream)?;
        if let (Planned::Refuse(refusal), true) = (&planned, judged.ruling.sensitive) {
            return Ok(Err(*refusal));
        }
        let shape = Rc::new(Shape {
            generation: judged.ruling.generation,
            formats: formats.into(),
            fields,
            treatment: Treatment::from(planned),
            number: Cell::new(0),
        });
        *prepared.shape.borrow_mut() = Some(Rc::clone(&shape));
        Ok(Ok(Some(shape)))
    }

    /// Records the run of a prepared statement and gives it its number.
    fn start_portal(
        &mut self,
        judged: &Judged,
        arguments: Option<&[u8]>,
        shape: Option<&Shape>,
    ) -> Run {
        let verdict = judged.ruling.verdicts.first();
        let id = match verdict.zip(judged.ruling.analysis.statements.first()) {
            Some((verdict, statement)) => self.record_allowed(
                judged,
                verdict,
                statement.span.clone(),
                (Via::Execute, arguments),
            ),
            None => self.link.next_statement(),
        };
        Run {
            treatment: match shape {
                Some(shape) => shape.treatment.clone(),
                // Described as without rows: none may come.
                None if judged.ruling.sensitive => Treatment::Blank,
                // Not described: nothing in it is masked.
                None => Treatment::Clear,
            },
            ..Run::new(id, judged, verdict)
        }
    }

    pub(super) async fn describe(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let target = wire::Target::decode("Describe", seen.body()).map_err(Error::Client)?;
        if self.refuse_ambiguous(seen, &[target.name]) {
            return Ok(());
        }
        let (prepared, portal) = match target.kind {
            TargetKind::Statement => {
                let prepared = self.statement(seen, target.name).await?;
                if prepared.is_none() && target.name.is_empty() {
                    // SQL makes none without a name: what stands there is Weir's own, or what a client
                    // takes for gone.
                    self.refuse_extended(seen, &Rc::new(unknown_statement()));
                    return Ok(());
                }
                (prepared, None)
            }
            TargetKind::Portal => match self.portal(seen, target.name).await? {
                Some(portal) => (Some(Rc::clone(&portal.prepared)), Some(portal)),
                None => (None, None),
            },
        };
        self.push(Owed::Describe {
            prepared,
            portal,
            asked_by: AskedBy::Client,
        });
        self.keep(seen);
        Ok(())
    }

    pub(super) async fn execute(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let execute = wire::Execute::decode(seen.body()).map_err(Error::Client)?;
        if self.refuse_ambiguous(seen, &[execute.portal]) {
            return Ok(());
        }
        let Some(portal) = self.portal(seen, execute.portal).await? else {
            self.refuse_extended(seen, &Rc::new(unknown_portal()));
            return Ok(());
        };
        let judged = self.current(&portal.prepared);
        self.before_transaction_control(seen, &judged).await?;
        if self.link.queue.borrow().skips() {
            return Ok(());
        }
        if judged.ruling.generation != portal.generation.get() {
            if let Some(deny) = &judged.ruling.denied {
                self.deny_extended(seen, &judged, deny, Via::Execute);
                return Ok(());
            }
            if !self.rejudge_portal(&portal, &judged)? {
                let deny = Rc::new(bound_before_change());
                self.deny_extended(seen, &judged, &deny, Via::Execute);
                return Ok(());
            }
        }
        self.link.judging.borrow_mut().forwarded(&judged);
        self.push(Owed::Execute(portal));
        self.keep(seen);
        Ok(())
    }

    /// Brings a portal that was bound under an older policy or catalog under the current one.
    /// False if that can't be done without knowing its columns.
    fn rejudge_portal(&mut self, portal: &Portal, judged: &Judged) -> Result<bool, Error> {
        if judged.ruling.sensitive && portal.prepared.is_stale(judged.ruling.generation) {
            return Ok(false);
        }
        let Ok(shape) = self.plan_shape(&portal.prepared, judged, &portal.formats)? else {
            return Ok(false);
        };
        let before = portal.run.borrow().before;
        let run = self.start_portal(judged, None, shape.as_deref());
        *portal.run.borrow_mut() = Run { before, ..run };
        *portal.shape.borrow_mut() = shape;
        portal.generation.set(judged.ruling.generation);
        Ok(true)
    }

    pub(super) fn close(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let target = wire::Target::decode("Close", seen.body()).map_err(Error::Client)?;
        if self.refuse_ambiguous(seen, &[target.name]) {
            return Ok(());
        }
        self.push(Owed::Close {
            kind: target.kind,
            name: target.name.into(),
        });
        self.keep(seen);
        Ok(())
    }

    async fn statement(
        &mut self,
        seen: &Seen<'_>,
        name: &[u8],
    ) -> Result<Option<Rc<Prepared>>, Error> {
        loop {
            let found = self.link.queue.borrow().statement(name);
            match found {
                Found::Is(prepared) => return Ok(Some(prepared)),
                Found::Unknown => return Ok(None),
                Found::Wait => self.settle_segments(seen).await?,
            }
        }
    }

    async fn portal(&mut self, seen: &Seen<'_>, name: &[u8]) -> Result<Option<Rc<Portal>>, Error> {
        loop {
            let found = self.link.queue.borrow().portal(name);
            match found {
                Found::Is(portal) => return Ok(Some(portal)),
                Found::Unknown => return Ok(None),
                Found::Wait => self.settle_segments(seen).await?,
            }
        }
    }

    /// Waits until the answers to earlier segments are there.
    async fn settle_segments(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        // Without any, whoever waits would ask for ever, and hold up all sessions of the thread.
        if !self.link.queue.borrow().has_earlier_segments() {
            return Err(Error::ClientSequence("a name that nothing will settle"));
        }
        self.wait_while(seen, |link| link.queue.borrow().has_earlier_segments())
            .await
    }

    fn deny_extended(&mut self, seen: &Seen<'_>, judged: &Judged, deny: &Rc<Deny>, via: Via) {
        self.record_denied(judged, deny, via);
        self.refuse_extended(seen, deny);
    }

    /// Refuses a name that means one thing here and another to the server.
    fn refuse_ambiguous(&mut self, seen: &Seen<'_>, names: &[&[u8]]) -> bool {
        let Some(deny) = ambiguous_name(names) else {
            return false;
        };
        self.refuse_extended(seen, &Rc::new(deny));
        true
    }

    /// Makes the server fail at this place: a Parse that can't succeed stands in for the message.
    pub(super) fn refuse_extended(&mut self, seen: &Seen<'_>, deny: &Rc<Deny>) {
        self.refuse_under(seen.source, REFUSED, deny);
    }

    /// The same by a Parse of this name.
    pub(super) fn refuse_under(&mut self, source: &[u8], name: &[u8], deny: &Rc<Deny>) {
        self.push(Owed::Denied {
            deny: Rc::clone(deny),
            unnamed: name.is_empty(),
        });
        let text = refused_text(deny.rule.as_deref());
        request::parse(self.splice.insert(source), name, &text);
    }
}
