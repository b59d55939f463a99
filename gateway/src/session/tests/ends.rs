//! How sessions go on under strain, and how they end.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::task::LocalSet;

use super::super::link::End;
use super::super::link::Error;
use super::stage::{
    Stage, bind, complete, description, error, execute, f, on_stage, parse, query, read, ready,
    row, show, sync,
};

#[tokio::test]
async fn an_error_larger_than_a_megabyte_passes_and_its_session_goes_on() {
    LocalSet::new()
        .run_until(async {
            let mut s = Stage::start(4 << 20);
            s.client_says(&query("SELECT 1")).await;
            s.server_gets(&query("SELECT 1")).await;
            let answer = [error("22P02", &"x".repeat(2 << 20)), ready(b'I')].concat();
            s.server_says(&answer).await;
            let got = read(&mut s.client, answer.len()).await;
            assert!(got == answer, "as it came");
        })
        .await;
}

#[tokio::test]
async fn a_client_that_leaves_while_its_request_waits_is_noticed() {
    on_stage(|mut s| async move {
        let slow = query("SELECT id FROM orders");
        s.client_says(&[slow.clone(), query("SELECT ssn FROM customers")].concat())
            .await;
        s.server_gets(&slow).await;
        // The server never answers.
        drop(s.client);
        let left = tokio::time::timeout(Duration::from_secs(5), &mut s.relay).await;
        let left = left.expect("ends in time").expect("no panic");
        assert!(matches!(left.end, Err(Error::ClientIo(_))));
        assert!(left.busy, "there is something to cancel");
    })
    .await;
}

#[tokio::test]
async fn what_a_client_says_while_its_request_waits_is_kept() {
    on_stage(|mut s| async move {
        let slow = query("SELECT id FROM orders");
        let copy = query("COPY orders FROM STDIN");
        s.client_says(&[slow.clone(), copy.clone(), f(b'd', b"1\n")].concat())
            .await;
        s.server_gets(&[slow, copy].concat()).await;
        let rest = [f(b'd', b"2\n"), f(b'c', b"")].concat();
        for byte in &rest {
            s.client_says(&[*byte]).await;
            tokio::task::yield_now().await;
        }
        let answer = [complete("SELECT 0"), ready(b'I'), f(b'G', &[0, 0, 1, 0, 0])].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.server_gets(&[f(b'd', b"1\n"), rest].concat()).await;
    })
    .await;
}

#[tokio::test]
async fn a_last_statement_is_answered_before_the_terminate_behind_it_counts() {
    on_stage(|mut s| async move {
        let insert = query("INSERT INTO orders VALUES (1)");
        s.client_says(&[insert.clone(), f(b'X', b"")].concat())
            .await;
        s.server_gets(&insert).await;
        s.nothing_reaches_the_server().await;
        let answer = [complete("INSERT 0 1"), ready(b'I')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.server_gets(&f(b'X', b"")).await;
        let left = tokio::time::timeout(Duration::from_secs(5), &mut s.relay).await;
        let left = left.expect("ends in time").expect("no panic");
        assert!(matches!(left.end, Ok(End::ClientQuit)));
        assert!(!left.busy);
        assert!(s.recorded().contains("Outcome"));
    })
    .await;
}

#[tokio::test]
async fn what_comes_before_a_terminate_without_its_sync_is_answered_too() {
    on_stage(|mut s| async move {
        let work = [sync(), parse("", "SELECT 1"), bind("", ""), execute("")].concat();
        s.client_says(&[work.clone(), f(b'X', b"")].concat()).await;
        s.server_gets(&[work, f(b'H', b"")].concat()).await;
        s.nothing_reaches_the_server().await;
        let answer = [
            ready(b'I'),
            f(b'1', b""),
            f(b'2', b""),
            complete("SELECT 1"),
        ]
        .concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.server_gets(&f(b'X', b"")).await;
    })
    .await;
}

#[tokio::test]
async fn nothing_is_said_into_the_middle_of_a_message() {
    LocalSet::new()
        .run_until(async {
            let mut s = Stage::start(4096);
            s.client_says(&query("SELECT id FROM orders")).await;
            s.server_gets(&query("SELECT id FROM orders")).await;
            let rows = row(&["x".repeat(1000).as_str()]).repeat(10);
            let described = description(&[("id", 20002, 1)]);
            let said = [described, rows].concat();
            let saying = s.server.write_all(&said);
            let _ = tokio::time::timeout(Duration::from_millis(100), saying).await;
            s.client_says(b"Z\0\0\0\x04").await;
            let left = tokio::time::timeout(Duration::from_secs(5), &mut s.relay).await;
            let left = left.expect("ends in time").expect("no panic");
            assert!(matches!(left.end, Err(Error::Client(_))));
            assert!(left.torn, "a row is half written");
        })
        .await;
}

#[tokio::test]
async fn malformed_and_oversize_frames_end_the_session() {
    for bytes in [
        b"Q\0\0\0\x03".to_vec(),
        b"Z\0\0\0\x05I".to_vec(),
        b"S\x7f\xff\xff\xff".to_vec(),
        f(b'Q', b"SELECT 1\0DROP TABLE orders\0"),
        f(b'P', b"s\0SELECT 1\0\0\x09"),
        f(b'p', b"password\0"),
    ] {
        on_stage(|mut s| async move {
            s.client_says(&bytes).await;
            s.nothing_reaches_the_server().await;
            let end = s.end().await;
            assert!(
                matches!(end, Err(Error::Client(_) | Error::ClientSequence(_))),
                "{end:?}"
            );
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_says_what_was_not_asked_for_ends_the_session() {
    for bytes in [
        ready(b'I'),
        complete("SELECT 1"),
        row(&["1"]),
        description(&[("x", 1, 1)]),
        f(b'R', &[0, 0, 0, 0]),
        f(b'W', &[0, 0, 0]),
        f(b'1', b""),
        f(b'S', b"standard_conforming_strings\0off\0"),
        f(b'S', b"client_encoding\0LATIN1\0"),
    ] {
        on_stage(|mut s| async move {
            s.server_says(&bytes).await;
            let left = tokio::time::timeout(Duration::from_secs(5), &mut s.relay).await;
            let end = left.expect("ends in time").expect("no panic").end;
            assert!(
                matches!(end, Err(Error::UpstreamSequence(_) | Error::Setting { .. })),
                "{}: {end:?}",
                show(&bytes)
            );
        })
        .await;
    }
}

#[tokio::test]
async fn a_drained_session_ends_once_it_is_at_rest() {
    on_stage(|mut s| async move {
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
        s.drain.send_replace(true);
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!s.relay.is_finished(), "a statement is under way");
        let answer = [complete("SELECT 1"), ready(b'I')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        let left = tokio::time::timeout(Duration::from_secs(5), &mut s.relay).await;
        assert!(matches!(
            left.expect("ends").expect("no panic").end,
            Ok(End::Drained)
        ));
    })
    .await;
}

#[tokio::test]
async fn a_drained_session_that_goes_on_is_ended_in_order() {
    on_stage(|mut s| async move {
        s.client_says(&query("SELECT 1")).await;
        s.server_gets(&query("SELECT 1")).await;
        s.drain.send_replace(true);
        // The server never answers.
        let left = tokio::time::timeout(crate::daemon::DRAIN, &mut s.relay).await;
        let left = left.expect("within the daemon's time").expect("no panic");
        assert!(matches!(left.end, Ok(End::Drained)));
        assert!(left.busy, "there is something to cancel");
    })
    .await;
}

#[tokio::test]
async fn splitting_what_either_side_says_changes_nothing() {
    let client = [
        parse("s", "SELECT id FROM orders"),
        bind("", "s"),
        execute(""),
        sync(),
    ]
    .concat();
    let server = [
        f(b'1', b""),
        f(b'2', b""),
        row(&["1"]),
        row(&["2"]),
        complete("SELECT 2"),
        ready(b'I'),
    ]
    .concat();
    for step in [1, 2, 3, 5, 7, 11, 64] {
        let (client, server) = (client.clone(), server.clone());
        LocalSet::new()
            .run_until(async move {
                let mut s = Stage::start(1 << 16);
                for part in client.chunks(step) {
                    s.client_says(part).await;
                    tokio::task::yield_now().await;
                }
                s.server_gets(&client).await;
                for part in server.chunks(step) {
                    s.server_says(part).await;
                    tokio::task::yield_now().await;
                }
                s.client_gets(&server).await;
            })
            .await;
    }
}

#[tokio::test]
async fn a_slow_client_holds_the_server_back() {
    LocalSet::new()
        .run_until(async {
            let mut s = Stage::start(4096);
            s.client_says(&query("SELECT id FROM orders")).await;
            s.server_gets(&query("SELECT id FROM orders")).await;
            s.server_says(&description(&[("id", 20002, 1)])).await;
            let many = row(&["x".repeat(1000).as_str()]).repeat(1000);
            let sent = tokio::time::timeout(Duration::from_millis(200), s.server.write_all(&many));
            assert!(
                sent.await.is_err(),
                "a megabyte was taken from the server for nobody"
            );
        })
        .await;
}
