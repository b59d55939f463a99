//! Statements that are neither queries nor definitions: COPY, EXPLAIN, PREPARE, SET, BEGIN, ...
//! What isn't listed here goes on to `ddl`.

use pg_raw_parse::{
    ConstValue, Node,
    list::CastNodeList,
    nodes::{
        AlterRoleSetStmt, CopyStmt, CreateTableAsStmt, DeclareCursorStmt, DefElem, ExplainStmt,
        GrantStmt, LockStmt, PrepareStmt, TransactionStmt, VacuumStmt, VariableSetStmt,
    },
    raw::{GrantTargetType, ObjectType, TransactionStmtKind},
};

use super::{
    CopyDirection, Effect, Explain, Name, ObjectKind, Stored, TransactionVerb,
    query::Flow,
    settings,
    walk::{Walk, Walked},
};

/// `CURSOR_OPT_HOLD` of `parsenodes.h`.
const CURSOR_OPT_HOLD: i32 = 0x0020;

impl Walk {
    /// A whole statement. Returns its tag.
    pub(super) fn statement(&mut self, node: Node<'_>) -> Result<&'static str, super::Failure> {
        let tag = match node {
            Node::SelectStmt(s) => {
                self.select(s, Flow::Plain)?;
                self.shape.returns_rows = true;
                "SELECT"
            }
            Node::InsertStmt(s) => {
                self.insert(s, Flow::Plain)?;
                self.shape.returns_rows = s.returning_clause().is_some();
                "INSERT"
            }
            Node::UpdateStmt(s) => {
                self.update(s, Flow::Plain)?;
                self.shape.returns_rows = s.returning_clause().is_some();
                "UPDATE"
            }
            Node::DeleteStmt(s) => {
                self.delete(s, Flow::Plain)?;
                self.shape.returns_rows = s.returning_clause().is_some();
                "DELETE"
            }
            Node::MergeStmt(s) => {
                self.merge(s, Flow::Plain)?;
                self.shape.returns_rows = s.returning_clause().is_some();
                "MERGE"
            }
            Node::CopyStmt(s) => {
                self.copy(s)?;
                "COPY"
            }
            Node::ExplainStmt(s) => {
                self.explain(s)?;
                "EXPLAIN"
            }
            Node::PrepareStmt(s) => {
                self.prepare(s)?;
                "PREPARE"
            }
            Node::DeclareCursorStmt(s) => {
                self.declare(s)?;
                "DECLARE CURSOR"
            }
            Node::CreateTableAsStmt(s) => {
                self.create_as(s)?;
                "CREATE TABLE AS"
            }
            other => return self.session_statement(other),
        };
        Ok(tag)
    }

    fn session_statement(&mut self, node: Node<'_>) -> Result<&'static str, super::Failure> {
        let tag = match node {
            Node::ExecuteStmt(s) => {
                self.exprs(s.params())?;
                self.stored(Stored::Execute);
                self.shape.returns_rows = true;
                "EXECUTE"
            }
            Node::FetchStmt(s) => {
                self.stored(if s.ismove {
                    Stored::Move
                } else {
                    Stored::Fetch
                });
                self.shape.returns_rows = !s.ismove;
                if s.ismove { "MOVE" } else { "FETCH" }
            }
            Node::ClosePortalStmt(_) => {
                self.stored(Stored::Close);
                "CLOSE"
            }
            Node::DeallocateStmt(_) => {
                self.stored(Stored::Deallocate);
                "DEALLOCATE"
            }
            Node::VariableSetStmt(s) => {
                self.set(s)?;
                "SET"
            }
            Node::VariableShowStmt(_) => {
                self.effect(Effect::Session);
                self.shape.returns_rows = true;
                "SHOW"
            }
            Node::DiscardStmt(s) => {
                self.effect(Effect::Session);
                self.settings.extend(settings::of_discard(s.target));
                "DISCARD"
            }
            Node::ConstraintsSetStmt(_) => {
                self.effect(Effect::Transaction);
                "SET CONSTRAINTS"
            }
            Node::TransactionStmt(s) => {
                self.transaction(s);
                "TRANSACTION"
            }
            Node::ListenStmt(_) => self.only(Effect::Notify, "LISTEN"),
            Node::UnlistenStmt(_) => self.only(Effect::Notify, "UNLISTEN"),
            Node::NotifyStmt(_) => self.only(Effect::Notify, "NOTIFY"),
            Node::LoadStmt(_) => self.only(Effect::UnsafeIo, "LOAD"),
            Node::DoStmt(_) => self.only(Effect::Procedural, "DO"),
            Node::CallStmt(s) => {
                if let Some(call) = s.funccall() {
                    let name = Name::from_parts(call.funcname());
                    self.touch(Effect::Procedural, ObjectKind::Function, name);
                    self.call(call)?;
                } else {
                    self.effect(Effect::Procedural);
                }
                self.shape.returns_rows = true;
                "CALL"
            }
            other => return self.maintenance(other),
        };
        Ok(tag)
    }

    fn maintenance(&mut self, node: Node<'_>) -> Result<&'static str, super::Failure> {
        let tag = match node {
            Node::LockStmt(s) => {
                self.lock(s);
                "LOCK TABLE"
            }
            Node::VacuumStmt(s) => {
                self.vacuum(s);
                if s.is_vacuumcmd { "VACUUM" } else { "ANALYZE" }
            }
            Node::ClusterStmt(s) => {
                self.on_relation(Effect::Maintenance, s.relation());
                "CLUSTER"
            }
            Node::ReindexStmt(s) => {
                self.on_relation(Effect::Maintenance, s.relation());
                "REINDEX"
            }
            Node::RefreshMatViewStmt(s) => {
                self.on_relation(Effect::Maintenance, s.relation());
                "REFRESH MATERIALIZED VIEW"
            }
            Node::CheckPointStmt(_) => self.only(Effect::Maintenance, "CHECKPOINT"),
            Node::TruncateStmt(s) => {
                for relation in s.relations() {
                    self.relation_node(Effect::Truncate, relation);
                }
                self.cascade(Effect::Truncate, s.behavior);
                "TRUNCATE TABLE"
            }
            Node::GrantStmt(s) => {
                self.grant(s);
                if s.is_grant { "GRANT" } else { "REVOKE" }
            }
            other => return self.privilege(other),
        };
        Ok(tag)
    }

    fn privilege(&mut self, node: Node<'_>) -> Result<&'static str, super::Failure> {
        let tag = match node {
            Node::GrantRoleStmt(_) => self.only(Effect::Privilege, "GRANT ROLE"),
            Node::AlterDefaultPrivilegesStmt(_) => {
                self.only(Effect::Privilege, "ALTER DEFAULT PRIVILEGES")
            }
            Node::CreateRoleStmt(_) => self.only(Effect::Privilege, "CREATE ROLE"),
            Node::AlterRoleStmt(_) => self.only(Effect::Privilege, "ALTER ROLE"),
            Node::DropRoleStmt(_) => self.only(Effect::Privilege, "DROP ROLE"),
            Node::ReassignOwnedStmt(_) => self.only(Effect::Privilege, "REASSIGN OWNED"),
            Node::DropOwnedStmt(_) => {
                self.effect(Effect::Ddl);
                self.only(Effect::Privilege, "DROP OWNED")
            }
            Node::SecLabelStmt(_) => self.only(Effect::Privilege, "SECURITY LABEL"),
            Node::AlterRoleSetStmt(s) => {
                self.alter_role_set(s)?;
                "ALTER ROLE"
            }
            Node::AlterDatabaseSetStmt(s) => {
                self.effect(Effect::Ddl);
                self.set_clause(s.setstmt())?;
                "ALTER DATABASE"
            }
            Node::AlterSystemStmt(s) => {
                self.effect(Effect::UnsafeIo);
                self.effect(Effect::Ddl);
                self.set_clause(s.setstmt())?;
                "ALTER SYSTEM"
            }
            other => return self.definition(other),
        };
        Ok(tag)
    }

    pub(super) fn only(&mut self, effect: Effect, tag: &'static str) -> &'static str {
        self.effect(effect);
        tag
    }

    fn stored(&mut self, stored: Stored) {
        self.effect(Effect::Session);
        self.shape.stored = Some(stored);
    }

    fn copy(&mut self, s: &CopyStmt) -> Walked {
        let effect = if s.is_from {
            Effect::BulkLoad
        } else {
            Effect::BulkExport
        };
        // What PROGRAM runs stands in the file name too.
        if s.filename().is_some() || s.is_program {
            self.on_relation(Effect::UnsafeIo, s.relation());
        } else {
            self.shape.copy = Some(if s.is_from {
                CopyDirection::In
            } else {
                CopyDirection::Out
            });
        }
        self.on_relation(effect, s.relation());
        if s.relation().is_some() {
            let rows = if s.is_from {
                Effect::Insert
            } else {
                Effect::Read
            };
            self.on_relation(rows, s.relation());
        }
        if let Some(relation) = s.relation() {
            let row = self.bind_relation(relation);
            // Copied out, every column leaves; there is no plain output that could be masked.
            if !s.is_from {
                self.columns.use_node(row);
            }
        }
        self.expr(s.where_clause())?;
        self.shape.copy_binary = s.options().iter().any(|o| match o.arg() {
            Node::String(v) => o.defname() == Some("format") && v.sval() == Some("binary"),
            _ => false,
        });
        self.copy_query(s.query())
    }

    /// COPY (query) TO: its rows leave in a form that carries no origin.
    fn copy_query(&mut self, query: Node<'_>) -> Walked {
        match query {
            Node::None => Ok(()),
            query => self.query(query, Flow::Used).map(drop),
        }
    }

    fn explain(&mut self, s: &ExplainStmt) -> Walked {
        let explain = Explain {
            analyze: is_on(s.options(), "analyze"),
            verbose: is_on(s.options(), "verbose"),
        };
        let outer = self.only_planned;
        self.only_planned |= !explain.analyze;
        self.nested(|w| w.statement(s.query()))?;
        self.only_planned = outer;
        self.shape.explain = Some(explain);
        self.shape.returns_rows = true;
        Ok(())
    }

    fn prepare(&mut self, s: &PrepareStmt) -> Walked {
        self.effect(Effect::Session);
        for argument in s.argtypes() {
            self.type_name(Some(argument))?;
        }
        self.query(s.query(), Flow::Plain)?;
        self.shape.derives = true;
        self.shape.prepares = true;
        Ok(())
    }

    fn declare(&mut self, s: &DeclareCursorStmt) -> Walked {
        self.effect(Effect::Session);
        self.query(s.query(), Flow::Plain)?;
        self.shape.derives = true;
        self.shape.holds = s.options & CURSOR_OPT_HOLD != 0;
        Ok(())
    }

    fn create_as(&mut self, s: &CreateTableAsStmt) -> Walked {
        self.shape.derives = true;
        if let Some(into) = s.into() {
            self.on_relation(Effect::Ddl, into.rel());
            self.definitions(into.options())?;
        }
        match s.query() {
            // CREATE TABLE .. AS EXECUTE runs what was prepared earlier.
            Node::ExecuteStmt(e) => {
                self.exprs(e.params())?;
                self.stored(Stored::Execute);
                Ok(())
            }
            query => self.query(query, Flow::Plain).map(drop),
        }
    }

    fn set(&mut self, s: &VariableSetStmt) -> Walked {
        let effect = match s.name() {
            Some("role" | "session_authorization") => Effect::Privilege,
            _ => Effect::Session,
        };
        self.effect(effect);
        self.set_clause(Some(s))
    }

    /// A SET as part of another statement.
    pub(super) fn set_clause(&mut self, s: Option<&VariableSetStmt>) -> Walked {
        let Some(s) = s else { return Ok(()) };
        self.settings.extend(settings::of_set(s));
        for argument in s.args() {
            match argument {
                Node::DefElem(d) => self.expr(d.arg())?,
                argument => self.expr(argument)?,
            }
        }
        Ok(())
    }

    fn alter_role_set(&mut self, s: &AlterRoleSetStmt) -> Walked {
        self.effect(Effect::Privilege);
        self.set_clause(s.setstmt())
    }

    fn transaction(&mut self, s: &TransactionStmt) {
        self.effect(Effect::Transaction);
        self.shape.transaction = match s.kind {
            TransactionStmtKind::TRANS_STMT_BEGIN | TransactionStmtKind::TRANS_STMT_START => {
                Some(TransactionVerb::Begin)
            }
            TransactionStmtKind::TRANS_STMT_COMMIT => Some(TransactionVerb::Commit),
            TransactionStmtKind::TRANS_STMT_ROLLBACK => Some(TransactionVerb::Rollback),
            TransactionStmtKind::TRANS_STMT_SAVEPOINT => Some(TransactionVerb::Savepoint),
            TransactionStmtKind::TRANS_STMT_RELEASE => Some(TransactionVerb::Release),
            TransactionStmtKind::TRANS_STMT_ROLLBACK_TO => Some(TransactionVerb::RollbackTo),
            TransactionStmtKind::TRANS_STMT_PREPARE
            | TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED
            | TransactionStmtKind::TRANS_STMT_ROLLBACK_PREPARED => Some(TransactionVerb::TwoPhase),
            _ => {
                self.unknown_because("TransactionStmt");
                None
            }
        };
        self.settings
            .extend(settings::of_modes(s.options(), "transaction_"));
    }

    fn lock(&mut self, s: &LockStmt) {
        for relation in s.relations() {
            self.relation_node(Effect::Lock, relation);
        }
    }

    fn vacuum(&mut self, s: &VacuumStmt) {
        if s.rels().is_empty() {
            self.effect(Effect::Maintenance);
        }
        for relation in s.rels() {
            self.on_relation(Effect::Maintenance, relation.relation());
        }
    }

    pub(super) fn grant(&mut self, s: &GrantStmt) {
        let is_relation = matches!(
            s.objtype,
            ObjectType::OBJECT_TABLE | ObjectType::OBJECT_SEQUENCE
        );
        if !is_relation || s.targtype != GrantTargetType::ACL_TARGET_OBJECT {
            self.effect(Effect::Privilege);
            return;
        }
        for relation in s.objects() {
            self.on_relation(Effect::Privilege, Some(relation));
        }
    }

    pub(super) fn relation_node(&mut self, effect: Effect, node: Node<'_>) {
        match node {
            Node::RangeVar(r) => self.on_relation(effect, Some(r)),
            other => self.unlisted(other),
        }
    }
}

/// An option of EXPLAIN, as `defGetBoolean` reads it: the last one counts, and what it doesn't
/// take for off counts as on here (the server refuses it).
fn is_on(options: &CastNodeList<DefElem>, name: &str) -> bool {
    let mut on = false;
    for option in options {
        if option.defname() == Some(name) {
            on = match option.arg() {
                Node::String(s) => {
                    let word = s.sval().unwrap_or_default();
                    !["false", "off"]
                        .iter()
                        .any(|w| word.eq_ignore_ascii_case(w))
                }
                Node::Integer(i) => i.ival != 0,
                Node::Boolean(b) => b.boolval,
                Node::A_Const(c) => !matches!(c.val(), Some(ConstValue::Integer(0))),
                _ => true,
            };
        }
    }
    on
}
