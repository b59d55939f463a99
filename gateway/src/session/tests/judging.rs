//! Statements that pass and statements that are denied, in every protocol.

use super::super::link::End;
use super::stage::{
    POLICY, active, begun, bind, complete, description, error, execute, f, on_stage, parse, query,
    ready, row, show, sync,
};

#[tokio::test]
async fn an_allowed_query_is_forwarded_as_it_came_once_its_decision_is_recorded() {
    on_stage(|mut s| async move {
        let text = "SELECT  id /* as it came */ FROM orders;";
        s.client_says(&query(text)).await;
        s.server_gets(&query(text)).await;
        let recorded = s.recorded();
        assert!(
            recorded.contains("Decision") && recorded.contains("Allow"),
            "{recorded}"
        );
        let answer = [
            description(&[("id", 20002, 1)]),
            row(&["1"]),
            row(&["2"]),
            complete("SELECT 2"),
            ready(b'I'),
        ]
        .concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        assert!(s.recorded().contains("Outcome"));
        s.client_says(&f(b'X', b"")).await;
        s.server_gets(&f(b'X', b"")).await;
        assert!(matches!(s.end().await, Ok(End::ClientQuit)));
    })
    .await;
}

#[tokio::test]
async fn a_denied_query_is_answered_without_the_server_and_the_session_goes_on() {
    on_stage(|mut s| async move {
        s.client_says(&query("DROP TABLE orders")).await;
        s.client_is_refused("42501", "schema changes go through migrations")
            .await;
        s.client_gets(&ready(b'I')).await;
        s.nothing_reaches_the_server().await;
        assert!(s.recorded().contains("Deny"));
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
    })
    .await;
}

#[tokio::test]
async fn one_denied_statement_denies_its_batch_before_any_of_it_runs() {
    on_stage(|mut s| async move {
        s.client_says(&query("INSERT INTO orders VALUES (1); DROP TABLE orders"))
            .await;
        s.client_is_refused("42501", "migrations").await;
        s.client_gets(&ready(b'I')).await;
        s.nothing_reaches_the_server().await;
    })
    .await;
}

#[tokio::test]
async fn a_view_that_the_session_has_made_may_lead_to_what_a_rule_protects() {
    on_stage(|mut s| async move {
        let policy = "version = 1\n[[rule]]\nname = \"all\"\ndecision = \"allow\"\n\
             effects = [\"read\", \"delete\", \"ddl\", \"transaction\"]\n\
             [[rule]]\nname = \"kept\"\neffects = [\"delete\"]\nobjects = [\"vault.plans\"]\ndecision = \"deny\"\n";
        s.policy.send(active(policy, 2)).expect("a session");
        let delete = query("DELETE FROM v");
        for (sql, tag) in [
            ("DELETE FROM v", "DELETE 0"),
            ("CREATE VIEW v AS SELECT id FROM vault.plans", "CREATE VIEW"),
        ] {
            let answer = [complete(tag), ready(b'I')].concat();
            s.passes(&query(sql), &answer).await;
        }
        s.client_says(&delete).await;
        s.client_is_refused("42501", "kept").await;
        s.client_gets(&ready(b'I')).await;
        s.nothing_reaches_the_server().await;
        s.client_says(&query("DELETE FROM orders")).await;
        s.server_gets(&query("DELETE FROM orders")).await;
    })
    .await;
}

#[tokio::test]
async fn a_denied_query_in_a_transaction_fails_the_servers_transaction_too() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        s.client_says(&query("DROP TABLE orders")).await;
        let (tag, body) = s.server_frame().await;
        assert_eq!(tag, b'Q');
        assert!(!show(&body).contains("DROP"), "{}", show(&body));
        assert!(
            show(&body).contains("no-ddl"),
            "the server's log names the rule"
        );
        s.server_says(&[error("42601", "syntax error"), ready(b'E')].concat())
            .await;
        s.client_is_refused("42501", "migrations").await;
        s.client_gets(&ready(b'E')).await;
    })
    .await;
}

#[tokio::test]
async fn a_denied_parse_fails_at_its_place_in_a_pipeline() {
    on_stage(|mut s| async move {
        let pipeline = [
            parse("", "SELECT id FROM orders"),
            bind("", ""),
            execute(""),
            parse("", "DROP TABLE orders"),
            bind("", ""),
            execute(""),
            sync(),
        ];
        s.client_says(&pipeline.concat()).await;
        s.server_gets(&pipeline[..3].concat()).await;
        let (tag, body) = s.server_frame().await;
        assert_eq!(tag, b'P');
        assert!(!show(&body).contains("DROP"));
        // What follows would be discarded.
        s.server_gets(&sync()).await;
        let rows = [f(b'1', b""), f(b'2', b""), complete("SELECT 0")].concat();
        s.server_says(&[rows.clone(), error("42601", "syntax error"), ready(b'I')].concat())
            .await;
        s.client_gets(&rows).await;
        s.client_is_refused("42501", "migrations").await;
        s.client_gets(&ready(b'I')).await;
    })
    .await;
}

#[tokio::test]
async fn a_name_that_hangs_on_an_open_answer_is_not_used_before_it_comes() {
    on_stage(|mut s| async move {
        let first = [parse("s", "SELECT id FROM orders"), sync()].concat();
        s.client_says(&[first.clone(), bind("", "s"), execute(""), sync()].concat())
            .await;
        s.server_gets(&first).await;
        s.nothing_reaches_the_server().await;
        s.server_says(&[error("42P05", "exists"), ready(b'I')].concat())
            .await;
        s.client_is_refused("42P05", "exists").await;
        s.client_gets(&ready(b'I')).await;
        // The name means nothing that Weir has judged.
        s.is_refused_up_to_a_sync("26000", "prepared statement", b'I')
            .await;
    })
    .await;
}

#[tokio::test]
async fn a_look_ahead_that_is_cancelled_is_the_querys_answer() {
    on_stage(|mut s| async move {
        s.client_says(&query("SELECT ssn FROM customers")).await;
        for tag in [b'P', b'D', b'S'] {
            assert_eq!(s.server_frame().await.0, tag);
        }
        let cancelled = error("57014", "canceling statement due to user request");
        s.server_says(&[f(b'1', b""), cancelled.clone(), ready(b'I')].concat())
            .await;
        s.client_gets(&[cancelled, ready(b'I')].concat()).await;
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
    })
    .await;
}

#[tokio::test]
async fn a_long_text_is_judged_like_a_short_one() {
    on_stage(|mut s| async move {
        let padding = "1, ".repeat(40_000);
        let allowed = query(&format!("SELECT id FROM orders WHERE id IN ({padding}1)"));
        s.passes(&allowed, &[complete("SELECT 0"), ready(b'I')].concat())
            .await;
        s.client_says(&query(&format!("DROP TABLE orders /* {padding} */")))
            .await;
        s.client_is_refused("42501", "no-ddl").await;
    })
    .await;
}

#[tokio::test]
async fn a_cursor_that_sql_declared_can_be_described_but_not_executed() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        let declare = query("DECLARE c CURSOR FOR SELECT id FROM orders");
        s.passes(
            &declare,
            &[complete("DECLARE CURSOR"), ready(b'T')].concat(),
        )
        .await;
        let describe = [f(b'D', b"Pc\0"), sync()].concat();
        s.passes(
            &describe,
            &[description(&[("id", 20002, 1)]), ready(b'T')].concat(),
        )
        .await;
        s.client_says(&[execute("c"), sync()].concat()).await;
        assert_eq!(s.server_frame().await.0, b'P', "a stand-in");
    })
    .await;
}

#[tokio::test]
async fn a_new_policy_judges_the_next_execute_of_a_prepared_statement() {
    on_stage(|mut s| async move {
        s.passes(
            &[parse("s", "SELECT id FROM orders"), sync()].concat(),
            &[f(b'1', b""), ready(b'I')].concat(),
        )
        .await;
        let strict = "version = 1\n[[rule]]\nname = \"none\"\neffects = [\"read\"]\n\
                      objects = [\"*.*\"]\ndecision = \"deny\"\nmessage = \"closed\"\n";
        s.policy.send_replace(active(strict, 2));
        s.client_says(&[bind("", "s"), execute(""), sync()].concat())
            .await;
        assert_eq!(s.server_frame().await.0, b'P');
        s.fails_up_to_a_sync("42501", "closed", b'I').await;
        assert!(s.recorded().contains("Policy"));
    })
    .await;
}

#[tokio::test]
async fn a_query_denied_behind_work_without_its_sync_fails_that_work_too() {
    on_stage(|mut s| async move {
        let work = [
            parse("", "INSERT INTO orders VALUES (1)"),
            bind("", ""),
            execute(""),
            f(b'H', b""),
        ]
        .concat();
        s.passes(
            &work,
            &[f(b'1', b""), f(b'2', b""), complete("INSERT 0 1")].concat(),
        )
        .await;
        s.client_says(&query("DROP TABLE orders")).await;
        // Answered without the server, the insert would be committed by the next Sync.
        let (tag, body) = s.server_frame().await;
        assert_eq!((tag, show(&body).contains("no-ddl")), (b'P', true));
        s.fails_up_to_a_sync("42501", "migrations", b'I').await;
    })
    .await;
}

#[tokio::test]
async fn a_query_that_has_to_be_asked_about_commits_nothing_before_it() {
    on_stage(|mut s| async move {
        let work = [
            parse("", "INSERT INTO orders VALUES (1)"),
            bind("", ""),
            execute(""),
        ]
        .concat();
        let asked = query("SELECT ssn FROM customers");
        s.client_says(&[work.clone(), asked].concat()).await;
        s.server_gets(&[work, f(b'H', b"")].concat()).await;
        let done = [f(b'1', b""), f(b'2', b""), complete("INSERT 0 1")].concat();
        s.server_says(&done).await;
        s.client_gets(&done).await;
        let (tag, body) = s.server_frame().await;
        assert_eq!((tag, show(&body).contains("refused this")), (b'P', true));
        s.fails_up_to_a_sync("42501", "behind a Sync", b'I').await;
    })
    .await;
}

#[tokio::test]
async fn a_function_call_is_denied() {
    on_stage(|mut s| async move {
        s.client_says(&f(b'F', &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]))
            .await;
        s.client_is_refused("42501", "FunctionCall").await;
        s.client_gets(&ready(b'I')).await;
        s.nothing_reaches_the_server().await;
    })
    .await;
}

#[tokio::test]
async fn what_was_prepared_by_sql_does_not_run_under_another_policy() {
    on_stage(|mut s| async move {
        for text in ["PREPARE p AS SELECT id FROM orders", "EXECUTE p"] {
            s.passes(&query(text), &[complete("PREPARE"), ready(b'I')].concat())
                .await;
        }
        s.policy.send_replace(active(POLICY, 2));
        s.client_says(&query("EXECUTE p")).await;
        s.client_is_refused("42501", "policy has changed").await;
        s.client_gets(&ready(b'I')).await;
        s.nothing_reaches_the_server().await;
    })
    .await;
}

#[tokio::test]
async fn a_name_that_the_server_would_cut_is_refused_in_every_message() {
    let long = "n".repeat(64);
    let close = [b"S", long.as_bytes(), b"\0"].concat();
    for message in [
        parse(&long, "SELECT 1"),
        bind(&long, ""),
        bind("", &long),
        execute(&long),
        f(b'D', &close),
        f(b'C', &close),
    ] {
        on_stage(|mut s| async move {
            s.client_says(&[message.clone(), sync()].concat()).await;
            s.is_refused_up_to_a_sync("42622", "63 bytes", b'I').await;
            let kept = parse(&"n".repeat(63), "SELECT 1");
            s.client_says(&kept).await;
            s.server_gets(&kept).await;
        })
        .await;
    }
}
