//! COPY, both ways.

use super::stage::{bind, complete, error, execute, f, on_stage, parse, query, ready, sync};

#[tokio::test]
async fn copy_in_passes_and_a_sync_within_it_is_not_waited_for() {
    on_stage(|mut s| async move {
        let text = "COPY orders FROM STDIN";
        let start = [parse("", text), bind("", ""), execute(""), sync()].concat();
        s.client_says(&start).await;
        s.server_gets(&start).await;
        let answer = [f(b'1', b""), f(b'2', b""), f(b'G', &[0, 0, 1, 0, 0])].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        let data = [f(b'd', b"1\n"), f(b'c', b""), sync()].concat();
        s.client_says(&data).await;
        s.server_gets(&data).await;
        s.server_says(&[complete("COPY 1"), ready(b'I')].concat())
            .await;
        s.client_gets(&[complete("COPY 1"), ready(b'I')].concat())
            .await;
        assert!(s.recorded().contains("CopyIn"));
    })
    .await;
}

#[tokio::test]
async fn copy_data_that_comes_together_with_its_copy_is_not_lost() {
    let simple = query("COPY orders FROM STDIN");
    let extended = [
        parse("", "COPY orders FROM STDIN"),
        bind("", ""),
        execute(""),
    ]
    .concat();
    for (start, confirmed, end) in [
        (simple, vec![], vec![]),
        (extended, [f(b'1', b""), f(b'2', b"")].concat(), sync()),
    ] {
        on_stage(|mut s| async move {
            let data = [f(b'd', b"1\n"), f(b'd', b"2\n"), f(b'c', b""), end].concat();
            s.client_says(&[start.clone(), data.clone()].concat()).await;
            s.server_gets(&start).await;
            s.nothing_reaches_the_server().await;
            let answer = [confirmed, f(b'G', &[0, 0, 1, 0, 0])].concat();
            s.server_says(&answer).await;
            s.client_gets(&answer).await;
            s.server_gets(&data).await;
            let answer = [complete("COPY 2"), ready(b'I')].concat();
            s.server_says(&answer).await;
            s.client_gets(&answer).await;
            assert!(s.recorded().contains("CopyIn"));
        })
        .await;
    }
}

#[tokio::test]
async fn copy_data_of_a_denied_copy_go_nowhere() {
    on_stage(|mut s| async move {
        let copy = query("COPY customers FROM STDIN");
        s.client_says(&[copy, f(b'd', b"1\n"), f(b'c', b"")].concat())
            .await;
        s.client_is_refused("42501", "bulk_load").await;
        s.client_gets(&ready(b'I')).await;
        s.nothing_reaches_the_server().await;
    })
    .await;
}

#[tokio::test]
async fn copy_data_behind_a_copy_that_fails_is_dropped() {
    on_stage(|mut s| async move {
        let text = "COPY orders FROM STDIN";
        s.client_says(
            &[
                query(text),
                f(b'd', b"1\n"),
                f(b'c', b""),
                query("SELECT 1"),
            ]
            .concat(),
        )
        .await;
        s.server_gets(&query(text)).await;
        let answer = [error("42501", "permission denied"), ready(b'I')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.server_gets(&query("SELECT 1")).await;
    })
    .await;
}

#[tokio::test]
async fn a_copy_that_fails_before_it_reads_leaves_its_sync_to_the_server() {
    on_stage(|mut s| async move {
        let text = "COPY orders FROM STDIN";
        let start = [parse("", text), bind("", ""), execute(""), sync()].concat();
        s.client_says(&start).await;
        s.server_gets(&start).await;
        let answer = [
            f(b'1', b""),
            f(b'2', b""),
            f(b'G', &[0, 0, 1, 0, 0]),
            error("42809", "cannot copy to view"),
            ready(b'I'),
        ]
        .concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
    })
    .await;
}
