//! What the server tells of statements and results before their rows: it decides how these are masked.

use std::cell::Cell;
use std::rc::Rc;

use tokio::io::{AsyncRead, AsyncWrite};

use super::super::link::{Error, Results};
use super::super::queue::{AskedBy, Owed};
use super::super::rows;
use super::super::statement::{Columns, Portal, Shape, Treatment};
use super::settle::masked_columns;
use super::{Half, Seen};
use crate::record::Entry;
use crate::wire;

impl<C, U> Half<'_, C, U>
where
    C: AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn parameter_description(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let mut queue = self.link.queue.borrow_mut();
        let Some(Owed::Describe {
            asked_by, prepared, ..
        }) = queue.front()
        else {
            return Err(Error::UpstreamSequence(
                "a parameter description that was not owed",
            ));
        };
        let types = wire::parameter_types(seen.body()).map_err(Error::Upstream)?;
        if let Some(prepared) = prepared {
            self.link.record_types(&prepared.judged.borrow(), types);
        }
        let asked_by = *asked_by;
        drop(queue);
        if asked_by == AskedBy::Client {
            self.keep(seen);
        }
        Ok(())
    }

    pub(super) fn row_description(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        let body = seen.body();
        if self.described_again(body) {
            self.keep(seen);
            return Ok(());
        }
        // Checked whole before anything is made of it.
        for field in wire::fields(body).map_err(Error::Upstream)? {
            field.map_err(Error::Upstream)?;
        }
        if let Some(asked_by) = self.described(&Columns::Rows(body.into()))? {
            if asked_by == AskedBy::Client {
                self.keep(seen);
            }
            return Ok(());
        }
        let mut queue = self.link.queue.borrow_mut();
        let Some(Owed::Query(batch)) = queue.front() else {
            return Err(Error::UpstreamSequence(
                "a row description that was not owed",
            ));
        };
        let run = batch
            .runs
            .front_mut()
            .ok_or(Error::UpstreamSequence("a row description of nothing"))?;
        let judging = self.link.judging.borrow();
        run.treatment = judging
            .plan(body, run.sensitive)
            .map_err(Error::Upstream)?
            .into();
        if self.link.results == Results::Full {
            let masked = masked_columns(&run.treatment);
            let statement = run.statement;
            self.link.append(&Entry::Columns {
                statement,
                number: 0,
                fields: body,
                masked: &masked,
            });
        }
        drop((queue, judging));
        self.keep(seen);
        Ok(())
    }

    /// Settles a Describe of the client's, if what it tells of a portal is known word for word.
    fn described_again(&mut self, fields: &[u8]) -> bool {
        let mut queue = self.link.queue.borrow_mut();
        let known = match queue.front() {
            Some(Owed::Describe {
                portal: Some(portal),
                asked_by: AskedBy::Client,
                ..
            }) => portal
                .shape
                .borrow()
                .as_ref()
                .is_some_and(|shape| *shape.fields == *fields),
            _ => false,
        };
        if known {
            queue.settle();
        }
        known
    }

    /// Settles a Describe, if that is what is owed, and keeps what it told.
    fn described(&mut self, columns: &Columns) -> Result<Option<AskedBy>, Error> {
        let mut queue = self.link.queue.borrow_mut();
        let Some(Owed::Describe {
            prepared,
            portal,
            asked_by,
        }) = queue.front()
        else {
            return Ok(None);
        };
        let asked_by = *asked_by;
        // A portal's description adds only the formats, which Weir has from its Bind.
        if let Some(prepared) = prepared
            && (asked_by == AskedBy::Weir || matches!(*prepared.columns.borrow(), Columns::Unknown))
        {
            *prepared.columns.borrow_mut() = columns.clone();
        }
        if let (Some(portal), Columns::Rows(body)) = (portal, columns) {
            self.shape_portal(portal, body)?;
        }
        queue.settle();
        Ok(Some(asked_by))
    }

    /// A portal's shape. It may not have been known at the Bind, but by now: its statement was
    /// described in between.
    pub(super) fn shape_by_now(&self, portal: &Portal) -> Result<Option<Rc<Shape>>, Error> {
        if portal.shape.borrow().is_none()
            && let Columns::Rows(body) = &*portal.prepared.columns.borrow()
        {
            let fields = rows::with_formats(body, &portal.formats).map_err(Error::Upstream)?;
            self.shape_portal(portal, &fields)?;
        }
        Ok(portal.shape.borrow().clone())
    }

    /// Whatever a portal's statement was taken for: a masked column is masked.
    fn shape_portal(&self, portal: &Portal, fields: &[u8]) -> Result<(), Error> {
        let mut shape = portal.shape.borrow_mut();
        let mut run = portal.run.borrow_mut();
        let judging = self.link.judging.borrow();
        let planned = judging
            .plan(fields, run.sensitive)
            .map_err(Error::Upstream)?;
        run.treatment = planned.into();
        let described = Rc::new(Shape {
            generation: portal.generation.get(),
            formats: portal.formats.clone(),
            fields: fields.into(),
            treatment: run.treatment.clone(),
            number: Cell::new(0),
        });
        // One that has to be blanked is planned anew, and then refused, at each Bind.
        if !matches!(run.treatment, Treatment::Blank) {
            *portal.prepared.shape.borrow_mut() = Some(Rc::clone(&described));
        }
        *shape = Some(described);
        Ok(())
    }

    pub(super) fn no_data(&mut self, seen: &Seen<'_>) -> Result<(), Error> {
        match self.described(&Columns::None)? {
            Some(AskedBy::Client) => self.keep(seen),
            Some(AskedBy::Weir) => {}
            None => return Err(Error::UpstreamSequence("NoData that was not owed")),
        }
        Ok(())
    }
}
