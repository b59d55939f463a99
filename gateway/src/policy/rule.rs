//! Reading one `[[rule]]` and its masks, and refusing what could never match or never matter.

use std::{path::PathBuf, sync::Arc};

use super::{
    Diagnostic, EffectSet, Limits, MaskRule, ObjectPattern, Rule,
    effects::has_objects,
    fields::{At, Fields, MEAN_ALL, Report, not_yet},
    parse::{KeySource, Keys, decision, exact_names, mode, position},
};
use crate::{
    mask::{Key, Mask},
    sql::Effect,
};

pub(super) const RULE_KEYS: &[&str] = &[
    "name",
    "agents",
    "groups",
    "datastore",
    "effects",
    "objects",
    "when",
    "decision",
    "limits",
    "message",
    "mode",
    "mask",
];
pub(super) const WHEN_KEYS: &[&str] = &["has_where"];
pub(super) const LIMITS_KEYS: &[&str] = &["max_rows", "max_bytes"];
pub(super) const MASK_KEYS: &[&str] = &[
    "columns",
    "with",
    "keep_first",
    "keep_last",
    "value",
    "key",
    "predicates",
];
pub(super) const KEY_KEYS: &[&str] = &["file", "env", "credential"];
pub(super) const FUNCTIONS: &[&str] = &[
    "redact", "null", "constant", "partial", "email", "card", "hmac",
];
/// Mask functions of the design that are yet to come.
const LATER_FUNCTIONS: &[&str] = &["fake", "date", "bucket"];

/// Reads a rule. `None` if it is too broken to go on with; the report then says why. With it a
/// diagnostic at its name, for the case that the name is taken.
pub(super) fn read(
    fields: &Fields<'_>,
    keys: &Keys<'_>,
    report: &mut Report<'_>,
) -> Option<(Rule, Diagnostic)> {
    fields.close(RULE_KEYS, &["approval", "row_filter", "budget"], report);
    fields.require("name", report);
    fields.require("effects", report);
    let name = fields.string("name", report);
    let agents = exact_names(fields.strings("agents", MEAN_ALL, report), report);
    let groups = exact_names(fields.strings("groups", MEAN_ALL, report), report);
    let datastores = exact_names(fields.one_or_more("datastore", report), report);
    let effects = effects(fields, report);
    let objects = objects(fields, report);
    let has_where = when(fields, report);
    let verdict = decision(fields, report);
    let limits = limits(fields, report);
    let message = fields.string("message", report);
    let mode = mode(fields, report);
    let rule: Arc<str> = name.as_ref().map_or("", |name| name.value).into();
    let patterns: Arc<[ObjectPattern]> = objects.clone().into();
    let masks = fields
        .tables("mask", "a mask", report)
        .iter()
        .filter_map(|mask| read_mask(mask, (&rule, &patterns), keys, report))
        .collect();
    refuse_idle(fields, &effects, report);
    let rule = Rule {
        name: rule,
        position: position(fields, report),
        agents,
        groups,
        datastores,
        effects: effects
            .iter()
            .map(|effect| effect.value)
            .collect::<EffectSet>(),
        objects,
        has_where,
        verdict: verdict?,
        limits,
        message: message.map(|message| message.value.into()),
        mode,
        masks,
    };
    let here = Diagnostic::error(report.file, report.text, name?.at, String::new());
    Some((rule, here))
}

fn effects(fields: &Fields<'_>, report: &mut Report<'_>) -> Vec<At<Effect>> {
    let known: Vec<_> = Effect::ALL.iter().map(|effect| effect.as_str()).collect();
    let mut effects = Vec::new();
    let instead = format!("name at least one of {}", known.join(", "));
    let words = fields.strings("effects", &instead, report);
    for word in words.unwrap_or_default() {
        match word.value.parse() {
            Ok(value) => effects.push(At { value, at: word.at }),
            Err(_) => report.unknown(&word.at, "effect", word.value, &known),
        }
    }
    effects
}

fn objects(fields: &Fields<'_>, report: &mut Report<'_>) -> Vec<ObjectPattern> {
    let mut objects = Vec::new();
    for word in fields
        .strings("objects", MEAN_ALL, report)
        .unwrap_or_default()
    {
        match ObjectPattern::new(word.value) {
            Some(pattern) => objects.push(pattern),
            None => {
                let message = format!("object \"{}\" isn't of the form schema.name", word.value);
                let help = match word.value {
                    "*" => "write \"*.*\", or leave the key out to mean all".to_owned(),
                    name => format!("did you mean \"public.{}\"?", name.trim_matches('.')),
                };
                report.error_help(&word.at, message, help);
            }
        }
    }
    objects
}

fn when(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<bool> {
    let when = fields.table("when", "\"when\"", report)?;
    when.close(WHEN_KEYS, &[], report);
    when.boolean("has_where", report).map(|found| found.value)
}

fn limits(fields: &Fields<'_>, report: &mut Report<'_>) -> Limits {
    let Some(limits) = fields.table("limits", "\"limits\"", report) else {
        return Limits::default();
    };
    limits.close(LIMITS_KEYS, &[], report);
    let max_rows = limits.number("max_rows", report);
    let max_bytes = limits.size("max_bytes", report);
    for limit in [&max_rows, &max_bytes]
        .into_iter()
        .flatten()
        .filter(|limit| limit.value == 0)
    {
        report.error_help(
            &limit.at,
            "a limit of 0 allows nothing",
            "use decision = \"deny\"",
        );
    }
    Limits {
        max_rows: max_rows.map(|limit| limit.value),
        max_bytes: max_bytes.map(|limit| limit.value),
    }
}

/// Refuses what a rule says that could never come to pass.
fn refuse_idle(fields: &Fields<'_>, effects: &[At<Effect>], report: &mut Report<'_>) {
    let scoped = |effect: Effect| matches!(effect, Effect::Update | Effect::Delete);
    if fields.has("when") {
        for effect in effects.iter().filter(|effect| !scoped(effect.value)) {
            let message = format!(
                "\"has_where\" is of update and delete: with it this rule never matches {}",
                effect.value.as_str()
            );
            report.error_help(
                &effect.at,
                message,
                "move the effect to a rule without \"when\"",
            );
        }
    }
    if fields.has("objects") {
        for effect in effects.iter().filter(|effect| !has_objects(effect.value)) {
            let message = format!(
                "effect {} has no objects: with \"objects\" this rule never matches it",
                effect.value.as_str()
            );
            report.error_help(
                &effect.at,
                message,
                "move the effect to a rule without \"objects\"",
            );
        }
    }
    let reads = effects.iter().any(|effect| effect.value == Effect::Read);
    if fields.has("mask") && fields.has("effects") && !reads {
        let help = "masks show in what is read: add effect \"read\"";
        report.error_help(
            &fields.at,
            "a rule without effect read has nothing to mask",
            help,
        );
    }
    let denies = fields
        .text("decision", report)
        .is_some_and(|decision| decision.value == "deny");
    for key in ["limits", "mask"]
        .into_iter()
        .filter(|key| denies && fields.has(key))
    {
        report.error(
            &fields.place(key),
            format!("\"{key}\" means nothing on a rule that denies"),
        );
    }
    let allows = fields
        .text("decision", report)
        .is_some_and(|decision| decision.value == "allow");
    if allows && fields.has("message") {
        let message = "\"message\" is told when a rule denies; this one allows";
        report.error(&fields.place("message"), message);
    }
}

fn read_mask(
    fields: &Fields<'_>,
    (rule, objects): (&Arc<str>, &Arc<[ObjectPattern]>),
    keys: &Keys<'_>,
    report: &mut Report<'_>,
) -> Option<MaskRule> {
    fields.close(MASK_KEYS, &[], report);
    fields.require("columns", report);
    fields.require("with", report);
    predicates(fields, report);
    let columns = columns(fields, report);
    let mask = function(fields, keys, report)?;
    Some(MaskRule {
        objects: Arc::clone(objects),
        columns,
        mask,
        rule: Arc::clone(rule),
        position: position(fields, report),
    })
}

fn predicates(fields: &Fields<'_>, report: &mut Report<'_>) {
    let Some(predicates) = fields.string("predicates", report) else {
        return;
    };
    match predicates.value {
        "deny" => {}
        "equality" | "allow" => {
            let what = format!("predicates = \"{}\"", predicates.value);
            report.error_help(
                &predicates.at,
                not_yet(&what),
                "it has predicates = \"deny\" only",
            );
        }
        other => report.unknown(&predicates.at, "way with predicates", other, &["deny"]),
    }
}

fn columns(fields: &Fields<'_>, report: &mut Report<'_>) -> Arc<[Box<str>]> {
    let instead = "name at least one, or write [\"*\"] to mean every column";
    let columns = fields.strings("columns", instead, report);
    let columns = columns.unwrap_or_default();
    for column in &columns {
        if column.value.contains('*') && column.value != "*" {
            let help = "\"*\" alone is every column";
            report.error_help(&column.at, "names of masked columns are exact", help);
        }
    }
    columns.iter().map(|column| column.value.into()).collect()
}

fn function(fields: &Fields<'_>, keys: &Keys<'_>, report: &mut Report<'_>) -> Option<Mask> {
    let with = fields.string("with", report)?;
    if LATER_FUNCTIONS.contains(&with.value) {
        let what = format!("the mask function \"{}\"", with.value);
        report.error_help(
            &with.at,
            not_yet(&what),
            format!("it has {}", FUNCTIONS.join(", ")),
        );
        return None;
    }
    let settings: &[&str] = match with.value {
        "partial" => &["keep_first", "keep_last"],
        "constant" => &["value"],
        "hmac" => &["key"],
        _ => &[],
    };
    if FUNCTIONS.contains(&with.value) {
        for key in ["keep_first", "keep_last", "value", "key"] {
            if fields.has(key) && !settings.contains(&key) {
                let message = format!(
                    "\"{key}\" means nothing to the mask function {}",
                    with.value
                );
                report.error(&fields.place(key), message);
            }
        }
    }
    match with.value {
        "redact" => Some(Mask::Redact),
        "null" => Some(Mask::Null),
        "email" => Some(Mask::Email),
        "card" => Some(Mask::Card),
        "constant" => constant(fields, report),
        "partial" => partial(fields, report),
        "hmac" => key(fields, keys, report).map(|key| Mask::Hmac { key: Arc::new(key) }),
        other => {
            report.unknown(&with.at, "mask function", other, FUNCTIONS);
            None
        }
    }
}

fn constant(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Mask> {
    fields.require("value", report);
    let value = fields.text("value", report)?;
    if value.value.contains('\0') {
        report.error(&value.at, "PostgreSQL's text can't contain a NUL");
    }
    Some(Mask::Constant(value.value.into()))
}

fn partial(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Mask> {
    let mut kept = |key| match fields.number(key, report) {
        Some(found) => u16::try_from(found.value)
            .inspect_err(|_| report.error(&found.at, format!("\"{key}\" must be below 65536")))
            .ok(),
        None => (!fields.has(key)).then_some(0),
    };
    let (keep_first, keep_last) = (kept("keep_first")?, kept("keep_last")?);
    if keep_first == 0 && keep_last == 0 {
        let help = "say keep_first or keep_last, or use \"redact\"";
        report.error_help(
            &fields.place("with"),
            "\"partial\" keeps nothing here",
            help,
        );
    }
    Some(Mask::Partial {
        keep_first,
        keep_last,
        with: '*',
    })
}

fn key(fields: &Fields<'_>, keys: &Keys<'_>, report: &mut Report<'_>) -> Option<Key> {
    fields.require("key", report);
    let key = fields.table("key", "\"key\"", report)?;
    key.close(KEY_KEYS, &[], report);
    let file = key.string("file", report).map(|path| {
        if !path.value.starts_with('/') {
            let message = format!("path \"{}\" must be absolute", path.value);
            let help = "the daemon has no working directory to start from";
            report.error_help(&path.at, message, help);
        }
        KeySource::File(PathBuf::from(path.value))
    });
    let env = key
        .string("env", report)
        .map(|name| KeySource::Env(name.value.to_owned()));
    let credential = key
        .string("credential", report)
        .map(|name| KeySource::Credential(name.value.to_owned()));
    let mut sources = [file, env, credential].into_iter().flatten();
    let (Some(source), None) = (sources.next(), sources.next()) else {
        report.error(
            &key.at,
            "\"key\" needs exactly one of file, env and credential",
        );
        return None;
    };
    keys(&source)
        .inspect_err(|error| report.error(&key.at, error.clone()))
        .ok()
}
