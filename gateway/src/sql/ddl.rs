//! Definitions: CREATE, ALTER, DROP, COMMENT, RENAME. Their objects are named one by one, and the
//! expressions in them are walked, because many are executed at once: a DEFAULT of a new column,
//! a CHECK that is validated, an index over an expression.

use pg_raw_parse::{
    Node,
    list::{CastNodeList, NodeList},
    nodes::{
        CreateFunctionStmt, CreatePolicyStmt, CreateSchemaStmt, CreateTrigStmt, DropStmt,
        FunctionParameter, PublicationObjSpec, RangeVar, RenameStmt, RuleStmt, ViewStmt,
    },
    raw::{DropBehavior, ObjectType},
};

use super::{
    Effect, Failure, Name, ObjectKind,
    columns::NodeId,
    query::Flow,
    walk::{Walk, Walked},
};

/// What kind of object an `ObjectType` names.
fn kind_of(object: ObjectType::Type) -> ObjectKind {
    match object {
        ObjectType::OBJECT_TABLE
        | ObjectType::OBJECT_VIEW
        | ObjectType::OBJECT_MATVIEW
        | ObjectType::OBJECT_FOREIGN_TABLE
        | ObjectType::OBJECT_SEQUENCE
        | ObjectType::OBJECT_INDEX
        | ObjectType::OBJECT_COLUMN
        | ObjectType::OBJECT_TABCONSTRAINT
        | ObjectType::OBJECT_TRIGGER
        | ObjectType::OBJECT_RULE
        | ObjectType::OBJECT_POLICY => ObjectKind::Relation,
        ObjectType::OBJECT_FUNCTION
        | ObjectType::OBJECT_PROCEDURE
        | ObjectType::OBJECT_ROUTINE
        | ObjectType::OBJECT_AGGREGATE => ObjectKind::Function,
        _ => ObjectKind::Other,
    }
}

/// How many parts at the end of a name belong to something inside a relation.
fn parts_inside(object: ObjectType::Type) -> usize {
    match object {
        ObjectType::OBJECT_COLUMN
        | ObjectType::OBJECT_TABCONSTRAINT
        | ObjectType::OBJECT_TRIGGER
        | ObjectType::OBJECT_RULE
        | ObjectType::OBJECT_POLICY => 1,
        _ => 0,
    }
}

/// Whether this names something inside a type.
fn is_of_a_type(object: ObjectType::Type) -> bool {
    matches!(
        object,
        ObjectType::OBJECT_ATTRIBUTE | ObjectType::OBJECT_DOMCONSTRAINT
    )
}

/// The name at the end of a list of strings.
fn last_two(parts: &CastNodeList<pg_raw_parse::nodes::String>) -> Option<Name> {
    let mut words = parts.iter().rev().map(|part| part.sval());
    let name = words.next()??;
    Some(Name {
        schema: words.next().flatten().map(Into::into),
        name: name.into(),
    })
}

/// The name of an object as DROP and COMMENT give it.
fn object_name(object: ObjectType::Type, node: Node<'_>) -> Option<Name> {
    match node {
        Node::NodeList(parts) => {
            let mut words = Vec::new();
            for part in parts {
                words.push(part.as_str()?);
            }
            words.truncate(words.len().checked_sub(parts_inside(object))?);
            let name = words.pop()?;
            Some(Name {
                schema: words.pop().map(Into::into),
                name: name.into(),
            })
        }
        Node::ObjectWithArgs(o) => Name::from_parts(o.objname()),
        Node::TypeName(t) => last_two(t.names()),
        Node::String(s) => Some(Name::bare(s.sval()?)),
        Node::RangeVar(r) => Some(Name::of(r)),
        _ => None,
    }
}

/// The name of an object that is a relation, or anything else.
fn name_of(relation: Option<&RangeVar>, object: ObjectType::Type, node: Node<'_>) -> Option<Name> {
    relation.map(Name::of).or_else(|| object_name(object, node))
}

impl Walk {
    pub(super) fn definition(&mut self, node: Node<'_>) -> Result<&'static str, Failure> {
        let tag = match node {
            Node::CreateStmt(s) => {
                self.create_table(s)?;
                "CREATE TABLE"
            }
            Node::AlterTableStmt(s) => {
                self.alter_table(s)?;
                "ALTER TABLE"
            }
            Node::IndexStmt(s) => {
                self.create_index(s)?;
                "CREATE INDEX"
            }
            Node::ViewStmt(s) => {
                self.create_view(s)?;
                "CREATE VIEW"
            }
            Node::CreateFunctionStmt(s) => {
                self.create_function(s)?;
                "CREATE FUNCTION"
            }
            Node::CreateTrigStmt(s) => {
                self.create_trigger(s)?;
                "CREATE TRIGGER"
            }
            Node::RuleStmt(s) => {
                self.create_rule(s)?;
                "CREATE RULE"
            }
            Node::CreateSchemaStmt(s) => {
                self.create_schema(s)?;
                "CREATE SCHEMA"
            }
            Node::DropStmt(s) => {
                self.drop_objects(s);
                "DROP"
            }
            Node::RenameStmt(s) => {
                self.rename(s);
                "ALTER"
            }
            other => return self.other_relation_ddl(other),
        };
        Ok(tag)
    }

    /// Definitions that belong to a relation.
    fn other_relation_ddl(&mut self, node: Node<'_>) -> Result<&'static str, Failure> {
        let tag = match node {
            Node::CreateSeqStmt(s) => {
                self.on_relation(Effect::Ddl, s.sequence());
                self.definitions(s.options())?;
                "CREATE SEQUENCE"
            }
            Node::AlterSeqStmt(s) => {
                self.on_relation(Effect::Ddl, s.sequence());
                self.definitions(s.options())?;
                "ALTER SEQUENCE"
            }
            Node::CreatePolicyStmt(s) => {
                self.create_policy(s)?;
                "CREATE POLICY"
            }
            Node::AlterPolicyStmt(s) => {
                self.ddl_over(s.table());
                self.on_relation(Effect::Privilege, s.table());
                self.expr(s.qual())?;
                self.expr(s.with_check())?;
                "ALTER POLICY"
            }
            Node::CommentStmt(s) => {
                self.ddl_on(s.objtype, s.object());
                "COMMENT"
            }
            Node::AlterObjectSchemaStmt(s) => {
                self.relation_or(s.relation(), s.object_type, s.object());
                let name = name_of(s.relation(), s.object_type, s.object()).map(|name| Name {
                    schema: s.newschema().map(Into::into),
                    ..name
                });
                self.touch(Effect::Ddl, kind_of(s.object_type), name);
                "ALTER"
            }
            Node::AlterObjectDependsStmt(s) => {
                self.relation_or(s.relation(), s.object_type, s.object());
                "ALTER"
            }
            Node::AlterOwnerStmt(s) => {
                self.relation_or(s.relation(), s.object_type, s.object());
                self.effect(Effect::Privilege);
                "ALTER"
            }
            Node::CreateStatsStmt(s) => {
                for relation in s.relations() {
                    self.ddl_over(Some(relation));
                }
                for element in s.exprs() {
                    match element {
                        Node::StatsElem(e) => {
                            self.column_name_used(e.name());
                            self.expr(e.expr())?;
                        }
                        other => self.unlisted(other),
                    }
                }
                "CREATE STATISTICS"
            }
            Node::CompositeTypeStmt(s) => {
                self.on_relation(Effect::Ddl, s.typevar());
                self.column_definitions(s.coldeflist().iter())?;
                "CREATE TYPE"
            }
            Node::CreateDomainStmt(s) => {
                self.effect(Effect::Ddl);
                self.type_name(s.type_name())?;
                for constraint in s.constraints() {
                    self.constraint(constraint)?;
                }
                "CREATE DOMAIN"
            }
            Node::AlterDomainStmt(s) => {
                self.effect(Effect::Ddl);
                match s.def() {
                    Node::Constraint(c) => self.constraint(c)?,
                    def => self.expr(def)?,
                }
                "ALTER DOMAIN"
            }
            other => return Ok(self.other_ddl(other)),
        };
        Ok(tag)
    }

    /// Definitions without an expression in them.
    fn other_ddl(&mut self, node: Node<'_>) -> &'static str {
        match node {
            Node::DefineStmt(s) => {
                let name = last_two(s.defnames());
                self.touch(Effect::Ddl, kind_of(s.kind), name);
                match s.kind {
                    // Text search and collations bring no code of their own.
                    ObjectType::OBJECT_COLLATION
                    | ObjectType::OBJECT_TSCONFIGURATION
                    | ObjectType::OBJECT_TSDICTIONARY => {}
                    _ => self.effect(Effect::Procedural),
                }
                "CREATE"
            }
            Node::CreateEnumStmt(s) => {
                self.touch(Effect::Ddl, ObjectKind::Other, last_two(s.type_name()));
                "CREATE TYPE"
            }
            Node::CreateRangeStmt(s) => {
                self.touch(Effect::Ddl, ObjectKind::Other, last_two(s.type_name()));
                "CREATE TYPE"
            }
            Node::AlterEnumStmt(_) | Node::AlterTypeStmt(_) => self.only(Effect::Ddl, "ALTER TYPE"),
            Node::AlterStatsStmt(_) => self.only(Effect::Ddl, "ALTER STATISTICS"),
            Node::AlterCollationStmt(_) => self.only(Effect::Ddl, "ALTER COLLATION"),
            Node::AlterOperatorStmt(_) => self.only(Effect::Ddl, "ALTER OPERATOR"),
            Node::AlterTSDictionaryStmt(_) | Node::AlterTSConfigurationStmt(_) => {
                self.only(Effect::Ddl, "ALTER TEXT SEARCH")
            }
            Node::CreateConversionStmt(_) => self.code("CREATE CONVERSION"),
            Node::CreateCastStmt(_) => self.code("CREATE CAST"),
            Node::CreateTransformStmt(_) => self.code("CREATE TRANSFORM"),
            Node::CreateOpClassStmt(_) | Node::CreateOpFamilyStmt(_) => {
                self.code("CREATE OPERATOR CLASS")
            }
            Node::AlterOpFamilyStmt(_) => self.code("ALTER OPERATOR FAMILY"),
            Node::CreatePLangStmt(_) => self.code("CREATE LANGUAGE"),
            Node::CreateAmStmt(_) => self.code("CREATE ACCESS METHOD"),
            Node::CreateExtensionStmt(_) => self.code("CREATE EXTENSION"),
            Node::AlterExtensionStmt(_) | Node::AlterExtensionContentsStmt(_) => {
                self.code("ALTER EXTENSION")
            }
            Node::CreateEventTrigStmt(_) => self.code("CREATE EVENT TRIGGER"),
            Node::AlterEventTrigStmt(_) => self.code("ALTER EVENT TRIGGER"),
            Node::AlterFunctionStmt(s) => {
                let name = s.func().and_then(|f| Name::from_parts(f.objname()));
                self.touch(Effect::Ddl, ObjectKind::Function, name.clone());
                self.touch(Effect::Procedural, ObjectKind::Function, name);
                for action in s.actions() {
                    if let Node::VariableSetStmt(set) = action.arg() {
                        self.settings.extend(super::settings::of_set(set));
                    }
                }
                "ALTER FUNCTION"
            }
            Node::CreatedbStmt(_) => self.only(Effect::Ddl, "CREATE DATABASE"),
            Node::AlterDatabaseStmt(_) | Node::AlterDatabaseRefreshCollStmt(_) => {
                self.only(Effect::Ddl, "ALTER DATABASE")
            }
            Node::DropdbStmt(_) => self.only(Effect::Ddl, "DROP DATABASE"),
            other => self.outside_ddl(other),
        }
    }

    /// Definitions that reach outside the database.
    fn outside_ddl(&mut self, node: Node<'_>) -> &'static str {
        let tag = match node {
            Node::CreateTableSpaceStmt(_) => "CREATE TABLESPACE",
            Node::DropTableSpaceStmt(_) => "DROP TABLESPACE",
            Node::AlterTableSpaceOptionsStmt(_) => "ALTER TABLESPACE",
            Node::AlterTableMoveAllStmt(_) => "ALTER TABLE ALL",
            Node::CreateFdwStmt(_) => "CREATE FOREIGN DATA WRAPPER",
            Node::AlterFdwStmt(_) => "ALTER FOREIGN DATA WRAPPER",
            Node::CreateForeignServerStmt(_) => "CREATE SERVER",
            Node::AlterForeignServerStmt(_) => "ALTER SERVER",
            Node::CreateUserMappingStmt(_) => "CREATE USER MAPPING",
            Node::AlterUserMappingStmt(_) => "ALTER USER MAPPING",
            Node::DropUserMappingStmt(_) => "DROP USER MAPPING",
            Node::ImportForeignSchemaStmt(_) => "IMPORT FOREIGN SCHEMA",
            Node::CreateSubscriptionStmt(_) => "CREATE SUBSCRIPTION",
            Node::AlterSubscriptionStmt(_) => "ALTER SUBSCRIPTION",
            Node::DropSubscriptionStmt(_) => "DROP SUBSCRIPTION",
            Node::CreatePublicationStmt(s) => {
                self.publication(s.pubobjects());
                "CREATE PUBLICATION"
            }
            Node::AlterPublicationStmt(s) => {
                self.publication(s.pubobjects());
                "ALTER PUBLICATION"
            }
            other => {
                self.unlisted(other);
                return "UNKNOWN";
            }
        };
        self.effect(Effect::UnsafeIo);
        self.effect(Effect::Ddl);
        tag
    }

    /// A definition that brings code with it.
    fn code(&mut self, tag: &'static str) -> &'static str {
        self.effect(Effect::Procedural);
        self.only(Effect::Ddl, tag)
    }

    /// A definition on a relation whose columns it can name.
    pub(super) fn ddl_over(&mut self, relation: Option<&RangeVar>) -> Option<NodeId> {
        self.on_relation(Effect::Ddl, relation);
        relation.map(|r| self.bind_relation(r))
    }

    /// A definition after which a relation's rows can be read under another name: masks go by
    /// the name, so that the whole row is used.
    pub(super) fn ddl_that_renames(&mut self, relation: Option<&RangeVar>) {
        if let Some(row) = self.ddl_over(relation) {
            self.columns.use_node(row);
        }
    }

    fn ddl_on(&mut self, object: ObjectType::Type, node: Node<'_>) {
        self.touch(Effect::Ddl, kind_of(object), object_name(object, node));
    }

    fn relation_or(
        &mut self,
        relation: Option<&RangeVar>,
        object: ObjectType::Type,
        node: Node<'_>,
    ) {
        match relation {
            Some(_) => self.ddl_that_renames(relation),
            None => self.ddl_on(object, node),
        }
    }

    fn drop_objects(&mut self, s: &DropStmt) {
        for object in s.objects() {
            self.ddl_on(s.remove_type, object);
        }
        self.cascade(Effect::Ddl, s.behavior);
    }

    /// What depends on the named objects goes with them, whatever it is called.
    pub(super) fn cascade(&mut self, effect: Effect, behavior: DropBehavior::Type) {
        if behavior == DropBehavior::DROP_CASCADE {
            self.shape.cascades = true;
            self.effect(effect);
        }
    }

    fn rename(&mut self, s: &RenameStmt) {
        if s.rename_type == ObjectType::OBJECT_COLUMN && s.relation().is_some() {
            self.ddl_over(s.relation());
            self.column_name_used(s.subname());
        } else {
            self.relation_or(s.relation(), s.rename_type, s.object());
            if parts_inside(s.rename_type) == 0 && !is_of_a_type(s.rename_type) {
                let name = name_of(s.relation(), s.rename_type, s.object()).map(|name| Name {
                    name: s.newname().unwrap_or_default().into(),
                    ..name
                });
                self.touch(Effect::Ddl, kind_of(s.rename_type), name);
            }
        }
        if s.rename_type == ObjectType::OBJECT_ROLE {
            self.effect(Effect::Privilege);
        }
    }

    fn create_view(&mut self, s: &ViewStmt) -> Walked {
        self.shape.derives = true;
        self.shape.makes_view = true;
        self.on_relation(Effect::Ddl, s.view());
        self.definitions(s.options())?;
        self.query(s.query(), Flow::Plain).map(drop)
    }

    fn create_function(&mut self, s: &CreateFunctionStmt) -> Walked {
        self.shape.derives = true;
        let name = Name::from_parts(s.funcname());
        self.touch(Effect::Ddl, ObjectKind::Function, name.clone());
        self.touch(Effect::Procedural, ObjectKind::Function, name);
        for parameter in s.parameters() {
            self.parameter(parameter)?;
        }
        for option in s.options() {
            if let Node::VariableSetStmt(set) = option.arg() {
                self.set_clause(Some(set))?;
            }
        }
        self.function_body(s.sql_body())
    }

    fn parameter(&mut self, p: &FunctionParameter) -> Walked {
        self.expr(p.defexpr())
    }

    /// RETURN expr, or BEGIN ATOMIC: a list with a list of statements in it.
    fn function_body(&mut self, body: Node<'_>) -> Walked {
        self.nested(|w| match body {
            Node::None => Ok(()),
            Node::ReturnStmt(r) => w.expr(r.returnval()),
            Node::NodeList(list) => {
                for node in list {
                    w.function_body(node)?;
                }
                Ok(())
            }
            query => w.query(query, Flow::Used).map(drop),
        })
    }

    fn create_trigger(&mut self, s: &CreateTrigStmt) -> Walked {
        self.ddl_over(s.relation());
        for name in ["old", "new"] {
            self.columns.bind(name, s.relation().map(Name::of));
        }
        self.on_relation(Effect::Procedural, s.relation());
        self.function(s.funcname());
        self.expr(s.when_clause())
    }

    fn create_rule(&mut self, s: &RuleStmt) -> Walked {
        self.shape.derives = true;
        self.on_relation(Effect::Ddl, s.relation());
        self.on_relation(Effect::Procedural, s.relation());
        for name in ["old", "new"] {
            self.columns.bind(name, s.relation().map(Name::of));
        }
        self.expr(s.where_clause())?;
        for action in s.actions() {
            match action {
                Node::NotifyStmt(_) => self.effect(Effect::Notify),
                Node::None => {}
                query => {
                    self.query(query, Flow::Used)?;
                }
            }
        }
        Ok(())
    }

    fn create_policy(&mut self, s: &CreatePolicyStmt) -> Walked {
        self.ddl_over(s.table());
        self.on_relation(Effect::Privilege, s.table());
        self.expr(s.qual())?;
        self.expr(s.with_check())
    }

    fn create_schema(&mut self, s: &CreateSchemaStmt) -> Walked {
        let name = s.schemaname().map(Name::bare);
        self.touch(Effect::Ddl, ObjectKind::Other, name);
        for element in s.schema_elts() {
            self.nested(|w| w.statement(element))?;
        }
        Ok(())
    }

    fn publication(&mut self, objects: &NodeList) {
        for object in objects {
            match object {
                Node::PublicationObjSpec(PublicationObjSpec { .. }) => {}
                other => self.unlisted(other),
            }
        }
    }
}
