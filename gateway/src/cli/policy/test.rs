//! `weir policy test`: the `[[test]]` cases of a policy against that policy.

use std::{collections::BTreeSet, io::Write, process::ExitCode};

use serde_json::json;

use super::{case::Case, one_line};
use crate::{
    policy::{Decision, Policy, Subject, Test, Verdict},
    record::show::{escape, escape_json},
};

/// Runs all cases, prints those that fail and a sum; with `json` every case as an object on a line
/// of its own.
pub(super) fn run(policy: &Policy, json: bool, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut failed = 0;
    for test in &policy.tests {
        let who = Subject {
            agent: &test.agent,
            groups: &test.groups,
            datastore: &test.datastore,
        };
        let case = Case::judge(&policy.for_subject(&who), &test.sql);
        let mistakes = mistakes(test, &case);
        failed += usize::from(!mistakes.is_empty());
        let place = format!("{}:{}", test.position.file, test.position.line);
        if json {
            let line = json!({
                "file": &*test.position.file, "line": test.position.line, "agent": test.agent, "sql": test.sql,
                "ok": mistakes.is_empty(), "mistakes": mistakes,
            });
            writeln!(out, "{}", escape_json(&line.to_string()))?;
        } else if !mistakes.is_empty() {
            writeln!(
                out,
                "FAILED {}: {}: {}",
                escape(&place),
                escape(&test.agent),
                one_line(&test.sql)
            )?;
            for mistake in mistakes {
                writeln!(out, "    {}", escape(&mistake))?;
            }
        }
    }
    if !json {
        writeln!(
            out,
            "{} passed, {failed} failed",
            policy.tests.len() - failed
        )?;
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What is otherwise than expected, in sentences.
fn mistakes(test: &Test, case: &Case) -> Vec<String> {
    let mut mistakes = Vec::new();
    match (case.decision(), test.verdict) {
        (None, _) => mistakes.push("there is no statement in it".to_owned()),
        (Some(Decision::Allow(_)), Verdict::Deny) => {
            mistakes.push(format!(
                "expected deny, but it is allowed by {}",
                names(case)
            ));
        }
        (Some(Decision::Deny(deny)), Verdict::Allow) => {
            mistakes.push(format!(
                "expected allow, but it is denied: {}",
                deny.message
            ));
        }
        _ => {}
    }
    if let Some(rule) = &test.rule
        && !case.rules().iter().any(|decided| **decided == **rule)
    {
        mistakes.push(format!(
            "expected rule \"{rule}\" to decide, but it was {}",
            names(case)
        ));
    }
    if let Some(expected) = &test.masked {
        let expected: BTreeSet<&str> = expected.iter().map(|column| &**column).collect();
        let masked = case.masked();
        if masked != expected {
            mistakes.push(format!(
                "expected masked columns {}, but they are {}",
                list(&expected),
                list(&masked)
            ));
        }
    }
    mistakes
}

fn names(case: &Case) -> String {
    let rules = case.rules();
    if rules.is_empty() {
        return "no rule".to_owned();
    }
    let quoted: Vec<_> = rules.iter().map(|rule| format!("\"{rule}\"")).collect();
    quoted.join(", ")
}

fn list(columns: &BTreeSet<&str>) -> String {
    format!(
        "[{}]",
        columns.iter().copied().collect::<Vec<_>>().join(", ")
    )
}
