//! COPY, both ways.

use super::super::link::Error;
use super::stage::{
    begun, bind, complete, description, error, execute, f, on_stage, parse, query, ready, row,
    show, sync,
};

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
        s.passes(&data, &[complete("COPY 1"), ready(b'I')].concat())
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
            s.passes(&query("COPY orders FROM STDIN"), &reads()).await;
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
async fn each_of_two_copies_has_its_own_data_and_its_own_end() {
    on_stage(|mut s| async move {
        let copy = [
            parse("", "COPY orders FROM STDIN"),
            bind("", ""),
            execute(""),
        ]
        .concat();
        let first = [f(b'd', b"1\n"), f(b'c', b"")].concat();
        let second = [f(b'd', b"2\n"), f(b'c', b"")].concat();
        let all = [
            copy.clone(),
            first.clone(),
            copy.clone(),
            second.clone(),
            sync(),
        ];
        s.client_says(&all.concat()).await;
        s.server_gets(&[copy.clone(), f(b'H', b"")].concat()).await;
        let bound = [f(b'1', b""), f(b'2', b"")].concat();
        s.server_says(&[bound.clone(), reads()].concat()).await;
        // The data of the second wait for it, though those of the first have ended.
        s.server_gets(&[first, copy, f(b'H', b"")].concat()).await;
        s.nothing_reaches_the_server().await;
        s.server_says(&[complete("COPY 1"), bound, reads()].concat())
            .await;
        s.server_gets(&[second, sync()].concat()).await;
        s.server_says(&[complete("COPY 1"), ready(b'I')].concat())
            .await;
        let mut ends = 0;
        while s.client_frame().await.0 != b'Z' {
            ends += 1;
        }
        assert_eq!(ends, 8);
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
    })
    .await;
}

#[tokio::test]
async fn a_copy_that_no_statement_asked_for_ends_the_session() {
    on_stage(|mut s| async move {
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
        s.server_says(&reads()).await;
        let end = s.end().await;
        assert!(matches!(end, Err(Error::UpstreamSequence(_))), "{end:?}");
    })
    .await;
}

#[tokio::test]
async fn a_transaction_fails_behind_the_copy_that_is_under_way() {
    for ends_data in [true, false] {
        on_stage(|mut s| async move {
            begun(&mut s).await;
            let texts = [
                query("SELECT id FROM limited"),
                query("COPY orders FROM STDIN"),
            ]
            .concat();
            s.client_says(&[texts.clone(), f(b'd', b"1\n")].concat())
                .await;
            s.server_gets(&texts).await;
            let rows = [row(&["1"]), row(&["2"]), row(&["3"])].concat();
            let described = description(&[("id", 20003, 1)]);
            s.server_says(&[described, rows, complete("SELECT 3"), ready(b'T'), reads()].concat())
                .await;
            s.server_gets(&f(b'd', b"1\n")).await;
            s.nothing_reaches_the_server().await;
            if !ends_data {
                s.client_says(&query("COMMIT")).await;
                let end = s.end().await;
                assert!(matches!(end, Err(Error::ClientSequence(_))), "{end:?}");
                return;
            }
            s.client_says(&[f(b'c', b""), query("COMMIT")].concat())
                .await;
            s.server_gets(&f(b'c', b"")).await;
            s.nothing_reaches_the_server().await;
            s.server_says(&[complete("COPY 1"), ready(b'T')].concat())
                .await;
            let (tag, body) = s.server_frame().await;
            assert_eq!((tag, show(&body).contains("refused this")), (b'Q', true));
        })
        .await;
    }
}

#[tokio::test]
async fn a_request_in_the_middle_of_data_ends_the_session() {
    let bound = [bind("", ""), execute("")].concat();
    for request in [query("SELECT 1"), parse("", "SELECT 1"), bound] {
        on_stage(|mut s| async move {
            s.passes(&query("COPY orders FROM STDIN"), &reads()).await;
            s.client_says(&[f(b'd', b"1\n"), request].concat()).await;
            let end = s.end().await;
            assert!(matches!(end, Err(Error::ClientSequence(_))), "{end:?}");
        })
        .await;
    }
}
