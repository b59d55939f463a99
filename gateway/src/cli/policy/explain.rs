//! `weir policy explain`: one text, everything that it does, what becomes of it, and why.

use std::{collections::BTreeSet, io::Write, process::ExitCode, sync::Arc};

use serde_json::{Value, json};

use super::{
    Explain,
    case::{Case, Judged},
    one_line,
};
use crate::{
    policy::{Decision, Limits, Mode, Need, Policy, Rule, Subject, SubjectPolicy, Trace, Verdict},
    record::show::{escape, escape_json},
};

/// Explains a text.
pub(super) fn run(
    policy: &Policy,
    args: &Explain,
    groups: &[Arc<str>],
    out: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let datastore = match &args.datastore {
        Some(datastore) => Some(datastore.clone()),
        None => only_datastore(policy)?,
    };
    let who = Subject {
        agent: &args.agent,
        groups,
        datastore: datastore.as_deref().unwrap_or_default(),
    };
    let rules = policy.for_subject(&who);
    let case = Case::judge(&rules, &args.sql);
    if args.json {
        let statements: Vec<_> = case
            .statements
            .iter()
            .map(|judged| statement_json(judged, &rules))
            .collect();
        let explained = json!({
            "agent": args.agent, "datastore": datastore, "statements": statements,
            "decision": case.decision().map(verdict),
        });
        // By line: line feeds between the values are to stay.
        for line in format!("{explained:#}").lines() {
            writeln!(out, "{}", escape_json(line))?;
        }
    } else {
        for judged in &case.statements {
            statement(judged, &rules, out)?;
        }
        if case.statements.is_empty() {
            writeln!(out, "there is no statement in it")?;
        }
        if case.statements.len() > 1 && matches!(case.decision(), Some(Decision::Deny(_))) {
            writeln!(
                out,
                "none of this text runs: one statement that is denied denies all of it"
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The one datastore that rules name; `None` if they name none.
fn only_datastore(policy: &Policy) -> anyhow::Result<Option<String>> {
    let names: BTreeSet<_> = policy
        .rules
        .iter()
        .flat_map(|rule| &rule.datastores)
        .collect();
    match names.len() {
        0 | 1 => Ok(names.first().map(ToString::to_string)),
        _ => {
            let names: Vec<_> = names.into_iter().map(|name| escape(name)).collect();
            anyhow::bail!(
                "rules name more than one datastore: say --datastore {}",
                names.join(" or ")
            )
        }
    }
}

fn statement(judged: &Judged, policy: &SubjectPolicy, out: &mut impl Write) -> anyhow::Result<()> {
    writeln!(out, "{}", one_line(&judged.sql))?;
    for trace in policy.explain(&judged.touches) {
        let what = escape(&touched(&trace)).into_owned();
        writeln!(
            out,
            "  {} {what}: {}",
            if trace.covered { "+" } else { "-" },
            escape(&reasons(&trace))
        )?;
    }
    if !judged.masked.is_empty() {
        writeln!(
            out,
            "  masked columns: {}",
            escape(&judged.masked.join(", "))
        )?;
    }
    match &judged.decision {
        Decision::Allow(allow) => {
            writeln!(out, "  allowed{}", limits(allow.limits))?;
            if let Some(deny) = &allow.observed {
                writeln!(
                    out,
                    "  only observed; enforced it would be: {}",
                    escape(&deny.message)
                )?;
            }
        }
        Decision::Deny(deny) => {
            writeln!(
                out,
                "  DENIED ({}): {}",
                deny.sqlstate,
                escape(&deny.message)
            )?;
            if let Some(hint) = &deny.hint {
                writeln!(out, "  hint: {}", escape(hint))?;
            }
        }
    }
    Ok(())
}

fn touched(trace: &Trace<'_>) -> String {
    let touch = trace.touch;
    let condition = match touch.has_where {
        Some(true) => " with WHERE",
        Some(false) => " without WHERE",
        None => "",
    };
    match &touch.object {
        Some((schema, name)) if schema.is_empty() => {
            format!("{} {name}{condition}", touch.effect.as_str())
        }
        Some((schema, name)) => format!("{} {schema}.{name}{condition}", touch.effect.as_str()),
        None => format!("{}{condition}", touch.effect.as_str()),
    }
}

fn reasons(trace: &Trace<'_>) -> String {
    let mut reasons: Vec<_> = trace.rules.iter().map(|rule| reason(rule)).collect();
    match trace.touch.need {
        Need::Nothing if trace.welcome => reasons.insert(0, "needs no rule".to_owned()),
        Need::Nothing => reasons.insert(
            0,
            "needs a rule that allows the agent anything, and there is none".to_owned(),
        ),
        Need::Named => reasons.insert(0, "needs a rule that names it without \"*\"".to_owned()),
        Need::Anywhere => reasons.insert(0, "needs a rule for all schemas".to_owned()),
        Need::Rule => {}
    }
    if reasons.is_empty() {
        "no rule matches".to_owned()
    } else {
        reasons.join("; ")
    }
}

fn reason(rule: &Rule) -> String {
    let verb = match rule.verdict {
        Verdict::Allow => "allows",
        Verdict::Deny => "denies",
    };
    let observed = if rule.mode == Some(Mode::Observe) {
        " (only observed)"
    } else {
        ""
    };
    let place = &rule.position;
    format!(
        "rule \"{}\" ({}:{}) {verb} it{observed}",
        rule.name, place.file, place.line
    )
}

fn limits(limits: Limits) -> String {
    let rows = limits.max_rows.map(|rows| format!("at most {rows} rows"));
    let bytes = limits
        .max_bytes
        .map(|bytes| format!("at most {bytes} bytes"));
    let both: Vec<_> = [rows, bytes].into_iter().flatten().collect();
    if both.is_empty() {
        String::new()
    } else {
        format!(", {}", both.join(" and "))
    }
}

fn verdict(decision: &Decision) -> &'static str {
    match decision {
        Decision::Allow(_) => "allow",
        Decision::Deny(_) => "deny",
    }
}

fn statement_json(judged: &Judged, policy: &SubjectPolicy) -> Value {
    let touches: Vec<_> = policy
        .explain(&judged.touches)
        .iter()
        .map(touch_json)
        .collect();
    let reason = match &judged.decision {
        Decision::Allow(allow) => json!({
            "rules": allow.rules,
            "limits": { "max_rows": allow.limits.max_rows, "max_bytes": allow.limits.max_bytes },
            "observed": allow.observed.as_ref().map(|deny| json!({ "rule": deny.rule, "message": deny.message })),
        }),
        Decision::Deny(deny) => json!({
            "rule": deny.rule, "message": deny.message, "hint": deny.hint, "sqlstate": deny.sqlstate,
        }),
    };
    json!({
        "sql": judged.sql, "tag": judged.tag, "decision": verdict(&judged.decision), "because": reason,
        "touches": touches, "masked": judged.masked,
    })
}

fn touch_json(trace: &Trace<'_>) -> Value {
    let rules = trace.rules.iter().map(|rule| {
        json!({
            "name": rule.name, "file": &*rule.position.file, "line": rule.position.line,
            "decision": if rule.verdict == Verdict::Allow { "allow" } else { "deny" },
            "observed": rule.mode == Some(Mode::Observe),
        })
    });
    json!({
        "effect": trace.touch.effect.as_str(),
        "object": trace.touch.object.as_ref().map(|(schema, name)| json!({ "schema": schema, "name": name })),
        "has_where": trace.touch.has_where,
        "need": match trace.touch.need {
            Need::Nothing => "nothing",
            Need::Rule => "rule",
            Need::Named => "rule that names it",
            Need::Anywhere => "rule for all schemas",
        },
        "covered": trace.covered,
        "rules": rules.collect::<Vec<_>>(),
    })
}
