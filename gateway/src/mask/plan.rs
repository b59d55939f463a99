//! The plan for one result: which cells of its rows are replaced, and the rewriting itself.
//!
//! Hides the layout of DataRow (protocol section 55.7: a count, then for each column a length, -1
//! for NULL, and so many bytes). Cells that aren't masked are copied in runs, byte for byte. A
//! body that isn't exactly the columns planned for is an error, with nothing written.

use std::sync::Arc;

use thiserror::Error;

use super::cell::CellMask;
use super::value::{self, Format, Kind};
use super::{Cover, Mask, MaskSet};
use crate::catalog::{AttNum, Oid};

/// A column of a RowDescription, without its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The relation that it comes from, 0 if it is computed.
    pub table_oid: Oid,
    /// The column of that relation; 0 if it is computed or a whole row.
    pub attnum: AttNum,
    /// The type.
    pub type_oid: Oid,
    /// The type's modifier.
    pub typmod: i32,
    /// 0 text, 1 binary; of a described statement always 0, see [`RowPlan::with_formats`].
    pub format: i16,
}

/// What a result's columns call for.
#[derive(Debug)]
pub enum Planned {
    /// No column is masked: forward rows as they are.
    Clear,
    /// Send every row through this.
    Mask(RowPlan),
    /// The result must not be shown.
    Refuse(Refusal),
}

/// The first column because of which a result is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("column {} of the result {why}", column + 1)]
pub struct Refusal {
    /// Its index, from 0.
    pub column: usize,
    /// Why.
    pub why: Why,
}

/// Why a result column can't be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Why {
    /// It is a whole row of a relation that has masked columns.
    #[error("is a whole row that has masked columns")]
    WholeRow,
    /// A view computes it from something masked.
    #[error("is computed by a view that reads masked columns")]
    OpaqueView,
    /// The statement computes it, and reads something masked.
    #[error("is computed in a statement that reads masked columns")]
    Computed,
    /// The snapshot doesn't have its relation or column. A newer snapshot may.
    #[error("comes from a relation that isn't known yet")]
    UnknownRelation,
}

/// A DataRow's body that isn't what the plan expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("malformed DataRow")]
pub struct Malformed;

/// How to rewrite the rows of one result.
#[derive(Clone)]
pub struct RowPlan {
    columns: u16,
    masked: Arc<[MaskedColumn]>,
    /// For each masked column in order: its index and what to do in the format at hand.
    cells: Box<[(u16, CellMask)]>,
}

/// A masked column, whatever its format.
struct MaskedColumn {
    index: u16,
    mask: Mask,
    kind: Kind,
    format: i16,
}

impl RowPlan {
    /// Plans for a result with these columns. `sensitive` says that the statement reads something
    /// masked: then no column may be computed, for it could be computed from that.
    pub fn build(set: &MaskSet, fields: &[Field], sensitive: bool) -> Planned {
        if set.is_empty() {
            return Planned::Clear;
        }
        let mut masked = Vec::new();
        for (column, field) in fields.iter().enumerate() {
            let why = match set.of(field.table_oid, field.attnum) {
                Cover::Clear if sensitive && field.table_oid == 0 => Why::Computed,
                Cover::Clear => continue,
                Cover::Masked(mask) => {
                    let kind = value::kind_of(field.type_oid, field.typmod, set.types());
                    // RowDescription counts its fields in 16 bits, so every index fits.
                    let index = u16::try_from(column).unwrap_or(u16::MAX);
                    masked.push(MaskedColumn {
                        index,
                        mask: mask.clone(),
                        kind,
                        format: field.format,
                    });
                    continue;
                }
                Cover::Opaque if field.attnum == 0 => Why::WholeRow,
                Cover::Opaque => Why::OpaqueView,
                Cover::Unknown => Why::UnknownRelation,
            };
            return Planned::Refuse(Refusal { column, why });
        }
        if masked.is_empty() {
            return Planned::Clear;
        }
        let columns = u16::try_from(fields.len()).unwrap_or(u16::MAX);
        Planned::Mask(RowPlan::compile(columns, masked.into(), |column| {
            column.format
        }))
    }

    /// The same plan for a portal with these result formats, as Bind gives them: none (all text),
    /// one for all, or one for each column. Anything else makes masked cells NULL.
    pub fn with_formats(&self, formats: &[i16]) -> RowPlan {
        RowPlan::compile(
            self.columns,
            Arc::clone(&self.masked),
            |column| match formats {
                [] => 0,
                [all] => *all,
                each if each.len() == usize::from(self.columns) => each[usize::from(column.index)],
                _ => -1,
            },
        )
    }

    fn compile(
        columns: u16,
        masked: Arc<[MaskedColumn]>,
        format: impl Fn(&MaskedColumn) -> i16,
    ) -> RowPlan {
        let cell = |column: &MaskedColumn| match format(column) {
            0 => CellMask::compile(&column.mask, column.kind, Format::Text),
            1 => CellMask::compile(&column.mask, column.kind, Format::Binary),
            _ => CellMask::Null,
        };
        let cells = masked
            .iter()
            .map(|column| (column.index, cell(column)))
            .collect();
        RowPlan {
            columns,
            masked,
            cells,
        }
    }

    /// The indexes of the masked columns, ascending.
    pub fn masked(&self) -> impl Iterator<Item = u16> {
        self.cells.iter().map(|(index, _)| *index)
    }

    /// Appends the masked frame (`D`, length, body) of a DataRow with this body; returns how many
    /// cells were masked, NULLs not counted.
    ///
    /// # Errors
    /// The body isn't exactly as many well-formed columns as planned for, or the masked row is
    /// longer than a frame can be. `out` is then as it was.
    pub fn apply(&self, body: &[u8], out: &mut Vec<u8>) -> Result<u32, Malformed> {
        let start = out.len();
        let result = self.rewrite(body, out).and_then(|cells| {
            let length = i32::try_from(out.len() - start - 1).map_err(|_| Malformed)?;
            out[start + 1..start + 5].copy_from_slice(&length.to_be_bytes());
            Ok(cells)
        });
        if result.is_err() {
            out.truncate(start);
        }
        result
    }

    fn rewrite(&self, body: &[u8], out: &mut Vec<u8>) -> Result<u32, Malformed> {
        let count = body.first_chunk::<2>().ok_or(Malformed)?;
        if u16::from_be_bytes(*count) != self.columns {
            return Err(Malformed);
        }
        out.reserve(body.len() + 64);
        out.extend_from_slice(b"D\0\0\0\0");
        let mut cells = 0;
        // Where the run of cells to copy begins, where we read, which column that is.
        let (mut run, mut at, mut column) = (0, 2, 0);
        for (index, mask) in &self.cells {
            while column < *index {
                (at, column) = (cell_end(body, at)?.1, column + 1);
            }
            let (begin, end) = cell_end(body, at)?;
            column += 1;
            // NULL stays NULL, and so is part of the run.
            if let Some(value) = body.get(begin..end).filter(|_| body[at] < 0x80) {
                out.extend_from_slice(&body[run..at]);
                write_cell(mask, value, out)?;
                run = end;
                cells += 1;
            }
            at = end;
        }
        while column < self.columns {
            (at, column) = (cell_end(body, at)?.1, column + 1);
        }
        if at != body.len() {
            return Err(Malformed);
        }
        out.extend_from_slice(&body[run..]);
        Ok(cells)
    }
}

impl std::fmt::Debug for RowPlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let masked: Vec<_> = self.masked().collect();
        f.debug_struct("RowPlan")
            .field("columns", &self.columns)
            .field("masked", &masked)
            .finish()
    }
}

/// Where the value of the cell at `at` begins and ends. Both are the same for NULL, whose length
/// is the only one with its first bit set.
#[inline]
fn cell_end(body: &[u8], at: usize) -> Result<(usize, usize), Malformed> {
    let header = body
        .get(at..)
        .and_then(<[u8]>::first_chunk::<4>)
        .ok_or(Malformed)?;
    let begin = at + 4;
    let end = match i32::from_be_bytes(*header) {
        -1 => begin,
        length => begin
            .checked_add(usize::try_from(length).map_err(|_| Malformed)?)
            .ok_or(Malformed)?,
    };
    if end > body.len() {
        Err(Malformed)
    } else {
        Ok((begin, end))
    }
}

/// Appends a cell: its length and the masked value.
#[inline]
fn write_cell(mask: &CellMask, value: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    let header = out.len();
    out.extend_from_slice(&(-1_i32).to_be_bytes());
    if mask.write(value, out) {
        let length = i32::try_from(out.len() - header - 4).map_err(|_| Malformed)?;
        out[header..header + 4].copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}
