//! Large results, which come in pieces.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use super::stage::{Stage, complete, description, on_stage, query, read, ready, row};

/// As much as PostgreSQL sends of a large result at a time.
fn piece(of: char) -> Vec<u8> {
    let cell = of.to_string().repeat(1000);
    row(&[&cell]).repeat(8)
}

/// A query that was asked, and whose result begins.
async fn asked(s: &mut Stage) {
    let text = query("SELECT id FROM orders");
    s.passes(&text, &description(&[("id", 20002, 1)])).await;
}

#[tokio::test(start_paused = true)]
async fn pieces_of_a_large_result_are_gathered() {
    on_stage(|mut s| async move {
        asked(&mut s).await;
        let pieces = ['a', 'b', 'c'].map(piece);
        for piece in &pieces {
            s.server_says(piece).await;
            s.all_have_run().await;
        }
        s.server_says(&[complete("SELECT 24"), ready(b'I')].concat())
            .await;
        let began = Instant::now();
        let expected = [pieces.concat(), complete("SELECT 24"), ready(b'I')].concat();
        let mut got = vec![0; 64 << 10];
        let n = s.client.read(&mut got).await.expect("open");
        assert_eq!(n, expected.len(), "it came in more than one write");
        assert!(got[..n] == expected);
        assert_eq!(began.elapsed(), Duration::ZERO, "its end waited");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_piece_behind_which_nothing_comes_does_not_wait_for_more() {
    on_stage(|mut s| async move {
        asked(&mut s).await;
        let began = Instant::now();
        for _ in 0..3 {
            s.server_says(&piece('a')).await;
            s.client_gets(&piece('a')).await;
        }
        assert!(
            began.elapsed() < Duration::from_millis(10),
            "{:?}",
            began.elapsed()
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_slowly_is_not_gathered() {
    on_stage(|mut s| async move {
        asked(&mut s).await;
        let began = Instant::now();
        for _ in 0..10 {
            s.server_says(&row(&["1"])).await;
            s.client_gets(&row(&["1"])).await;
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_row_larger_than_what_is_gathered_passes() {
    on_stage(|mut s| async move {
        asked(&mut s).await;
        let large = row(&[&"x".repeat(300_000)]);
        let rows = [piece('a'), large, piece('b')].concat();
        let (before, after) = rows.split_at(9000);
        s.server_says(before).await;
        s.all_have_run().await;
        let answer = [after, &complete("SELECT 17"), &ready(b'I')].concat();
        let Stage { client, server, .. } = &mut s;
        let said = async {
            use tokio::io::AsyncWriteExt;
            server.write_all(&answer).await.expect("open");
        };
        let expected = [before, &answer].concat();
        let (got, ()) = tokio::join!(read(client, expected.len()), said);
        assert!(got == expected);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_gathered_reaches_the_client_of_a_server_that_dies() {
    on_stage(|mut s| async move {
        asked(&mut s).await;
        s.server_says(&piece('a')).await;
        s.all_have_run().await;
        drop(s.server);
        let got = read(&mut s.client, piece('a').len()).await;
        assert!(got == piece('a'));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_a_later_piece_exceeds_counts_the_gathered_ones() {
    on_stage(|mut s| async move {
        s.passes(
            &query("SELECT id FROM limited"),
            &description(&[("id", 20003, 1)]),
        )
        .await;
        let wide = row(&[&"x".repeat(5000)]);
        for _ in 0..3 {
            s.server_says(&wide).await;
            s.all_have_run().await;
        }
        s.server_says(&[complete("SELECT 3"), ready(b'I')].concat())
            .await;
        s.client_gets(&[wide.clone(), wide].concat()).await;
        s.client_is_refused("54000", "limit").await;
        s.client_gets(&ready(b'I')).await;
    })
    .await;
}
