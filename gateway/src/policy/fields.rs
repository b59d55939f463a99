//! Reading typed fields out of a TOML table, with a diagnostic for everything that isn't as it
//! should be. Reading goes on after an error, so that one run tells of all of them.

use std::num::IntErrorKind;
use std::ops::Range;

use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::diagnostic::{Diagnostic, did_you_mean};

/// One file under examination and what was found wrong with it.
pub(super) struct Report<'a> {
    pub(super) file: &'a str,
    pub(super) text: &'a str,
    pub(super) diagnostics: Vec<Diagnostic>,
}

impl Report<'_> {
    pub(super) fn error(&mut self, at: &Range<usize>, message: impl Into<String>) {
        self.diagnostics.push(Diagnostic::error(
            self.file,
            self.text,
            at.clone(),
            message.into(),
        ));
    }

    pub(super) fn error_help(
        &mut self,
        at: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        let error = Diagnostic::error(self.file, self.text, at.clone(), message.into());
        self.diagnostics.push(error.help(help));
    }

    /// An unknown word where one of `known` should stand.
    pub(super) fn unknown(&mut self, at: &Range<usize>, kind: &str, word: &str, known: &[&str]) {
        let help = match did_you_mean(word, known.iter().copied()) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("one of {}", known.join(", ")),
        };
        self.error_help(at, format!("unknown {kind} \"{word}\""), help);
    }
}

/// A table of a policy file. `what` is how messages call it: `a rule`, `limits`.
#[derive(Clone)]
pub(super) struct Fields<'t> {
    pub(super) what: &'static str,
    /// Where the table begins: its header or its brace.
    pub(super) at: Range<usize>,
    table: &'t DeTable<'t>,
}

/// What to do instead of saying nothing under a key that need not be there.
pub(super) const MEAN_ALL: &str = "leave the key out to mean all";

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) at: Range<usize>,
}

impl<'t> Fields<'t> {
    pub(super) fn new(what: &'static str, table: &'t Spanned<DeTable<'t>>) -> Fields<'t> {
        Fields {
            what,
            at: table.span(),
            table: table.get_ref(),
        }
    }

    /// Reports every key that isn't `known`. `later` are keys of the design that this version
    /// doesn't have.
    pub(super) fn close(&self, known: &[&str], later: &[&str], report: &mut Report<'_>) {
        for key in self.table.keys() {
            let word = key.get_ref().as_ref();
            if later.contains(&word) {
                report.error(&key.span(), not_yet(&format!("\"{word}\"")));
            } else if !known.contains(&word) {
                report.unknown(&key.span(), &format!("key in {}", self.what), word, known);
            }
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Where a key's value stands; where the table stands if it isn't there.
    pub(super) fn place(&self, key: &str) -> Range<usize> {
        self.table
            .get(key)
            .map_or_else(|| self.at.clone(), Spanned::span)
    }

    /// Reports a key that must be there and isn't.
    pub(super) fn require(&self, key: &str, report: &mut Report<'_>) {
        if !self.has(key) {
            report.error(&self.at, format!("{} needs \"{key}\"", self.what));
        }
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        report: &mut Report<'_>,
        convert: impl FnOnce(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<At<T>> {
        let value = self.table.get(key)?;
        let at = value.span();
        match convert(value.get_ref()) {
            Some(value) => Some(At { value, at }),
            None => {
                wrong_type(&at, key, expected, value.get_ref(), report);
                None
            }
        }
    }

    /// A string that isn't empty and has no control characters: it is shown and sent as it is.
    pub(super) fn string(&self, key: &str, report: &mut Report<'_>) -> Option<At<&'t str>> {
        let found = self.read(key, "a string", report, |value| value.as_str())?;
        printable(key, found, report)
    }

    /// A string of any content.
    pub(super) fn text(&self, key: &str, report: &mut Report<'_>) -> Option<At<&'t str>> {
        self.read(key, "a string", report, |value| value.as_str())
    }

    pub(super) fn boolean(&self, key: &str, report: &mut Report<'_>) -> Option<At<bool>> {
        self.read(key, "true or false", report, DeValue::as_bool)
    }

    /// A whole number that isn't negative.
    pub(super) fn number(&self, key: &str, report: &mut Report<'_>) -> Option<At<u64>> {
        let found = self.read(key, "a whole number", report, |value| value.as_integer())?;
        unsigned(key, &found, report)
    }

    /// A number of bytes: whole, or a string with a unit.
    pub(super) fn size(&self, key: &str, report: &mut Report<'_>) -> Option<At<u64>> {
        if !matches!(self.table.get(key)?.get_ref(), DeValue::String(_)) {
            let expected = "a size such as \"2MiB\" or a number of bytes";
            let found = self.read(key, expected, report, |value| value.as_integer())?;
            return unsigned(key, &found, report);
        }
        let At { value, at } = self.string(key, report)?;
        match parse_size(value) {
            Ok(value) => Some(At { value, at }),
            Err(why) => {
                let help = format!("write a whole number and a unit ({UNITS}), such as \"2MiB\"");
                report.error_help(&at, format!("\"{key}\" can't be \"{value}\": {why}"), help);
                None
            }
        }
    }

    /// A list of strings that isn't empty; `instead` is the advice where it is.
    pub(super) fn strings(
        &self,
        key: &str,
        instead: &str,
        report: &mut Report<'_>,
    ) -> Option<Vec<At<&'t str>>> {
        let value = self.table.get(key)?;
        if value
            .get_ref()
            .as_array()
            .is_some_and(|list| list.is_empty())
        {
            report.error_help(
                &value.span(),
                format!("\"{key}\" is empty and would match nothing"),
                instead,
            );
        }
        Some(self.list(key, report))
    }

    /// A list of strings, possibly empty.
    pub(super) fn list(&self, key: &str, report: &mut Report<'_>) -> Vec<At<&'t str>> {
        let list = self.read(key, "a list of strings", report, |value| value.as_array());
        let mut strings = Vec::new();
        for item in list.map(|list| list.value).into_iter().flatten() {
            match item.get_ref().as_str() {
                Some(value) => {
                    strings.extend(printable(
                        key,
                        At {
                            value,
                            at: item.span(),
                        },
                        report,
                    ));
                }
                None => wrong_type(
                    &item.span(),
                    key,
                    "a list of strings",
                    item.get_ref(),
                    report,
                ),
            }
        }
        strings
    }

    /// A string, or a list of strings that isn't empty, of a key that need not be there.
    pub(super) fn one_or_more(
        &self,
        key: &str,
        report: &mut Report<'_>,
    ) -> Option<Vec<At<&'t str>>> {
        match self.table.get(key)?.get_ref() {
            DeValue::String(_) => self.string(key, report).map(|one| vec![one]),
            _ => self.strings(key, MEAN_ALL, report),
        }
    }

    /// A table that isn't empty.
    pub(super) fn table(
        &self,
        key: &str,
        what: &'static str,
        report: &mut Report<'_>,
    ) -> Option<Fields<'t>> {
        let found = self.read(key, "a table", report, |value| value.as_table())?;
        if found.value.is_empty() {
            report.error(&found.at, format!("{what} is empty and says nothing"));
            return None;
        }
        Some(Fields {
            what,
            at: found.at,
            table: found.value,
        })
    }

    /// An array of tables, possibly absent.
    pub(super) fn tables(
        &self,
        key: &str,
        what: &'static str,
        report: &mut Report<'_>,
    ) -> Vec<Fields<'t>> {
        let expected = format!("tables, each written as [[{key}]]");
        let Some(list) = self.read(key, &expected, report, |value| value.as_array()) else {
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in list.value {
            match item.get_ref().as_table() {
                Some(table) => tables.push(Fields {
                    what,
                    at: item.span(),
                    table,
                }),
                None => wrong_type(&item.span(), key, &expected, item.get_ref(), report),
            }
        }
        tables
    }
}

/// What is said of everything that the design has and this version hasn't.
pub(super) fn not_yet(what: &str) -> String {
    format!("this version of Weir doesn't have {what} yet")
}

fn wrong_type(
    at: &Range<usize>,
    key: &str,
    expected: &str,
    found: &DeValue<'_>,
    report: &mut Report<'_>,
) {
    let found = found.type_str();
    let article = if found.starts_with(['a', 'i']) {
        "an"
    } else {
        "a"
    };
    report.error(
        at,
        format!("\"{key}\" must be {expected}, not {article} {found}"),
    );
}

fn printable<'t>(key: &str, found: At<&'t str>, report: &mut Report<'_>) -> Option<At<&'t str>> {
    if found.value.is_empty() {
        report.error(&found.at, format!("empty text in \"{key}\""));
        None
    } else if found.value.contains(char::is_control) {
        report.error(&found.at, format!("control character in \"{key}\""));
        None
    } else {
        Some(found)
    }
}

fn unsigned(key: &str, found: &At<&DeInteger<'_>>, report: &mut Report<'_>) -> Option<At<u64>> {
    let integer = found.value;
    match u64::from_str_radix(integer.as_str(), integer.radix()) {
        Ok(value) => Some(At {
            value,
            at: found.at.clone(),
        }),
        Err(e) => {
            let why = match e.kind() {
                IntErrorKind::PosOverflow => TOO_LARGE,
                _ => "it must not be negative",
            };
            report.error(&found.at, format!("\"{key}\" can't be {integer}: {why}"));
            None
        }
    }
}

const TOO_LARGE: &str = "it is larger than any number that Weir counts";

const UNITS: &str = "kB, MB, GB, KiB, MiB, GiB";

/// `2MiB`, `500 kB`, `1024`: a whole number and a unit of 1000 or 1024; or why it is none.
fn parse_size(text: &str) -> Result<u64, &'static str> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() || unit.starts_with(['.', ',']) {
        return Err("it isn't a whole number");
    }
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000 * 1000,
        "gb" => 1000 * 1000 * 1000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        _ => return Err("its unit isn't known"),
    };
    // Digits alone: too many of them is all that can be wrong.
    let number = number.parse::<u64>().map_err(|_| TOO_LARGE)?;
    number.checked_mul(factor).ok_or(TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_units_of_1000_and_1024_and_refuse_what_overflows() {
        for (text, expected) in [
            ("2MiB", Ok(2 << 20)),
            ("500 kB", Ok(500_000)),
            ("7", Ok(7)),
            ("1GiB", Ok(1 << 30)),
            ("MiB", Err("it isn't a whole number")),
            ("1.5MiB", Err("it isn't a whole number")),
            ("-1", Err("it isn't a whole number")),
            ("3 TiB", Err("its unit isn't known")),
            ("2 MegaBytes", Err("its unit isn't known")),
            ("99999999999999GiB", Err(TOO_LARGE)),
            ("99999999999999999999", Err(TOO_LARGE)),
            ("", Err("it isn't a whole number")),
        ] {
            assert_eq!(parse_size(text), expected, "{text}");
        }
    }
}
