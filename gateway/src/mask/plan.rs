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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plan(columns: u16, masked: &[u16], mask: &Mask, kind: Kind) -> RowPlan {
        let masked: Vec<_> = masked
            .iter()
            .map(|&index| MaskedColumn {
                index,
                mask: mask.clone(),
                kind,
                format: 0,
            })
            .collect();
        RowPlan::compile(columns, masked.into(), |column| column.format)
    }

    fn row(cells: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut body = (cells.len() as u16).to_be_bytes().to_vec();
        for cell in cells {
            body.extend(
                cell.as_ref()
                    .map_or(-1, |cell| cell.len() as i32)
                    .to_be_bytes(),
            );
            body.extend(cell.iter().flatten());
        }
        body
    }

    fn cells(frame: &[u8]) -> Vec<Option<Vec<u8>>> {
        assert_eq!(frame[0], b'D');
        assert_eq!(frame[1..5], (frame.len() as i32 - 1).to_be_bytes());
        let (mut rest, mut cells) = (&frame[7..], Vec::new());
        for _ in 0..u16::from_be_bytes([frame[5], frame[6]]) {
            let length = i32::from_be_bytes(rest[..4].try_into().expect("four bytes"));
            rest = &rest[4..];
            cells.push(
                usize::try_from(length)
                    .ok()
                    .map(|length| rest[..length].to_vec()),
            );
            rest = &rest[length.max(0) as usize..];
        }
        assert_eq!(rest, b"");
        cells
    }

    const TEXT: Kind = Kind::Text {
        limit: None,
        padded: false,
    };

    fn some(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    #[test]
    fn masked_cells_are_replaced_and_null_stays_null() {
        let plan = plan(4, &[1, 2], &Mask::Redact, TEXT);
        let mut out = b"before".to_vec();
        let body = row(&[some("1"), some("123-45-6789"), None, some("x")]);
        assert_eq!(plan.apply(&body, &mut out), Ok(1));
        assert_eq!(
            cells(&out[6..]),
            [some("1"), some("[redacted]"), None, some("x")]
        );
        assert_eq!(plan.masked().collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn rows_that_are_not_as_planned_are_malformed_and_write_nothing() {
        let plan = plan(2, &[0], &Mask::Redact, TEXT);
        let good = row(&[some("a"), some("b")]);
        let bodies = [
            row(&[some("a")]),
            row(&[some("a"), some("b"), None]),
            [good.as_slice(), b"x"].concat(),
            [
                b"\0\x02".as_slice(),
                &(-2_i32).to_be_bytes(),
                &(-1_i32).to_be_bytes(),
            ]
            .concat(),
            [b"\0\x02".as_slice(), &i32::MAX.to_be_bytes(), b"a"].concat(),
        ];
        let truncated = (0..good.len()).map(|end| good[..end].to_vec());
        for body in bodies.into_iter().chain(truncated) {
            let mut out = b"before".to_vec();
            assert_eq!(plan.apply(&body, &mut out), Err(Malformed), "{body:?}");
            assert_eq!(out, b"before");
        }
    }

    #[test]
    fn formats_are_as_bind_gives_them_and_nonsense_is_null() {
        let plan = plan(2, &[1], &Mask::Redact, Kind::Int(4));
        let shown = |formats: &[i16]| {
            let mut out = Vec::new();
            plan.with_formats(formats)
                .apply(&row(&[some("1"), some("1234")]), &mut out)
                .expect("well-formed");
            cells(&out)[1].clone()
        };
        let (text, binary) = (some("0"), Some(vec![0; 4]));
        assert_eq!(
            [shown(&[]), shown(&[0]), shown(&[1, 0])],
            [text.clone(), text.clone(), text]
        );
        assert_eq!([shown(&[1]), shown(&[0, 1])], [binary.clone(), binary]);
        assert_eq!([shown(&[2]), shown(&[1, 1, 1])], [None, None]);
    }

    proptest! {
        #[test]
        fn cells_that_are_not_masked_are_the_same_bytes(
            row_cells in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)), 1..12),
            masked in proptest::collection::btree_set(0_u16..12, 0..12),
        ) {
            let masked: Vec<u16> = masked.into_iter().filter(|&i| usize::from(i) < row_cells.len()).collect();
            let plan = plan(row_cells.len() as u16, &masked, &Mask::Redact, TEXT);
            let mut out = Vec::new();
            let changed = plan.apply(&row(&row_cells), &mut out).expect("well-formed");
            let mut expected = row_cells.clone();
            let mut count = 0;
            for &index in &masked {
                if let Some(cell) = &mut expected[usize::from(index)] {
                    *cell = b"[redacted]".to_vec();
                    count += 1;
                }
            }
            prop_assert_eq!(cells(&out), expected);
            prop_assert_eq!(changed, count);
        }

        #[test]
        fn any_body_is_survived(columns in 0_u16..5, body in proptest::collection::vec(prop_oneof![Just(0_u8), 0..8_u8, any::<u8>()], 0..60)) {
            let masked: Vec<u16> = (0..columns).collect();
            let mut out = Vec::new();
            if plan(columns, &masked, &Mask::Email, TEXT).apply(&body, &mut out).is_err() {
                prop_assert_eq!(out, b"");
            }
        }
    }
}
