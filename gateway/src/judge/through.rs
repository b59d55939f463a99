//! What a statement writes through a view.
//!
//! A row that is written to a view is written to the table behind it, so that rules for that table
//! count too. Which one it is of those that the view reads isn't looked at: all are touched, through
//! as many views as there are. A view that the snapshot can't have yet may lead anywhere.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};

use super::{Judge, objects};
use crate::{
    catalog::{Depends, Oid, RelKind},
    policy::{Need, ResolvedTouch},
    sql::{Effect, Name, ObjectKind, Statement, Touch},
};

/// Definitions of the session's that the snapshot may not have yet. With its default there are none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unsettled {
    /// A view was made, or got another name.
    views: bool,
    /// Names, without schema, of relations that were made, altered or dropped.
    names: BTreeSet<Box<str>>,
}

/// More names than this aren't told apart.
const MOST_NAMES: usize = 256;

impl Unsettled {
    /// With what these statements define. A text is judged as if it had run before.
    #[must_use]
    pub fn with(&self, statements: &[Statement]) -> Cow<'_, Unsettled> {
        let mut all = Cow::Borrowed(self);
        for statement in statements {
            let defines = |touch: &&Touch| touch.effect == Effect::Ddl;
            for touch in statement.touches.iter().filter(defines) {
                if !self.views && (statement.shape.makes_view || statement.tag == "ALTER") {
                    all.to_mut().views = true;
                }
                if let (ObjectKind::Relation, Some(name)) = (touch.kind, &touch.object)
                    && self.names.len() <= MOST_NAMES
                    && !self.names.contains(&name.name)
                {
                    all.to_mut().names.insert(name.name.clone());
                }
            }
        }
        all
    }

    /// Whether a view is among them.
    pub fn has_views(&self) -> bool {
        self.views
    }

    /// Whether a relation may be a view that the snapshot doesn't have: one that isn't `known`, or of
    /// a name that the session itself has given or taken away.
    fn may_be_view(&self, name: &Name, known: bool) -> bool {
        let renewed = self.names.len() > MOST_NAMES || self.names.contains(&name.name);
        self.views && (!known || renewed)
    }
}

/// Adds what a touch reaches through the views that its name can mean.
pub(super) fn add(judge: &Judge<'_>, name: &Name, touch: &Touch, out: &mut Vec<ResolvedTouch>) {
    if !matches!(
        touch.effect,
        Effect::Insert | Effect::Update | Effect::Delete | Effect::Lock
    ) {
        return;
    }
    let known = judge.view.catalog.resolve(name, judge.path());
    let is_known = !known.is_empty() || judge.offline;
    let mut unknown = judge.view.unsettled.may_be_view(name, is_known);
    let reached = |object, need| ResolvedTouch {
        effect: touch.effect,
        object: Some(object),
        has_where: touch.has_where,
        need,
    };
    let mut seen: HashSet<Oid> = known.iter().map(|relation| relation.oid).collect();
    let mut views = known;
    while let Some(view) = views.pop() {
        // A view that reads nothing can't be written to, if it is understood.
        unknown |=
            view.kind == RelKind::View && view.reads.is_empty() && view.depends == Depends::Unknown;
        if view.kind != RelKind::View {
            continue;
        }
        for &oid in &view.reads {
            let Some(relation) = judge.view.catalog.relation(oid) else {
                unknown = true;
                continue;
            };
            if seen.insert(oid) {
                let object = (&*relation.schema, &*relation.name);
                let need = objects::need(judge, ObjectKind::Relation, object);
                out.push(reached(
                    (relation.schema.clone(), relation.name.clone()),
                    need,
                ));
                views.push(relation);
            }
        }
    }
    if unknown {
        out.push(reached(("".into(), "".into()), Need::Anywhere));
    }
}
