//! Queries: SELECT and VALUES, their FROM, their common table expressions.
//!
//! The scope of CTE names decides whether a name is a relation, so it follows the server's
//! `parse_cte.c`: without RECURSIVE a CTE sees those before it, with RECURSIVE all of its WITH;
//! a WITH is seen by its own statement and everything inside; a name with a schema never is a
//! CTE; the target of a write never is one.

use pg_raw_parse::{
    ConstValue, Node,
    list::NodeList,
    nodes::{CommonTableExpr, ResTarget, SelectStmt, WithClause},
    raw::SetOperation,
};

use super::{
    Effect, Failure, ObjectKind,
    columns::NodeId,
    expr::Reference,
    walk::{Outputs, Walk, Walked},
};

/// Where a query's outputs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Out, or into a FROM: plain columns stay plain.
    Plain,
    /// Into an expression, a set operation, a table: every output is used.
    Used,
    /// Nowhere: EXISTS.
    Ignored,
}

impl Walk {
    /// A query where the grammar allows one: SELECT, VALUES, or a data-modifying statement.
    pub(super) fn query(&mut self, node: Node<'_>, flow: Flow) -> Result<Outputs, Failure> {
        match node {
            Node::SelectStmt(s) => self.select(s, flow),
            Node::InsertStmt(s) => self.nested(|w| w.insert(s, flow)),
            Node::UpdateStmt(s) => self.nested(|w| w.update(s, flow)),
            Node::DeleteStmt(s) => self.nested(|w| w.delete(s, flow)),
            Node::MergeStmt(s) => self.nested(|w| w.merge(s, flow)),
            other => {
                self.unlisted(other);
                Ok(self.no_outputs())
            }
        }
    }

    pub(super) fn no_outputs(&mut self) -> Outputs {
        Outputs {
            query: self.columns.query(),
            columns: Vec::new(),
            complete: true,
        }
    }

    /// SELECT and VALUES.
    pub(super) fn select(&mut self, s: &SelectStmt, flow: Flow) -> Result<Outputs, Failure> {
        self.nested(|w| {
            let outer = w.scope.mark();
            w.with(s.with_clause())?;
            let outputs = if s.op == SetOperation::SETOP_NONE {
                w.simple_select(s, flow)?
            } else {
                w.set_operation(s)?
            };
            for key in s.sort_clause() {
                w.operator(key.use_op());
                w.output_or_expr(key.node(), &outputs)?;
            }
            w.expr(s.limit_count())?;
            w.expr(s.limit_offset())?;
            w.scope.leave(outer);
            Ok(outputs)
        })
    }

    /// UNION, INTERSECT, EXCEPT: rows are compared or lose their origin, so that all outputs are
    /// used. The left-deep chain that the grammar makes is followed by a loop.
    fn set_operation(&mut self, s: &SelectStmt) -> Result<Outputs, Failure> {
        let mut arms = Vec::new();
        let mut chain = Some(s);
        let mut top = true;
        while let Some(s) = chain {
            let bare = s.with_clause().is_none()
                && s.sort_clause().is_empty()
                && s.locking_clause().is_empty()
                && matches!(
                    (s.limit_count(), s.limit_offset()),
                    (Node::None, Node::None)
                );
            if s.op == SetOperation::SETOP_NONE || !(top || bare) {
                arms.push(s);
                break;
            }
            if !s.locking_clause().is_empty() {
                self.effect(Effect::Lock);
            }
            arms.extend(s.rarg());
            chain = s.larg();
            top = false;
        }
        let mut leftmost = None;
        for arm in arms.into_iter().rev() {
            let outputs = self.select(arm, Flow::Used)?;
            leftmost.get_or_insert(outputs);
        }
        Ok(leftmost.unwrap_or_else(|| self.no_outputs()))
    }

    fn simple_select(&mut self, s: &SelectStmt, flow: Flow) -> Result<Outputs, Failure> {
        if let Some(into) = s.into_clause() {
            self.shape.derives = true;
            self.on_relation(Effect::Ddl, into.rel());
            self.definitions(into.options())?;
        }
        let before = (self.relations_read, self.unlocked.len());
        let mut items = Vec::new();
        for item in s.from_clause() {
            self.item_of_from(item, &mut items)?;
        }
        if !s.locking_clause().is_empty() {
            self.lock_rows(before);
        }
        let outputs = self.targets(s.target_list().iter(), &items, flow)?;
        self.exprs(s.values_lists())?;
        self.expr(s.where_clause())?;
        for key in s.group_clause() {
            self.group_key(key, &outputs)?;
        }
        self.expr(s.having_clause())?;
        for window in s.window_clause() {
            match window {
                Node::WindowDef(w) => self.window(Some(w))?,
                other => self.unlisted(other),
            }
        }
        for key in s.distinct_clause() {
            match key {
                // DISTINCT without ON is a list of one NULL.
                Node::None => self.columns.use_node(outputs.query),
                key => self.output_or_expr(key, &outputs)?,
            }
        }
        Ok(outputs)
    }

    /// FOR UPDATE and its like take locks on the relations of the FROM, or on some of them. Those
    /// that a sub-select in it has locked already are not locked again.
    fn lock_rows(&mut self, (relations_before, unlocked_before): (usize, usize)) {
        if self.relations_read == relations_before {
            self.effect(Effect::Lock);
        }
        for read in self.unlocked.split_off(unlocked_before) {
            let name = self.touches[read].object.clone();
            self.touch(Effect::Lock, ObjectKind::Relation, name);
        }
        // Where nothing is executed, a lock is a read.
        self.unlocked.truncate(unlocked_before);
    }

    fn group_key(&mut self, key: Node<'_>, outputs: &Outputs) -> Walked {
        match key {
            Node::GroupingSet(set) => self.nested(|w| {
                for key in set.content() {
                    w.group_key(key, outputs)?;
                }
                Ok(())
            }),
            key => self.output_or_expr(key, outputs),
        }
    }

    /// In ORDER BY, GROUP BY and DISTINCT ON an integer is the position of an output.
    fn output_or_expr(&mut self, node: Node<'_>, outputs: &Outputs) -> Walked {
        if let Node::A_Const(c) = node
            && let Some(ConstValue::Integer(i)) = c.val()
        {
            let position = usize::try_from(i).unwrap_or(0).wrapping_sub(1);
            if let Some(node) = outputs.at(position) {
                self.columns.use_node(node);
            }
            return Ok(());
        }
        self.expr(node)
    }

    /// A target list or RETURNING: `items` is what a lone `*` stands for.
    pub(super) fn targets<'a>(
        &mut self,
        list: impl Iterator<Item = &'a ResTarget>,
        items: &[NodeId],
        flow: Flow,
    ) -> Result<Outputs, Failure> {
        let mut outputs = self.no_outputs();
        let mut all_flow = false;
        for target in list {
            self.step()?;
            let plain = match target.val() {
                Node::ColumnRef(c) if target.indirection().is_empty() => Some(Reference::of(c)),
                _ => None,
            };
            let (node, is_star) = match plain {
                Some(Reference::Star) => {
                    // A second `*` brings nothing new.
                    if !std::mem::replace(&mut all_flow, true) {
                        for item in items {
                            self.columns.flow(*item, outputs.query);
                        }
                    }
                    (None, true)
                }
                Some(Reference::Row(of)) => (Some(self.columns.row(of)), true),
                Some(reference) => (self.plain_column(&reference), false),
                None => {
                    self.subscripts(target.indirection())?;
                    self.expr(target.val())?;
                    (None, is_row_taken_apart(target.val()))
                }
            };
            if let Some(node) = node {
                self.columns.flow(node, outputs.query);
                if let Some(alias) = target.name() {
                    let alias = self.columns.column(alias);
                    self.columns.flow(node, alias);
                }
            }
            if is_star {
                outputs.complete = false;
            }
            if outputs.complete {
                outputs.columns.push(node);
            }
        }
        if flow == Flow::Used {
            self.columns.use_node(outputs.query);
        }
        Ok(outputs)
    }

    fn plain_column(&mut self, reference: &Reference<'_>) -> Option<NodeId> {
        self.column_references += 1;
        match *reference {
            // The whole row of what is called so, where there is no such column.
            Reference::Bare(name) => {
                let column = self.columns.column(name);
                let row = self.columns.row(name);
                self.columns.flow(row, column);
                Some(column)
            }
            Reference::Qualified { of, name } => {
                // EXISTS shows nothing of what it selects, but may compute it (behind OFFSET, say).
                self.attribute(Some(of), name);
                Some(self.columns.column(name))
            }
            Reference::Star | Reference::Row(_) | Reference::Odd => {
                self.unknown_because("ColumnRef");
                None
            }
        }
    }

    /// Brings the names of a WITH into scope. The caller takes them out again.
    pub(super) fn with(&mut self, with: Option<&WithClause>) -> Walked {
        let Some(with) = with else { return Ok(()) };
        if with.recursive {
            for cte in with.ctes() {
                let unknown_yet = Outputs {
                    complete: false,
                    ..self.no_outputs()
                };
                self.scope
                    .enter(cte.ctename().unwrap_or_default(), unknown_yet);
            }
        }
        for cte in with.ctes() {
            let name = cte.ctename().unwrap_or_default();
            let outputs = self.cte(cte)?;
            if with.recursive {
                if let Some(promised) = self.scope.find(name) {
                    self.columns.flow(outputs.query, promised.query);
                }
                self.scope.complete(name, outputs);
            } else {
                self.scope.enter(name, outputs);
            }
        }
        Ok(())
    }

    fn cte(&mut self, cte: &CommonTableExpr) -> Result<Outputs, Failure> {
        let mut outputs = self.query(cte.ctequery(), Flow::Plain)?;
        for (i, alias) in cte.aliascolnames().iter().enumerate() {
            let Some(alias) = alias.as_str() else {
                continue;
            };
            let alias = self.columns.column(alias);
            if let Some(source) = outputs.at(i) {
                self.columns.flow(source, alias);
                if let Some(Some(node)) = outputs.columns.get_mut(i) {
                    *node = alias;
                }
            }
        }
        if let Some(search) = cte.search_clause() {
            self.names_used(search.search_col_list());
        }
        if let Some(cycle) = cte.cycle_clause() {
            self.names_used(cycle.cycle_col_list());
            self.expr(cycle.cycle_mark_value())?;
            self.expr(cycle.cycle_mark_default())?;
        }
        Ok(outputs)
    }

    pub(super) fn names_used(&mut self, names: &NodeList) {
        for name in names {
            match name {
                Node::String(s) => {
                    let column = self.columns.column(s.sval().unwrap_or_default());
                    self.columns.use_node(column);
                }
                other => self.unlisted(other),
            }
        }
    }
}

/// `(row).*`, which stands for as many outputs as the row has columns.
fn is_row_taken_apart(value: Node<'_>) -> bool {
    let Node::A_Indirection(i) = value else {
        return false;
    };
    matches!(i.indirection().iter().next_back(), Some(Node::A_Star(_)))
}
