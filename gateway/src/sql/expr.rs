//! Expressions. Every column that occurs in one is a use; every function is listed.

use pg_raw_parse::{
    ConstValue, Node,
    list::NodeList,
    nodes::{A_Indirection, ColumnRef, FuncCall, SortBy, SubLink, TypeName, WindowDef},
    raw::SubLinkType,
};

use super::{
    Name,
    query::Flow,
    settings,
    walk::{Walk, Walked},
};

/// Built-in functions that take a whole row, and so can be called in attribute notation: `c.f`
/// and `(c).f` mean `f(c)` where `c` has no column `f`. From `pg_proc`: one argument of type
/// `record`, `any`, `anyelement`, `anynonarray` or `anycompatible`, up to PostgreSQL 18.
const ROW_FUNCTIONS: &[&str] = &[
    "any_out",
    "any_value",
    "anycompatible_out",
    "anycompatiblenonarray_out",
    "anyelement_out",
    "anynonarray_out",
    "array_agg",
    "array_agg_transfn",
    "concat",
    "count",
    "cume_dist",
    "dense_rank",
    "first_value",
    "hash_record",
    "hash_record_extended",
    "json_agg",
    "json_agg_strict",
    "json_build_array",
    "json_build_object",
    "jsonb_agg",
    "jsonb_agg_strict",
    "jsonb_build_array",
    "jsonb_build_object",
    "lag",
    "last_value",
    "lead",
    "max",
    "min",
    "mode",
    "num_nonnulls",
    "num_nulls",
    "percent_rank",
    "pg_collation_for",
    "pg_column_compression",
    "pg_column_size",
    "pg_column_toast_chunk_id",
    "pg_typeof",
    "quote_literal",
    "quote_nullable",
    "rank",
    "record_out",
    "record_send",
    "row_to_json",
    "to_json",
    "to_jsonb",
];

/// What a server of before 16 takes for a name.
const SYSTEM_USER: &str = "system_user";

/// A column reference taken apart.
pub(super) enum Reference<'a> {
    /// `name`: a column, or the whole row of what is called so.
    Bare(&'a str),
    /// `of.name`
    Qualified { of: &'a str, name: &'a str },
    /// `of.*`
    Row(&'a str),
    /// `*`
    Star,
    /// Nothing that the grammar should make.
    Odd,
}

impl<'a> Reference<'a> {
    pub(super) fn of(column: &'a ColumnRef) -> Reference<'a> {
        let fields = column.fields();
        let part = |from_end: usize| {
            let i = fields.len().checked_sub(from_end)?;
            fields.get(i)
        };
        match (part(2), part(1)) {
            (None, Some(Node::A_Star(_))) => Reference::Star,
            (None, Some(Node::String(s))) => Reference::Bare(s.sval().unwrap_or_default()),
            (Some(Node::String(of)), Some(Node::A_Star(_))) => {
                Reference::Row(of.sval().unwrap_or_default())
            }
            (Some(Node::String(of)), Some(Node::String(s))) => Reference::Qualified {
                of: of.sval().unwrap_or_default(),
                name: s.sval().unwrap_or_default(),
            },
            _ => Reference::Odd,
        }
    }
}

impl Walk {
    pub(super) fn exprs(&mut self, list: &NodeList) -> Walked {
        for node in list {
            self.expr(node)?;
        }
        Ok(())
    }

    /// An expression, or a list of them. Chains that lean to the left are followed by the loop.
    pub(super) fn expr(&mut self, mut node: Node<'_>) -> Walked {
        loop {
            self.step()?;
            node = match node {
                Node::None
                | Node::ParamRef(_)
                | Node::SetToDefault(_)
                | Node::SQLValueFunction(_)
                | Node::Integer(_)
                | Node::Float(_)
                | Node::Boolean(_)
                | Node::String(_)
                | Node::BitString(_)
                | Node::A_Const(_) => return Ok(()),
                Node::ColumnRef(c) => {
                    self.column_used(c);
                    return Ok(());
                }
                Node::MergeSupportFunc(_) => {
                    self.newer_syntax("merge_action");
                    return Ok(());
                }
                Node::CurrentOfExpr(_) => {
                    self.column_references += 1;
                    return Ok(());
                }
                Node::A_Expr(e) => {
                    self.operator(e.name());
                    if let Node::None = e.lexpr() {
                        e.rexpr()
                    } else {
                        self.nested(|w| w.expr(e.rexpr()))?;
                        e.lexpr()
                    }
                }
                Node::TypeCast(c) => {
                    self.type_name(c.type_name())?;
                    c.arg()
                }
                Node::CollateClause(c) => c.arg(),
                Node::NullTest(t) => t.arg(),
                Node::BooleanTest(t) => t.arg(),
                Node::NamedArgExpr(a) => a.arg(),
                other => return self.nested(|w| w.branching_expr(other)),
            }
        }
    }

    fn branching_expr(&mut self, node: Node<'_>) -> Walked {
        match node {
            Node::NodeList(list) => self.exprs(list),
            Node::BoolExpr(b) => self.exprs(b.args()),
            Node::FuncCall(f) => self.call(f),
            Node::SubLink(s) => self.sub_link(s),
            Node::A_Indirection(i) => self.indirection(i),
            Node::A_ArrayExpr(a) => self.exprs(a.elements()),
            Node::RowExpr(r) => self.exprs(r.args()),
            Node::CoalesceExpr(c) => self.exprs(c.args()),
            Node::MinMaxExpr(m) => self.exprs(m.args()),
            Node::GroupingFunc(g) => self.exprs(g.args()),
            Node::GroupingSet(g) => self.exprs(g.content()),
            // The columns of `(a, b) = ..` share the one source.
            Node::MultiAssignRef(m) if m.colno > 1 => Ok(()),
            Node::MultiAssignRef(m) => self.expr(m.source()),
            Node::CaseExpr(c) => {
                self.expr(c.arg())?;
                self.exprs(c.args())?;
                self.expr(c.defresult())
            }
            Node::CaseWhen(w) => {
                self.expr(w.expr())?;
                self.expr(w.result())
            }
            Node::ResTarget(t) => {
                self.subscripts(t.indirection())?;
                self.expr(t.val())
            }
            Node::SortBy(s) => self.sort_key(s),
            Node::XmlExpr(x) => {
                self.exprs(x.named_args())?;
                self.exprs(x.args())
            }
            Node::XmlSerialize(x) => {
                self.type_name(x.type_name())?;
                self.expr(x.expr())
            }
            other => self.json_expr(other),
        }
    }

    fn column_used(&mut self, column: &ColumnRef) {
        self.column_references += 1;
        match Reference::of(column) {
            Reference::Bare(name) => self.columns.use_bare(name),
            Reference::Qualified { of, name } => {
                let node = self.columns.column(name);
                self.columns.use_node(node);
                self.attribute(Some(of), name);
            }
            Reference::Row(of) => {
                let row = self.columns.row(of);
                self.columns.use_node(row);
            }
            Reference::Star | Reference::Odd => self.unknown_because("ColumnRef"),
        }
    }

    /// `of.name` may be the column `name` or the call `name(of)`: what `name` could call is
    /// listed apart from the functions, because most such names are columns. Those that would
    /// take any row are calls until proven otherwise.
    pub(super) fn attribute(&mut self, of: Option<&str>, name: &str) {
        self.attributes.push(name.into());
        if ROW_FUNCTIONS.contains(&name) {
            self.functions.push(Name::bare(name));
            if let Some(of) = of {
                let row = self.columns.row(of);
                self.columns.use_node(row);
            }
        }
    }

    fn indirection(&mut self, i: &A_Indirection) -> Walked {
        self.subscripts(i.indirection())?;
        self.expr(i.arg())
    }

    /// `.field`, `.*` and `[subscript]` behind something.
    pub(super) fn subscripts(&mut self, list: &NodeList) -> Walked {
        for node in list {
            match node {
                Node::String(s) => {
                    let name = s.sval().unwrap_or_default();
                    let column = self.columns.column(name);
                    self.columns.use_node(column);
                    self.attribute(None, name);
                }
                Node::A_Star(_) => {}
                Node::A_Indices(i) => {
                    self.expr(i.lidx())?;
                    self.expr(i.uidx())?;
                }
                other => self.unlisted(other),
            }
        }
        Ok(())
    }

    /// A call: its name, its arguments, and all that can hang on an aggregate.
    pub(super) fn call(&mut self, f: &FuncCall) -> Walked {
        self.function(f.funcname());
        match f.funcname().iter().next_back() {
            Some(Node::String(last)) if last.sval() == Some("set_config") => {
                self.settings.push(settings::of_set_config(f.args()));
            }
            // A word of the grammar from PostgreSQL 16 on; before, a column's or a row's name.
            Some(Node::String(last)) if last.sval() == Some(SYSTEM_USER) => {
                self.column_references += 1;
                self.columns.use_bare(SYSTEM_USER);
            }
            _ => {}
        }
        self.exprs(f.args())?;
        for key in f.agg_order() {
            self.sort_key(key)?;
        }
        self.expr(f.agg_filter())?;
        self.window(f.over())
    }

    pub(super) fn window(&mut self, window: Option<&WindowDef>) -> Walked {
        let Some(window) = window else { return Ok(()) };
        self.exprs(window.partition_clause())?;
        for key in window.order_clause() {
            self.sort_key(key)?;
        }
        self.expr(window.start_offset())?;
        self.expr(window.end_offset())
    }

    pub(super) fn sort_key(&mut self, key: &SortBy) -> Walked {
        self.operator(key.use_op());
        self.expr(key.node())
    }

    fn sub_link(&mut self, s: &SubLink) -> Walked {
        self.operator(s.oper_name());
        self.expr(s.testexpr())?;
        // What EXISTS selects is never looked at, only whether there is a row.
        let flow = match s.sub_link_type {
            SubLinkType::EXISTS_SUBLINK => Flow::Ignored,
            _ => Flow::Used,
        };
        self.query(s.subselect(), flow).map(drop)
    }

    /// A type: only its modifiers are expressions.
    pub(super) fn type_name(&mut self, name: Option<&TypeName>) -> Walked {
        let Some(name) = name else { return Ok(()) };
        if name.pct_type {
            self.unknown_because("%TYPE");
        }
        self.exprs(name.typmods())
    }
}

/// The value of a string constant. Not under a cast, which may make another value of it:
/// `'role_'::varchar(4)` is `role`.
pub(super) fn constant_text(node: Node<'_>) -> Option<String> {
    match node {
        Node::A_Const(c) => match c.val()? {
            ConstValue::String(s) => Some(s.to_owned()),
            _ => None,
        },
        _ => None,
    }
}
