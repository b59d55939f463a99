//! What a statement does with columns, by name.
//!
//! The analysis has no catalog: it can't tell which relation an unqualified column belongs to. So
//! it reasons over *names*, and errs on the side of finding a use. The statement is a graph:
//!
//! - a node for each column name, for each item of a FROM (a *binding*) and for each query;
//! - an edge where a value may flow: a source column to its alias, a query's output to the query,
//!   a query to the binding that names it, a binding to its column aliases.
//!
//! Masked columns and the bindings of masked relations are the starting points; what they reach
//! is tainted. A use is a node that occurs anywhere but as a plain output; one that is tainted is
//! forbidden. All of it is linear in the size of the statement.

use std::collections::HashMap;

use super::Name;

/// A node of the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeId(usize);

impl NodeId {
    fn index(self) -> usize {
        self.0
    }
}

/// How a statement uses columns: enough to tell, for any set of masked columns, whether one is
/// used elsewhere than as a plain output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ColumnUse {
    /// One per node: the column or alias, or `ANONYMOUS`.
    labels: Vec<Box<str>>,
    columns: HashMap<Box<str>, NodeId>,
    /// One node for all bindings of an alias: two of them in different scopes are not told apart.
    aliases: HashMap<Box<str>, NodeId>,
    relations: Vec<(Name, NodeId)>,
    edges: Vec<(NodeId, NodeId)>,
    used: Vec<NodeId>,
    /// Something was not understood: everything counts as used.
    opaque: bool,
}

/// The label of queries and joins. No identifier is empty.
const ANONYMOUS: &str = "";

impl ColumnUse {
    /// The first use of a masked column anywhere but in a plain output: its name, or that of the
    /// relation or alias whose whole row is used. `masked` gives the masked columns of a relation
    /// that the statement names, `*` for every one; `None` where it has none. Errs on the side of
    /// `Some`.
    pub fn forbidden_use(
        &self,
        masked: &dyn Fn(&Name) -> Option<Vec<Box<str>>>,
    ) -> Option<Box<str>> {
        let mut start = Vec::new();
        let mut relation_label = None;
        for (relation, node) in &self.relations {
            let Some(columns) = masked(relation) else {
                continue;
            };
            relation_label.get_or_insert(&relation.name);
            start.push(*node);
            if columns.iter().any(|column| &**column == "*") {
                // Which of the statement's columns are this relation's isn't known.
                start.extend(self.columns.values());
            } else {
                start.extend(columns.iter().filter_map(|c| self.columns.get(c)));
            }
        }
        let relation_label = relation_label?;
        if self.opaque {
            return Some(relation_label.clone());
        }
        let tainted = self.reach(start);
        let is_tainted = |n: NodeId| tainted[n.index()];
        let node = self.used.iter().copied().find(|n| is_tainted(*n))?;
        let named = |n: &NodeId| &*self.labels[n.index()] != ANONYMOUS;
        let sources = self.edges.iter().filter(|(_, to)| *to == node);
        let label = std::iter::once(node)
            .chain(sources.map(|(from, _)| *from).filter(|n| is_tainted(*n)))
            .find(named)
            .map_or(relation_label, |n| &self.labels[n.index()]);
        Some(label.clone())
    }

    /// How many things it holds.
    pub(super) fn size(&self) -> usize {
        self.labels.len() + self.relations.len() + self.edges.len() + self.used.len()
    }

    /// Whether a column or alias of this name occurs anywhere.
    pub fn mentions(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    fn reach(&self, start: Vec<NodeId>) -> Vec<bool> {
        let mut next: Vec<Vec<NodeId>> = vec![Vec::new(); self.labels.len()];
        for (from, to) in &self.edges {
            next[from.index()].push(*to);
        }
        let mut tainted = vec![false; self.labels.len()];
        let mut todo = start;
        while let Some(node) = todo.pop() {
            if !std::mem::replace(&mut tainted[node.index()], true) {
                todo.extend(&next[node.index()]);
            }
        }
        tainted
    }

    fn node(&mut self, label: &str) -> NodeId {
        let id = NodeId(self.labels.len());
        self.labels.push(label.into());
        id
    }

    /// The node of all columns of this name.
    pub(super) fn column(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.columns.get(name) {
            return *id;
        }
        let id = self.node(name);
        self.columns.insert(name.into(), id);
        id
    }

    /// The node of the whole row of whatever is called so, wherever in the statement.
    pub(super) fn row(&mut self, alias: &str) -> NodeId {
        if let Some(id) = self.aliases.get(alias) {
            return *id;
        }
        let id = self.node(alias);
        self.aliases.insert(alias.into(), id);
        id
    }

    /// The node of a query or join as a whole.
    pub(super) fn query(&mut self) -> NodeId {
        self.node(ANONYMOUS)
    }

    /// An item of a FROM, or a target; `relation` where it is one and no CTE.
    pub(super) fn bind(&mut self, alias: &str, relation: Option<Name>) -> NodeId {
        let node = self.node(alias);
        if let Some(relation) = relation {
            self.relations.push((relation, node));
        }
        let row = self.row(alias);
        self.flow(node, row);
        node
    }

    /// A value may flow from one node to another.
    pub(super) fn flow(&mut self, from: NodeId, to: NodeId) {
        if from != to {
            self.edges.push((from, to));
        }
    }

    /// A node occurs other than as a plain output.
    pub(super) fn use_node(&mut self, node: NodeId) {
        self.used.push(node);
    }

    /// A name stands alone in an expression: a column, or the whole row of what is called so.
    pub(super) fn use_bare(&mut self, name: &str) {
        let column = self.column(name);
        let row = self.row(name);
        self.used.extend([column, row]);
    }

    /// From here on nothing is known about the statement.
    pub(super) fn set_opaque(&mut self) {
        self.opaque = true;
    }
}
