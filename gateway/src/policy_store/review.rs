//! What a valid policy says of things that aren't there.
//!
//! Files are checked without knowing who the agents are and what the databases hold. Once that is
//! known, a misspelt name shows: a rule that denies nobody anything, a mask that guards no column.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::identity::Matcher;
use crate::mask::{self, UnresolvedColumn};
use crate::policy::{Policy, Position, Rule, did_you_mean};

/// The names that rules may use.
#[derive(Clone, Debug, Default)]
pub struct Known {
    agents: BTreeSet<Arc<str>>,
    groups: BTreeSet<Arc<str>>,
    datastores: BTreeSet<Arc<str>>,
}

/// What is known of one database.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The datastore's name.
    pub datastore: Arc<str>,
    /// The database's.
    pub database: String,
    /// Its catalog.
    pub catalog: Arc<Catalog>,
}

impl Known {
    /// The names that a configuration has.
    pub fn new(agents: &Matcher, datastores: impl IntoIterator<Item = Arc<str>>) -> Self {
        let groups = agents.agents().flat_map(|agent| agent.groups.iter());
        Self {
            agents: agents.agents().map(|a| Arc::clone(&a.name)).collect(),
            groups: groups.cloned().collect(),
            datastores: datastores.into_iter().collect(),
        }
    }
}

/// Names in rules that nobody has, each with its rule's place. A misspelt one in a rule that denies
/// is a hole.
pub fn unknown_names(policy: &Policy, known: &Known) -> Vec<String> {
    let mut told = Vec::new();
    for rule in &policy.rules {
        let never = if can_match(rule, known) {
            ""
        } else {
            ", so it never matches"
        };
        for (kind, names, all) in [
            ("agent", &rule.agents, &known.agents),
            ("group", &rule.groups, &known.groups),
            ("datastore", &rule.datastores, &known.datastores),
        ] {
            for name in names.iter().filter(|name| !all.contains(&***name)) {
                let meant = did_you_mean(name, all.iter().map(AsRef::as_ref));
                let meant = meant.map_or(String::new(), |m| format!(" (did you mean \"{m}\"?)"));
                told.push(format!(
                    "{}: rule \"{}\" names {kind} \"{name}\", which the configuration doesn't \
                     have{meant}{never}",
                    place(&rule.position),
                    rule.name
                ));
            }
        }
    }
    told
}

fn can_match(rule: &Rule, known: &Known) -> bool {
    let any =
        |names: &[Box<str>], all: &BTreeSet<Arc<str>>| names.iter().any(|n| all.contains(&**n));
    let everyone = rule.agents.is_empty() && rule.groups.is_empty();
    let agent = everyone || any(&rule.agents, &known.agents) || any(&rule.groups, &known.groups);
    agent && (rule.datastores.is_empty() || any(&rule.datastores, &known.datastores))
}

/// Masks that guard nothing in any of the databases that their rules are about, as far as these are
/// known: each column that none of them has, with the mask's place.
pub fn unresolved_masks(policy: &Policy, snapshots: &[Snapshot]) -> Vec<String> {
    let looked: Vec<Looked<'_>> = snapshots.iter().map(|s| look(policy, s)).collect();
    let mut told = Vec::new();
    for rule in &policy.rules {
        let about: Vec<_> = looked.iter().filter(|l| is_about(rule, l.at)).collect();
        if about.is_empty() {
            continue;
        }
        for mask in &rule.masks {
            let columns = mask.columns.iter();
            let nowhere = columns.filter_map(|column| nowhere(rule, column, &about));
            told.extend(nowhere.map(|what| format!("{}: {what}", place(&mask.position))));
        }
    }
    told
}

/// What masks don't find in one database.
struct Looked<'a> {
    at: &'a Snapshot,
    unresolved: Vec<UnresolvedColumn>,
}

fn look<'a>(policy: &Policy, at: &'a Snapshot) -> Looked<'a> {
    let rules = policy.rules.iter().filter(|rule| is_about(rule, at));
    let requests = rules.flat_map(|rule| &rule.masks).map(|m| m.request());
    let (_, unresolved) = mask::resolve(requests.collect(), &at.catalog);
    Looked { at, unresolved }
}

fn is_about(rule: &Rule, at: &Snapshot) -> bool {
    rule.datastores.is_empty() || rule.datastores.iter().any(|name| **name == *at.datastore)
}

/// What to say of a mask's column, if none of the databases has it.
fn nowhere(rule: &Rule, column: &str, about: &[&Looked<'_>]) -> Option<String> {
    let of_it = |l: &&Looked<'_>| {
        let mut all = l.unresolved.iter();
        all.find(|u| u.rule == rule.name && *u.column == *column)
            .cloned()
    };
    let all: Option<Vec<UnresolvedColumn>> = about.iter().map(of_it).collect();
    let told = all?
        .into_iter()
        .max_by_key(|unresolved| unresolved.matched)?;
    let databases = about
        .iter()
        .map(|l| format!("{}/{}", l.at.datastore, l.at.database));
    let databases = databases.collect::<Vec<_>>().join(", ");
    Some(format!("{told} (in {databases})"))
}

fn place(position: &Position) -> String {
    format!("{}:{}", position.file, position.line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{ColumnRow, RelationRow, SnapshotRows};
    use crate::policy::{Source, parse};

    fn policy(rule: &str) -> Policy {
        let source = Source {
            name: "p.toml".into(),
            text: format!("version = 1\n[[rule]]\nname = \"r\"\neffects = [\"read\"]\n{rule}"),
        };
        parse(&[source]).unwrap()
    }

    fn known() -> Known {
        let names = |all: &[&str]| all.iter().map(|name| Arc::from(*name)).collect();
        Known {
            agents: names(&["coder", "tester"]),
            groups: names(&["coding-agents"]),
            datastores: names(&["appdb"]),
        }
    }

    fn told(rule: &str) -> Vec<String> {
        unknown_names(&policy(rule), &known())
    }

    #[test]
    fn a_name_that_the_configuration_has_not_is_told_with_its_rule_and_place() {
        assert_eq!(
            told("decision = \"deny\"\nagents = [\"codre\"]\n"),
            [
                "p.toml:2: rule \"r\" names agent \"codre\", which the configuration doesn't have \
                 (did you mean \"coder\"?), so it never matches"
            ]
        );
        let group = told("decision = \"deny\"\ngroups = [\"x\"]\n");
        assert!(group[0].ends_with("have, so it never matches"), "{group:?}");
        let datastore = told("decision = \"deny\"\nagents = [\"coder\"]\ndatastore = \"apdb\"\n");
        assert!(datastore[0].contains("datastore \"apdb\""), "{datastore:?}");
        assert!(
            datastore[0].ends_with("so it never matches"),
            "{datastore:?}"
        );
    }

    #[test]
    fn one_unknown_name_among_known_ones_is_told_too_and_known_ones_arent() {
        let one = told("decision = \"allow\"\nagents = [\"coder\", \"testr\"]\n");
        assert_eq!(one.len(), 1, "{one:?}");
        assert!(one[0].ends_with("(did you mean \"tester\"?)"), "{one:?}");
        let all = "decision = \"allow\"\nagents = [\"coder\"]\ngroups = [\"coding-agents\"]\n\
                   datastore = \"appdb\"\n";
        assert!(told(all).is_empty());
        assert!(
            told("decision = \"allow\"\n").is_empty(),
            "no names mean all"
        );
    }

    /// A database whose `public.customers` has one column.
    fn snapshot(datastore: &str, column: &str) -> Snapshot {
        let rows = SnapshotRows {
            relations: vec![RelationRow {
                oid: 20001,
                schema: "public".into(),
                name: "customers".into(),
                kind: 'r',
            }],
            columns: vec![ColumnRow {
                relation: 20001,
                attnum: 1,
                name: column.into(),
                type_oid: 25,
                typmod: -1,
            }],
            ..SnapshotRows::default()
        };
        Snapshot {
            datastore: datastore.into(),
            database: "app".into(),
            catalog: Arc::new(Catalog::build(rows)),
        }
    }

    fn masks(rule: &str, snapshots: &[Snapshot]) -> Vec<String> {
        let mask = "[[rule.mask]]\ncolumns = [\"ssn\"]\nwith = \"redact\"\n";
        let rule = format!("decision = \"allow\"\n{rule}{mask}");
        unresolved_masks(&policy(&rule), snapshots)
    }

    #[test]
    fn a_mask_on_what_doesnt_exist_is_told_with_its_place() {
        let customers = "objects = [\"public.customers\"]\n";
        assert_eq!(
            masks(customers, &[snapshot("appdb", "snn")]),
            [
                "p.toml:7: rule \"r\" masks a column that doesn't exist: no relation that it names \
                 has \"ssn\" (in appdb/app)"
            ]
        );
        let relation = masks(
            "objects = [\"public.custmers\"]\n",
            &[snapshot("appdb", "ssn")],
        );
        assert!(relation[0].contains("no existing relation"), "{relation:?}");
        assert!(masks(customers, &[snapshot("appdb", "ssn")]).is_empty());
    }

    #[test]
    fn a_mask_that_one_database_has_use_for_is_no_mistake_in_another() {
        let both = [snapshot("appdb", "ssn"), snapshot("logs", "line")];
        assert!(masks("", &both).is_empty());
        let of_logs = masks("datastore = \"logs\"\n", &both);
        assert!(of_logs[0].ends_with("(in logs/app)"), "{of_logs:?}");
        assert!(masks("", &[]).is_empty(), "nothing is known of any");
        assert!(masks("datastore = \"other\"\n", &both).is_empty());
    }
}
