//! Records as JSON: exact, one object each. `weir replay --json` and `weir tail --json`.

use serde_json::{Value, json};

use super::story::{Cell, Story, Told};
use crate::record::{Question, Status, Stored, StoredOutcome, Verdict, show};

/// The object for a record; none for one that only others refer to.
pub(crate) fn event(story: &Story, told: &Told<'_>) -> Option<Value> {
    let mut event = match told {
        Told::Nothing => return None,
        Told::Decision {
            decision,
            text,
            parameters,
        } => json!({
            "type": "decision",
            "statement": decision.statement,
            "at": decision.at,
            "via": decision.via.as_str(),
            "text": bytes(text),
            "parameters": parameters.iter().map(cell).collect::<Vec<_>>(),
            "decision": decision.verdict.as_str(),
            "rules": decision.rules,
            "effects": decision.effect_names(),
            "told": told_client(&decision.verdict),
        }),
        Told::Columns { statement } => {
            let columns = story.columns(*statement)?;
            let column = |(i, field): (usize, &crate::record::cells::Field)| {
                let masked = columns.is_masked(i);
                json!({ "name": field.name, "type_oid": field.type_oid, "masked": masked })
            };
            let columns: Vec<_> = columns.fields.iter().enumerate().map(column).collect();
            json!({ "type": "columns", "statement": statement, "columns": columns })
        }
        Told::Rows {
            statement,
            rows,
            data,
        } => {
            let rows: Vec<Vec<_>> = rows
                .iter()
                .map(|row| row.iter().map(cell).collect())
                .collect();
            let data: Vec<_> = data.iter().map(cell).collect();
            json!({ "type": "rows", "statement": statement, "rows": rows, "copy": data })
        }
        Told::CopyIn { statement, data } => {
            let data: Vec<_> = data.iter().map(cell).collect();
            json!({ "type": "copy_in", "statement": statement, "copy": data })
        }
        Told::Plain(stored) => plain(stored)?,
    };
    if let Some(open) = &story.open {
        event["session"] = json!(open.id);
    }
    Some(event)
}

fn plain(stored: &Stored<'_>) -> Option<Value> {
    match stored {
        Stored::Open(open) => {
            let mut event = serde_json::to_value(open).ok()?;
            event["type"] = json!("open");
            Some(event)
        }
        Stored::Outcome(outcome) => Some(ended(outcome)),
        Stored::Policy { at, sha256 } => {
            Some(json!({ "type": "policy", "at": at, "sha256": show::hex(sha256) }))
        }
        Stored::Note { at, kind, text } => {
            Some(json!({ "type": "note", "at": at, "kind": kind, "text": text }))
        }
        Stored::Question(question) => Some(asked(question)),
        Stored::Close(close) => {
            let mut event = serde_json::to_value(close).ok()?;
            event["type"] = json!("close");
            Some(event)
        }
        Stored::Text { .. }
        | Stored::Types { .. }
        | Stored::Decision(_)
        | Stored::Columns { .. }
        | Stored::Rows { .. }
        | Stored::CopyIn { .. } => None,
    }
}

fn asked(question: &Question<'_>) -> Value {
    json!({
        "type": "question",
        "at": question.at,
        "pid": question.pid,
        "comm": question.comm,
        "name": question.name,
        "record_type": question.record_type,
        "answer": question.told.as_str(),
        "addresses": question.told.addresses(),
    })
}

fn ended(outcome: &StoredOutcome<'_>) -> Value {
    let (status, tag, sqlstate, message) = match outcome.status {
        Status::Completed { tag } => ("completed", Some(tag), None, None),
        Status::Failed { sqlstate, message } => ("failed", None, Some(sqlstate), Some(message)),
        Status::Suspended => ("suspended", None, None, None),
        Status::Cut => ("cut", None, None, None),
    };
    json!({
        "type": "outcome",
        "statement": outcome.statement,
        "at": outcome.at,
        "micros": outcome.micros,
        "status": status,
        "tag": tag.map(bytes),
        "sqlstate": sqlstate.map(bytes),
        "message": message.map(bytes),
        "rows": outcome.rows,
        "bytes": outcome.bytes,
        "masked_cells": outcome.masked_cells,
        "digest": outcome.digest.map(|digest| show::hex(&digest)),
    })
}

fn told_client(verdict: &Verdict<'_>) -> Value {
    match verdict {
        Verdict::Allow => Value::Null,
        Verdict::Deny { sqlstate, message } | Verdict::Observe { sqlstate, message } => {
            json!({ "sqlstate": sqlstate, "message": message })
        }
    }
}

/// A string; what is not text is `{"hex": …}`.
fn cell(cell: &Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Text(text) => json!(text),
        Cell::Bytes(bytes) => json!({ "hex": show::hex(bytes) }),
    }
}

fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!({ "hex": show::hex(bytes) }),
    }
}
