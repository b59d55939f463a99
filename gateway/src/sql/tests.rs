//! Cases by file (`testdata/effects.txt`) and properties of the analysis.

use std::fmt::Write;

use proptest::prelude::*;

use super::*;

fn one(text: &str) -> Statement {
    let mut analysis = analyse(text);
    assert_eq!(analysis.failure, None, "{text}");
    assert_eq!(analysis.statements.len(), 1, "{text}");
    analysis.statements.remove(0)
}

/// In the notation of `effects.txt`.
fn rendered(s: &Statement) -> String {
    let mut out = String::new();
    for t in &s.touches {
        let _infallible = write!(out, " {}", t.effect);
        if let Some(object) = &t.object {
            let _infallible = write!(out, ":{object}");
        }
        out.push_str(match t.has_where {
            Some(true) => "?where",
            Some(false) => "!where",
            None => "",
        });
    }
    let mut list = |label: &str, words: Vec<String>| {
        if !words.is_empty() {
            let _infallible = write!(out, " {label}({})", words.join(" "));
        }
    };
    let names = s.functions.iter().map(|n| n.to_string().replace(' ', "_"));
    list("f", names.collect());
    list("s", s.settings.iter().map(|n| n.to_string()).collect());
    out.trim_start().to_owned()
}

fn cases(file: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    file.lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .map(|l| l.rsplit_once(" => ").unwrap())
}

#[test]
fn each_statement_has_the_effects_that_the_file_says() {
    let mut wrong = String::new();
    for (text, expected) in cases(include_str!("testdata/effects.txt")) {
        let found = rendered(&one(text));
        if found != expected {
            let _infallible = write!(wrong, "{text}\n  want {expected}\n  have {found}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn ordinary_statements_are_understood_by_both_parsers() {
    let mut wrong = String::new();
    for text in include_str!("testdata/ordinary.txt").lines() {
        let analysis = analyse(text);
        let unknown = analysis.statements.iter().find_map(|s| s.unknown.clone());
        if let Some(reason) = unknown {
            let _infallible = write!(wrong, "{text}\n  {reason}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn with_masks(text: &str) -> Option<Box<str>> {
    one(text)
        .columns
        .forbidden_use(&|relation| match &*relation.name {
            "customers" => Some(vec!["ssn".into(), "email".into()]),
            _ => None,
        })
}

#[test]
fn every_use_of_a_masked_column_is_found() {
    for text in include_str!("testdata/forbidden.txt").lines() {
        if !text.is_empty() && !text.starts_with('#') {
            assert!(with_masks(text).is_some(), "not found: {text}");
        }
    }
}

#[test]
fn plain_outputs_and_other_columns_are_no_use() {
    for text in include_str!("testdata/plain.txt").lines() {
        if !text.is_empty() && !text.starts_with('#') {
            assert_eq!(with_masks(text), None, "{text}");
        }
    }
}

#[test]
fn the_use_is_called_by_its_name() {
    let named = |text| with_masks(text).map(String::from);
    let ssn = Some("ssn".to_owned());
    assert_eq!(named("SELECT 1 FROM customers WHERE ssn = '1'"), ssn);
    assert_eq!(named("SELECT id, ssn FROM customers ORDER BY 2"), ssn);
    assert_eq!(named("SELECT DISTINCT ssn FROM customers"), ssn);
    let row = named("SELECT row_to_json(c) FROM customers c");
    assert_eq!(row.as_deref(), Some("c"));
}

#[test]
fn names_that_may_be_calls_are_listed() {
    let names = |text| one(text).attributes.join(" ");
    assert_eq!(names("SELECT c.a, (c).b FROM t c WHERE s.c.d"), "a b d");
    assert_eq!(names("SELECT a FROM t"), "");
    assert_eq!(names("SELECT json_value('{}', '$')"), "json_value");
    assert_eq!(
        names("SELECT json_array(1), json_exists('{}', '$')"),
        "json_array json_exists"
    );
}

#[test]
fn spans_are_the_statements_own_bytes() {
    let text = " SELECT 1 ;; -- x\n\n/* é */ UPDATE t SET a = ';' ;\nSELECT 'ü'";
    let slices: Vec<&str> = analyse(text)
        .statements
        .iter()
        .map(|s| &text[s.span.clone()])
        .collect();
    assert_eq!(slices.len(), 3, "{slices:?}");
    assert_eq!(slices[0], "SELECT 1");
    assert!(slices[1].ends_with("UPDATE t SET a = ';'"));
    assert_eq!(slices[2], "SELECT 'ü'");
}

#[test]
fn an_empty_text_has_no_statements() {
    for text in ["", " ; ;", "-- nothing", "/* /* nested */ */"] {
        let analysis = analyse(text);
        assert!(analysis.statements.is_empty(), "{text}");
        assert_eq!(analysis.failure, None);
    }
}

#[test]
fn what_cannot_be_analysed_is_one_unknown_statement() {
    let nested = format!("SELECT {}1{}", "f(".repeat(2000), ")".repeat(2000));
    let too_long = format!("SELECT '{}'", "x".repeat(MAX_TEXT));
    let cases = [
        ("SELEC 1", FailureKind::Syntax),
        ("SELECT 1; DROP", FailureKind::Syntax),
        ("SELECT 'a", FailureKind::Syntax),
        ("SELECT 1\0", FailureKind::Nul),
        (&nested, FailureKind::TooDeep),
        (&too_long, FailureKind::TooLong),
    ];
    for (text, kind) in cases {
        let analysis = analyse(text);
        assert_eq!(analysis.failure.map(|f| f.kind), Some(kind));
        assert_eq!(analysis.statements.len(), 1);
        let s = &analysis.statements[0];
        assert_eq!(s.touches[0].effect, Effect::Unknown);
        assert_eq!(s.span, 0..text.len());
        assert!(s.columns.forbidden_use(&|_| Some(vec![])).is_none());
    }
}

#[test]
fn a_syntax_error_says_where_if_that_is_certain() {
    let position = |text| analyse(text).failure.unwrap().position;
    assert_eq!(position("SELEC 1"), Some(0));
    assert_eq!(position("SELECT 1 FROM WHERE x"), Some(14));
    assert_eq!(position("SELECT 1 +"), Some(10));
    assert_eq!(position("SELECT ) )"), None);
    let failure = analyse("SELEC 1").failure.unwrap();
    assert_eq!(failure.to_string(), "syntax error at or near \"SELEC\"");
}

#[test]
fn long_chains_are_followed() {
    let n = 20_000;
    let chains = [
        format!("SELECT 1 WHERE {}", vec!["a = 1"; n].join(" OR ")),
        format!("SELECT {}", vec!["a"; n].join(" || ")),
        format!("SELECT {}", vec!["f(1)"; n].join(" + ")),
        vec!["SELECT f(1)"; 5000].join(" UNION ALL "),
        format!("SELECT x{}", "::text".repeat(n)),
        format!("SELECT 1 WHERE {} true", "NOT ".repeat(250)),
        format!("SELECT {}1{}", "(".repeat(400), ")".repeat(400)),
    ];
    for text in chains {
        let analysis = analyse(&text);
        assert_eq!(analysis.failure, None, "{}", &text[..60]);
    }
}

/// The deepest walk that is allowed fits the smallest stack that it can meet.
#[test]
fn the_deepest_nesting_fits_a_small_stack() {
    let nestings = [
        ("SELECT ", "f(", "1", ")"),
        ("SELECT ", "(SELECT ", "1", ")"),
        ("SELECT 1 FROM ", "(SELECT 1 FROM ", "t", ") x"),
        ("SELECT ", "CASE WHEN ", "x", " THEN 1 END"),
        ("SELECT 1 WHERE ", "x = ANY(ARRAY[", "1", "])"),
        ("", "WITH a AS (", "SELECT 1", ") SELECT 1"),
        ("SELECT 1 FROM ", "(", "t", " JOIN t ON true)"),
        ("", "EXPLAIN ", "SELECT 1", ""),
    ];
    let thread = std::thread::Builder::new()
        .stack_size(1280 << 10)
        .spawn(move || {
            for (start, open, inner, close) in nestings {
                for depth in [10, 100, 200, 400, 1000] {
                    let text = format!(
                        "{start}{}{inner}{}",
                        open.repeat(depth),
                        close.repeat(depth)
                    );
                    analyse(&text);
                }
            }
        });
    thread.unwrap().join().unwrap();
}

#[test]
fn invalid_utf8_made_by_an_escape_is_a_failure_and_no_panic() {
    for text in [
        r"SELECT E'\xff'",
        r"SELECT E'\377' AS x",
        r"SELECT E'ab\xc3' FROM t",
        r"SET x = E'\xff'",
    ] {
        assert!(analyse(text).failure.is_some(), "{text}");
    }
    assert_eq!(analyse(r"SELECT E'\xc3\xa9'").failure, None);
}

#[test]
fn identifiers_are_folded_and_truncated_as_by_the_server() {
    let long = "A".repeat(70);
    assert_eq!(
        rendered(&one(&format!("SELECT * FROM {long}"))),
        format!("read:{}", "a".repeat(63))
    );
    // 62 + 2 bytes: the last character doesn't fit and goes as a whole.
    let name = format!("{}é", "a".repeat(62));
    let found = rendered(&one(&format!("SELECT * FROM {name}")));
    assert_eq!(found, format!("read:{}", "a".repeat(62)));
    assert_eq!(rendered(&one("SELECT * FROM É")), "read:É");
}

#[test]
fn shapes_say_what_the_session_needs() {
    let shape = |text| one(text).shape;
    assert_eq!(shape("COPY t TO STDOUT").copy, Some(CopyDirection::Out));
    assert_eq!(shape("COPY t FROM STDIN").copy, Some(CopyDirection::In));
    assert_eq!(shape("COPY t TO '/x'").copy, None);
    assert!(shape("COPY t TO STDOUT (FORMAT binary)").copy_binary);
    assert!(shape("COPY BINARY t TO STDOUT").copy_binary);
    assert!(!shape("COPY t TO STDOUT (FORMAT csv)").copy_binary);
    for text in [
        "CREATE TABLE a AS SELECT 1",
        "SELECT 1 INTO a",
        "CREATE VIEW a AS SELECT 1",
        "CREATE RULE r AS ON INSERT TO t DO NOTHING",
        "CREATE MATERIALIZED VIEW a AS SELECT 1",
        "INSERT INTO a SELECT 1",
        "INSERT INTO a VALUES (generate_series(1, 9))",
        "WITH i AS (INSERT INTO a TABLE b) SELECT 1",
        "DECLARE c CURSOR FOR SELECT 1",
        "PREPARE p AS SELECT 1",
        "CREATE FUNCTION f() RETURNS int RETURN 1",
    ] {
        assert!(shape(text).derives, "{text}");
    }
    let many = format!("INSERT INTO a VALUES ({})", listed("now()", 1601));
    assert!(shape(&many).derives);
    assert!(!shape("INSERT INTO a VALUES (1, now()), (2, now())").derives);
    assert!(!shape("INSERT INTO a VALUES (1, now())").derives);
    for text in [
        "CREATE VIEW v AS SELECT 1",
        "CREATE SCHEMA s CREATE VIEW v AS SELECT 1",
    ] {
        assert!(shape(text).makes_view, "{text}");
    }
    assert!(!shape("CREATE MATERIALIZED VIEW v AS SELECT 1").makes_view);
    assert!(shape("PREPARE p AS SELECT 1").prepares);
    assert_eq!(shape("EXECUTE p").stored, Some(Stored::Execute));
    assert!(shape("DECLARE c CURSOR WITH HOLD FOR SELECT 1").holds);
    assert!(!shape("DECLARE c SCROLL CURSOR WITHOUT HOLD FOR SELECT 1").holds);
    assert_eq!(
        shape("CREATE TABLE a AS EXECUTE p").stored,
        Some(Stored::Execute)
    );
    assert_eq!(shape("EXPLAIN EXECUTE p").stored, Some(Stored::Execute));
    assert_eq!(
        shape("ROLLBACK TO a").transaction,
        Some(TransactionVerb::RollbackTo)
    );
    let explain = shape("EXPLAIN (ANALYZE, VERBOSE off) SELECT 1").explain;
    assert_eq!(
        explain,
        Some(Explain {
            analyze: true,
            verbose: false
        })
    );
    for (text, rows) in [
        ("SELECT 1", true),
        ("INSERT INTO t VALUES (1)", false),
        ("INSERT INTO t VALUES (1) RETURNING 1", true),
        ("SHOW x", true),
        ("EXPLAIN DELETE FROM t", true),
        ("SET x = 1", false),
        ("FETCH c", true),
        ("MOVE c", false),
    ] {
        assert_eq!(shape(text).returns_rows, rows, "{text}");
    }
}

#[test]
fn an_unlisted_statement_says_its_kind() {
    let s = one("CREATE FOREIGN TABLE t (a int) SERVER s");
    assert_eq!(s.touches[0].effect, Effect::Unknown);
    assert!(s.unknown.is_some());
    assert!(s.columns.forbidden_use(&|_| Some(vec![])).is_none());
}

/// What a walk over a text makes: its steps and all that it finds; bounded by what so many bytes
/// allow.
fn work(text: &str, bytes: usize) -> Result<usize, Failure> {
    authority::with_tree(text, |tree| {
        let mut walk = Walk::over(bytes);
        for raw in tree.iter() {
            walk.statement(raw.stmt())?;
            walk.step()?;
        }
        Ok(walk.work())
    })
}

fn listed(item: &str, times: usize) -> String {
    vec![item; times].join(",")
}

fn nested(open: &str, levels: usize, inner: &str, close: &str) -> String {
    format!("{}{inner}{}", open.repeat(levels), close.repeat(levels))
}

/// Texts of size `n` with two parts, each of size `n`, whose product would be the work if the one
/// were walked for each of the other. Where parts nest, it would even double at each level.
fn products(n: usize) -> Vec<String> {
    let (a, names) = (listed("a", n), listed("a", 8 * n));
    let innermost = format!("SELECT 1 FROM {names}");
    let locked = nested("SELECT 1 FROM (", n, &innermost, " FOR UPDATE) x");
    let innermost = format!("SELECT 1 FROM {a}");
    let planned = nested("SELECT 1 FROM (", n / 8, &innermost, " FOR UPDATE) x");
    // More leaves than a chain of joins can have, which is not walked so far down.
    let tree = vec![vec!["a"; n].join(" CROSS JOIN "); 8].join(") CROSS JOIN (");
    let tree = format!("({tree})");
    let assigned = nested(
        "UPDATE t SET (a,b)=(WITH x AS (",
        n / 2,
        "TABLE t",
        ")TABLE x)",
    );
    vec![
        format!("SELECT {} FROM {a}", listed("*", n)),
        format!("DELETE FROM t USING {a} RETURNING {}", listed("*", n)),
        format!("{locked} FOR UPDATE"),
        format!("EXPLAIN {planned}"),
        format!("UPDATE t SET ({a}) = (SELECT {names})"),
        format!("UPDATE t SET ({a}) = ({}1)", "1+".repeat(n)),
        assigned,
        format!(
            "SELECT 1 FROM {}",
            nested("(", n, &tree, " CROSS JOIN a) AS j")
        ),
        format!("SELECT 1 FROM {tree}{}", " NATURAL JOIN a".repeat(n)),
        format!("WITH c AS (SELECT {a}) SELECT 1 FROM {}", listed("c", n)),
        format!(
            "WITH c AS (SELECT {a}) SELECT 1 FROM {}",
            listed("c x(a,b)", n)
        ),
        format!(
            "SELECT {} WINDOW w AS (ORDER BY {a})",
            listed("f() OVER w", n)
        ),
        format!("SELECT {a} GROUP BY {}", listed("GROUPING SETS (1, 2)", n)),
        format!("INSERT INTO t({a}) VALUES {}", listed("(1,2)", n)),
        format!(
            "MERGE INTO t USING s ON {}true {}",
            "a AND ".repeat(n),
            "WHEN MATCHED THEN DELETE ".repeat(n)
        ),
        format!("{}SELECT {a}", format!("SELECT {a} UNION ").repeat(4)),
    ]
}

#[test]
fn the_work_grows_as_the_text_does() {
    for (small, large) in products(20).iter().zip(&products(80)) {
        let [less, more] = [small, large].map(|text| work(text, 1 << 18).unwrap());
        let (longer, head) = (large.len() / small.len() + 1, &small[..small.len().min(60)]);
        assert!(more <= longer * less, "{less} to {more}: {head}");
    }
}

#[test]
fn the_densest_texts_make_half_of_the_work_that_is_allowed() {
    let n = 3000;
    let dense = [
        format!("SELECT * FROM {} FOR UPDATE", listed("a", n)),
        format!("SELECT a{}", "+a".repeat(n)),
        format!("SELECT {}", listed("a!b", n)),
        format!("SELECT {}", listed("a.max", n)),
        format!("SELECT f({})", listed("(SELECT)", n)),
        format!("INSERT INTO t VALUES {}", listed("(1,now(),NULL)", n)),
        format!("SELECT 1 FROM {}", listed("(a NATURAL JOIN a)a", n)),
    ];
    let ordinary = include_str!("testdata/ordinary.txt").lines();
    for text in ordinary.chain(dense.iter().map(String::as_str)) {
        let head = &text[..text.len().min(60)];
        assert!(work(text, text.len() / 2).is_ok(), "{head}");
    }
}

#[test]
fn more_work_than_the_length_allows_is_refused() {
    let text = format!("SELECT {}", listed("a", 1000));
    let failure = work(&text, 10).unwrap_err();
    assert_eq!(failure.kind, FailureKind::TooMuchWork);
    let analysis = Analysis::failed(&text, failure);
    assert_eq!(analysis.statements[0].touches[0].effect, Effect::Unknown);
    // Without an expression or a level, too.
    let failure = work(&format!("DROP TABLE {}", listed("a", 1000)), 10).unwrap_err();
    assert_eq!(failure.kind, FailureKind::TooMuchWork);
}

/// The statements of all files, as seeds.
fn seeds() -> Vec<&'static str> {
    let effects = cases(include_str!("testdata/effects.txt")).map(|(text, _)| text);
    let forbidden = include_str!("testdata/forbidden.txt").lines();
    let plain = include_str!("testdata/plain.txt").lines();
    effects.chain(forbidden).chain(plain).collect()
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>()) {
        let analysis = analyse(&text);
        prop_assert!(analysis.statements.iter().all(|s| !s.touches.is_empty()));
    }

    #[test]
    fn no_mutated_statement_panics(
        one in prop::sample::select(seeds()),
        other in prop::sample::select(seeds()),
        cut in any::<prop::sample::Index>(),
        splice in any::<prop::sample::Index>(),
        glue in "[ ;(),.*'\"$\\\\a-z]{0,6}",
    ) {
        let boundary = |s: &str, i: usize| (0..=i).rev().find(|i| s.is_char_boundary(*i)).unwrap_or(0);
        let head = &one[..boundary(one, cut.index(one.len() + 1))];
        let tail = &other[boundary(other, splice.index(other.len() + 1))..];
        let text = format!("{head}{glue}{tail}");
        let analysis = analyse(&text);
        for s in &analysis.statements {
            prop_assert!(text.get(s.span.clone()).is_some());
            prop_assert!(!s.touches.is_empty());
            s.columns.forbidden_use(&|_| Some(vec!["ssn".into(), "id".into()]));
        }
    }
}
