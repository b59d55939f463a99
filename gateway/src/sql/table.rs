//! Definitions of tables and indexes: columns, constraints, partitions.

use pg_raw_parse::{
    Node,
    list::NodeList,
    nodes::{
        AlterTableCmd, AlterTableStmt, ColumnDef, Constraint, CreateStmt, IndexElem, IndexStmt,
        PartitionBoundSpec, PartitionSpec,
    },
    raw::AlterTableType,
};

use super::{
    Effect,
    columns::NodeId,
    walk::{Walk, Walked},
};

impl Walk {
    pub(super) fn create_table(&mut self, s: &CreateStmt) -> Walked {
        self.on_relation(Effect::Ddl, s.relation());
        for parent in s.inh_relations() {
            self.relation_node(Effect::Ddl, parent);
        }
        for element in s.table_elts() {
            match element {
                Node::ColumnDef(c) => self.column_definition(c)?,
                Node::Constraint(c) => self.constraint(c)?,
                // LIKE copies names, types, and the expressions of defaults; no rows.
                Node::TableLikeClause(_) => {}
                other => self.unlisted(other),
            }
        }
        self.partition_spec(s.partspec())?;
        self.partition_bound(s.partbound())?;
        self.definitions(s.options())
    }

    pub(super) fn column_definitions<'a>(
        &mut self,
        list: impl Iterator<Item = &'a ColumnDef>,
    ) -> Walked {
        for definition in list {
            self.column_definition(definition)?;
        }
        Ok(())
    }

    fn column_definition(&mut self, c: &ColumnDef) -> Walked {
        self.type_name(c.type_name())?;
        self.expr(c.raw_default())?;
        for constraint in c.constraints() {
            match constraint {
                Node::Constraint(c) => self.constraint(c)?,
                // COLLATE
                Node::CollateClause(_) => {}
                other => self.unlisted(other),
            }
        }
        Ok(())
    }

    pub(super) fn constraint(&mut self, c: &Constraint) -> Walked {
        self.expr(c.raw_expr())?;
        self.expr(c.where_clause())?;
        self.names_used(c.keys());
        if c.pktable().is_some() {
            self.ddl_over(c.pktable());
            self.names_used(c.pk_attrs());
        }
        for exclusion in c.exclusions() {
            let Node::NodeList(pair) = exclusion else {
                self.unlisted(exclusion);
                continue;
            };
            for part in pair {
                match part {
                    Node::IndexElem(e) => self.index_element(e)?,
                    Node::NodeList(operator) => self.operator(operator),
                    other => self.unlisted(other),
                }
            }
        }
        Ok(())
    }

    pub(super) fn index_element(&mut self, e: &IndexElem) -> Walked {
        self.column_name_used(e.name());
        self.expr(e.expr())
    }

    fn partition_spec(&mut self, spec: Option<&PartitionSpec>) -> Walked {
        for element in spec.iter().flat_map(|s| s.part_params()) {
            self.expr(element.expr())?;
        }
        Ok(())
    }

    fn partition_bound(&mut self, bound: Option<&PartitionBoundSpec>) -> Walked {
        let Some(bound) = bound else { return Ok(()) };
        for datums in [bound.listdatums(), bound.lowerdatums(), bound.upperdatums()] {
            for datum in datums {
                match datum {
                    Node::PartitionRangeDatum(d) => self.expr(d.value())?,
                    datum => self.expr(datum)?,
                }
            }
        }
        Ok(())
    }

    pub(super) fn alter_table(&mut self, s: &AlterTableStmt) -> Walked {
        let row = self.ddl_over(s.relation());
        for command in s.cmds() {
            match command {
                Node::AlterTableCmd(c) => self.alter_table_command(c, row)?,
                other => self.unlisted(other),
            }
        }
        Ok(())
    }

    pub(super) fn column_name_used(&mut self, name: Option<&str>) {
        if let Some(name) = name {
            let column = self.columns.column(name);
            self.columns.use_node(column);
        }
    }

    fn alter_table_command(&mut self, c: &AlterTableCmd, row: Option<NodeId>) -> Walked {
        // These look at every value of the column, and say in an error what they met.
        if matches!(
            c.subtype,
            AlterTableType::AT_AlterColumnType | AlterTableType::AT_SetNotNull
        ) {
            self.column_name_used(c.name());
        }
        if c.newowner().is_some() {
            self.effect(Effect::Privilege);
        }
        self.cascade(Effect::Ddl, c.behavior);
        match c.def() {
            Node::ColumnDef(d) => self.column_definition(d),
            Node::Constraint(d) => self.constraint(d),
            // Inheritance shows the rows of the one under the name of the other.
            Node::PartitionCmd(p) => {
                self.ddl_that_renames(p.name());
                row.into_iter().for_each(|row| self.columns.use_node(row));
                self.partition_bound(p.bound())
            }
            Node::RangeVar(r) => {
                self.ddl_that_renames(Some(r));
                row.into_iter().for_each(|row| self.columns.use_node(row));
                Ok(())
            }
            Node::NodeList(options) => self.definitions(options),
            Node::ReplicaIdentityStmt(_) | Node::ATAlterConstraint(_) | Node::TypeName(_) => Ok(()),
            def => self.expr(def),
        }
    }

    /// A list of options: names and constants, sometimes expressions.
    pub(super) fn definitions(&mut self, options: &NodeList) -> Walked {
        for option in options {
            match option {
                Node::DefElem(d) => match d.arg() {
                    Node::TypeName(t) => self.type_name(Some(t))?,
                    Node::NodeList(list) => {
                        for node in list {
                            match node {
                                Node::TypeName(t) => self.type_name(Some(t))?,
                                node => self.expr(node)?,
                            }
                        }
                    }
                    Node::RoleSpec(_) => {}
                    arg => self.expr(arg)?,
                },
                other => self.unlisted(other),
            }
        }
        Ok(())
    }

    pub(super) fn create_index(&mut self, s: &IndexStmt) -> Walked {
        self.ddl_over(s.relation());
        for element in s.index_params() {
            self.index_element(element)?;
        }
        self.expr(s.where_clause())
    }
}
