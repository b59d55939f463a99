//! From the text of policy files to a [`Policy`], or to everything that is wrong with them.

use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::{path::PathBuf, sync::Arc};

use sha2::{Digest, Sha256};
use toml::de::DeTable;

use super::{
    Diagnostic, Mode, Policy, Position, Rule, Severity, Test, Verdict, did_you_mean,
    fields::{At, Fields, Report, not_yet},
    rule,
};
use crate::mask::Key;

/// One policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What diagnostics call it: usually its path.
    pub name: String,
    /// Its content.
    pub text: String,
}

/// Where the key of an `hmac` mask comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file's whole content.
    File(PathBuf),
    /// An environment variable of the daemon.
    Env(String),
    /// A systemd credential of the daemon's unit.
    Credential(String),
}

/// What fetches a key; its error is told at the place that asks for it. Parsing itself reads no
/// files, and a policy is never without its keys.
pub type Keys<'a> = dyn Fn(&KeySource) -> Result<Key, String> + 'a;

pub(super) const FILE_KEYS: &[&str] = &["version", "mode", "rule", "test"];
pub(super) const TEST_KEYS: &[&str] = &["agent", "groups", "datastore", "sql", "expect"];
pub(super) const EXPECT_KEYS: &[&str] = &["decision", "rule", "masked"];

/// Parses policy files that need no keys; an `hmac` mask is an error.
pub fn parse(sources: &[Source]) -> Result<Policy, Vec<Diagnostic>> {
    parse_with(sources, &|_| Err("keys can't be read here".to_owned()))
}

/// Parses all files of a policy together. Never panics; an error tells of everything that is
/// wrong, by file and line.
pub fn parse_with(sources: &[Source], keys: &Keys<'_>) -> Result<Policy, Vec<Diagnostic>> {
    let mut draft = Draft {
        keys,
        rules: Vec::new(),
        tests: Vec::new(),
        modes: Vec::new(),
    };
    let mut diagnostics = Vec::new();
    for source in sources {
        let mut report = Report {
            file: &source.name,
            text: &source.text,
            diagnostics: Vec::new(),
        };
        draft.file(&mut report);
        report.diagnostics.sort_by_key(|d| (d.line, d.column));
        diagnostics.append(&mut report.diagnostics);
    }
    diagnostics.extend(draft.disagreeing_mode(sources));
    diagnostics.extend(draft.duplicates());
    if !has_errors(&diagnostics) {
        // Which rules and datastores there are is known once every file was read as it is meant.
        diagnostics.extend(draft.tests_of_nothing());
    }
    if has_errors(&diagnostics) {
        return Err(diagnostics);
    }
    let rules: Vec<_> = draft
        .rules
        .into_iter()
        .map(|(rule, _)| Arc::new(rule))
        .collect();
    let datastore = datastores(&rules).first().map(ToString::to_string);
    let tests = draft
        .tests
        .into_iter()
        .map(|test| test.finish(datastore.as_deref().unwrap_or_default()))
        .collect();
    let mode = draft.modes.first().map_or(Mode::Enforce, |(mode, _)| *mode);
    Ok(Policy {
        sha256: fingerprint(sources),
        mode,
        rules,
        tests,
    })
}

fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|d| d.severity == Severity::Error)
}

/// The files' contents by name; where a file lies doesn't matter, what it is called does.
fn fingerprint(sources: &[Source]) -> [u8; 32] {
    let mut files: Vec<_> = sources
        .iter()
        .map(|source| {
            (
                source.name.rsplit('/').next().unwrap_or_default(),
                &*source.text,
            )
        })
        .collect();
    files.sort_unstable();
    let mut hash = Sha256::new();
    for (name, text) in files {
        for part in [name, text] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hash.finalize().into()
}

/// What has been read so far. Each rule with a diagnostic at its name, used if the name turns out
/// to be taken.
struct Draft<'k> {
    keys: &'k Keys<'k>,
    rules: Vec<(Rule, Diagnostic)>,
    tests: Vec<DraftTest>,
    /// Each file's mode, and a diagnostic where it says so.
    modes: Vec<(Mode, Diagnostic)>,
}

impl Draft<'_> {
    fn file(&mut self, report: &mut Report<'_>) {
        let (document, errors) = DeTable::parse_recoverable(report.text);
        for error in &errors {
            let at = error.span().unwrap_or(0..0);
            report.error(&at, error.message().to_owned());
        }
        if !errors.is_empty() {
            // What a broken document seems to say isn't worth reporting on.
            return;
        }
        let file = Fields::new("a policy file", &document);
        file.close(FILE_KEYS, &["grant", "approval", "approver"], report);
        version(&file, report);
        let mode = mode(&file, report);
        let place = file.place("mode");
        let here = Diagnostic::error(report.file, report.text, place, String::new());
        self.modes.push((mode.unwrap_or_default(), here));
        for fields in file.tables("rule", "a rule", report) {
            self.rules.extend(rule::read(&fields, self.keys, report));
        }
        for fields in file.tables("test", "a test", report) {
            self.tests.extend(test(&fields, report));
        }
    }

    /// The mode is of the whole policy: a file more must not take the others out of force.
    fn disagreeing_mode(&self, sources: &[Source]) -> Option<Diagnostic> {
        let (first, _) = self.modes.first()?;
        let at = self.modes.iter().position(|(mode, _)| mode != first)?;
        let mut here = self.modes[at].1.clone();
        here.message = format!(
            "the mode of {} and {} differs, but it is of the whole policy",
            sources[0].name, sources[at].name
        );
        Some(here.help("say mode = \"observe\" in each file or in none, or on single rules"))
    }

    fn duplicates(&self) -> Vec<Diagnostic> {
        let mut seen: HashMap<&str, &Diagnostic> = HashMap::new();
        let mut duplicates = Vec::new();
        for (rule, at) in &self.rules {
            if let Some(first) = seen.get(&*rule.name) {
                let mut here = at.clone();
                here.message = format!(
                    "rule \"{}\" is already defined at {}:{}",
                    rule.name, first.file, first.line
                );
                duplicates.push(here);
            } else {
                seen.insert(&rule.name, at);
            }
        }
        duplicates
    }

    /// Tests that ask no datastore in particular where there are several, or that expect a rule
    /// that there isn't.
    fn tests_of_nothing(&self) -> Vec<Diagnostic> {
        let datastores = datastores(self.rules.iter().map(|(rule, _)| rule));
        let rules = || self.rules.iter().map(|(rule, _)| &*rule.name);
        let mut found = Vec::new();
        for test in &self.tests {
            if test.datastore.is_none() && datastores.len() > 1 {
                let mut here = test.here.clone();
                here.message = "rules name several datastores, and this test none".to_owned();
                let names: Vec<_> = datastores.iter().map(|n| format!("\"{n}\"")).collect();
                found.push(here.help(format!("add datastore = {}", names.join(" or "))));
            }
            if let (Some(name), Some(here)) = (&test.test.rule, &test.rule)
                && !rules().any(|rule| *rule == **name)
            {
                let mut here = here.clone();
                here.message = format!("there is no rule \"{name}\"");
                found.push(match did_you_mean(name, rules()) {
                    Some(near) => here.help(format!("did you mean \"{near}\"?")),
                    None => here,
                });
            }
        }
        found
    }
}

fn version(file: &Fields<'_>, report: &mut Report<'_>) {
    if !file.has("version") {
        report.error_help(
            &(0..0),
            "the file doesn't say its version",
            "begin it with: version = 1",
        );
    } else if let Some(version) = file.number("version", report)
        && version.value != 1
    {
        report.error_help(
            &version.at,
            format!("version {} of policy files isn't known", version.value),
            "this version of Weir reads version = 1",
        );
    }
}

/// The `mode` of a file or a rule.
pub(super) fn mode(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Mode> {
    let mode = fields.string("mode", report)?;
    match mode.value {
        "enforce" => Some(Mode::Enforce),
        "observe" => Some(Mode::Observe),
        other => {
            report.unknown(&mode.at, "mode", other, &["enforce", "observe"]);
            None
        }
    }
}

/// The `decision` of a rule or an expectation.
pub(super) fn decision(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<Verdict> {
    fields.require("decision", report);
    let decision = fields.string("decision", report)?;
    match decision.value {
        "allow" => Some(Verdict::Allow),
        "deny" => Some(Verdict::Deny),
        "approve" => {
            let help = "until it does, use decision = \"deny\"";
            report.error_help(&decision.at, not_yet("approvals"), help);
            None
        }
        other => {
            report.unknown(&decision.at, "decision", other, &["allow", "deny"]);
            None
        }
    }
}

/// Where a table stands, for messages about it after parsing.
pub(super) fn position(fields: &Fields<'_>, report: &Report<'_>) -> Position {
    let here = Diagnostic::error(report.file, report.text, fields.at.clone(), String::new());
    Position {
        file: report.file.into(),
        line: here.line,
    }
}

/// A list of names of agents, groups or datastores, which are exact.
pub(super) fn exact_names(list: Option<Vec<At<&str>>>, report: &mut Report<'_>) -> Vec<Box<str>> {
    let list = list.unwrap_or_default();
    for name in list.iter().filter(|name| name.value.contains('*')) {
        let help = "leave the key out to mean all";
        report.error_help(
            &name.at,
            "names of agents, groups and datastores are exact",
            help,
        );
    }
    list.iter().map(|name| name.value.into()).collect()
}

/// A test whose datastore may yet be unknown.
struct DraftTest {
    datastore: Option<Box<str>>,
    test: Test,
    /// Where it stands.
    here: Diagnostic,
    /// Where it names the rule that it expects.
    rule: Option<Diagnostic>,
}

impl DraftTest {
    /// `only`: the one datastore that rules name, for tests that don't name any.
    fn finish(mut self, only: &str) -> Test {
        self.test.datastore = self.datastore.unwrap_or_else(|| only.into());
        self.test
    }
}

fn test(fields: &Fields<'_>, report: &mut Report<'_>) -> Option<DraftTest> {
    fields.close(TEST_KEYS, &[], report);
    for key in ["agent", "sql", "expect"] {
        fields.require(key, report);
    }
    let agent = fields.string("agent", report);
    let groups = exact_names(
        fields.strings("groups", "leave the key out to mean none", report),
        report,
    );
    let datastore = fields.string("datastore", report);
    let sql = fields.text("sql", report);
    let expect = fields.table("expect", "an expectation", report)?;
    expect.close(EXPECT_KEYS, &["approval"], report);
    let verdict = decision(&expect, report);
    let rule = expect.string("rule", report);
    let masked = expect
        .has("masked")
        .then(|| expected_columns(&expect, report));
    let here =
        |at: &Range<usize>| Diagnostic::error(report.file, report.text, at.clone(), String::new());
    Some(DraftTest {
        here: here(&fields.at),
        rule: rule.as_ref().map(|rule| here(&rule.at)),
        datastore: datastore.map(|name| name.value.into()),
        test: Test {
            position: position(fields, report),
            agent: agent?.value.into(),
            groups: groups.into_iter().map(Arc::from).collect(),
            datastore: Box::default(),
            sql: sql?.value.into(),
            verdict: verdict?,
            rule: rule.map(|name| name.value.into()),
            masked,
        },
    })
}

/// The expected masked columns; unlike other lists this may be empty: nothing is masked.
fn expected_columns(expect: &Fields<'_>, report: &mut Report<'_>) -> Vec<Box<str>> {
    let mut columns: Vec<Box<str>> = expect
        .list("masked", report)
        .iter()
        .map(|column| column.value.into())
        .collect();
    columns.sort_unstable();
    columns
}

/// The datastores that rules name.
fn datastores<'r, R: Borrow<Rule> + 'r>(
    rules: impl IntoIterator<Item = &'r R>,
) -> BTreeSet<&'r str> {
    rules
        .into_iter()
        .flat_map(|rule| &rule.borrow().datastores)
        .map(|name| &**name)
        .collect()
}
