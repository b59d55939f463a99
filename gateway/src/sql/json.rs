//! The SQL/JSON part of expressions. To the walk it is expressions in wrappers.

use pg_raw_parse::{
    Node,
    nodes::{
        JsonAggConstructor, JsonBehavior, JsonFuncExpr, JsonKeyValue, JsonOutput, JsonTable,
        JsonTableColumn, JsonValueExpr,
    },
    raw::JsonExprOp,
};

use super::{
    query::Flow,
    walk::{Walk, Walked},
};

impl Walk {
    /// Syntax of PostgreSQL 16 and later that an older server reads as a call by this name.
    pub(super) fn newer_syntax(&mut self, name: &str) {
        self.attributes.push(name.into());
    }

    pub(super) fn json_expr(&mut self, node: Node<'_>) -> Walked {
        let name = match node {
            Node::JsonFuncExpr(f) => match f.op {
                JsonExprOp::JSON_EXISTS_OP => "json_exists",
                JsonExprOp::JSON_VALUE_OP => "json_value",
                _ => "json_query",
            },
            Node::JsonParseExpr(_) => "json",
            Node::JsonScalarExpr(_) => "json_scalar",
            Node::JsonSerializeExpr(_) => "json_serialize",
            Node::JsonObjectConstructor(_) => "json_object",
            Node::JsonArrayConstructor(_) | Node::JsonArrayQueryConstructor(_) => "json_array",
            Node::JsonObjectAgg(_) => "json_objectagg",
            Node::JsonArrayAgg(_) => "json_arrayagg",
            _ => return self.json_part(node),
        };
        self.newer_syntax(name);
        self.json_part(node)
    }

    fn json_part(&mut self, node: Node<'_>) -> Walked {
        match node {
            Node::JsonIsPredicate(p) => self.expr(p.expr()),
            Node::JsonValueExpr(v) => self.json_value(Some(v)),
            Node::JsonArgument(a) => self.json_value(a.val()),
            Node::JsonKeyValue(k) => self.json_pair(Some(k)),
            Node::JsonFuncExpr(f) => self.json_function(f),
            Node::JsonParseExpr(p) => {
                self.json_value(p.expr())?;
                self.json_output(p.output())
            }
            Node::JsonScalarExpr(s) => {
                self.expr(s.expr())?;
                self.json_output(s.output())
            }
            Node::JsonSerializeExpr(s) => {
                self.json_value(s.expr())?;
                self.json_output(s.output())
            }
            Node::JsonObjectConstructor(o) => {
                for pair in o.exprs() {
                    self.json_pair(Some(pair))?;
                }
                self.json_output(o.output())
            }
            Node::JsonArrayConstructor(a) => {
                for value in a.exprs() {
                    self.json_value(Some(value))?;
                }
                self.json_output(a.output())
            }
            Node::JsonArrayQueryConstructor(a) => {
                self.query(a.query(), Flow::Used)?;
                self.json_output(a.output())
            }
            Node::JsonObjectAgg(a) => {
                self.json_aggregate(a.constructor())?;
                self.json_pair(a.arg())
            }
            Node::JsonArrayAgg(a) => {
                self.json_aggregate(a.constructor())?;
                self.json_value(a.arg())
            }
            other => {
                self.unlisted(other);
                Ok(())
            }
        }
    }

    pub(super) fn json_value(&mut self, value: Option<&JsonValueExpr>) -> Walked {
        let Some(value) = value else { return Ok(()) };
        self.expr(value.raw_expr())?;
        self.expr(value.formatted_expr())
    }

    fn json_pair(&mut self, pair: Option<&JsonKeyValue>) -> Walked {
        let Some(pair) = pair else { return Ok(()) };
        self.expr(pair.key())?;
        self.json_value(pair.value())
    }

    fn json_output(&mut self, output: Option<&JsonOutput>) -> Walked {
        self.type_name(output.and_then(|o| o.type_name()))
    }

    fn json_behaviour(&mut self, behaviour: Option<&JsonBehavior>) -> Walked {
        behaviour.map_or(Ok(()), |b| self.expr(b.expr()))
    }

    fn json_function(&mut self, f: &JsonFuncExpr) -> Walked {
        self.json_value(f.context_item())?;
        self.expr(f.pathspec())?;
        self.exprs(f.passing())?;
        self.json_output(f.output())?;
        self.json_behaviour(f.on_empty())?;
        self.json_behaviour(f.on_error())
    }

    fn json_aggregate(&mut self, a: Option<&JsonAggConstructor>) -> Walked {
        let Some(a) = a else { return Ok(()) };
        self.json_output(a.output())?;
        self.expr(a.agg_filter())?;
        self.exprs(a.agg_order())?;
        self.window(a.over())
    }

    /// JSON_TABLE: its columns are computed from its arguments, which are uses.
    pub(super) fn json_table(&mut self, t: &JsonTable) -> Walked {
        self.newer_syntax("json_table");
        self.json_value(t.context_item())?;
        if let Some(path) = t.pathspec() {
            self.expr(path.string())?;
        }
        self.exprs(t.passing())?;
        self.json_behaviour(t.on_error())?;
        for column in t.columns() {
            self.json_table_column(column)?;
        }
        Ok(())
    }

    fn json_table_column(&mut self, c: &JsonTableColumn) -> Walked {
        self.type_name(c.type_name())?;
        if let Some(path) = c.pathspec() {
            self.expr(path.string())?;
        }
        self.json_behaviour(c.on_empty())?;
        self.json_behaviour(c.on_error())?;
        for node in c.columns() {
            match node {
                Node::JsonTableColumn(c) => self.nested(|w| w.json_table_column(c))?,
                other => self.unlisted(other),
            }
        }
        Ok(())
    }
}
