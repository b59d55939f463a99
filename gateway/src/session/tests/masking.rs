//! Masked columns, and what could tell of them.

use super::stage::{
    CUSTOMERS, bind, complete, description, error, execute, f, on_stage, parse, query, ready, row,
    show, sync,
};
use crate::wire::ErrorFields;

#[tokio::test]
async fn a_masked_column_is_masked_after_a_look_at_the_result() {
    on_stage(|mut s| async move {
        s.client_says(&query("SELECT id, ssn FROM customers")).await;
        // The look ahead.
        assert_eq!(s.server_frame().await.0, b'P');
        assert_eq!(s.server_frame().await.0, b'D');
        assert_eq!(s.server_frame().await.0, b'S');
        let described = description(&[("id", CUSTOMERS, 1), ("ssn", CUSTOMERS, 2)]);
        let parameters = f(b't', &[0, 0]);
        s.server_says(&[f(b'1', b""), parameters, described.clone(), ready(b'I')].concat())
            .await;
        s.server_gets(&query("SELECT id, ssn FROM customers")).await;
        let rows = [row(&["1", "123-45-6789"]), row(&["2", "987-65-4321"])].concat();
        s.server_says(&[described.clone(), rows, complete("SELECT 2"), ready(b'I')].concat())
            .await;
        s.client_gets(&described).await;
        for id in ["1", "2"] {
            s.client_gets(&row(&[id, "[redacted]"])).await;
        }
        s.client_gets(&[complete("SELECT 2"), ready(b'I')].concat())
            .await;
        let recorded = s.recorded();
        assert!(
            !recorded.contains("45-6789"),
            "the journal holds what the client got"
        );
    })
    .await;
}

#[tokio::test]
async fn an_output_that_is_computed_beside_masked_columns_is_denied_before_it_runs() {
    on_stage(|mut s| async move {
        s.client_says(&query("SELECT id + 1 FROM customers")).await;
        for tag in [b'P', b'D', b'S'] {
            assert_eq!(s.server_frame().await.0, tag);
        }
        let described = description(&[("?column?", 0, 0)]);
        s.server_says(&[f(b'1', b""), f(b't', &[0, 0]), described, ready(b'I')].concat())
            .await;
        s.client_is_refused("42501", "?column?").await;
        s.client_gets(&ready(b'I')).await;
        s.nothing_reaches_the_server().await;
    })
    .await;
}

#[tokio::test]
async fn an_error_of_a_sensitive_statement_is_scrubbed() {
    on_stage(|mut s| async move {
        let text = "SELECT ssn FROM customers";
        s.client_says(&[parse("", text), bind("", ""), execute(""), sync()].concat())
            .await;
        for tag in [b'P', b'D', b'H'] {
            assert_eq!(s.server_frame().await.0, tag);
        }
        let described = description(&[("ssn", CUSTOMERS, 2)]);
        s.server_says(&[f(b'1', b""), f(b't', &[0, 0]), described].concat())
            .await;
        s.server_gets(&[bind("", ""), execute(""), sync()].concat())
            .await;
        let failure = error("22P02", "invalid input: \"123-45-6789\"");
        s.server_says(&[f(b'2', b""), failure, ready(b'I')].concat())
            .await;
        s.client_gets(&[f(b'1', b""), f(b'2', b"")].concat()).await;
        s.client_is_refused("22P02", "withheld").await;
        s.client_gets(&ready(b'I')).await;
    })
    .await;
}

#[tokio::test]
async fn a_masked_column_is_masked_whenever_the_server_tells_of_it() {
    // The text reads nothing that is masked, the server says otherwise: when the statement is
    // described before its Bind, after it, or when only the portal is.
    let described = || description(&[("id", CUSTOMERS, 2)]);
    let statement = || (f(b'D', b"Sp\0"), [f(b't', &[0, 0]), described()].concat());
    let portal = || (f(b'D', b"P\0"), described());
    let bound = || (bind("", "p"), f(b'2', b""));
    let run = || (execute(""), [row(&["123-45-6789"]), f(b's', b"")].concat());
    for steps in [
        vec![statement(), bound(), run(), run()],
        vec![bound(), statement(), run(), portal(), run()],
        vec![bound(), portal(), run(), run()],
    ] {
        on_stage(|mut s| async move {
            s.client_says(&parse("p", "SELECT id FROM orders")).await;
            let mut answers = f(b'1', b"");
            for (asked, answer) in steps {
                s.client_says(&asked).await;
                answers.extend(answer);
            }
            s.client_says(&sync()).await;
            while s.server_frame().await.0 != b'S' {}
            s.server_says(&[answers, ready(b'I')].concat()).await;
            let mut rows = 0;
            loop {
                match s.client_frame().await {
                    (b'D', cells) => {
                        rows += 1;
                        assert_eq!(cells, row(&["[redacted]"])[5..]);
                    }
                    (b'Z', _) => break,
                    _ => {}
                }
            }
            assert_eq!(rows, 2);
            assert!(!s.recorded().contains("45-6789"));
        })
        .await;
    }
}

#[tokio::test]
async fn a_name_of_the_protocol_cannot_be_used_by_sql_to_reach_masked_columns() {
    for text in [
        "EXECUTE p",
        "CREATE TABLE t AS EXECUTE p",
        "EXPLAIN ANALYZE EXECUTE p",
    ] {
        on_stage(|mut s| async move {
            s.client_says(&parse("p", "SELECT ssn FROM customers"))
                .await;
            assert_eq!(s.server_frame().await.0, b'P');
            assert_eq!(s.server_frame().await.0, b'D');
            assert_eq!(s.server_frame().await.0, b'H');
            s.server_says(&f(b'1', b"")).await;
            s.server_says(&f(b't', b"\0\0")).await;
            s.server_says(&description(&[("ssn", CUSTOMERS, 2)])).await;
            s.client_gets(&f(b'1', b"")).await;
            // Without a description nobody could tell what comes.
            s.client_says(&[parse("", text), bind("", ""), execute(""), sync()].concat())
                .await;
            let (tag, body) = s.server_frame().await;
            assert_eq!((tag, show(&body).contains("EXECUTE")), (b'P', false));
            s.server_gets(&sync()).await;
            s.server_says(&[error("42601", "syntax error"), ready(b'I')].concat())
                .await;
            let (_, body) = s.client_frame().await;
            assert_eq!(
                ErrorFields::decode(&body).expect("an error").sqlstate,
                b"42501"
            );
        })
        .await;
    }
}

#[tokio::test]
async fn an_error_about_a_masked_table_that_the_statement_does_not_name_tells_nothing() {
    on_stage(|mut s| async move {
        let text = "INSERT INTO orders VALUES (1)";
        s.client_says(&query(text)).await;
        s.server_gets(&query(text)).await;
        let told = b"SERROR\0C23502\0Mnull value\0DFailing row contains (1, 123-45-6789).\0spublic\0tcustomers\0\0";
        s.server_says(&[f(b'E', told), ready(b'I')].concat()).await;
        let (_, body) = s.client_frame().await;
        assert!(!show(&body).contains("123-45"), "{}", show(&body));
        assert!(show(&body).contains("23502"), "{}", show(&body));
        s.client_gets(&ready(b'I')).await;
        // One about its own table is told whole.
        s.client_says(&query(text)).await;
        s.server_gets(&query(text)).await;
        let told = b"SERROR\0C23502\0Mnull value\0DFailing row contains (7).\0spublic\0torders\0\0";
        let answer = [f(b'E', told), ready(b'I')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
    })
    .await;
}

#[tokio::test]
async fn what_a_function_says_tells_nothing_and_what_copy_adds_is_kept() {
    on_stage(|mut s| async move {
        let text = "INSERT INTO orders VALUES (1)";
        let said = |context: &str| {
            let fields = format!("SERROR\0CP0001\0Mhas 123-45-6789\0W{context}\0\0");
            f(b'E', fields.as_bytes())
        };
        for context in [
            "PL/pgSQL function tell() line 1 at RAISE",
            "PL/pgSQL function tell() line 1 at RAISE\nCOPY orders, line 1: \"1\"",
            "COPY orders, line 1: \"1\"\nPL/pgSQL function tell() line 1 at RAISE",
        ] {
            s.client_says(&query(text)).await;
            s.server_gets(&query(text)).await;
            let notice = [b"N", &said(context)[1..]].concat();
            s.server_says(&[notice, said(context), ready(b'I')].concat())
                .await;
            for tag in [b'N', b'E'] {
                let (seen, body) = s.client_frame().await;
                assert_eq!(seen, tag);
                assert!(!show(&body).contains("123-45"), "{}", show(&body));
                assert!(show(&body).contains("P0001"), "{}", show(&body));
            }
            s.client_gets(&ready(b'I')).await;
        }
        s.passes(
            &query(text),
            &[said("COPY orders, line 1: \"1\""), ready(b'I')].concat(),
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_value_of_another_table_that_an_error_shows_is_withheld() {
    let of_check: &[u8] = b"SERROR\0C44000\0Mnew row violates check option for view \"active\"\0\
        DFailing row contains (1, 123-45-6789).\0\0";
    let of_key: &[u8] =
        b"SERROR\0C23503\0Mupdate or delete on table \"customers\" violates foreign key\0\
        DKey (ssn)=(123-45-6789) is still referenced from table \"orders\".\0\
        spublic\0torders\0nrefs_fkey\0\0";
    for (shown, sqlstate) in [(of_check, "44000"), (of_key, "23503")] {
        on_stage(|mut s| async move {
            let insert = query("INSERT INTO orders VALUES (1)");
            s.client_says(&insert).await;
            s.server_gets(&insert).await;
            s.server_says(&[f(b'E', shown), ready(b'I')].concat()).await;
            let (tag, body) = s.client_frame().await;
            assert_eq!(tag, b'E');
            assert!(!show(&body).contains("6789"), "{}", show(&body));
            assert!(show(&body).contains(sqlstate), "{}", show(&body));
            assert!(!s.recorded().contains("45-6789"));
        })
        .await;
    }
}

#[tokio::test]
async fn what_a_notification_carries_is_withheld_from_whom_something_is_masked() {
    on_stage(|mut s| async move {
        let said = f(b'A', b"\0\0\0\x07changes\0{\"ssn\":\"123-45-6789\"}\0");
        s.server_says(&said).await;
        s.client_gets(&f(b'A', b"\0\0\0\x07changes\0\0")).await;
        let bare = f(b'A', b"\0\0\0\x07changes\0\0");
        s.server_says(&bare).await;
        s.client_gets(&bare).await;
    })
    .await;
}
