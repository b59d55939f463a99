//! COPY, both ways.

use super::super::link::Error;
use super::stage::{bind, complete, error, execute, f, on_stage, parse, query, ready, sync};

/// CopyInResponse.
fn reads() -> Vec<u8> {
    f(b'G', &[0, 0, 1, 0, 0])
}

#[tokio::test]
async fn copy_in_passes_without_the_sync_that_the_server_would_ignore() {
    on_stage(|mut s| async move {
        let text = "COPY orders FROM STDIN";
        let start = [parse("", text), bind("", ""), execute("")].concat();
        s.client_says(&[start.clone(), sync()].concat()).await;
        s.server_gets(&[start, f(b'H', b"")].concat()).await;
        let answer = [f(b'1', b""), f(b'2', b""), reads()].concat();
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
    let confirmed = [f(b'1', b""), f(b'2', b"")].concat();
    for (start, asked, confirmed, end) in [
        (simple, vec![], vec![], vec![]),
        (extended, f(b'H', b""), confirmed, sync()),
    ] {
        on_stage(|mut s| async move {
            let data = [f(b'd', b"1\n"), f(b'd', b"2\n"), f(b'c', b""), end].concat();
            s.client_says(&[start.clone(), data.clone()].concat()).await;
            s.server_gets(&[start, asked].concat()).await;
            s.nothing_reaches_the_server().await;
            let answer = [confirmed, reads()].concat();
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
        let start = [parse("", text), bind("", ""), execute("")].concat();
        s.client_says(&[start.clone(), sync()].concat()).await;
        s.server_gets(&[start, f(b'H', b"")].concat()).await;
        let answer = [
            f(b'1', b""),
            f(b'2', b""),
            reads(),
            error("42809", "cannot copy to view"),
        ]
        .concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.server_gets(&sync()).await;
        s.server_says(&ready(b'I')).await;
        s.client_gets(&ready(b'I')).await;
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
    })
    .await;
}

#[tokio::test]
async fn a_sync_behind_data_goes_upstream_only_if_their_copy_has_failed() {
    for fails in [false, true] {
        on_stage(|mut s| async move {
            s.client_says(&query("COPY orders FROM STDIN")).await;
            s.server_gets(&query("COPY orders FROM STDIN")).await;
            s.server_says(&reads()).await;
            s.client_gets(&reads()).await;
            s.client_says(&[f(b'd', b"1\n"), sync()].concat()).await;
            s.server_gets(&f(b'd', b"1\n")).await;
            s.nothing_reaches_the_server().await;
            if fails {
                let failed = [error("22P04", "extra data"), ready(b'I')].concat();
                s.server_says(&failed).await;
                s.client_gets(&failed).await;
                s.server_gets(&sync()).await;
                s.server_says(&ready(b'I')).await;
                s.client_gets(&ready(b'I')).await;
            } else {
                s.client_says(&f(b'c', b"")).await;
                s.server_gets(&f(b'c', b"")).await;
                let copied = [complete("COPY 1"), ready(b'I')].concat();
                s.server_says(&copied).await;
                s.client_gets(&copied).await;
            }
            s.client_says(&query("SELECT 1")).await;
            s.server_gets(&query("SELECT 1")).await;
        })
        .await;
    }
}

#[tokio::test]
async fn a_request_in_the_middle_of_data_ends_the_session() {
    let bound = [bind("", ""), execute("")].concat();
    for request in [query("SELECT 1"), parse("", "SELECT 1"), bound] {
        on_stage(|mut s| async move {
            s.client_says(&query("COPY orders FROM STDIN")).await;
            s.server_gets(&query("COPY orders FROM STDIN")).await;
            s.server_says(&reads()).await;
            s.client_gets(&reads()).await;
            s.client_says(&[f(b'd', b"1\n"), request].concat()).await;
            let end = s.end().await;
            assert!(matches!(end, Err(Error::ClientSequence(_))), "{end:?}");
        })
        .await;
    }
}
