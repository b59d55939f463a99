//! Results beyond a limit.

use std::time::Duration;

use tokio::task::LocalSet;

use super::stage::{
    Stage, begun, bind, complete, description, error, execute, f, on_stage, parse, query, ready,
    row, show, sync,
};

#[tokio::test]
async fn rows_beyond_the_limit_are_withheld_and_the_transaction_fails() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        s.client_says(&query("SELECT id FROM limited")).await;
        s.server_gets(&query("SELECT id FROM limited")).await;
        let described = description(&[("id", 20003, 1)]);
        let rows = [row(&["1"]), row(&["2"]), row(&["3"]), row(&["4"])].concat();
        s.server_says(&[described.clone(), rows, complete("SELECT 4"), ready(b'T')].concat())
            .await;
        s.client_gets(&[described, row(&["1"]), row(&["2"])].concat())
            .await;
        s.client_is_refused("54000", "limit").await;
        assert_eq!(
            s.server_frame().await.0,
            b'Q',
            "a text that fails the transaction"
        );
        s.server_says(&[error("42601", "syntax error"), ready(b'E')].concat())
            .await;
        s.client_gets(&ready(b'E')).await;
    })
    .await;
}

#[tokio::test]
async fn a_segment_that_exceeds_a_limit_commits_nothing() {
    on_stage(|mut s| async move {
        let work = [
            parse("", "INSERT INTO orders VALUES (1)"),
            bind("", ""),
            execute(""),
            parse("", "SELECT id FROM limited"),
            bind("", ""),
            execute(""),
        ]
        .concat();
        s.client_says(&[work.clone(), sync()].concat()).await;
        // The Sync, which commits, is held back until the limited result is whole.
        s.server_gets(&[work, f(b'H', b"")].concat()).await;
        s.nothing_reaches_the_server().await;
        let inserted = [f(b'1', b""), f(b'2', b""), complete("INSERT 0 1")].concat();
        let begun = [f(b'1', b""), f(b'2', b""), row(&["1"]), row(&["2"])].concat();
        let rest = [row(&["3"]), complete("SELECT 3")].concat();
        s.server_says(&[inserted.clone(), begun.clone(), rest].concat())
            .await;
        s.client_gets(&[inserted, begun].concat()).await;
        s.client_is_refused("54000", "limit").await;
        let (tag, body) = s.server_frame().await;
        assert_eq!(tag, b'P', "a text that fails what the Sync would commit");
        assert!(
            body.ends_with(b"weir refused this\0\0\0"),
            "{}",
            show(&body)
        );
        s.server_gets(&sync()).await;
        s.server_says(&[error("42601", "syntax error"), ready(b'I')].concat())
            .await;
        s.client_gets(&ready(b'I')).await;
        // The next one isn't concerned.
        let next = [
            parse("", "INSERT INTO orders VALUES (2)"),
            bind("", ""),
            execute(""),
            sync(),
        ]
        .concat();
        s.client_says(&next).await;
        s.server_gets(&next).await;
    })
    .await;
}

#[tokio::test]
async fn a_limited_result_and_a_write_in_one_text_are_denied() {
    on_stage(|mut s| async move {
        let text = "SELECT id FROM limited; INSERT INTO orders VALUES (1)";
        s.client_says(&query(text)).await;
        s.client_is_refused("42501", "one text").await;
        s.client_gets(&ready(b'I')).await;
        let reads = query("BEGIN; SELECT id FROM limited; SELECT id FROM orders");
        s.client_says(&reads).await;
        s.server_gets(&reads).await;
    })
    .await;
}

fn three_limited_rows() -> Vec<u8> {
    let rows = [row(&["1"]), row(&["2"]), row(&["3"])].concat();
    let described = description(&[("id", 20003, 1)]);
    [described, rows, complete("SELECT 3"), ready(b'T')].concat()
}

#[tokio::test]
async fn two_results_beyond_the_limit_in_one_read_fail_the_transaction_once() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        let both = query("SELECT id FROM limited").repeat(2);
        s.client_says(&both).await;
        s.server_gets(&both).await;
        s.server_says(&three_limited_rows().repeat(2)).await;
        let sent = [description(&[("id", 20003, 1)]), row(&["1"]), row(&["2"])].concat();
        s.client_gets(&sent).await;
        s.client_is_refused("54000", "limit").await;
        s.client_gets(&ready(b'T')).await;
        s.client_gets(&sent).await;
        s.client_is_refused("54000", "limit").await;
        assert_eq!(s.server_frame().await.0, b'Q');
        s.nothing_reaches_the_server().await;
        s.server_says(&[error("42601", "syntax error"), ready(b'E')].concat())
            .await;
        s.client_gets(&ready(b'E')).await;
        s.passes(
            &query("ROLLBACK"),
            &[complete("ROLLBACK"), ready(b'I')].concat(),
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_limit_that_is_exceeded_while_the_client_half_writes_holds_nothing_up() {
    LocalSet::new()
        .run_until(async {
            // Small enough that the client half is stuck in its write when the limit is hit.
            let mut s = Stage::start(512);
            begun(&mut s).await;
            s.client_says(&query("SELECT id FROM limited")).await;
            s.server_gets(&query("SELECT id FROM limited")).await;
            let long = query(&format!("SELECT id FROM orders -- {}", "x".repeat(600)));
            s.client_says(&[long.clone(), query("SELECT ssn FROM customers")].concat())
                .await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            s.server_says(&three_limited_rows()).await;
            s.client_gets(&[description(&[("id", 20003, 1)]), row(&["1"]), row(&["2"])].concat())
                .await;
            s.client_is_refused("54000", "limit").await;
            s.client_gets(&ready(b'T')).await;
            s.server_gets(&long).await;
            // What fails the transaction, before the look ahead of the last query.
            assert_eq!(s.server_frame().await.0, b'Q');
            let answer = [complete("SELECT 0"), ready(b'T')].concat();
            s.server_says(&answer).await;
            s.client_gets(&answer).await;
            s.server_says(&[error("42601", "syntax error"), ready(b'E')].concat())
                .await;
            assert_eq!(s.server_frame().await.0, b'P');
        })
        .await;
}

#[tokio::test]
async fn what_is_said_asynchronously_passes_behind_an_exceeded_limit() {
    on_stage(|mut s| async move {
        s.client_says(&query("SELECT id FROM limited")).await;
        s.server_gets(&query("SELECT id FROM limited")).await;
        let described = description(&[("id", 20003, 1)]);
        let rows = [row(&["1"]), row(&["2"]), row(&["3"])].concat();
        let notification = f(b'A', b"\0\0\0\x01channel\0\0");
        let setting = f(b'S', b"application_name\0other\0");
        let said = [notification, setting].concat();
        s.server_says(
            &[
                described.clone(),
                rows,
                complete("SELECT 3"),
                said.clone(),
                ready(b'I'),
            ]
            .concat(),
        )
        .await;
        s.client_gets(&[described, row(&["1"]), row(&["2"])].concat())
            .await;
        s.client_is_refused("54000", "limit").await;
        s.client_gets(&[said, ready(b'I')].concat()).await;
    })
    .await;
}

#[tokio::test]
async fn a_copy_behind_an_exceeded_limit_is_ended_for_the_client() {
    let limited = "SELECT id FROM limited";
    let copy = "COPY orders FROM STDIN";
    let work = [
        parse("", limited),
        bind("", ""),
        execute(""),
        parse("", copy),
        bind("", ""),
        execute(""),
    ]
    .concat();
    let rows = [row(&["1"]), row(&["2"]), row(&["3"]), complete("SELECT 3")].concat();
    let confirmed = [f(b'1', b""), f(b'2', b"")].concat();
    on_stage(|mut s| async move {
        s.client_says(&[work.clone(), sync()].concat()).await;
        s.server_gets(&[work, f(b'H', b"")].concat()).await;
        let going_in = f(b'G', &[0, 0, 1, 0, 0]);
        s.server_says(&[confirmed.clone(), rows, confirmed.clone(), going_in].concat())
            .await;
        s.client_gets(&[confirmed, row(&["1"]), row(&["2"])].concat())
            .await;
        s.client_is_refused("54000", "limit").await;
        s.server_gets(&f(b'f', b"\0")).await;
        s.server_says(&error("57014", "COPY failed")).await;
        s.server_gets(&sync()).await;
        s.server_says(&ready(b'I')).await;
        s.client_gets(&ready(b'I')).await;
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
    })
    .await;
}

#[tokio::test]
async fn what_exceeds_a_limit_by_far_is_cancelled_unless_something_runs_behind_it() {
    for (behind, cancels) in [(vec![], 1), (query("SELECT 1"), 0)] {
        on_stage(|mut s| async move {
            let texts = [query("SELECT id FROM limited"), behind].concat();
            s.client_says(&texts).await;
            s.server_gets(&texts).await;
            let described = description(&[("id", 20003, 1)]);
            let rows = [row(&["1"]), row(&["2"]), row(&["3"])].concat();
            s.server_says(&[described, rows].concat()).await;
            for expected in [b'T', b'D', b'D', b'E'] {
                assert_eq!(s.client_frame().await.0, expected);
            }
            for _ in 0..20 {
                s.server_says(&row(&["x".repeat(100_000).as_str()])).await;
            }
            s.server_says(&[complete("SELECT 20"), ready(b'I')].concat())
                .await;
            s.client_gets(&ready(b'I')).await;
            assert_eq!(s.cancels.get(), cancels);
        })
        .await;
    }
}

/// A transaction in which a limited result was exceeded, asked for by a Flush: the server has not been
/// told.
async fn exceeded(s: &mut Stage) {
    begun(s).await;
    let run = [
        parse("", "SELECT id FROM limited"),
        bind("", ""),
        execute(""),
        f(b'H', b""),
    ];
    s.client_says(&run.concat()).await;
    s.server_gets(&run.concat()).await;
    let rows = [row(&["1"]), row(&["2"]), row(&["3"]), complete("SELECT 3")].concat();
    s.server_says(&[f(b'1', b""), f(b'2', b""), rows].concat())
        .await;
    let sent = [f(b'1', b""), f(b'2', b""), row(&["1"]), row(&["2"])].concat();
    s.client_gets(&sent).await;
    s.client_is_refused("54000", "limit").await;
}

#[tokio::test]
async fn a_commit_behind_the_sync_of_an_exceeded_result_finds_the_transaction_failed() {
    on_stage(|mut s| async move {
        exceeded(&mut s).await;
        s.client_says(&[sync(), query("COMMIT")].concat()).await;
        s.server_gets(&sync()).await;
        s.nothing_reaches_the_server().await;
        s.server_says(&ready(b'T')).await;
        let (tag, body) = s.server_frame().await;
        assert_eq!((tag, show(&body).contains("refused this")), (b'Q', true));
        s.server_says(&[error("42601", "syntax error"), ready(b'E')].concat())
            .await;
        s.server_gets(&query("COMMIT")).await;
    })
    .await;
}

#[tokio::test]
async fn a_transaction_that_is_to_fail_has_failed_to_whoever_asks_only_for_its_status() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        let said = [query("SELECT id FROM limited"), sync(), sync()].concat();
        s.client_says(&said).await;
        s.server_gets(&said).await;
        let rows = [row(&["1"]), row(&["2"])].concat();
        let described = description(&[("id", 20003, 1)]);
        let answer = [described, rows, row(&["3"]), complete("SELECT 3")].concat();
        s.server_says(&[answer, ready(b'T'), ready(b'T')].concat())
            .await;
        for expected in [b'T', b'D', b'D', b'E'] {
            assert_eq!(s.client_frame().await.0, expected);
        }
        s.client_gets(&[ready(b'E'), ready(b'E')].concat()).await;
        let (tag, body) = s.server_frame().await;
        assert_eq!((tag, show(&body).contains("refused this")), (b'Q', true));
        s.server_says(&[ready(b'T'), error("42601", ""), ready(b'E')].concat())
            .await;
        s.client_gets(&ready(b'E')).await;
        // Behind it the server is believed again.
        s.passes(
            &query("ROLLBACK TO SAVEPOINT v"),
            &[complete("ROLLBACK"), ready(b'T')].concat(),
        )
        .await;
    })
    .await;
}

#[tokio::test]
async fn a_transaction_fails_with_the_work_behind_the_sync_of_an_exceeded_result() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        let run = |text| [parse("", text), bind("", ""), execute("")].concat();
        let (select, commit) = (run("SELECT id FROM limited"), run("COMMIT"));
        let said = [select.clone(), sync(), commit.clone(), sync()].concat();
        s.client_says(&said).await;
        // The COMMIT itself waits.
        let parsed = &commit[..commit.len() - execute("").len()];
        s.server_gets(&[&select, &sync(), parsed, &f(b'H', b"")].concat())
            .await;
        let confirmed = [f(b'1', b""), f(b'2', b"")].concat();
        let rows = [row(&["1"]), row(&["2"])].concat();
        let rest = [row(&["3"]), complete("SELECT 3"), ready(b'T')].concat();
        s.server_says(&[confirmed.clone(), rows.clone(), rest, confirmed.clone()].concat())
            .await;
        s.client_gets(&[confirmed.clone(), rows].concat()).await;
        s.client_is_refused("54000", "limit").await;
        s.client_gets(&[ready(b'T'), confirmed].concat()).await;
        let (tag, body) = s.server_frame().await;
        assert_eq!((tag, show(&body).contains("refused this")), (b'P', true));
        s.fails_up_to_a_sync("54000", "limit", b'E').await;
        s.client_says(&query("ROLLBACK")).await;
        s.server_gets(&query("ROLLBACK")).await;
    })
    .await;
}

#[tokio::test]
async fn what_comes_behind_an_exceeded_result_is_skipped_up_to_its_sync() {
    let run = |text| [parse("", text), bind("", ""), execute("")].concat();
    for skipped in [
        query("COMMIT"),
        query("BEGIN"),
        query("DROP TABLE customers"),
        run("INSERT INTO orders VALUES (1)"),
        parse("a", "SELECT 1"),
    ] {
        on_stage(|mut s| async move {
            exceeded(&mut s).await;
            s.client_says(&[skipped, sync()].concat()).await;
            s.server_gets(&sync()).await;
            s.server_says(&ready(b'I')).await;
            s.client_gets(&ready(b'I')).await;
            s.client_says(&query("SELECT 1")).await;
            s.server_gets(&query("SELECT 1")).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_limited_query_does_not_commit_what_came_before_it() {
    on_stage(|mut s| async move {
        let work = [
            parse("", "INSERT INTO orders VALUES (1)"),
            bind("", ""),
            execute(""),
            f(b'H', b""),
        ];
        s.client_says(&work.concat()).await;
        s.server_gets(&work.concat()).await;
        let done = [f(b'1', b""), f(b'2', b""), complete("INSERT 0 1")].concat();
        s.server_says(&done).await;
        s.client_gets(&done).await;
        s.client_says(&query("SELECT id FROM limited")).await;
        let (tag, body) = s.server_frame().await;
        assert_eq!((tag, show(&body).contains("refused this")), (b'P', true));
    })
    .await;
}

#[tokio::test]
async fn behind_an_exceeded_limit_no_rows_come_of_what_was_sent_with_it() {
    on_stage(|mut s| async move {
        let run = |text| [parse("", text), bind("", ""), execute("")].concat();
        let limited = run("SELECT id FROM limited");
        let all = [
            limited.clone(),
            run("SELECT id FROM orders"),
            limited,
            sync(),
        ]
        .concat();
        s.client_says(&all).await;
        s.server_gets(&all).await;
        let bound = [f(b'1', b""), f(b'2', b"")].concat();
        let three = [row(&["1"]), row(&["2"]), row(&["3"]), complete("SELECT 3")].concat();
        let each = [bound.clone(), three].concat();
        s.server_says(&[each.clone(), each.clone(), each, ready(b'I')].concat())
            .await;
        s.client_gets(&[bound, row(&["1"]), row(&["2"])].concat())
            .await;
        s.client_is_refused("54000", "limit").await;
        s.client_gets(&ready(b'I')).await;
    })
    .await;
}

#[tokio::test]
async fn a_copy_without_its_sync_waits_for_the_results_behind_it() {
    on_stage(|mut s| async move {
        let begin = [
            parse("", "COPY orders FROM STDIN"),
            bind("", ""),
            execute(""),
        ]
        .concat();
        s.client_says(&[begin.clone(), sync()].concat()).await;
        s.server_gets(&[begin, f(b'H', b"")].concat()).await;
        let reads = f(b'G', &[0, 0, 1, 0, 0]);
        let answer = [f(b'1', b""), f(b'2', b""), reads].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        let rest = [
            f(b'd', b"1\n"),
            f(b'c', b""),
            parse("", "SELECT id FROM limited"),
            bind("", ""),
            execute(""),
        ]
        .concat();
        s.client_says(&[rest.clone(), sync()].concat()).await;
        s.server_gets(&[rest, f(b'H', b"")].concat()).await;
        s.nothing_reaches_the_server().await;
    })
    .await;
}

#[tokio::test]
async fn a_limit_holds_for_what_runs_by_its_name() {
    for (store, tag, text) in [
        (
            "PREPARE p AS SELECT id FROM limited",
            "PREPARE",
            "EXECUTE p",
        ),
        (
            "DECLARE c CURSOR WITH HOLD FOR SELECT id FROM limited",
            "DECLARE CURSOR",
            "FETCH ALL FROM c",
        ),
    ] {
        on_stage(|mut s| async move {
            let stored = [complete(tag), ready(b'I')].concat();
            s.passes(&query(store), &stored).await;
            s.client_says(&query(text)).await;
            s.server_gets(&query(text)).await;
            let rows = [description(&[("id", 20003, 1)]), row(&["1"]), row(&["2"])].concat();
            let more = [row(&["3"]), complete("SELECT 3"), ready(b'I')].concat();
            s.server_says(&[rows.clone(), more].concat()).await;
            s.client_gets(&rows).await;
            s.client_is_refused("54000", "limit").await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_limited_result_and_transaction_control_behind_it_are_two_texts() {
    on_stage(|mut s| async move {
        for text in [
            "SELECT id FROM limited; COMMIT",
            "SELECT id FROM limited; ROLLBACK",
            "SELECT id FROM limited; BEGIN",
        ] {
            s.client_says(&query(text)).await;
            s.client_is_refused("42501", "before transaction control")
                .await;
            s.client_gets(&ready(b'I')).await;
        }
        let before = query("BEGIN; SELECT id FROM limited");
        s.client_says(&before).await;
        s.server_gets(&before).await;
    })
    .await;
}
