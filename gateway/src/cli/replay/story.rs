//! What the records of a session refer to, and the records with it filled in.

use std::collections::HashMap;
use std::rc::Rc;

use crate::record::cells::{
    Field, apply_formats, cell_text, data_row, fields, parameters, take_frame, value_text,
};
use crate::record::{SessionOpen, Status, Stored, StoredDecision, show};

/// A value for people and for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    /// Exact; not escaped.
    Text(String),
    /// Neither text nor of a type known here.
    Bytes(Vec<u8>),
}

impl Cell {
    fn of(value: Option<&[u8]>, binary: bool, type_oid: u32) -> Cell {
        match value {
            None => Cell::Null,
            Some(value) => match value_text(value, binary, type_oid) {
                Some(text) => Cell::Text(text),
                None => Cell::Bytes(value.to_vec()),
            },
        }
    }

    /// On one line, fit for a terminal; NULL is `null`.
    pub(crate) fn shown(&self) -> String {
        match self {
            Cell::Null => "null".to_owned(),
            Cell::Text(text) => show::escape(text).into_owned(),
            Cell::Bytes(bytes) => cell_text(bytes, true, 0),
        }
    }
}

/// The columns of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) fields: Vec<Field>,
    pub(crate) masked: Vec<u16>,
}

impl Columns {
    pub(crate) fn is_masked(&self, column: usize) -> bool {
        self.masked
            .iter()
            .any(|&masked| usize::from(masked) == column)
    }
}

/// A record, with what it refers to.
#[derive(Debug)]
pub(crate) enum Told<'a> {
    /// Nothing to show by itself.
    Nothing,
    Decision {
        decision: Box<StoredDecision<'a>>,
        /// The statement's own text; not escaped.
        text: Vec<u8>,
        parameters: Vec<Cell>,
    },
    Columns {
        statement: u64,
    },
    Rows {
        statement: u64,
        rows: Vec<Vec<Cell>>,
        /// Of a COPY to the client.
        data: Vec<Cell>,
    },
    CopyIn {
        statement: u64,
        data: Vec<Cell>,
    },
    /// Any other record, as it is.
    Plain(Stored<'a>),
}

/// One statement's result, while it lasts.
#[derive(Debug, Default)]
struct Running {
    columns: Option<Rc<Columns>>,
    /// Formats of the result, from `Bind`.
    formats: Option<Vec<bool>>,
    /// A frame whose end is in a later record.
    rest: Vec<u8>,
}

/// What was told about a session until now.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) open: Option<SessionOpen>,
    texts: HashMap<u32, Vec<u8>>,
    types: HashMap<u32, Vec<u32>>,
    /// Columns that rows of several statements refer to, by their number.
    shapes: HashMap<u32, Rc<Columns>>,
    running: HashMap<u64, Running>,
}

impl Story {
    /// Takes the next record. Tells first what has to be known of it.
    pub(crate) fn tell<'a>(&mut self, entry: Stored<'a>) -> [Told<'a>; 2] {
        let before = match &entry {
            Stored::Rows {
                statement, columns, ..
            } => self.refer(*statement, *columns),
            _ => Told::Nothing,
        };
        [before, self.tell_one(entry)]
    }

    /// Gives a statement the columns that its rows refer to.
    fn refer<'a>(&mut self, statement: u64, number: u32) -> Told<'a> {
        let running = self.running.entry(statement).or_default();
        match self.shapes.get(&number) {
            Some(columns) if running.columns.is_none() => {
                running.columns = Some(Rc::clone(columns));
                Told::Columns { statement }
            }
            _ => Told::Nothing,
        }
    }

    fn tell_one<'a>(&mut self, entry: Stored<'a>) -> Told<'a> {
        match entry {
            Stored::Open(open) => {
                self.open = Some((*open).clone());
                Told::Plain(Stored::Open(open))
            }
            Stored::Text { id, sql } => {
                self.texts.insert(id, sql.to_vec());
                self.types.remove(&id);
                Told::Nothing
            }
            Stored::Types { text, oids } => {
                self.types.insert(text, oids);
                Told::Nothing
            }
            Stored::Decision(decision) => self.decided(decision),
            Stored::Columns {
                statement,
                number,
                fields: body,
                masked,
            } => {
                let running = self.running.entry(statement).or_default();
                let mut fields = fields(body).unwrap_or_default();
                if let Some(formats) = &running.formats {
                    apply_formats(formats, &mut fields);
                }
                let columns = Rc::new(Columns { fields, masked });
                if number != 0 {
                    self.shapes.insert(number, Rc::clone(&columns));
                }
                running.columns = Some(columns);
                Told::Columns { statement }
            }
            Stored::Rows {
                statement, frames, ..
            } => self.rows(statement, frames),
            Stored::CopyIn { statement, frames } => {
                let (_, data) = self.frames(statement, frames);
                Told::CopyIn { statement, data }
            }
            Stored::Outcome(outcome) => {
                if outcome.status != Status::Suspended {
                    self.running.remove(&outcome.statement);
                }
                Told::Plain(Stored::Outcome(outcome))
            }
            other => Told::Plain(other),
        }
    }

    /// The columns of a statement's result; none where it has none.
    pub(crate) fn columns(&self, statement: u64) -> Option<&Columns> {
        let columns = self.running.get(&statement)?.columns.as_deref()?;
        (!columns.fields.is_empty()).then_some(columns)
    }

    fn decided<'a>(&mut self, decision: Box<StoredDecision<'a>>) -> Told<'a> {
        let span = decision.span.start as usize..decision.span.end as usize;
        let text = self
            .texts
            .get(&decision.text)
            .and_then(|text| text.get(span));
        let text = text.map(<[u8]>::to_vec).unwrap_or_default();
        let types = self
            .types
            .get(&decision.text)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut cells = Vec::new();
        if let Some(body) = decision.parameters {
            match parameters(body) {
                Some(read) => {
                    let type_of = |i| types.get(i).copied().unwrap_or(0);
                    let values = read.values.iter().enumerate();
                    cells = values
                        .map(|(i, &(v, binary))| Cell::of(v, binary, type_of(i)))
                        .collect();
                    self.running.entry(decision.statement).or_default().formats =
                        Some(read.result_formats);
                }
                // Malformed: shown whole rather than not at all.
                None => cells.push(Cell::Bytes(body.to_vec())),
            }
        }
        Told::Decision {
            decision,
            text,
            parameters: cells,
        }
    }

    fn rows<'a>(&mut self, statement: u64, frames: &[u8]) -> Told<'a> {
        let (rows, data) = self.frames(statement, frames);
        Told::Rows {
            statement,
            rows,
            data,
        }
    }

    /// The rows and the COPY data that end in this piece of a statement's stream.
    fn frames(&mut self, statement: u64, frames: &[u8]) -> (Vec<Vec<Cell>>, Vec<Cell>) {
        let running = self.running.entry(statement).or_default();
        running.rest.extend_from_slice(frames);
        let (mut rows, mut data) = (Vec::new(), Vec::new());
        let fields = running.columns.as_deref().map_or(&[][..], |c| &c.fields);
        let mut rest = &running.rest[..];
        while let Some(frame) = take_frame(&mut rest) {
            let row = if frame.tag == b'D' {
                data_row(frame.body)
            } else {
                None
            };
            match row {
                Some(row) => rows.push(cells(&row, fields)),
                None => data.push(Cell::of(Some(frame.body), false, 0)),
            }
        }
        let taken = running.rest.len() - rest.len();
        running.rest.drain(..taken);
        (rows, data)
    }
}

fn cells(row: &[Option<&[u8]>], fields: &[Field]) -> Vec<Cell> {
    row.iter()
        .enumerate()
        .map(|(i, value)| {
            let field = fields.get(i);
            Cell::of(
                *value,
                field.is_some_and(|f| f.binary),
                field.map_or(0, |f| f.type_oid),
            )
        })
        .collect()
}
