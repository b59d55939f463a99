//! What masks forbid beyond masking.
//!
//! Where columns are masked for an agent, a value must come out as a plain column or not at all:
//! whatever computes with it, sends it elsewhere or finds it by other means is denied.

use super::{
    Judge,
    functions::Calls,
    objects::{is_anywhere, shows_values, unresolved},
    refuse,
};
use crate::{
    catalog::{Column, Relation, showing::column as shows_column},
    policy::Deny,
    sql::{CopyDirection, Effect, Name, ObjectKind, Statement},
};

/// What a statement can reach of masked columns.
#[derive(Default)]
pub(super) struct Reach {
    /// The first relation that has something masked, for messages.
    relation: Option<String>,
    /// A system relation that has a column which shows values, and needn't be plain otherwise.
    partly: Option<String>,
    /// A relation that is read and isn't in the snapshot, where there is one.
    unknown: Option<String>,
    /// Code is called that could read anything.
    foreign: bool,
    /// The first relation that shows values by other means.
    showing: Option<String>,
}

/// The denial of a result that has a column which isn't a plain one, told by the server's own
/// description of the result. `column` is the output column's name.
pub fn non_plain_output_denied(column: &str) -> Deny {
    refuse(
        format!(
            "output column \"{column}\" is computed, in a statement that reads masked columns: only plain columns can be shown"
        ),
        "select the columns themselves, or leave out the table whose columns are masked",
    )
}

impl Reach {
    pub(super) fn of(judge: &Judge<'_>, calls: &Calls) -> Reach {
        let mut reach = Reach {
            foreign: calls.foreign,
            ..Reach::default()
        };
        if judge.view.masks.is_empty() {
            return Reach::default();
        }
        for touch in &judge.statement.touches {
            if let (Some(name), ObjectKind::Relation) = (&touch.object, touch.kind) {
                reach.add(judge, name, touch.effect);
            }
        }
        reach
    }

    fn add(&mut self, judge: &Judge<'_>, name: &Name, effect: Effect) {
        let masks = judge.view.masks;
        let known = judge.view.catalog.resolve(name, judge.path());
        for relation in &known {
            let sensitive =
                || masks.is_sensitive(relation.oid) || !coming(judge, relation).is_empty();
            if self.relation.is_none() && sensitive() {
                self.relation = Some(called(relation));
            }
            self.shows(&relation.schema, &relation.name);
            let shows =
                |column: &Column| shows_column(&relation.schema, &relation.name, &column.name);
            if self.partly.is_none() && relation.columns.iter().any(shows) {
                self.partly = Some(called(relation));
            }
        }
        if !known.is_empty() {
            return;
        }
        for (schema, name) in unresolved(judge, name) {
            self.shows(&schema, &name);
            let by_name = unresolved_name(judge, (&schema, &name));
            let called = match &by_name.schema {
                Some(schema) => format!("{schema}.{name}"),
                None => name.to_string(),
            };
            if masks.masked_columns_by_name(&by_name).is_some() && self.relation.is_none() {
                self.relation = Some(called);
            } else if effect != Effect::Ddl && !judge.offline && self.unknown.is_none() {
                self.unknown = Some(called);
            }
        }
    }

    fn shows(&mut self, schema: &str, name: &str) {
        if self.showing.is_none() && shows_values(schema, name) {
            self.showing = Some(format!("{schema}.{name}"));
        }
    }

    /// Whether anything masked can be reached.
    pub(super) fn sensitive(&self) -> bool {
        self.relation.is_some() || self.unknown.is_some() || self.foreign || self.showing.is_some()
    }

    /// The denial of a statement that reaches masked columns in a way that masks can't follow.
    pub(super) fn forbid(&self, judge: &Judge<'_>, calls: &Calls) -> Option<Deny> {
        if judge.view.masks.is_empty() {
            return None;
        }
        self.around(judge, calls).or_else(|| {
            let relation = self.relation.as_deref().or(self.partly.as_deref())?;
            elsewhere(judge, relation).or_else(|| used(judge, relation))
        })
    }

    /// Ways around the masks that don't name a masked relation.
    fn around(&self, judge: &Judge<'_>, calls: &Calls) -> Option<Deny> {
        let agent = judge.view.policy.agent();
        let statement = judge.statement;
        let has = |effect| statement.touches.iter().any(|touch| touch.effect == effect);
        if has(Effect::Unknown) {
            let message = format!(
                "Weir can't analyse this statement, and columns are masked for agent {agent}"
            );
            return Some(refuse(message, "write it in a simpler way"));
        }
        if installs_or_runs_code(statement) {
            let message = format!(
                "{} is denied to agent {agent}, for whom columns are masked: it could uncover them",
                statement.tag
            );
            return Some(refuse(message, "have the schema's owner run it"));
        }
        if let Some(function) = &calls.showing {
            let message = format!("function {function} can show what is masked for agent {agent}");
            return Some(refuse(message, "read the tables directly"));
        }
        if let Some(relation) = &self.showing {
            let message = format!("{relation} can show what is masked for agent {agent}");
            return Some(refuse(message, "read the tables directly"));
        }
        let unknown = self.unknown.as_deref()?;
        let message = format!(
            "relation {unknown} doesn't exist or is newer than Weir's picture of the catalog, and columns are masked for agent {agent}"
        );
        Some(refuse(
            message,
            "check the name; what was just created can be used after a moment",
        ))
    }
}

/// Code is installed or run, or what masks find their columns by is renamed. CALL names what it
/// calls, and a rule has to allow that.
fn installs_or_runs_code(statement: &Statement) -> bool {
    let tag = statement.tag;
    let touches = |effect| {
        statement
            .touches
            .iter()
            .filter(move |touch| touch.effect == effect)
    };
    let code = tag != "CALL" && touches(Effect::Procedural).next().is_some();
    let renames =
        tag == "ALTER" && touches(Effect::Ddl).any(|touch| touch.kind == ObjectKind::Other);
    code || renames || statement.shape.makes_view
}

/// Values of a masked relation would go where masks can't follow.
fn elsewhere(judge: &Judge<'_>, relation: &str) -> Option<Deny> {
    let shape = &judge.statement.shape;
    if shape.copy == Some(CopyDirection::Out) {
        let message = format!("{relation} has masked columns and can't be copied out");
        return Some(refuse(message, "use SELECT, which masks them"));
    }
    if judge
        .statement
        .touches
        .iter()
        .any(|touch| touch.effect == Effect::Ddl)
    {
        let message = format!(
            "{relation} has masked columns: agents for whom they are masked can't build on it or alter it"
        );
        return Some(refuse(message, "have the schema's owner run it"));
    }
    if judge.statement.tag == "CLUSTER" {
        let message = format!(
            "{relation} has masked columns: rows in an index's order would tell how they compare"
        );
        return Some(refuse(message, "have the schema's owner run it"));
    }
    if shape.derives {
        let message = format!(
            "{relation} has masked columns: what is read from it can't be stored, prepared or kept in a cursor"
        );
        return Some(refuse(message, "select from it directly"));
    }
    if shape
        .explain
        .as_ref()
        .is_some_and(|explain| explain.analyze || explain.verbose)
    {
        let message = format!(
            "EXPLAIN ANALYZE and VERBOSE can show values of {relation}, which has masked columns"
        );
        return Some(refuse(message, "use EXPLAIN without ANALYZE and VERBOSE"));
    }
    None
}

/// A masked column is used for something else than being shown.
fn used(judge: &Judge<'_>, relation: &str) -> Option<Deny> {
    let column = judge
        .statement
        .columns
        .forbidden_use(&|name| masked_columns(judge, name))?;
    let owner = owner(judge, &column).unwrap_or_else(|| relation.to_owned());
    let message = format!(
        "column {column} of {owner} is masked and can only be selected as it is: not in WHERE, JOIN, ORDER BY, GROUP BY or an expression"
    );
    Some(refuse(
        message,
        "select the column itself, and filter and sort by columns that aren't masked",
    ))
}

/// The masked columns of all relations that a name can mean.
fn masked_columns(judge: &Judge<'_>, name: &Name) -> Option<Vec<Box<str>>> {
    let masks = judge.view.masks;
    let known = judge.view.catalog.resolve(name, judge.path());
    let columns: Vec<_> = if known.is_empty() {
        unresolved(judge, name)
            .into_iter()
            .filter_map(|(schema, name)| {
                masks.masked_columns_by_name(&unresolved_name(judge, (&schema, &name)))
            })
            .flatten()
            .collect()
    } else {
        known
            .into_iter()
            .flat_map(|relation| {
                let mut columns = coming(judge, relation);
                columns.extend(masks.masked_columns(relation).unwrap_or_default());
                columns
            })
            .collect()
    };
    (!columns.is_empty()).then_some(columns)
}

/// By what masks find an object that the snapshot doesn't know: of any schema where it can be in any.
fn unresolved_name(judge: &Judge<'_>, (schema, name): (&str, &str)) -> Name {
    Name {
        schema: (!is_anywhere(judge, schema)).then(|| schema.into()),
        name: name.into(),
    }
}

/// Masked columns that the statement may mean and the snapshot's relation doesn't have: somebody may
/// have just added them.
fn coming(judge: &Judge<'_>, relation: &Relation) -> Vec<Box<str>> {
    let mentioned = |column: &str| judge.statement.columns.mentions(column);
    let catalog = judge.view.catalog;
    judge
        .view
        .masks
        .coming_columns(catalog, relation, &mentioned)
}

/// The relation of the statement that a masked column is of.
fn owner(judge: &Judge<'_>, column: &str) -> Option<String> {
    judge.statement.touches.iter().find_map(|touch| {
        let name = touch
            .object
            .as_ref()
            .filter(|_| touch.kind == ObjectKind::Relation)?;
        let columns = masked_columns(judge, name)?;
        let (schema, name) = super::objects::relations(judge, name, touch.effect)
            .into_iter()
            .next()?;
        columns
            .iter()
            .any(|of| **of == *column || &**of == "*")
            .then(|| {
                format!("{schema}.{name}")
                    .trim_start_matches('.')
                    .to_owned()
            })
    })
}

fn called(relation: &Relation) -> String {
    format!("{}.{}", relation.schema, relation.name)
}
