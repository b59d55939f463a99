//! From rules' names to columns by number: which (relation, column) gets which mask.
//!
//! Hides how a mask spreads. A rule's own matches come first; then to the partitions and children
//! that hold the rows of a masked table, and to the parents through which a masked child can be
//! read; then to columns that the server computes from masked ones; then through views, by where
//! their columns come from. A view's column that isn't plain is
//! [`Cover::Opaque`] as soon as anything that the view reads is masked, and so is all that comes
//! from relations that show values of others ([`showing`]). Guarantees that what the
//! snapshot doesn't know is [`Cover::Unknown`], unless nothing is masked at all.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use super::{Mask, strictest};
use crate::catalog::{AttNum, Catalog, Depends, FIRST_NORMAL_OID, Oid, Relation, Type, showing};
use crate::sql;

/// Whether a rule's object patterns match a relation: (schema, name). A schema of `None` is one
/// that isn't known; the answer must then be whether any schema's relation of that name matches.
pub type Matches = dyn Fn(Option<&str>, &str) -> bool + Send + Sync;

/// One mask of a rule, as the policy hands it in.
#[derive(Clone)]
pub struct Request {
    /// The rule's object patterns.
    pub objects: Arc<Matches>,
    /// Exact names of columns; `*` is every column.
    pub columns: Arc<[Box<str>]>,
    /// How to mask them.
    pub mask: Mask,
    /// The rule's name, for [`UnresolvedColumn`].
    pub rule: Arc<str>,
}

/// What a result column's origin calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cover<'a> {
    /// Nothing masked is in it.
    Clear,
    /// Mask every value so.
    Masked(&'a Mask),
    /// Something masked is in it that can't be told apart: refuse.
    Opaque,
    /// The relation or column is newer than the snapshot: refuse, or load a new snapshot.
    Unknown,
}

/// A mask on a column that no matching relation has. The mask guards nothing until there is one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnresolvedColumn {
    /// The rule's name.
    pub rule: Arc<str>,
    /// The column's name.
    pub column: Box<str>,
    /// Whether any relation matched the rule's objects.
    pub matched: bool,
}

impl fmt::Display for UnresolvedColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = if self.matched {
            "no relation that it names has"
        } else {
            "it names no existing relation with"
        };
        write!(
            f,
            "rule \"{}\" masks a column that doesn't exist: {which} \"{}\"",
            self.rule, self.column
        )
    }
}

/// The masks of one agent on one datastore under one policy and snapshot.
#[derive(Clone, Default)]
pub struct MaskSet {
    covers: HashMap<(Oid, AttNum), Own>,
    /// Relations with any cover, or that read something masked in a way that shows in no column.
    sensitive: HashMap<Oid, bool>,
    requests: Vec<Request>,
    extents: Arc<HashMap<Oid, AttNum>>,
    types: Arc<HashMap<Oid, Type>>,
}

/// A [`Cover`] that is kept; clear columns aren't.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Own {
    Masked(Mask),
    Opaque,
}

impl MaskSet {
    /// Whether nothing is masked: every column of every relation is then clear, known or not.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// What a result column with this origin calls for. An oid of 0 (an expression) is clear here:
    /// see [`RowPlan::build`](super::RowPlan::build).
    pub fn of(&self, oid: Oid, attnum: AttNum) -> Cover<'_> {
        if self.is_empty() || oid == 0 {
            return Cover::Clear;
        }
        let Some(&last) = self.extents.get(&oid) else {
            return Cover::Unknown;
        };
        match self.covers.get(&(oid, attnum)) {
            Some(Own::Masked(mask)) => Cover::Masked(mask),
            Some(Own::Opaque) => Cover::Opaque,
            None if attnum == 0 && self.shows_masked(oid) => Cover::Opaque,
            None if attnum > last => Cover::Unknown,
            None => Cover::Clear,
        }
    }

    /// The names of a relation's columns that are masked or opaque; `None` if there are none.
    pub fn masked_columns(&self, relation: &Relation) -> Option<Vec<Box<str>>> {
        let covered: Vec<_> = relation
            .columns
            .iter()
            .filter(|column| self.covers.contains_key(&(relation.oid, column.attnum)))
            .map(|column| column.name.clone())
            .collect();
        (!covered.is_empty()).then_some(covered)
    }

    /// The columns that masks name for relations of this name, where the snapshot has no such
    /// relation; `*` is every column. `None` if no mask could be meant.
    pub fn masked_columns_by_name(&self, name: &sql::Name) -> Option<Vec<Box<str>>> {
        let columns: BTreeSet<&Box<str>> = self
            .requests
            .iter()
            .filter(|request| (request.objects)(name.schema.as_deref(), &name.name))
            .flat_map(|request| request.columns.iter())
            .collect();
        (!columns.is_empty()).then(|| columns.into_iter().cloned().collect())
    }

    /// Columns that masks name for a relation or its [`kin`], that are `mentioned` and that none of
    /// these has in the snapshot: they may be newer. `*`, for the relation itself, always may.
    pub fn coming_columns(
        &self,
        catalog: &Catalog,
        relation: &Relation,
        mentioned: &dyn Fn(&str) -> bool,
    ) -> Vec<Box<str>> {
        let mut coming = Vec::new();
        let mut kindred = None;
        for request in &self.requests {
            let matches = |r: &Relation| (request.objects)(Some(&r.schema), &r.name);
            let itself = matches(relation);
            for column in request.columns.iter() {
                if &**column == "*" {
                    coming.extend(itself.then(|| column.clone()));
                } else if mentioned(column) && relation.column(column).is_none() {
                    let kindred: &Vec<_> = kindred.get_or_insert_with(|| kin(catalog, relation));
                    let lacks = |r: &&Relation| matches(r) && r.column(column).is_none();
                    let may_come = itself || kindred.iter().any(lacks);
                    coming.extend(may_come.then(|| column.clone()));
                }
            }
        }
        coming
    }

    /// Whether reading a relation touches anything masked, even if no column of it shows that: a
    /// view that filters by a masked column can still tell of it in an error. Unknown relations do.
    pub fn is_sensitive(&self, oid: Oid) -> bool {
        !self.is_empty() && (self.sensitive.contains_key(&oid) || !self.extents.contains_key(&oid))
    }

    pub(super) fn types(&self) -> &HashMap<Oid, Type> {
        &self.types
    }

    fn shows_masked(&self, oid: Oid) -> bool {
        self.sensitive.get(&oid).copied().unwrap_or(false)
    }
}

impl fmt::Debug for MaskSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaskSet")
            .field("covers", &self.covers)
            .finish_non_exhaustive()
    }
}

/// Resolves the masks that apply to one agent on one datastore. The set guards whatever was found
/// even if some columns were not; those are for an alert.
pub fn resolve(requests: Vec<Request>, catalog: &Catalog) -> (MaskSet, Vec<UnresolvedColumn>) {
    let mut spread = Spread {
        catalog,
        covers: HashMap::new(),
        masks_system: false,
        views: HashMap::new(),
    };
    let mut unresolved = BTreeSet::new();
    for request in &requests {
        unresolved.extend(spread.place(request));
    }
    spread.over_inheritance();
    spread.over_generated();
    let mut sensitive = HashMap::new();
    if !requests.is_empty() {
        spread.over_showing();
        for relation in catalog.relations() {
            spread.view(relation.oid, 0);
        }
        for relation in catalog.relations() {
            let shows = relation.columns.iter().any(|c| {
                // Whatever reads `pg_attribute` would have to be plain.
                spread.covers.contains_key(&(relation.oid, c.attnum))
                    && !showing::column(&relation.schema, &relation.name, &c.name)
            });
            if shows || spread.views.get(&relation.oid) == Some(&true) {
                sensitive.insert(relation.oid, shows);
            }
        }
    }
    let set = MaskSet {
        covers: spread.covers,
        sensitive,
        requests,
        extents: Arc::clone(catalog.extents()),
        types: Arc::clone(catalog.types()),
    };
    (set, unresolved.into_iter().collect())
}

/// The work of [`resolve`].
struct Spread<'a> {
    catalog: &'a Catalog,
    covers: HashMap<(Oid, AttNum), Own>,
    /// Whether a rule masks a relation of the server's own. What reads it there isn't known.
    masks_system: bool,
    /// Views that were looked at: whether they read anything masked.
    views: HashMap<Oid, bool>,
}

impl Spread<'_> {
    /// Puts a mask on the columns that the rule itself names.
    fn place(&mut self, request: &Request) -> Vec<UnresolvedColumn> {
        let catalog = self.catalog;
        let matching: Vec<_> = catalog
            .relations()
            .filter(|r| (request.objects)(Some(&r.schema), &r.name))
            .collect();
        let mut unresolved = Vec::new();
        for name in request.columns.iter() {
            let mut found = false;
            for relation in &matching {
                for column in relation
                    .columns
                    .iter()
                    .filter(|c| &**name == "*" || c.name == *name)
                {
                    found = true;
                    self.masks_system |= relation.oid < FIRST_NORMAL_OID;
                    self.cover((relation.oid, column.attnum), &request.mask);
                }
            }
            if !found {
                let rule = Arc::clone(&request.rule);
                unresolved.push(UnresolvedColumn {
                    rule,
                    column: name.clone(),
                    matched: !matching.is_empty(),
                });
            }
        }
        unresolved
    }

    fn cover(&mut self, column: (Oid, AttNum), mask: &Mask) {
        let stricter = match self.covers.get(&column) {
            Some(Own::Opaque) => return,
            Some(Own::Masked(other)) => strictest(other, mask).clone(),
            None => mask.clone(),
        };
        self.covers.insert(column, Own::Masked(stricter));
    }

    /// A table's rows, those of its descendants among them, can be read through its [`kin`];
    /// columns are the same by name. Siblings don't see each other's rows.
    fn over_inheritance(&mut self) {
        let placed: Vec<_> = self
            .covers
            .iter()
            .map(|(column, own)| (*column, own.clone()))
            .collect();
        for ((oid, attnum), own) in placed {
            let (Own::Masked(mask), Some(relation)) = (own, self.catalog.relation(oid)) else {
                continue;
            };
            let Some(column) = relation.attribute(attnum) else {
                continue;
            };
            for kin in kin(self.catalog, relation) {
                if let Some(same) = kin.column(&column.name) {
                    self.cover((kin.oid, same.attnum), &mask);
                }
            }
        }
    }

    /// A column that is computed from a masked one tells of it, unless it is masked itself. The
    /// ancestors show it too, and needn't compute theirs from the same column, or at all.
    fn over_generated(&mut self) {
        let catalog = self.catalog;
        for relation in catalog.relations() {
            for &(column, from) in &relation.generated {
                if !self.covers.contains_key(&(relation.oid, from)) {
                    continue;
                }
                let Some(column) = relation.attribute(column) else {
                    continue;
                };
                for shows in reachable(catalog, vec![relation.oid], |r| &r.parents) {
                    if let Some(same) = shows.column(&column.name) {
                        let generated = (shows.oid, same.attnum);
                        self.covers.entry(generated).or_insert(Own::Opaque);
                    }
                }
            }
        }
    }

    /// Statistics, large objects and the statements of other sessions can hold any masked value. A
    /// column that does among others is NULL.
    fn over_showing(&mut self) {
        for relation in self.catalog.relations() {
            let (schema, name) = (&*relation.schema, &*relation.name);
            let all = showing::relation(schema, name);
            for column in &relation.columns {
                let key = (relation.oid, column.attnum);
                if all {
                    self.covers.insert(key, Own::Opaque);
                } else if showing::column(schema, name, &column.name) {
                    self.cover(key, &Mask::Null);
                }
            }
        }
    }

    /// Covers a view's columns, after those of the views that it reads. Returns whether it reads
    /// anything masked.
    fn view(&mut self, oid: Oid, depth: u32) -> bool {
        // Circular or absurdly deep: not understood, so sensitive.
        const MAX_VIEWS: u32 = 256;
        if let Some(&known) = self.views.get(&oid) {
            return known;
        }
        let catalog = self.catalog;
        let Some(relation) = catalog.relation(oid) else {
            return true;
        };
        if depth > MAX_VIEWS {
            return true;
        }
        let mut below_is_sensitive = false;
        for &below in &relation.reads {
            below_is_sensitive |= self.view(below, depth + 1);
        }
        let reads_masked = below_is_sensitive
            || match &relation.depends {
                Depends::Columns(columns) => columns.iter().any(|column| self.is_covered(*column)),
                Depends::Unknown => true,
                Depends::System => self.masks_system,
            };
        self.cover_view(relation, reads_masked);
        self.views.insert(oid, reads_masked);
        reads_masked
    }

    fn cover_view(&mut self, relation: &Relation, reads_masked: bool) {
        for column in &relation.columns {
            let key = (relation.oid, column.attnum);
            match column.via {
                Some(via) => match self.covers.get(&via).cloned() {
                    Some(Own::Masked(mask)) => self.cover(key, &mask),
                    Some(Own::Opaque) => drop(self.covers.insert(key, Own::Opaque)),
                    None if self.is_known(via) => {}
                    None => drop(self.covers.insert(key, Own::Opaque)),
                },
                None if reads_masked && column.origin == crate::catalog::Origin::Opaque => {
                    self.covers.insert(key, Own::Opaque);
                }
                None => {}
            }
        }
    }

    fn is_known(&self, (oid, attnum): (Oid, AttNum)) -> bool {
        self.catalog
            .relation(oid)
            .is_some_and(|r| attnum < 0 || r.attribute(attnum).is_some())
    }

    fn is_covered(&self, (oid, attnum): (Oid, AttNum)) -> bool {
        match self.catalog.relation(oid) {
            None => true,
            Some(relation) if attnum == 0 => relation
                .columns
                .iter()
                .any(|column| self.covers.contains_key(&(oid, column.attnum))),
            Some(_) => self.covers.contains_key(&(oid, attnum)),
        }
    }
}

/// The relations through which any row of a table can be read, itself among them: its descendants,
/// its ancestors, and, as a table can have several parents, the other ancestors of its descendants.
fn kin<'a>(catalog: &'a Catalog, relation: &Relation) -> Vec<&'a Relation> {
    let below = reachable(catalog, vec![relation.oid], |r| &r.children);
    let below = below.into_iter().map(|relation| relation.oid).collect();
    reachable(catalog, below, |r| &r.parents)
}

/// These relations and all that `next` leads to from them.
fn reachable(
    catalog: &Catalog,
    mut open: Vec<Oid>,
    next: fn(&Relation) -> &[Oid],
) -> Vec<&Relation> {
    let mut found: HashMap<Oid, &Relation> = HashMap::new();
    while let Some(oid) = open.pop() {
        if let Some(relation) = catalog.relation(oid)
            && found.insert(oid, relation).is_none()
        {
            open.extend(next(relation));
        }
    }
    found.into_values().collect()
}

#[cfg(test)]
mod tests;
