//! Masking a row that a hostile server sent: a whole frame, or nothing.
//!
//! The first byte says which columns are masked, the second in which formats they come; the rest
//! is the body of the DataRow.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use weir::{
    catalog::{Catalog, ColumnRow, RelationRow, SnapshotRows},
    mask::{Field, Mask, Planned, Request, RowPlan, resolve},
};

/// A relation with a column of each kind that masks know apart: text, int4, numeric, date, uuid,
/// jsonb, bytea, text[].
const TYPES: [u32; 8] = [25, 23, 1700, 1082, 2950, 3802, 17, 1009];
const RELATION: u32 = 20_000;

static PLANS: LazyLock<Vec<RowPlan>> = LazyLock::new(|| masks().into_iter().map(plan).collect());

fuzz_target!(|data: &[u8]| {
    let [which, formats, body @ ..] = data else {
        return;
    };
    let plan = &PLANS[usize::from(*which) % PLANS.len()];
    let formats: Vec<i16> = (0..TYPES.len())
        .map(|bit| i16::from(formats >> bit & 1))
        .collect();
    let mut out = b"before".to_vec();
    match plan.with_formats(&formats).apply(body, &mut out) {
        Ok(_) => {
            let frame = out.strip_prefix(b"before").expect("what was there stays");
            assert_eq!(frame.first(), Some(&b'D'));
            let length = frame[1..5]
                .try_into()
                .map(u32::from_be_bytes)
                .expect("four bytes");
            assert_eq!(length as usize, frame.len() - 1);
            assert_eq!(
                cells(&frame[5..]),
                Some(TYPES.len()),
                "a masked row is a row"
            );
        }
        Err(_) => assert_eq!(out, b"before", "a malformed row must leave nothing"),
    }
});

/// How many cells a DataRow's body has, if it is exactly that.
fn cells(body: &[u8]) -> Option<usize> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let count = usize::from(u16::from_be_bytes(*count));
    for _ in 0..count {
        let (length, behind) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0);
        rest = behind.get(length..)?;
    }
    rest.is_empty().then_some(count)
}

fn masks() -> Vec<Mask> {
    vec![
        Mask::Redact,
        Mask::Null,
        Mask::Constant("x".into()),
        Mask::Partial {
            keep_first: 1,
            keep_last: 4,
            with: '*',
        },
        Mask::Email,
        Mask::Card,
        Mask::Hmac {
            key: Arc::new(weir::mask::Key::new(vec![7; 32])),
        },
    ]
}

fn plan(mask: Mask) -> RowPlan {
    let columns = TYPES.iter().zip(1..).map(|(type_oid, attnum)| ColumnRow {
        relation: RELATION,
        attnum,
        name: format!("c{attnum}").into(),
        type_oid: *type_oid,
        typmod: -1,
    });
    let catalog = Catalog::build(SnapshotRows {
        relations: vec![RelationRow {
            oid: RELATION,
            schema: "public".into(),
            name: "t".into(),
            kind: 'r',
        }],
        columns: columns.collect(),
        ..SnapshotRows::default()
    });
    let request = Request {
        objects: Arc::new(|_, _| true),
        columns: Arc::new(["*".into()]),
        mask,
        rule: "fuzz".into(),
    };
    let (set, _) = resolve(vec![request], &catalog);
    let fields = TYPES.iter().zip(1..).map(|(type_oid, attnum)| Field {
        table_oid: RELATION,
        attnum,
        type_oid: *type_oid,
        typmod: -1,
        format: 0,
    });
    let fields: Vec<_> = fields.collect();
    match RowPlan::build(&set, &fields, true) {
        Planned::Mask(plan) => plan,
        other => panic!("every column is masked, and the plan is {other:?}"),
    }
}
