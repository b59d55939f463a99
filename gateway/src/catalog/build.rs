//! From rows to a [`Catalog`]: indexes, and views' columns traced to their tables.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::nodetree::{self, Rule};
use super::rows::{ColumnRow, FunctionRow, InheritsRow, RelationRow, SnapshotRows, TypeRow};
use super::showing;
use super::{
    AttNum, Catalog, Column, Depends, FIRST_NORMAL_OID, Function, FunctionKind, Oid, Origin,
    RelKind, Relation, Type, TypeKind, Volatility,
};

pub(super) fn build(rows: SnapshotRows) -> Catalog {
    let mut catalog = Catalog {
        generation: generation(&rows),
        search_path: rows.search_path.clone().into(),
        types: Arc::new(rows.types.into_iter().map(type_of).collect()),
        ..Catalog::default()
    };
    for row in rows.functions {
        add_function(&mut catalog, row);
    }
    for row in rows.relations {
        add_relation(&mut catalog, row);
    }
    add_columns(&mut catalog, rows.columns);
    for (schema, name) in rows.indexes {
        catalog.indexes.entry(name).or_default().push(schema);
    }
    for row in rows.inherits {
        add_inheritance(&mut catalog, &row);
    }
    for (oid, column, from) in rows.generated {
        if let Some(&index) = catalog.by_oid.get(&oid) {
            catalog.relations[index].generated.push((column, from));
        }
    }
    let mut columns_of: HashMap<Oid, Vec<(Oid, AttNum)>> = HashMap::new();
    for (view, relation, attnum) in rows.depends {
        columns_of.entry(view).or_default().push((relation, attnum));
    }
    for row in rows.rules {
        // A rule that isn't understood leaves its view opaque.
        if let (Some(&index), Ok(rule)) =
            (catalog.by_oid.get(&row.view), nodetree::parse(&row.action))
        {
            let depends = columns_of.remove(&row.view).unwrap_or_default();
            apply_rule(&mut catalog, index, rule, depends);
        }
    }
    trace_origins(&mut catalog);
    catalog
}

fn add_relation(catalog: &mut Catalog, row: RelationRow) {
    let Some(kind) = relation_kind(row.kind) else {
        return;
    };
    let index = catalog.relations.len();
    catalog.by_oid.insert(row.oid, index);
    catalog
        .by_name
        .entry(row.name.clone())
        .or_default()
        .push(index);
    catalog.relations.push(Relation {
        oid: row.oid,
        schema: row.schema,
        name: row.name,
        kind,
        columns: Vec::new(),
        depends: depends_without_rule(kind, row.oid),
        reads: Vec::new(),
        functions: Vec::new(),
        parents: Vec::new(),
        children: Vec::new(),
        generated: Vec::new(),
    });
}

fn add_columns(catalog: &mut Catalog, rows: Vec<ColumnRow>) {
    for row in rows {
        let Some(&index) = catalog.by_oid.get(&row.relation) else {
            continue;
        };
        let relation = &mut catalog.relations[index];
        relation.columns.push(Column {
            attnum: row.attnum,
            name: row.name,
            type_oid: row.type_oid,
            typmod: row.typmod,
            origin: if is_view(relation.kind) {
                Origin::Opaque
            } else {
                Origin::Own
            },
            via: None,
        });
    }
    let mut extents = HashMap::with_capacity(catalog.relations.len());
    for relation in &mut catalog.relations {
        relation.columns.sort_by_key(|column| column.attnum);
        let last = relation.columns.last().map_or(0, |column| column.attnum);
        extents.insert(relation.oid, last);
    }
    catalog.extents = Arc::new(extents);
}

fn add_inheritance(catalog: &mut Catalog, row: &InheritsRow) {
    // Indexes inherit too, and aren't here.
    if let (Some(&child), Some(&parent)) = (
        catalog.by_oid.get(&row.child),
        catalog.by_oid.get(&row.parent),
    ) {
        catalog.relations[child].parents.push(row.parent);
        catalog.relations[parent].children.push(row.child);
    }
}

/// Never 0 for anything that was loaded, so that it differs from the empty catalog's.
fn generation(rows: &SnapshotRows) -> u64 {
    // `new` has fixed keys: the same rows give the same number in every run of this build.
    let mut hasher = DefaultHasher::new();
    rows.hash(&mut hasher);
    hasher.finish().max(1)
}

fn is_view(kind: RelKind) -> bool {
    matches!(kind, RelKind::View | RelKind::MaterializedView)
}

fn relation_kind(kind: char) -> Option<RelKind> {
    Some(match kind {
        'r' => RelKind::Table,
        'p' => RelKind::Partitioned,
        'f' => RelKind::Foreign,
        'v' => RelKind::View,
        'm' => RelKind::MaterializedView,
        'S' => RelKind::Sequence,
        _ => return None,
    })
}

fn depends_without_rule(kind: RelKind, oid: Oid) -> Depends {
    match is_view(kind) {
        false => Depends::Columns(Vec::new()),
        true if oid < FIRST_NORMAL_OID => Depends::System,
        true => Depends::Unknown,
    }
}

fn add_function(catalog: &mut Catalog, row: FunctionRow) {
    let index = catalog.functions.len();
    catalog.functions_by_oid.insert(row.oid, index);
    catalog
        .functions_by_name
        .entry(row.name.clone())
        .or_default()
        .push(index);
    catalog.functions.push(Function {
        oid: row.oid,
        builtin: row.oid < FIRST_NORMAL_OID && &*row.schema == "pg_catalog",
        schema: row.schema,
        name: row.name,
        volatility: match row.volatility {
            'i' => Volatility::Immutable,
            's' => Volatility::Stable,
            _ => Volatility::Volatile,
        },
        kind: match row.kind {
            'f' => FunctionKind::Function,
            'a' => FunctionKind::Aggregate,
            'w' => FunctionKind::Window,
            _ => FunctionKind::Procedure,
        },
        language: row.language,
    });
}

fn type_of(row: TypeRow) -> (Oid, Type) {
    // `int2vector` and `oidvector` are of category A, but their text is no array's.
    const VECTORS: [Oid; 2] = [22, 30];
    let kind = match row.kind {
        'b' if row.category == 'A' && row.element != 0 && !VECTORS.contains(&row.oid) => {
            TypeKind::Array(row.element)
        }
        'b' => TypeKind::Base,
        'd' => TypeKind::Domain(row.base),
        _ => TypeKind::Other,
    };
    (
        row.oid,
        Type {
            name: row.name,
            kind,
        },
    )
}

/// Notes what a view's rule says. What it leaves unsaid stays opaque.
fn apply_rule(catalog: &mut Catalog, index: usize, rule: Rule, mut depends: Vec<(Oid, AttNum)>) {
    let own = catalog.relations[index].oid;
    // A whole row leaves no columns in pg_depend, and the server's own catalogs leave nothing.
    depends.extend(
        rule.relations
            .iter()
            .filter(|&&oid| oid != own && (rule.whole_row || oid < FIRST_NORMAL_OID))
            .map(|&oid| (oid, 0)),
    );
    depends.sort_unstable();
    depends.dedup();
    let reads_anything = rule
        .functions
        .iter()
        .any(|&oid| reads_anything(catalog, oid));

    let view = &mut catalog.relations[index];
    view.depends = if reads_anything {
        Depends::Unknown
    } else {
        Depends::Columns(depends)
    };
    view.reads = rule.relations;
    view.reads.retain(|&oid| oid != own);
    view.functions = rule.functions;
    view.functions.sort_unstable();
    for column in &mut view.columns {
        let mut targets = rule
            .targets
            .iter()
            .filter(|target| target.resno == column.attnum);
        // A second target of the same number would be a rule that we don't understand.
        if let (Some(target), None) = (targets.next(), targets.next())
            && target.origin != 0
            && target.attnum != 0
        {
            column.via = Some((target.origin, target.attnum));
        }
    }
}

/// Whether a function may read tables that the rule itself doesn't name: those that run a query
/// given as text or show values by other means, and code in a language that can.
fn reads_anything(catalog: &Catalog, oid: Oid) -> bool {
    let Some(function) = catalog.function(oid) else {
        return true;
    };
    if showing::function(&function.name) {
        return true;
    }
    if function.oid < FIRST_NORMAL_OID {
        return false;
    }
    // A user's aggregate is of language internal whatever its parts are written in.
    function.kind == FunctionKind::Aggregate || !is_trusted_code(function)
}

/// Whether an extension's function is compiled code that reads no tables. Only a superuser can
/// make one, and who declares it immutable says that it looks at its arguments alone. One that
/// isn't may run SQL that it is given (`crosstab`, `connectby`) or read a table's pages
/// (`get_raw_page`): their names can't all be known, so those that are harmless are.
fn is_trusted_code(function: &Function) -> bool {
    /// Of unaccent, pg_trgm, uuid-ossp and pgcrypto: text search, comparison, random values.
    const HARMLESS: [&str; 12] = [
        "gen_random_bytes",
        "gen_random_uuid",
        "gen_salt",
        "similarity_op",
        "strict_word_similarity_commutator_op",
        "strict_word_similarity_op",
        "unaccent",
        "uuid_generate_v1",
        "uuid_generate_v1mc",
        "uuid_generate_v4",
        "word_similarity_commutator_op",
        "word_similarity_op",
    ];
    matches!(&*function.language, "internal" | "c")
        && (function.volatility == Volatility::Immutable || HARMLESS.contains(&&*function.name))
}

/// Follows every view's column through the views below it.
fn trace_origins(catalog: &mut Catalog) {
    let mut traced = Vec::new();
    for (r, relation) in catalog.relations.iter().enumerate() {
        for (c, column) in relation.columns.iter().enumerate() {
            if let Some(via) = column.via {
                traced.push((r, c, trace(catalog, via)));
            }
        }
    }
    for (r, c, origin) in traced {
        catalog.relations[r].columns[c].origin = origin;
    }
}

fn trace(catalog: &Catalog, from: (Oid, AttNum)) -> Origin {
    // Views can't be circular; a snapshot that says otherwise isn't understood.
    const MAX_VIEWS: usize = 256;
    let (mut oid, mut attnum) = from;
    for _ in 0..MAX_VIEWS {
        let Some(relation) = catalog.relation(oid) else {
            return Origin::Opaque;
        };
        if attnum < 0 {
            return Origin::Plain { oid, attnum };
        }
        let Some(column) = relation.attribute(attnum) else {
            return Origin::Opaque;
        };
        match column.via {
            Some(next) => (oid, attnum) = next,
            None if is_view(relation.kind) => return Origin::Opaque,
            None => return Origin::Plain { oid, attnum },
        }
    }
    Origin::Opaque
}
