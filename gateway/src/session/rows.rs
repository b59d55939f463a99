//! Rows on their way to the client: measured, masked, cut at a limit.

use super::buffer::Splice;
use super::link::Error;
use super::statement::{Run, Treatment};
use crate::wire::{self, HEADER, Side};

/// What became of the rows at the front of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passed {
    /// Bytes of the source that are done with; 0 if not even one row is whole.
    pub(super) used: usize,
    /// Whether any row was put into the splice.
    pub(super) sent: bool,
    /// Whether the next row would exceed a limit.
    pub(super) over_limit: bool,
}

/// Passes the whole row (or COPY) frames at `source[at..]` under `run`'s treatment and limits.
pub(super) fn pass(
    run: &mut Run,
    source: &[u8],
    at: usize,
    splice: &mut Splice,
) -> Result<Passed, Error> {
    if run.over_limit {
        return Ok(drop_rows(run, &source[at..]));
    }
    let (mut used, rows) = wire::row_run(&source[at..], run.rows_left());
    if used == 0 {
        return Ok(first_row_does_not_pass(run, &source[at..]));
    }
    if !run.fits(used as u64) {
        used = rows_that_fit(run, &source[at..at + used]);
        if used == 0 {
            run.over_limit = true;
            return Ok(Passed {
                used: 0,
                sent: false,
                over_limit: true,
            });
        }
        run.rows += wire::row_run(&source[at..at + used], u64::MAX).1;
    } else {
        run.rows += rows;
    }
    run.bytes += used as u64;
    send(run, source, at..at + used, splice)?;
    Ok(Passed {
        used,
        sent: true,
        over_limit: false,
    })
}

/// The first frame is incomplete, or the limit of rows is reached.
fn first_row_does_not_pass(run: &mut Run, rest: &[u8]) -> Passed {
    let over_limit = run.rows_left() == 0 && wire::row_run(rest, 1).0 > 0;
    run.over_limit = over_limit;
    Passed {
        used: 0,
        sent: false,
        over_limit,
    }
}

fn drop_rows(run: &mut Run, rest: &[u8]) -> Passed {
    let (used, _) = wire::row_run(rest, u64::MAX);
    run.dropped += used as u64;
    Passed {
        used,
        sent: false,
        over_limit: false,
    }
}

fn rows_that_fit(run: &Run, rows: &[u8]) -> usize {
    let mut used = 0;
    while let (size @ 1.., _) = wire::row_run(&rows[used..], 1) {
        if !run.fits((used + size) as u64) {
            break;
        }
        used += size;
    }
    used
}

fn send(
    run: &mut Run,
    source: &[u8],
    range: std::ops::Range<usize>,
    splice: &mut Splice,
) -> Result<(), Error> {
    // COPY's lines have no columns that could be masked: over masked tables it is denied.
    let copied = source[range.start] == b'd';
    let masked = match &run.treatment {
        _ if copied => {
            splice.keep(source, range);
            return Ok(());
        }
        Treatment::Clear => {
            splice.keep(source, range);
            return Ok(());
        }
        Treatment::Mask(plan) => each_row(&source[range], |body| {
            Ok(plan.apply(body, splice.insert(source))?)
        })?,
        Treatment::Blank => each_row(&source[range], |body| {
            blank(body, splice.insert(source)).map_err(Error::Upstream)
        })?,
    };
    run.masked_cells += masked;
    Ok(())
}

fn each_row(rows: &[u8], mut f: impl FnMut(&[u8]) -> Result<u32, Error>) -> Result<u64, Error> {
    let (mut at, mut masked) = (0, 0);
    while let Some(frame) = wire::frame(Side::Upstream, &rows[at..]).map_err(Error::Upstream)? {
        masked += u64::from(f(&rows[at + HEADER..at + frame.size])?);
        at += frame.size;
    }
    Ok(masked)
}

/// A row of the same width in which everything is NULL.
fn blank(body: &[u8], out: &mut Vec<u8>) -> Result<u32, wire::Error> {
    let columns = wire::Reader::new("DataRow", body).count()?;
    wire::put_frame(out, b'D', |b| {
        b.extend_from_slice(&body[..2]);
        b.resize(b.len() + columns * 4, 0xff);
    });
    Ok(u32::try_from(columns).unwrap_or(u32::MAX))
}

/// A `RowDescription`'s body with the formats that a Bind asked for: none (all text), one for all,
/// or one a column.
pub(super) fn with_formats(body: &[u8], formats: &[i16]) -> Result<Box<[u8]>, wire::Error> {
    let mut out: Box<[u8]> = body.into();
    let mut end = 2;
    for (i, field) in wire::fields(body)?.enumerate() {
        end += field?.name.len() + 1 + 18;
        let format = match formats {
            [] => 0,
            [one] => *one,
            // The server refuses a Bind with another number of formats.
            each => each.get(i).copied().unwrap_or(-1),
        };
        out[end - 2..end].copy_from_slice(&format.to_be_bytes());
    }
    Ok(out)
}
