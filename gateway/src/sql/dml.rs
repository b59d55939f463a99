//! INSERT, UPDATE, DELETE, MERGE.

use pg_raw_parse::{
    Node,
    nodes::{
        DeleteStmt, InferClause, InsertStmt, MergeStmt, MergeWhenClause, OnConflictClause,
        RangeVar, ResTarget, ReturningClause, UpdateStmt,
    },
    raw::{CmdType, OnConflictAction},
};

use super::{
    Effect, Failure, Name, ObjectKind, Touch,
    columns::NodeId,
    query::Flow,
    walk::{Outputs, Walk, Walked},
};

/// Built-in functions that give one value each, of those that one writes into VALUES.
const ONE_VALUE: &[&str] = &[
    "abs",
    "age",
    "array_append",
    "array_cat",
    "array_prepend",
    "array_to_string",
    "btrim",
    "ceil",
    "ceiling",
    "clock_timestamp",
    "concat",
    "concat_ws",
    "currval",
    "date_bin",
    "date_part",
    "date_trunc",
    "decode",
    "encode",
    "extract",
    "floor",
    "format",
    "gen_random_uuid",
    "initcap",
    "json_build_array",
    "json_build_object",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_set",
    "lastval",
    "left",
    "length",
    "lower",
    "lpad",
    "ltrim",
    "make_date",
    "make_interval",
    "make_timestamp",
    "make_timestamptz",
    "md5",
    "nextval",
    "now",
    "overlay",
    "random",
    "replace",
    "reverse",
    "right",
    "round",
    "row_to_json",
    "rpad",
    "rtrim",
    "sha256",
    "split_part",
    "statement_timestamp",
    "string_to_array",
    "substr",
    "substring",
    "timezone",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
    "to_tsvector",
    "transaction_timestamp",
    "trunc",
    "upper",
];

/// Calls that are looked at in a row of VALUES, which has no more columns than a table. An INSERT in
/// it looks at its own again.
const CALLS_MOST: usize = 1600;

/// Whether an INSERT's source is as many rows as are written down. In a lone row of VALUES, and in no
/// other, the server takes functions that return sets; `calls` are all that there are.
fn is_one_by_one(source: Node<'_>, calls: &[Name]) -> bool {
    let Node::SelectStmt(s) = source else {
        return false;
    };
    let one_value = |call: &Name| {
        call.schema.as_deref().is_none_or(|s| s == "pg_catalog") && ONE_VALUE.contains(&&*call.name)
    };
    match s.values_lists().len() {
        0 => false,
        1 => calls.len() <= CALLS_MOST && calls.iter().all(one_value),
        _ => true,
    }
}

impl Walk {
    pub(super) fn insert(&mut self, s: &InsertStmt, flow: Flow) -> Result<Outputs, Failure> {
        let outer = self.scope.mark();
        self.with(s.with_clause())?;
        self.on_relation(Effect::Insert, s.relation());
        for target in s.cols() {
            match target {
                Node::ResTarget(t) => self.subscripts(t.indirection())?,
                other => self.unlisted(other),
            }
        }
        // The rows that are given one by one are the only ones that can conflict.
        let mut few = true;
        match s.select_stmt() {
            // DEFAULT VALUES
            Node::None => {}
            source => {
                let before = self.functions.len();
                self.query(source, Flow::Used)?;
                few = is_one_by_one(source, &self.functions[before..]);
                self.shape.derives |= !few;
            }
        }
        let conflict = s.on_conflict_clause();
        let mut items = Vec::new();
        // Without these the target's own columns can't be named.
        if conflict.is_some() || s.returning_clause().is_some() {
            items.push(self.bind_target(s.relation()));
        }
        if let Some(conflict) = conflict {
            self.on_conflict(conflict, s.relation(), (&items, few))?;
        }
        let outputs = self.returning(s.returning_clause(), s.relation(), &items, flow)?;
        self.scope.leave(outer);
        Ok(outputs)
    }

    fn on_conflict(
        &mut self,
        c: &OnConflictClause,
        target: Option<&RangeVar>,
        (items, few): (&[NodeId], bool),
    ) -> Walked {
        self.columns.bind("excluded", target.map(Name::of));
        match c.infer().filter(|infer| infer.conname().is_none()) {
            Some(infer) => self.infer(infer)?,
            // Any of the table's columns may be compared with what is there.
            None => items.iter().for_each(|item| self.columns.use_node(*item)),
        }
        self.assignments(c.target_list().iter())?;
        let has_where = self.condition(c.where_clause())?;
        if c.action == OnConflictAction::ONCONFLICT_UPDATE {
            self.on_rows(Effect::Update, target, few || has_where);
        }
        Ok(())
    }

    fn infer(&mut self, infer: &InferClause) -> Walked {
        for element in infer.index_elems() {
            match element {
                Node::IndexElem(e) => self.index_element(e)?,
                other => self.unlisted(other),
            }
        }
        self.expr(infer.where_clause())
    }

    pub(super) fn update(&mut self, s: &UpdateStmt, flow: Flow) -> Result<Outputs, Failure> {
        let outer = self.scope.mark();
        self.with(s.with_clause())?;
        let mut items = vec![self.bind_target(s.relation())];
        for item in s.from_clause() {
            self.item_of_from(item, &mut items)?;
        }
        self.assignments(s.target_list().iter())?;
        let has_where = self.condition(s.where_clause())?;
        self.on_rows(Effect::Update, s.relation(), has_where);
        let outputs = self.returning(s.returning_clause(), s.relation(), &items, flow)?;
        self.scope.leave(outer);
        Ok(outputs)
    }

    pub(super) fn delete(&mut self, s: &DeleteStmt, flow: Flow) -> Result<Outputs, Failure> {
        let outer = self.scope.mark();
        self.with(s.with_clause())?;
        let mut items = vec![self.bind_target(s.relation())];
        for item in s.using_clause() {
            self.item_of_from(item, &mut items)?;
        }
        let has_where = self.condition(s.where_clause())?;
        self.on_rows(Effect::Delete, s.relation(), has_where);
        let outputs = self.returning(s.returning_clause(), s.relation(), &items, flow)?;
        self.scope.leave(outer);
        Ok(outputs)
    }

    pub(super) fn merge(&mut self, s: &MergeStmt, flow: Flow) -> Result<Outputs, Failure> {
        let outer = self.scope.mark();
        self.with(s.with_clause())?;
        let mut items = vec![self.bind_target(s.relation())];
        self.item_of_from(s.source_relation(), &mut items)?;
        let has_where = self.condition(s.join_condition())?;
        let mut writes = false;
        for clause in s.merge_when_clauses() {
            writes |= clause.command_type != CmdType::CMD_NOTHING;
            self.merge_action(clause, s.relation(), has_where)?;
        }
        if !writes {
            self.on_relation(Effect::Read, s.relation());
        }
        let outputs = self.returning(s.returning_clause(), s.relation(), &items, flow)?;
        self.scope.leave(outer);
        Ok(outputs)
    }

    fn merge_action(
        &mut self,
        clause: &MergeWhenClause,
        target: Option<&RangeVar>,
        has_where: bool,
    ) -> Walked {
        match clause.command_type {
            CmdType::CMD_INSERT => self.on_relation(Effect::Insert, target),
            CmdType::CMD_UPDATE => self.on_rows(Effect::Update, target, has_where),
            CmdType::CMD_DELETE => self.on_rows(Effect::Delete, target, has_where),
            CmdType::CMD_NOTHING => {}
            _ => self.unknown_because("MergeWhenClause"),
        }
        self.expr(clause.condition())?;
        for target in clause.target_list() {
            match target {
                Node::ResTarget(t) => self.assignment(t)?,
                other => self.unlisted(other),
            }
        }
        self.exprs(clause.values())
    }

    /// A WHERE counts only if it looks at the rows: `WHERE true` is as good as none.
    fn condition(&mut self, condition: Node<'_>) -> Result<bool, Failure> {
        let before = self.column_references;
        self.expr(condition)?;
        Ok(self.column_references > before)
    }

    fn on_rows(&mut self, effect: Effect, target: Option<&RangeVar>, has_where: bool) {
        self.push(Touch {
            effect,
            kind: ObjectKind::Relation,
            object: target.map(Name::of),
            has_where: Some(has_where),
        });
    }

    fn bind_target(&mut self, target: Option<&RangeVar>) -> NodeId {
        match target {
            Some(target) => self.bind_relation(target),
            None => self.columns.query(),
        }
    }

    fn assignments<'a>(&mut self, list: impl Iterator<Item = &'a ResTarget>) -> Walked {
        for target in list {
            self.assignment(target)?;
        }
        Ok(())
    }

    /// `column = value`: the column is written, not used.
    fn assignment(&mut self, target: &ResTarget) -> Walked {
        self.subscripts(target.indirection())?;
        self.expr(target.val())
    }

    fn returning(
        &mut self,
        clause: Option<&ReturningClause>,
        target: Option<&RangeVar>,
        items: &[NodeId],
        flow: Flow,
    ) -> Result<Outputs, Failure> {
        let Some(clause) = clause else {
            return Ok(self.no_outputs());
        };
        self.on_relation(Effect::Read, target);
        for name in ["old", "new"] {
            self.columns.bind(name, target.map(Name::of));
        }
        for option in clause.options() {
            let name = option.value().unwrap_or_default();
            self.columns.bind(name, target.map(Name::of));
        }
        let mut list = Vec::with_capacity(clause.exprs().len());
        for node in clause.exprs() {
            match node {
                Node::ResTarget(t) => list.push(t),
                other => self.unlisted(other),
            }
        }
        self.targets(list.into_iter(), items, flow)
    }
}
