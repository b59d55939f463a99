//! A second parser reads the same text: sqlparser, written independently of PostgreSQL. It is no
//! authority. But where it can read a text and finds other statements in it than the authority
//! does, one of the two is being fooled, and nobody can say which.
//!
//! Compared are the number of statements, their coarse kinds and their tables; only what both
//! express. sqlparser counts the names of CTEs and of functions in FROM as tables, and doesn't
//! count every table that it knows: a table of the authority only has to occur as some identifier.
//! Where sqlparser can't parse (a tenth of what the server accepts), it has no opinion.
//!
//! sqlparser recurses over what it has parsed, to visit and to drop it, one level per operator of
//! a chain; its own limit doesn't count those. So a text of many tokens is read on a thread with
//! stack for the worst case, and one of very many not at all: the authority decides alone.

use std::{collections::HashSet, fmt, ops::ControlFlow};

use sqlparser::{
    ast::{
        Ident, ObjectName, ObjectNamePart, Query, Select, SetExpr, Statement as Parsed, Visit,
        Visitor,
    },
    dialect::PostgreSqlDialect,
    parser::Parser,
    tokenizer::{Token, TokenWithSpan, Tokenizer},
};

use super::{Analysis, Effect, ObjectKind, Statement, authority::guarded};

/// Tokens that a text may have to be read on the caller's stack.
const TOKENS_INLINE: usize = 150;
/// Bytes of the longest text that is cut into tokens.
const BYTES_MOST: usize = 256 << 10;
/// Tokens of the longest text that is read.
const TOKENS_MOST: usize = 8192;
/// Stack for one token, of a debug build.
const STACK_PER_TOKEN: usize = 4 << 10;
/// Nesting that sqlparser follows.
const RECURSION_LIMIT: usize = 40;

/// What the two parsers see differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// The number of statements.
    Count {
        /// The authority's.
        authority: usize,
        /// sqlparser's.
        second: usize,
    },
    /// The kind of a statement, by its position from 1.
    Kind(usize),
    /// The tables of a statement: one of them, that only one parser sees.
    Tables(usize, Box<str>),
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disagreement::Count { authority, second } => write!(
                f,
                "two parsers read the text differently: {authority} or {second} statements"
            ),
            Disagreement::Kind(n) => write!(
                f,
                "two parsers read the text differently: the kind of statement {n}"
            ),
            Disagreement::Tables(n, name) => write!(
                f,
                "two parsers read the text differently: table \"{name}\" of statement {n}"
            ),
        }
    }
}

impl std::error::Error for Disagreement {}

/// Compares an analysis with what sqlparser makes of the same text. `Ok` also where sqlparser
/// can't parse it.
pub fn second_opinion(text: &str, a: &Analysis) -> Result<(), Disagreement> {
    if text.len() > BYTES_MOST {
        return Ok(());
    }
    let Some(tokens) = tokens(text) else {
        return Ok(());
    };
    let count = tokens.iter().filter(|t| !is_blank(&t.token)).count();
    if count > TOKENS_MOST {
        return Ok(());
    }
    if count <= TOKENS_INLINE {
        return compare(tokens, &a.statements);
    }
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size((1 << 20) + count * STACK_PER_TOKEN)
            .spawn_scoped(scope, || compare(tokens, &a.statements))
            // No thread, or one that panicked: no opinion.
            .map_or(Ok(()), |thread| thread.join().unwrap_or(Ok(())))
    })
}

fn is_blank(token: &Token) -> bool {
    matches!(token, Token::Whitespace(_))
}

/// A panic of sqlparser counts as a text that it can't read.
fn tokens(text: &str) -> Option<Vec<TokenWithSpan>> {
    let dialect = PostgreSqlDialect {};
    guarded(|| Ok(Tokenizer::new(&dialect, text).tokenize_with_location().ok()))
        .ok()
        .flatten()
}

fn compare(tokens: Vec<TokenWithSpan>, authority: &[Statement]) -> Result<(), Disagreement> {
    let dialect = PostgreSqlDialect {};
    let verdict = guarded(|| {
        let parsed = Parser::new(&dialect)
            .with_recursion_limit(RECURSION_LIMIT)
            .with_tokens_with_locations(tokens)
            .parse_statements();
        Ok(parsed.map_or(Ok(()), |parsed| compare_all(authority, &parsed)))
    });
    verdict.unwrap_or(Ok(()))
}

fn compare_all(authority: &[Statement], second: &[Parsed]) -> Result<(), Disagreement> {
    if authority.len() != second.len() {
        return Err(Disagreement::Count {
            authority: authority.len(),
            second: second.len(),
        });
    }
    for (i, (a, s)) in authority.iter().zip(second).enumerate() {
        let seen = Seen::of(s);
        let kind = Kind::of_authority(a);
        if kind != Kind::of_second(s, &seen) {
            return Err(Disagreement::Kind(i + 1));
        }
        if kind != Kind::Other
            && let Some(name) = seen.differs(a)
        {
            return Err(Disagreement::Tables(i + 1, name));
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Query,
    QueryInto,
    Insert,
    Update,
    Delete,
    Merge,
    Copy,
    Explain,
    Other,
}

impl Kind {
    fn of_authority(a: &Statement) -> Kind {
        match a.tag {
            "SELECT" if a.touches.iter().any(|t| t.effect == Effect::Ddl) => Kind::QueryInto,
            "SELECT" => Kind::Query,
            "INSERT" => Kind::Insert,
            "UPDATE" => Kind::Update,
            "DELETE" => Kind::Delete,
            "MERGE" => Kind::Merge,
            "COPY" => Kind::Copy,
            "EXPLAIN" => Kind::Explain,
            _ => Kind::Other,
        }
    }

    fn of_second(s: &Parsed, seen: &Seen) -> Kind {
        match s {
            Parsed::Query(q) => match Kind::of_body(&q.body) {
                Kind::Query if seen.into => Kind::QueryInto,
                kind => kind,
            },
            Parsed::Insert(_) => Kind::Insert,
            Parsed::Update(_) => Kind::Update,
            Parsed::Delete(_) => Kind::Delete,
            Parsed::Merge { .. } => Kind::Merge,
            Parsed::Copy { .. } => Kind::Copy,
            Parsed::Explain { .. } | Parsed::ExplainTable { .. } => Kind::Explain,
            _ => Kind::Other,
        }
    }

    /// `WITH .. INSERT` is a query to sqlparser.
    fn of_body(body: &SetExpr) -> Kind {
        match body {
            SetExpr::Insert(_) => Kind::Insert,
            SetExpr::Update(_) => Kind::Update,
            SetExpr::Delete(_) => Kind::Delete,
            SetExpr::Merge(_) => Kind::Merge,
            _ => Kind::Query,
        }
    }
}

/// The names in a statement as sqlparser sees them, folded as the server does.
#[derive(Default)]
struct Seen {
    tables: HashSet<String>,
    ctes: HashSet<String>,
    identifiers: HashSet<String>,
    into: bool,
}

impl Seen {
    fn of(s: &Parsed) -> Seen {
        let mut seen = Seen::default();
        let _never_breaks = s.visit(&mut seen);
        seen
    }

    /// A table that only one of the two sees.
    fn differs(&self, a: &Statement) -> Option<Box<str>> {
        let relations: HashSet<&str> = a
            .touches
            .iter()
            .filter(|t| t.kind == ObjectKind::Relation)
            .filter_map(|t| Some(&*t.object.as_ref()?.name))
            .collect();
        let functions: HashSet<&str> = a.functions.iter().map(|f| &*f.name).collect();
        let only_second = self.tables.iter().find(|t| {
            !relations.contains(t.as_str())
                && !functions.contains(t.as_str())
                && !self.ctes.contains(*t)
        });
        let only_authority = relations.iter().find(|r| !self.identifiers.contains(**r));
        only_second
            .map(|t| t.as_str().into())
            .or(only_authority.map(|r| (*r).into()))
    }
}

fn folded(ident: &Ident) -> String {
    let mut name = match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    };
    let most = 63.min(name.len());
    let end = (0..=most).rev().find(|i| name.is_char_boundary(*i));
    name.truncate(end.unwrap_or(0));
    name
}

impl Visitor for Seen {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        for cte in query.with.iter().flat_map(|w| &w.cte_tables) {
            self.ctes.insert(folded(&cte.alias.name));
        }
        // `TABLE t` keeps its names as text.
        let mut bodies = vec![&*query.body];
        while let Some(body) = bodies.pop() {
            match body {
                SetExpr::SetOperation { left, right, .. } => bodies.extend([&**left, &**right]),
                SetExpr::Table(t) => {
                    let names = t.table_name.iter().chain(&t.schema_name);
                    self.identifiers
                        .extend(names.map(|n| n.to_ascii_lowercase()));
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.into |= select.into.is_some();
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        // `FROM ONLY t` is a table called `only` to sqlparser, with the alias `t`. The word is
        // reserved: unquoted it never is a name.
        if let Some(ObjectNamePart::Identifier(last)) = relation.0.last()
            && !(last.quote_style.is_none() && last.value.eq_ignore_ascii_case("only"))
        {
            self.tables.insert(folded(last));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_ident(&mut self, ident: &Ident) -> ControlFlow<()> {
        self.identifiers.insert(folded(ident));
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{super::analyse, *};

    fn opinion(text: &str) -> Result<(), Disagreement> {
        let statements = super::super::statements(text).unwrap();
        let analysis = Analysis {
            statements,
            failure: None,
        };
        second_opinion(text, &analysis)
    }

    #[test]
    fn known_differences_are_found() {
        let swallowed = "COPY t FROM STDIN; DROP TABLE x";
        assert!(matches!(
            opinion(swallowed),
            Err(Disagreement::Count { authority: 2, .. })
        ));
        // sqlparser takes it for a plain query.
        assert_eq!(
            opinion("SELECT INTO newt FROM pg_class"),
            Err(Disagreement::Kind(1))
        );
        assert!(analyse(swallowed).failure.is_some());
    }

    #[test]
    fn only_the_authority_reads_unicode_escapes() {
        // sqlparser sees an operator `&`: same table, same kind. The authority sees the column.
        let text = r#"SELECT 1 FROM customers WHERE U&"s\0073n" = '1'"#;
        assert_eq!(opinion(text), Ok(()));
        let columns = &analyse(text).statements[0].columns;
        let found = columns.forbidden_use(&|_| Some(vec!["ssn".into()]));
        assert_eq!(found.as_deref(), Some("ssn"));
    }

    #[test]
    fn a_table_or_kind_that_only_one_sees_is_a_disagreement() {
        let other = |text: &str, authority: &str| {
            second_opinion(
                text,
                &Analysis {
                    statements: super::super::statements(authority).unwrap(),
                    failure: None,
                },
            )
        };
        assert_eq!(other("SELECT * FROM a", "SELECT * FROM a"), Ok(()));
        assert_eq!(
            other("SELECT * FROM a", "SELECT * FROM b"),
            Err(Disagreement::Tables(1, "a".into()))
        );
        assert_eq!(
            other("SELECT 1", "SELECT 1 FROM b"),
            Err(Disagreement::Tables(1, "b".into()))
        );
        assert_eq!(
            other("SELECT 1; SELECT 2", "SELECT 1; DROP TABLE a"),
            Err(Disagreement::Kind(2))
        );
        assert_eq!(
            other("SELECT 1", "SELECT 1; SELECT 2"),
            Err(Disagreement::Count {
                authority: 2,
                second: 1
            })
        );
    }

    #[test]
    fn hostile_texts_neither_overflow_nor_take_long() {
        let n = TOKENS_MOST / 2 - 10;
        let texts = [
            format!("SELECT 1{}", "+1".repeat(n)),
            format!("SELECT 1{}", "::a".repeat(n)),
            format!("SELECT {}true", "NOT ".repeat(n)),
            format!("SELECT 1{}", " UNION SELECT 1".repeat(n / 2)),
            format!("SELECT a{}", "[1]".repeat(n / 2)),
            format!("SELECT a::int{}", "[]".repeat(n)),
            format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n)),
            format!("SELECT * FROM {}t{}", "(".repeat(n), ")".repeat(n)),
            format!(
                "SELECT {}1{}",
                "CASE WHEN ".repeat(200),
                " THEN 1 END".repeat(200)
            ),
            format!("SELECT {}1{}", "f(".repeat(200), ")".repeat(200)),
            format!("SELECT {}1{}", "((a,".repeat(38), "))".repeat(38)),
            format!(
                "SELECT * FROM {}t{}",
                "(SELECT * FROM ".repeat(30),
                ")".repeat(30)
            ),
            format!("SELECT * FROM {}t{}", "((".repeat(19), "))".repeat(19)),
            format!(
                "SELECT * FROM {}t{}",
                "(".repeat(38),
                " JOIN t ON true)".repeat(38)
            ),
            format!("SELECT {}", "(".repeat(38)),
            format!("SELECT * FROM t {}", "JOIN t ".repeat(500)),
            format!("SELECT 1 FROM a{}", " PIVOT(b FOR c IN (1))".repeat(800)),
        ];
        let empty = Analysis {
            statements: Vec::new(),
            failure: None,
        };
        for text in texts {
            let start = Instant::now();
            let _either = second_opinion(&text, &empty);
            let took = start.elapsed();
            assert!(took < Duration::from_secs(3), "{took:?}: {}", &text[..60]);
        }
    }
}
