//! The items of a FROM or USING: relations, CTEs, sub-selects, joins, functions.

use pg_raw_parse::{
    Node,
    nodes::{Alias, JoinExpr, RangeVar},
};

use super::{
    Effect, Name,
    columns::NodeId,
    query::Flow,
    walk::{Outputs, Walk, Walked},
};

impl Walk {
    /// An item of a FROM or USING; appends the nodes that `*` over it stands for.
    pub(super) fn item_of_from(&mut self, node: Node<'_>, items: &mut Vec<NodeId>) -> Walked {
        match node {
            Node::RangeVar(r) => {
                items.push(self.range_var(r));
                Ok(())
            }
            Node::RangeSubselect(s) => self.nested(|w| {
                let outputs = w.query(s.subquery(), Flow::Plain)?;
                items.push(w.bind_query(&outputs, s.alias(), ""));
                Ok(())
            }),
            Node::JoinExpr(j) => self.nested(|w| w.join(j, items)),
            // What functions give is computed from their arguments, which are uses.
            Node::RangeFunction(f) => self.nested(|w| {
                for function in f.functions() {
                    w.range_function(function)?;
                }
                w.column_definitions(f.coldeflist().iter())
            }),
            Node::RangeTableFunc(x) => self.nested(|w| {
                w.expr(x.docexpr())?;
                w.expr(x.rowexpr())?;
                w.exprs(x.namespaces())?;
                for column in x.columns() {
                    w.type_name(column.type_name())?;
                    w.expr(column.colexpr())?;
                    w.expr(column.coldefexpr())?;
                }
                Ok(())
            }),
            Node::RangeTableSample(s) => self.nested(|w| {
                w.item_of_from(s.relation(), items)?;
                let method = Name::from_parts(s.method());
                let built_in = [Name::bare("bernoulli"), Name::bare("system")];
                if !method.is_some_and(|m| built_in.contains(&m)) {
                    w.function(s.method());
                }
                w.exprs(s.args())?;
                w.expr(s.repeatable())
            }),
            Node::JsonTable(t) => self.nested(|w| w.json_table(t)),
            other => {
                self.unlisted(other);
                Ok(())
            }
        }
    }

    /// `f(..)` or `f(..) AS (a int, ..)`, as a list of two.
    fn range_function(&mut self, function: Node<'_>) -> Walked {
        let Node::NodeList(parts) = function else {
            self.unlisted(function);
            return Ok(());
        };
        for part in parts {
            match part {
                Node::NodeList(definitions) => {
                    for definition in definitions {
                        match definition {
                            Node::ColumnDef(d) => self.type_name(d.type_name())?,
                            other => self.unlisted(other),
                        }
                    }
                }
                part => self.expr(part)?,
            }
        }
        Ok(())
    }

    fn range_var(&mut self, r: &RangeVar) -> NodeId {
        let name = r.relname().unwrap_or_default();
        let qualified = r.schemaname().is_some() || r.catalogname().is_some();
        if !qualified && let Some(outputs) = self.scope.find(name) {
            return self.bind_query(&outputs, r.alias(), name);
        }
        self.on_relation(Effect::Read, Some(r));
        self.bind_relation(r)
    }

    /// Binds a relation under its alias, without touching it.
    pub(super) fn bind_relation(&mut self, r: &RangeVar) -> NodeId {
        let called = r.alias().and_then(|a| a.aliasname()).or(r.relname());
        let node = self
            .columns
            .bind(called.unwrap_or_default(), Some(Name::of(r)));
        for alias in r.alias().iter().flat_map(|a| a.colnames()) {
            self.flow_to_alias(Some(node), alias);
        }
        node
    }

    fn bind_query(&mut self, outputs: &Outputs, alias: Option<&Alias>, name: &str) -> NodeId {
        let called = alias.and_then(|a| a.aliasname()).unwrap_or(name);
        let node = self.columns.bind(called, None);
        self.columns.flow(outputs.query, node);
        for (i, alias) in alias.iter().flat_map(|a| a.colnames()).enumerate() {
            self.flow_to_alias(outputs.at(i), alias);
        }
        node
    }

    fn flow_to_alias(&mut self, from: Option<NodeId>, alias: Node<'_>) {
        if let (Some(from), Some(alias)) = (from, alias.as_str()) {
            let alias = self.columns.column(alias);
            self.columns.flow(from, alias);
        }
    }

    fn join(&mut self, j: &JoinExpr, items: &mut Vec<NodeId>) -> Walked {
        let first = items.len();
        self.item_of_from(j.larg(), items)?;
        self.item_of_from(j.rarg(), items)?;
        for name in j.using_clause() {
            let column = self.columns.column(name.sval().unwrap_or_default());
            self.columns.use_node(column);
        }
        // Where a join is looked at as a whole, one node stands for its items from there on: the
        // joins around it don't look at each of them again.
        if j.is_natural {
            let node = self.columns.query();
            self.gather(items, first, node);
            self.columns.use_node(node);
        }
        self.expr(j.quals())?;
        if let Some(alias) = j.alias() {
            let node = self
                .columns
                .bind(alias.aliasname().unwrap_or_default(), None);
            self.gather(items, first, node);
            for alias in alias.colnames() {
                self.flow_to_alias(Some(node), alias);
            }
        }
        Ok(())
    }

    /// Puts a node in the place of the items from `first` on, which flow to it.
    fn gather(&mut self, items: &mut Vec<NodeId>, first: usize, node: NodeId) {
        for item in items.drain(first..) {
            self.columns.flow(item, node);
        }
        items.push(node);
    }
}
