//! Which settings a session may change.

use super::refuse;
use crate::{
    policy::{Deny, Need},
    sql::{Effect, Statement},
};

/// Settings that decide how the server reads a statement, who it takes the session for, or whose
/// rows it shows. No rule allows them.
const FIXED: [&str; 7] = [
    "backslash_quote",
    "client_encoding",
    "role",
    "row_security",
    "session_authorization",
    "session_replication_role",
    "standard_conforming_strings",
];

/// Settings that need no rule: formats, time-outs and whatever else concerns the session alone.
/// `*` is RESET ALL or DISCARD ALL, which go back to the values that Weir started the session with.
const HARMLESS: [&str; 28] = [
    "*",
    "application_name",
    "bytea_output",
    "client_min_messages",
    "datestyle",
    "default_text_search_config",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "lock_timeout",
    "plan_cache_mode",
    "search_path",
    "statement_timeout",
    "timezone",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
    "transaction_timeout",
    "xmloption",
];

/// Whether a setting, by its lower-case name, needs no rule.
pub(super) fn is_harmless(name: &str) -> bool {
    HARMLESS.contains(&name)
}

/// Refuses what changes a fixed setting, or one whose name can't be read off the statement.
pub(super) fn guard(text: &str, statement: &Statement) -> Option<Deny> {
    let calls_set_config = statement
        .functions
        .iter()
        .any(|function| &*function.name == "set_config");
    if may_update_pg_settings(statement) {
        let message = "settings can't be changed by updating pg_settings through Weir".to_owned();
        return Some(refuse(message, "use SET"));
    }
    let defines = || {
        let mut touches = statement.touches.iter();
        touches.any(|touch| touch.effect == Effect::Ddl)
    };
    if calls_set_config && defines() {
        let message =
            "set_config can't be part of a definition: it would run where Weir doesn't see it";
        return Some(refuse(message.to_owned(), "use SET in the session"));
    }
    let untold = || {
        statement.settings.is_empty() || statement.settings.iter().any(|setting| &**setting == "*")
    };
    if calls_set_config && untold() {
        let message = "set_config needs the setting's name as a plain string here".to_owned();
        return Some(refuse(message, "write the name as a literal, or use SET"));
    }
    let fixed = statement
        .settings
        .iter()
        .find(|setting| FIXED.contains(&&***setting))?;
    if &**fixed == "client_encoding" {
        let sql = text.get(statement.span.clone()).unwrap_or_default();
        if sets_utf8(sql) {
            return None;
        }
        let message = "client_encoding must stay UTF8".to_owned();
        return Some(refuse(message, "convert to UTF8 in the client"));
    }
    let message = format!("setting {fixed} can't be changed through Weir");
    Some(refuse(
        message,
        "leave it as it is: Weir's reading of statements depends on it",
    ))
}

/// A rule of the server's turns an update of this view into `set_config`, of any setting; also one of
/// a view that is made of it.
fn may_update_pg_settings(statement: &Statement) -> bool {
    let touches = &statement.touches;
    let defines = touches.iter().any(|touch| touch.effect == Effect::Ddl);
    touches.iter().any(|touch| {
        let object = touch.object.as_ref();
        let named = object.is_some_and(|o| &*o.name == "pg_settings");
        named && (defines || touch.effect == Effect::Update)
    })
}

/// What the session effect of a statement needs.
pub(super) fn need(statement: &Statement) -> Need {
    if statement
        .settings
        .iter()
        .all(|setting| HARMLESS.contains(&&**setting) || &**setting == "client_encoding")
    {
        Need::Nothing
    } else {
        Need::Rule
    }
}

/// Whether this is `SET [SESSION | LOCAL] client_encoding {= | TO} UTF8` or `SET NAMES UTF8` in so
/// many words, which drivers send and which changes nothing. Anything else about it is a no.
fn sets_utf8(sql: &str) -> bool {
    let lower = sql
        .trim_end_matches([';', ' ', '\n'])
        .to_ascii_lowercase()
        .replace('=', " = ");
    let words: Vec<_> = lower.split_ascii_whitespace().collect();
    let words = match words[..] {
        ["set", "session" | "local", ref rest @ ..] | ["set", ref rest @ ..] => rest,
        _ => return false,
    };
    let value = match *words {
        ["client_encoding", "to" | "=", value] | ["names", value] => value,
        _ => return false,
    };
    matches!(value.trim_matches('\''), "utf8" | "utf-8" | "unicode")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_ways_to_say_utf8_pass() {
        for (sql, expected) in [
            ("SET client_encoding TO 'UTF8'", true),
            ("set session client_encoding='utf-8';", true),
            ("SET NAMES 'UTF8'", true),
            ("SET client_encoding TO unicode", true),
            ("SET client_encoding TO 'SJIS'", false),
            ("SET client_encoding TO DEFAULT", false),
            ("RESET client_encoding", false),
            ("SET NAMES", false),
            ("SET client_encoding = 'UTF8' /* */", false),
            ("SET client_encoding = E'\\x55TF8'", false),
            ("", false),
        ] {
            assert_eq!(sets_utf8(sql), expected, "{sql}");
        }
    }

    #[test]
    fn no_setting_is_both_fixed_and_harmless() {
        assert!(FIXED.iter().all(|fixed| !HARMLESS.contains(fixed)));
    }
}
