//! What the server owes and what Weir takes for owed are the same, or the session ends: otherwise one
//! statement's rows pass for another's.

use super::super::link::{End, Error};
use super::stage::{
    Stage, begun, bind, complete, description, error, execute, f, on_stage, parse, query, ready,
    row, sync,
};

/// A statement is prepared, and the answer asked for by a Flush.
async fn prepared(s: &mut Stage) {
    let asks = [parse("", "SELECT 1"), f(b'H', b"")].concat();
    s.passes(&asks, &f(b'1', b"")).await;
}

fn time_out() -> Vec<u8> {
    error("57014", "canceling statement due to statement timeout")
}

#[tokio::test]
async fn behind_an_error_of_nothing_that_is_owed_all_is_ignored_up_to_a_sync() {
    on_stage(|mut s| async move {
        prepared(&mut s).await;
        s.server_says(&time_out()).await;
        s.client_gets(&time_out()).await;
        let ignored = [query("SELECT 1"), bind("", ""), execute("")].concat();
        s.client_says(&[ignored, sync()].concat()).await;
        s.server_gets(&sync()).await;
        s.server_says(&ready(b'I')).await;
        s.client_gets(&ready(b'I')).await;
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
    })
    .await;
}

#[tokio::test]
async fn an_error_that_may_be_of_a_query_or_of_what_came_before_ends_the_session() {
    on_stage(|mut s| async move {
        prepared(&mut s).await;
        let runs = [bind("", ""), execute(""), f(b'H', b"")].concat();
        s.passes(&runs, &[f(b'2', b""), complete("SELECT 1")].concat())
            .await;
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
        s.server_says(&time_out()).await;
        let end = s.end().await;
        assert!(matches!(end, Err(Error::UpstreamSequence(_))), "{end:?}");
    })
    .await;
}

#[tokio::test]
async fn an_error_of_a_query_is_its_own_behind_what_has_only_been_prepared() {
    on_stage(|mut s| async move {
        prepared(&mut s).await;
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&sync()).await;
        s.nothing_reaches_the_server().await;
        s.server_says(&ready(b'I')).await;
        s.server_gets(&query("SELECT 1")).await;
        let answer = [error("22012", "division by zero"), ready(b'I')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
    })
    .await;
}

#[tokio::test]
async fn a_query_doesnt_run_whose_answer_was_an_error_of_what_weir_sent_before_it() {
    on_stage(|mut s| async move {
        prepared(&mut s).await;
        s.client_says(&query("INSERT INTO orders VALUES (1)")).await;
        s.server_gets(&sync()).await;
        let answer = [time_out(), ready(b'I')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
    })
    .await;
}

#[tokio::test]
async fn what_fails_a_transaction_stands_where_it_was_sent() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        // Analysed apart: meanwhile the transaction has to be made to fail.
        let long = parse("", &format!("SELECT 1{}", " + 1".repeat(30_000)));
        let limited = query("SELECT id FROM limited");
        s.client_says(&limited).await;
        s.server_gets(&limited).await;
        s.client_says(&long).await;
        let rows = [row(&["1"]), row(&["2"]), row(&["3"])].concat();
        let described = description(&[("id", 20003, 1)]);
        s.server_says(&[described, rows, complete("SELECT 3"), ready(b'T')].concat())
            .await;
        let (mut fails, mut texts) = (None, 0);
        while texts < 2 {
            match s.server_frame().await {
                (b'Q', _) => fails = Some(texts),
                (b'P', _) => assert!(fails.is_some(), "the failure was overtaken"),
                other => panic!("{other:?}"),
            }
            texts += 1;
        }
        // The text fails as all do by then; the Sync's answer is the Sync's.
        s.server_says(&[error("42601", "syntax error"), ready(b'E')].concat())
            .await;
        s.server_says(&error("25P02", "aborted")).await;
        s.client_says(&sync()).await;
        s.server_gets(&sync()).await;
        s.server_says(&ready(b'E')).await;
        let mut statuses = Vec::new();
        while statuses.len() < 2 {
            if let (b'Z', status) = s.client_frame().await {
                statuses.push(status);
            }
        }
        s.client_says(&query("ROLLBACK")).await;
        s.server_gets(&query("ROLLBACK")).await;
    })
    .await;
}

#[tokio::test]
async fn a_query_is_at_its_end_only_behind_those_of_its_statements() {
    on_stage(|mut s| async move {
        s.client_says(&query("SELECT 1; SELECT 2")).await;
        s.server_gets(&query("SELECT 1; SELECT 2")).await;
        s.server_says(&[complete("SELECT 1"), ready(b'I')].concat())
            .await;
        let end = s.end().await;
        assert!(matches!(end, Err(Error::UpstreamSequence(_))), "{end:?}");
    })
    .await;
}

#[tokio::test]
async fn an_error_of_nothing_at_all_ends_the_session_and_the_servers_last_word_passes() {
    on_stage(|mut s| async move {
        s.server_says(&time_out()).await;
        let end = s.end().await;
        assert!(matches!(end, Err(Error::UpstreamSequence(_))), "{end:?}");
    })
    .await;
    on_stage(|mut s| async move {
        let last = f(b'E', b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0");
        s.server_says(&last).await;
        s.client_gets(&last).await;
        assert!(matches!(s.end().await, Ok(End::ClientLost)));
    })
    .await;
}

#[tokio::test]
async fn a_message_that_has_to_be_empty_and_is_not_ends_the_session() {
    for tag in [b'H', b'S', b'X', b'c'] {
        on_stage(|mut s| async move {
            s.client_says(&f(tag, b"xx")).await;
            s.nothing_reaches_the_server().await;
            let end = s.end().await;
            assert!(matches!(end, Err(Error::Client(_))), "{end:?}");
        })
        .await;
    }
}

/// A simple query that ran, and one that was denied without the server.
#[tokio::test]
async fn a_simple_query_takes_the_places_that_have_no_name() {
    for denied in [false, true] {
        on_stage(|mut s| async move {
            prepared(&mut s).await;
            s.passes(&sync(), &ready(b'I')).await;
            if denied {
                s.client_says(&query("DROP TABLE orders")).await;
                s.client_is_refused("42501", "").await;
                s.client_gets(&ready(b'I')).await;
            } else {
                s.passes(
                    &query("SELECT 1"),
                    &[complete("SELECT 1"), ready(b'I')].concat(),
                )
                .await;
            }
            s.client_says(&[bind("", ""), sync()].concat()).await;
            s.is_refused_up_to_a_sync("26000", "prepared statement", b'I')
                .await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_portal_without_a_name_is_gone_behind_a_simple_query() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        let run = [parse("", "SELECT 1"), bind("", ""), execute(""), sync()].concat();
        s.passes(
            &run,
            &[
                f(b'1', b""),
                f(b'2', b""),
                complete("SELECT 1"),
                ready(b'T'),
            ]
            .concat(),
        )
        .await;
        s.passes(
            &query("SELECT 1"),
            &[error("22012", "division by zero"), ready(b'E')].concat(),
        )
        .await;
        s.client_says(&[execute(""), sync()].concat()).await;
        s.is_refused_up_to_a_sync("34000", "portal", b'E').await;
    })
    .await;
}

#[tokio::test]
async fn a_denied_text_without_a_name_takes_the_place_of_the_last() {
    on_stage(|mut s| async move {
        prepared(&mut s).await;
        for name in ["", "named"] {
            s.client_says(&parse(name, "DROP TABLE orders")).await;
            let (tag, body) = s.server_frame().await;
            assert_eq!(tag, b'P');
            let stays = body.starts_with(b"weir_refused\0/*");
            let goes = body.starts_with(b"\0/*");
            assert_eq!((stays, goes), (!name.is_empty(), name.is_empty()));
            s.client_says(&sync()).await;
            s.fails_up_to_a_sync("42501", "", b'I').await;
        }
        has_no_statement_without_a_name(&mut s).await;
    })
    .await;
}

#[tokio::test]
async fn what_has_no_name_behind_a_denied_query_in_one_go_is_nothing_to_wait_for() {
    on_stage(|mut s| async move {
        let denied = query("DROP TABLE orders");
        s.client_says(&[denied, bind("", ""), sync()].concat())
            .await;
        s.client_is_refused("42501", "").await;
        s.client_gets(&ready(b'I')).await;
        s.is_refused_up_to_a_sync("26000", "prepared statement", b'I')
            .await;
    })
    .await;
}

/// What is refused for want of a statement without a name never reaches the server, which may have one.
async fn has_no_statement_without_a_name(s: &mut Stage) {
    for uses in [bind("", ""), f(b'D', b"S\0")] {
        s.client_says(&[uses, sync()].concat()).await;
        s.is_refused_up_to_a_sync("26000", "prepared statement", b'I')
            .await;
    }
}

#[tokio::test]
async fn what_weir_looked_ahead_at_is_no_statement_of_the_clients() {
    on_stage(|mut s| async move {
        let text = "SELECT ssn FROM customers";
        s.client_says(&query(text)).await;
        let asked = [parse("", text), f(b'D', b"S\0"), sync()].concat();
        s.server_gets(&asked).await;
        // The server takes the column for one of no table, so that it isn't plain.
        let columns = description(&[("ssn", 0, 0)]);
        s.server_says(&[f(b'1', b""), f(b't', &[0, 0]), columns, ready(b'I')].concat())
            .await;
        s.client_is_refused("42501", "ssn").await;
        s.client_gets(&ready(b'I')).await;
        has_no_statement_without_a_name(&mut s).await;
    })
    .await;
}

#[tokio::test]
async fn a_query_denied_behind_work_takes_the_place_of_its_statement_without_a_name() {
    on_stage(|mut s| async move {
        let work = [parse("", "SELECT 1"), bind("", ""), execute("")].concat();
        s.client_says(&[work.clone(), f(b'H', b"")].concat()).await;
        s.server_gets(&[work, f(b'H', b"")].concat()).await;
        let answer = [f(b'1', b""), f(b'2', b""), complete("SELECT 1")].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.client_says(&query("DROP TABLE orders")).await;
        let (tag, body) = s.server_frame().await;
        assert_eq!((tag, body.starts_with(b"\0/*")), (b'P', true));
        s.fails_up_to_a_sync("42501", "", b'I').await;
        has_no_statement_without_a_name(&mut s).await;
    })
    .await;
}

#[tokio::test]
async fn deallocating_what_has_names_leaves_the_statement_without_one() {
    on_stage(|mut s| async move {
        for name in ["", "a"] {
            let said = [parse(name, "DEALLOCATE ALL"), sync()].concat();
            s.passes(&said, &[f(b'1', b""), ready(b'I')].concat()).await;
        }
        let run = [bind("", ""), execute(""), bind("", ""), sync()].concat();
        let answer = [
            f(b'2', b""),
            complete("DEALLOCATE ALL"),
            f(b'2', b""),
            ready(b'I'),
        ];
        s.passes(&run, &answer.concat()).await;
        s.passes(
            &[bind("", ""), sync()].concat(),
            &[f(b'2', b""), ready(b'I')].concat(),
        )
        .await;
        s.client_says(&bind("", "a")).await;
        assert_eq!(s.server_frame().await.0, b'P', "a stand-in");
    })
    .await;
}
