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
            let shows = relation
                .columns
                .iter()
                .any(|c| spread.covers.contains_key(&(relation.oid, c.attnum)));
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

    /// Statistics, large objects and the statements of other sessions can hold any masked value.
    fn over_showing(&mut self) {
        let showing = |relation: &&Relation| showing::relation(&relation.schema, &relation.name);
        for relation in self.catalog.relations().filter(showing) {
            for column in &relation.columns {
                self.covers
                    .insert((relation.oid, column.attnum), Own::Opaque);
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
mod tests {
    use super::*;
    use crate::catalog::{
        ColumnRow, Facts, FunctionRow, InheritsRow, RelationRow, RuleRow, SnapshotRows,
    };

    fn relation(oid: Oid, name: &str, kind: char) -> RelationRow {
        RelationRow {
            oid,
            schema: "public".into(),
            name: name.into(),
            kind,
        }
    }

    fn system(oid: Oid, name: &str, kind: char) -> RelationRow {
        RelationRow {
            schema: "pg_catalog".into(),
            ..relation(oid, name, kind)
        }
    }

    fn inherits(child: Oid, parent: Oid) -> InheritsRow {
        InheritsRow { child, parent }
    }

    /// A rule of these (origin, column) outputs that reads these relations and calls these functions.
    fn rule(view: Oid, reads: &[Oid], outputs: &[(Oid, AttNum)], functions: &[Oid]) -> RuleRow {
        let tables: String = reads
            .iter()
            .map(|oid| format!("{{RTE :relid {oid}}} "))
            .collect();
        let calls: String = functions
            .iter()
            .map(|oid| format!("{{F :funcid {oid}}} "))
            .collect();
        let targets: String = (1..)
            .zip(outputs)
            .map(|(resno, (oid, attnum))| {
                format!(
                    "{{TARGETENTRY :resno {resno} :resorigtbl {oid} :resorigcol {attnum} :resjunk false}} "
                )
            })
            .collect();
        let action =
            format!("({{QUERY :rtable ({tables}) :calls ({calls}) :targetList ({targets})}})");
        RuleRow {
            view,
            action: action.into(),
        }
    }

    const CUSTOMERS: Oid = 20_000;
    const CHILD: Oid = 20_001;
    const SIBLING: Oid = 20_002;
    const GRANDCHILD: Oid = 20_003;
    const PLAIN: Oid = 20_010;
    const OVER_PLAIN: Oid = 20_011;
    const UNION: Oid = 20_012;
    const OVER_UNION: Oid = 20_013;
    const FILTERED: Oid = 20_014;
    const CODE: Oid = 20_015;
    const RULELESS: Oid = 20_016;
    const COUNT: Oid = 20_017;
    const OTHER_PARENT: Oid = 20_018;
    const OTHER_GRANDPARENT: Oid = 20_019;
    const OTHER_CHILD: Oid = 20_020;
    const OVER_STATS: Oid = 20_021;
    const OVER_OVER_STATS: Oid = 20_022;
    const OVER_STATISTIC: Oid = 20_023;
    const BY_STAT_FUNCTION: Oid = 20_024;
    const OVER_SYSTEM: Oid = 20_025;
    const SYSTEM_VIEW: Oid = 12_000;
    const STATS: Oid = 12_001;
    const STATISTIC: Oid = 12_002;
    const STAT_FUNCTION: Oid = 3_000;

    /// Tables of (id, ssn) and views over them.
    fn catalog() -> Catalog {
        let mut rows = SnapshotRows {
            relations: vec![
                relation(CUSTOMERS, "customers", 'p'),
                relation(CHILD, "child", 'p'),
                relation(SIBLING, "sibling", 'r'),
                relation(GRANDCHILD, "grandchild", 'r'),
                relation(PLAIN, "plain", 'v'),
                relation(OVER_PLAIN, "over_plain", 'v'),
                relation(UNION, "onion", 'm'),
                relation(OVER_UNION, "over_union", 'v'),
                relation(FILTERED, "filtered", 'v'),
                relation(CODE, "code", 'v'),
                relation(RULELESS, "ruleless", 'v'),
                relation(COUNT, "count", 'v'),
                relation(OTHER_PARENT, "other_parent", 'r'),
                relation(OTHER_GRANDPARENT, "other_grandparent", 'r'),
                relation(OTHER_CHILD, "other_child", 'r'),
                relation(SYSTEM_VIEW, "pg_view", 'v'),
                system(STATS, "pg_stats", 'v'),
                system(STATISTIC, "pg_statistic", 'r'),
                relation(OVER_STATS, "over_stats", 'v'),
                relation(OVER_OVER_STATS, "over_over_stats", 'v'),
                relation(OVER_STATISTIC, "over_statistic", 'm'),
                relation(BY_STAT_FUNCTION, "by_stat_function", 'v'),
                relation(OVER_SYSTEM, "over_system", 'v'),
            ],
            inherits: vec![
                inherits(CHILD, CUSTOMERS),
                inherits(SIBLING, CUSTOMERS),
                inherits(GRANDCHILD, CHILD),
                inherits(GRANDCHILD, OTHER_PARENT),
                inherits(OTHER_PARENT, OTHER_GRANDPARENT),
                inherits(OTHER_CHILD, OTHER_PARENT),
            ],
            rules: vec![
                rule(PLAIN, &[CUSTOMERS], &[(CUSTOMERS, 1), (CUSTOMERS, 2)], &[]),
                rule(OVER_PLAIN, &[PLAIN], &[(PLAIN, 2), (PLAIN, 1)], &[]),
                rule(UNION, &[CUSTOMERS], &[(CUSTOMERS, 1), (0, 0)], &[]),
                rule(OVER_UNION, &[UNION], &[(UNION, 1), (UNION, 2)], &[]),
                rule(
                    FILTERED,
                    &[CUSTOMERS],
                    &[(CUSTOMERS, 1), (CUSTOMERS, 1)],
                    &[],
                ),
                rule(CODE, &[], &[(0, 0), (0, 0)], &[30_000]),
                rule(COUNT, &[CUSTOMERS], &[(0, 0), (0, 0)], &[]),
                rule(OVER_STATS, &[STATS], &[(STATS, 1), (0, 0)], &[]),
                rule(
                    OVER_OVER_STATS,
                    &[OVER_STATS],
                    &[(0, 0), (OVER_STATS, 2)],
                    &[],
                ),
                rule(OVER_STATISTIC, &[STATISTIC], &[(STATISTIC, 1), (0, 0)], &[]),
                rule(BY_STAT_FUNCTION, &[], &[(0, 0), (0, 0)], &[STAT_FUNCTION]),
                rule(
                    OVER_SYSTEM,
                    &[SYSTEM_VIEW],
                    &[(SYSTEM_VIEW, 1), (0, 0)],
                    &[],
                ),
            ],
            // `ssn` of a child is computed from its `id`.
            generated: vec![(GRANDCHILD, 2, 1)],
            functions: vec![FunctionRow {
                oid: STAT_FUNCTION,
                schema: "pg_catalog".into(),
                name: "pg_stat_get_activity".into(),
                volatility: 's',
                kind: 'f',
                language: "internal".into(),
            }],
            depends: vec![
                (PLAIN, CUSTOMERS, 1),
                (PLAIN, CUSTOMERS, 2),
                (OVER_PLAIN, PLAIN, 1),
                (OVER_PLAIN, PLAIN, 2),
                (UNION, CUSTOMERS, 1),
                (UNION, CUSTOMERS, 2),
                (OVER_UNION, UNION, 1),
                (OVER_UNION, UNION, 2),
                (FILTERED, CUSTOMERS, 1),
                (FILTERED, CUSTOMERS, 2),
            ],
            ..SnapshotRows::default()
        };
        for relation in &rows.relations {
            for (attnum, name) in [(1, "id"), (2, "ssn")] {
                rows.columns.push(ColumnRow {
                    relation: relation.oid,
                    attnum,
                    name: name.into(),
                    type_oid: 25,
                    typmod: -1,
                });
            }
        }
        Catalog::build(rows)
    }

    fn request(object: &'static str, column: &str, mask: Mask) -> Request {
        Request {
            objects: Arc::new(move |schema, name| {
                schema.is_none_or(|s| s == "public") && name == object
            }),
            columns: [column.into()].into(),
            mask,
            rule: "rule".into(),
        }
    }

    fn masks(requests: &[(&'static str, &str, Mask)]) -> MaskSet {
        let requests = requests
            .iter()
            .map(|(o, c, m)| request(o, c, m.clone()))
            .collect();
        let (set, unresolved) = resolve(requests, &catalog());
        assert_eq!(unresolved, []);
        set
    }

    const REDACTED: Cover<'_> = Cover::Masked(&Mask::Redact);

    #[test]
    fn a_table_its_descendants_and_plain_views_are_masked_alike() {
        let set = masks(&[("customers", "ssn", Mask::Redact)]);
        for oid in [CUSTOMERS, CHILD, SIBLING, GRANDCHILD, PLAIN] {
            assert_eq!(
                (set.of(oid, 1), set.of(oid, 2)),
                (Cover::Clear, REDACTED),
                "{oid}"
            );
        }
        assert_eq!(
            (set.of(OVER_PLAIN, 1), set.of(OVER_PLAIN, 2)),
            (REDACTED, Cover::Clear)
        );
    }

    #[test]
    fn a_masked_child_masks_its_ancestors_but_not_its_siblings() {
        let set = masks(&[("grandchild", "ssn", Mask::Redact)]);
        for oid in [GRANDCHILD, CHILD, CUSTOMERS, PLAIN] {
            assert_eq!(set.of(oid, 2), REDACTED, "{oid}");
        }
        assert_eq!(set.of(SIBLING, 2), Cover::Clear);
    }

    #[test]
    fn other_parents_of_a_descendant_show_its_rows_and_are_masked() {
        let set = masks(&[("customers", "ssn", Mask::Redact)]);
        for oid in [OTHER_PARENT, OTHER_GRANDPARENT] {
            assert_eq!(
                (set.of(oid, 1), set.of(oid, 2)),
                (Cover::Clear, REDACTED),
                "{oid}"
            );
        }
        assert_eq!(set.of(OTHER_CHILD, 2), Cover::Clear);
    }

    #[test]
    fn what_a_descendant_computes_from_a_masked_column_is_opaque_in_all_its_ancestors() {
        let set = masks(&[("other_parent", "id", Mask::Redact)]);
        for oid in [GRANDCHILD, CHILD, CUSTOMERS, OTHER_PARENT] {
            assert_eq!(
                (set.of(oid, 1), set.of(oid, 2)),
                (REDACTED, Cover::Opaque),
                "{oid}"
            );
        }
        assert_eq!(set.of(SIBLING, 2), Cover::Clear);
    }

    #[test]
    fn a_mask_on_a_view_guards_the_views_above_it_and_not_the_table_below() {
        let set = masks(&[("plain", "ssn", Mask::Redact)]);
        assert_eq!(
            (set.of(PLAIN, 2), set.of(OVER_PLAIN, 1)),
            (REDACTED, REDACTED)
        );
        assert_eq!(set.of(CUSTOMERS, 2), Cover::Clear);
    }

    #[test]
    fn computed_view_columns_over_masked_ones_are_opaque_at_every_height() {
        let set = masks(&[("customers", "ssn", Mask::Redact)]);
        for oid in [UNION, OVER_UNION] {
            assert_eq!(
                (set.of(oid, 1), set.of(oid, 2)),
                (Cover::Clear, Cover::Opaque),
                "{oid}"
            );
        }
        assert_eq!(set.of(COUNT, 1), Cover::Clear);
        for oid in [CODE, RULELESS] {
            assert_eq!(
                (set.of(oid, 1), set.of(oid, 2)),
                (Cover::Opaque, Cover::Opaque),
                "{oid}"
            );
        }
        assert_eq!(set.of(SYSTEM_VIEW, 2), Cover::Clear);
    }

    #[test]
    fn views_over_a_masked_system_catalog_are_opaque() {
        let set = masks(&[("pg_view", "ssn", Mask::Redact)]);
        assert_eq!(set.of(SYSTEM_VIEW, 1), Cover::Opaque);
    }

    #[test]
    fn what_shows_others_values_is_opaque_with_all_views_over_it_where_anything_is_masked() {
        let set = masks(&[("customers", "ssn", Mask::Redact)]);
        let over = [
            OVER_STATS,
            OVER_OVER_STATS,
            OVER_STATISTIC,
            BY_STAT_FUNCTION,
        ];
        for oid in [STATS, STATISTIC].into_iter().chain(over) {
            assert_eq!(
                (set.of(oid, 1), set.of(oid, 2), set.is_sensitive(oid)),
                (Cover::Opaque, Cover::Opaque, true),
                "{oid}"
            );
        }
        // The server's other views show catalogs only.
        assert_eq!(
            (set.of(OVER_SYSTEM, 1), set.of(OVER_SYSTEM, 2)),
            (Cover::Clear, Cover::Clear)
        );
        let (none, _) = resolve(Vec::new(), &catalog());
        assert_eq!(none.of(OVER_STATS, 2), Cover::Clear);
    }

    #[test]
    fn a_view_that_filters_by_a_masked_column_is_clear_but_sensitive() {
        let set = masks(&[("customers", "ssn", Mask::Redact)]);
        assert_eq!(
            (set.of(FILTERED, 1), set.is_sensitive(FILTERED)),
            (Cover::Clear, true)
        );
        assert!(set.is_sensitive(CUSTOMERS) && set.is_sensitive(99_999));
        assert!(!set.is_sensitive(COUNT));
        assert_eq!(set.of(FILTERED, 0), Cover::Clear);
    }

    #[test]
    fn whole_rows_of_masked_relations_are_opaque_and_the_unknown_is_unknown() {
        let set = masks(&[("customers", "ssn", Mask::Redact)]);
        assert_eq!(
            (set.of(CUSTOMERS, 0), set.of(PLAIN, 0)),
            (Cover::Opaque, Cover::Opaque)
        );
        assert_eq!(
            (set.of(SYSTEM_VIEW, 0), set.of(CUSTOMERS, -1)),
            (Cover::Clear, Cover::Clear)
        );
        assert_eq!(
            (set.of(99_999, 1), set.of(CUSTOMERS, 3)),
            (Cover::Unknown, Cover::Unknown)
        );
        let (none, _) = resolve(Vec::new(), &catalog());
        assert_eq!((none.of(99_999, 1), none.is_empty()), (Cover::Clear, true));
        let (blind, unresolved) = resolve(
            vec![request("customers", "ssn", Mask::Redact)],
            &Catalog::default(),
        );
        assert_eq!(
            (blind.of(CUSTOMERS, 1), unresolved.len()),
            (Cover::Unknown, 1)
        );
    }

    #[test]
    fn of_several_masks_on_a_column_the_strictest_wins_in_any_order() {
        let mut two = [
            ("customers", "ssn", Mask::Card),
            ("customers", "*", Mask::Redact),
        ];
        assert_eq!(masks(&two).of(CUSTOMERS, 2), REDACTED);
        two.reverse();
        assert_eq!(masks(&two).of(CUSTOMERS, 2), REDACTED);
    }

    #[test]
    fn columns_that_no_relation_has_are_told() {
        let (_, unresolved) = resolve(
            vec![
                request("customers", "sn", Mask::Null),
                request("no", "x", Mask::Null),
            ],
            &catalog(),
        );
        let told: Vec<_> = unresolved.iter().map(|u| (&*u.column, u.matched)).collect();
        assert_eq!(told, [("sn", true), ("x", false)]);
        assert_eq!(
            unresolved[0].to_string(),
            "rule \"rule\" masks a column that doesn't exist: no relation that it names has \"sn\""
        );
    }

    #[test]
    fn names_are_given_by_relation_and_for_relations_not_in_the_snapshot() {
        let set = masks(&[("customers", "ssn", Mask::Redact)]);
        let catalog = catalog();
        let masked = |oid| set.masked_columns(catalog.relation(oid).expect("known"));
        assert_eq!(masked(PLAIN), Some(vec!["ssn".into()]));
        assert_eq!(masked(COUNT), None);
        let named = |schema: Option<&str>, name: &str| {
            set.masked_columns_by_name(&sql::Name {
                schema: schema.map(Into::into),
                name: name.into(),
            })
        };
        assert_eq!(named(None, "customers"), Some(vec!["ssn".into()]));
        assert_eq!(
            (named(Some("other"), "customers"), named(None, "orders")),
            (None, None)
        );
    }

    #[test]
    fn rows_as_the_server_sends_them_build_the_same_generation() {
        let rows = |kind: &str| {
            let mut rows = SnapshotRows::default();
            let cells = ["1", "public", "t", kind].map(|cell| Some(cell.to_owned()));
            rows.add(Facts::Relations, vec![cells.to_vec()])
                .expect("valid");
            Catalog::build(rows).generation()
        };
        assert_eq!(rows("r"), rows("r"));
        assert_ne!(rows("r"), rows("v"));
        assert_eq!(Catalog::default().generation(), 0);
    }
}
