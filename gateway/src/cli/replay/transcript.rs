//! Records as a transcript for people. Every text passes through `record::show`.

use std::io::{self, Write};

use super::story::{Cell, Columns, Story, Told};
use crate::record::show::{self, escape, escape_bytes};
use crate::record::{
    Close, Question, SessionOpen, Status, Stored, StoredDecision, StoredOutcome, Told as Answer,
    Verdict, Via,
};

/// Rows that are lined up together; more come in several tables.
const TABLE_ROWS: usize = 1000;

/// Characters of a cell that a table shows. `--json` has all of them.
const CELL_WIDTH: usize = 60;

/// Characters of a statement that a line of `weir tail` shows.
const LINE_WIDTH: usize = 160;

/// Shows the records of one session.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    /// When the session began.
    start: u64,
    /// The statement whose heading was shown last: replies to others name theirs.
    current: Option<u64>,
    table: Option<Table>,
}

/// Rows that wait to be lined up.
#[derive(Debug)]
struct Table {
    statement: u64,
    columns: Columns,
    rows: Vec<Vec<String>>,
}

impl Transcript {
    pub(crate) fn show(
        &mut self,
        story: &Story,
        told: Told<'_>,
        out: &mut impl Write,
    ) -> io::Result<()> {
        match told {
            Told::Nothing => Ok(()),
            Told::Decision {
                decision,
                text,
                parameters,
            } => {
                self.finish(out)?;
                self.decision(&decision, &text, &parameters, out)
            }
            Told::Columns { statement } => {
                self.finish(out)?;
                if let Some(columns) = story.columns(statement) {
                    self.table = Some(Table {
                        statement,
                        columns: columns.clone(),
                        rows: Vec::new(),
                    });
                }
                Ok(())
            }
            Told::Rows {
                statement,
                rows,
                data,
            } => {
                self.rows(story, statement, &rows, out)?;
                self.data(statement, ">", &data, out)
            }
            Told::CopyIn { statement, data } => self.data(statement, "<", &data, out),
            Told::Plain(stored) => {
                self.finish(out)?;
                self.plain(&stored, out)
            }
        }
    }

    /// Shows what waits to be lined up.
    pub(crate) fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        let Some(table) = self.table.take() else {
            return Ok(());
        };
        self.heading(table.statement, out)?;
        table.show(out)
    }

    fn plain(&mut self, stored: &Stored<'_>, out: &mut impl Write) -> io::Result<()> {
        match stored {
            Stored::Open(open) => {
                self.start = open.at;
                opened(open, out)
            }
            Stored::Outcome(outcome) => {
                self.heading(outcome.statement, out)?;
                writeln!(out, "  {}", ended(outcome))
            }
            Stored::Policy { at, sha256 } => {
                writeln!(out, "\n{}  policy {}", self.offset(*at), show::hex(sha256))
            }
            Stored::Note { at, kind, text } => {
                writeln!(
                    out,
                    "\n{}  {}: {}",
                    self.offset(*at),
                    escape(kind),
                    escape(text)
                )
            }
            Stored::Question(question) => {
                let offset = self.offset(question.at);
                writeln!(out, "\n{offset}  {}", asked(question))
            }
            Stored::Close(close) => writeln!(out, "\n{}  {}", self.offset(close.at), closed(close)),
            _ => Ok(()),
        }
    }

    fn decision(
        &mut self,
        decision: &StoredDecision<'_>,
        text: &[u8],
        parameters: &[Cell],
        out: &mut impl Write,
    ) -> io::Result<()> {
        self.current = Some(decision.statement);
        let what = if decision.via == Via::Parse {
            "parse, "
        } else {
            ""
        };
        let effects = decision.effect_names().join(", ");
        let (offset, number) = (self.offset(decision.at), decision.statement);
        writeln!(out, "\n{offset}  #{number}  {what}{effects}")?;
        for line in text_lines(text) {
            writeln!(out, "    {line}")?;
        }
        for (i, parameter) in parameters.iter().enumerate() {
            writeln!(out, "    ${} = {}", i + 1, parameter.shown())?;
        }
        writeln!(out, "  {}", decided(decision))
    }

    fn rows(
        &mut self,
        story: &Story,
        statement: u64,
        rows: &[Vec<Cell>],
        out: &mut impl Write,
    ) -> io::Result<()> {
        for row in rows {
            let full = self
                .table
                .as_ref()
                .is_some_and(|t| t.statement != statement || t.rows.len() == TABLE_ROWS);
            if full {
                self.finish(out)?;
            }
            let table = self.table.get_or_insert_with(|| Table {
                statement,
                columns: story.columns(statement).cloned().unwrap_or_default(),
                rows: Vec::new(),
            });
            table.rows.push(
                row.iter()
                    .map(|cell| clip(&cell.shown(), CELL_WIDTH))
                    .collect(),
            );
        }
        Ok(())
    }

    fn data(
        &mut self,
        statement: u64,
        arrow: &str,
        data: &[Cell],
        out: &mut impl Write,
    ) -> io::Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.finish(out)?;
        self.heading(statement, out)?;
        for cell in data {
            let shown = match cell {
                // A line of COPY text brings its own end.
                Cell::Text(text) => escape(text.strip_suffix('\n').unwrap_or(text)).into_owned(),
                other => other.shown(),
            };
            writeln!(out, "  {arrow} {shown}")?;
        }
        Ok(())
    }

    /// Names the statement that the next lines belong to, where it isn't the one above.
    fn heading(&mut self, statement: u64, out: &mut impl Write) -> io::Result<()> {
        if self.current.replace(statement) == Some(statement) {
            return Ok(());
        }
        writeln!(out, "\n  (#{statement})")
    }

    fn offset(&self, at: u64) -> String {
        let millis = at.saturating_sub(self.start) / 1000;
        format!("+{}.{:03} s", millis / 1000, millis % 1000)
    }
}

impl Table {
    fn show(&self, out: &mut impl Write) -> io::Result<()> {
        let name = |(i, field): (usize, &crate::record::cells::Field)| {
            let mark = if self.columns.is_masked(i) {
                " [masked]"
            } else {
                ""
            };
            format!("{}{mark}", clip(&escape(&field.name), CELL_WIDTH))
        };
        let header: Vec<String> = self.columns.fields.iter().enumerate().map(name).collect();
        let mut widths: Vec<usize> = Vec::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            widths.resize(widths.len().max(row.len()), 0);
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if !header.is_empty() {
            line(&header, &widths, out)?;
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            writeln!(out, "  {}", rule.join("+"))?;
        }
        self.rows.iter().try_for_each(|row| line(row, &widths, out))
    }
}

fn line(cells: &[String], widths: &[usize], out: &mut impl Write) -> io::Result<()> {
    let padded: Vec<String> = cells
        .iter()
        .zip(widths)
        .map(|(cell, &width)| format!(" {cell:width$} "))
        .collect();
    writeln!(out, "  {}", padded.join("|").trim_end())
}

/// At most `width` characters of text that is escaped already.
fn clip(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// A statement on its own lines.
fn text_lines(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    show::escape_lines(text.trim_matches(['\n', ' ']))
        .lines()
        .map(str::to_owned)
        .collect()
}

fn opened(open: &SessionOpen, out: &mut impl Write) -> io::Result<()> {
    let tls = |tls: &Option<String>| tls.as_deref().map_or("no TLS".into(), escape).into_owned();
    writeln!(out, "session {}, {} UTC", open.id, show::time(open.at))?;
    writeln!(
        out,
        "  agent      {} [{}]",
        escape(&open.agent),
        escape(&open.groups.join(", "))
    )?;
    writeln!(
        out,
        "  process    {}, pid {}, uid {}, cgroup {}",
        escape(&open.comm),
        open.pid,
        open.uid,
        escape(&open.cgroup)
    )?;
    if let Some(container) = &open.container {
        writeln!(out, "  container  {}", escape(container))?;
    }
    writeln!(
        out,
        "  datastore  {} ({}){}",
        escape(&open.datastore),
        escape(&open.destination),
        before(", database ", &open.database)
    )?;
    if !open.claimed_user.is_empty() {
        let (user, tls) = (escape(&open.claimed_user), tls(&open.client_tls));
        writeln!(out, "  client     claims to be {user}, {tls}")?;
    }
    if let Some(up) = &open.upstream {
        let (user, address) = (escape(&up.user), escape(&up.address));
        writeln!(out, "  upstream   {user} at {address}, {}", tls(&up.tls))?;
    }
    writeln!(out, "  policy     {}", escape(&open.policy))
}

/// The text with words before it; nothing if there is none.
fn before(words: &str, text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!("{words}{}", escape(text))
}

fn decided(decision: &StoredDecision<'_>) -> String {
    let by = match decision.rules.as_slice() {
        [] => String::new(),
        rules => format!(" by {}", escape(&rules.join(", "))),
    };
    match decision.verdict {
        Verdict::Allow => format!("ALLOW{by}"),
        Verdict::Deny { sqlstate, message } => {
            format!("DENY{by}: {} {}", escape(sqlstate), escape(message))
        }
        Verdict::Observe { sqlstate, message } => {
            format!(
                "ALLOW, would deny{by}: {} {}",
                escape(sqlstate),
                escape(message)
            )
        }
    }
}

fn asked(question: &Question<'_>) -> String {
    let answer = match &question.told {
        Answer::Addresses(addresses) if addresses.is_empty() => "no address".to_owned(),
        Answer::Addresses(addresses) => {
            let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            shown.join(", ")
        }
        Answer::Nonexistent => "no such name".to_owned(),
        Answer::Refused => "REFUSED".to_owned(),
        Answer::Failed => "failed".to_owned(),
    };
    // What the program calls itself comes last: it may hold blanks.
    format!(
        "{} {}: {answer}; asked by {} (pid {})",
        escape(question.record_type),
        escape(question.name),
        escape(question.comm),
        question.pid
    )
}

fn ended(outcome: &StoredOutcome<'_>) -> String {
    let how = match outcome.status {
        Status::Completed { tag } => escape_bytes(tag),
        Status::Failed { sqlstate, message } => {
            format!(
                "failed: {} {}",
                escape_bytes(sqlstate),
                escape_bytes(message)
            )
        }
        Status::Suspended => "suspended".to_owned(),
        Status::Cut => "cut off".to_owned(),
    };
    let mut text = format!(
        "{how} ({} rows, {} bytes, {}",
        outcome.rows,
        outcome.bytes,
        show::duration(outcome.micros)
    );
    if outcome.masked_cells > 0 {
        text.push_str(&format!(", {} cells masked", outcome.masked_cells));
    }
    if let Some(digest) = &outcome.digest {
        text.push_str(&format!(", BLAKE3 {}", show::hex(digest)));
    }
    text + ")"
}

fn closed(close: &Close) -> String {
    let detail = close
        .reason
        .detail()
        .map(|d| format!(": {}", escape(d)))
        .unwrap_or_default();
    let totals = close.totals;
    format!(
        "closed, {}{detail} ({} statements, {} denied, {} rows, {} bytes, {} cells masked)",
        close.reason.as_str(),
        totals.statements,
        totals.denied,
        totals.rows,
        totals.bytes,
        totals.masked_cells
    )
}

/// The line of `weir tail` for a record: of a session's begin, a decision, a question, its end.
pub(crate) fn one_line(told: &Told<'_>) -> Option<String> {
    match told {
        Told::Decision {
            decision,
            text,
            parameters,
        } => {
            // Line breaks are shown as such: without them a comment would seem to hide the rest.
            let mut line = clip(&escape_bytes(text), LINE_WIDTH);
            if !parameters.is_empty() {
                let shown: Vec<String> = parameters.iter().map(Cell::shown).collect();
                line.push_str(&format!("  [{}]", clip(&shown.join(", "), LINE_WIDTH)));
            }
            Some(format!("{}  {line}", decided(decision)))
        }
        Told::Plain(Stored::Open(open)) => Some(format!(
            "opened by {} (pid {}){}",
            escape(&open.comm),
            open.pid,
            before(" to database ", &open.database)
        )),
        Told::Plain(Stored::Question(question)) => Some(asked(question)),
        Told::Plain(Stored::Close(close)) => Some(closed(close)),
        _ => None,
    }
}
