//! What the journal has of a session.

use super::stage::{bind, complete, description, execute, f, on_stage, parse, ready, row, sync};

#[tokio::test]
async fn the_columns_of_a_large_row_are_recorded_once() {
    on_stage(|mut s| async move {
        let start = [
            parse("", "SELECT id FROM orders"),
            f(b'D', b"S\0"),
            bind("", ""),
            execute(""),
            sync(),
        ]
        .concat();
        s.client_says(&start).await;
        s.server_gets(&start).await;
        let described = [f(b't', &[0, 0]), description(&[("id", 20002, 1)])].concat();
        let large = row(&["x".repeat(30_000).as_str()]);
        let first = [f(b'1', b""), described, f(b'2', b"")].concat();
        s.server_says(&first).await;
        for part in large.chunks(1000) {
            s.server_says(part).await;
            tokio::task::yield_now().await;
        }
        let rest = [complete("SELECT 1"), ready(b'I')].concat();
        s.server_says(&rest).await;
        s.client_gets(&[first, large, rest].concat()).await;
        assert_eq!(s.recorded().matches("Columns").count(), 1);
    })
    .await;
}

#[tokio::test]
async fn the_columns_of_a_prepared_statement_are_recorded_once_for_all_its_runs() {
    on_stage(|mut s| async move {
        let prepare = [parse("p", "SELECT id FROM orders"), sync()].concat();
        s.passes(&prepare, &[f(b'1', b""), ready(b'I')].concat())
            .await;
        let run = [bind("", "p"), f(b'D', b"P\0"), execute(""), sync()].concat();
        let answer = [
            f(b'2', b""),
            description(&[("id", 20002, 1)]),
            row(&["7"]),
            complete("SELECT 1"),
            ready(b'I'),
        ]
        .concat();
        for _ in 0..3 {
            s.passes(&run, &answer).await;
        }
        let recorded = s.recorded();
        assert_eq!(recorded.matches("Columns {").count(), 1, "{recorded}");
        assert_eq!(recorded.matches("columns: 1,").count(), 3, "{recorded}");
    })
    .await;
}

#[tokio::test]
async fn types_of_parameters_are_recorded_as_they_become_known() {
    on_stage(|mut s| async move {
        let text = "SELECT id FROM orders WHERE id = $1";
        let typed = [b"\0", text.as_bytes(), b"\0\0\x01\0\0\0\x14"].concat();
        let start = [f(b'P', &typed), f(b'D', b"S\0"), sync()].concat();
        s.client_says(&start).await;
        s.server_gets(&start).await;
        let described = [
            f(b'1', b""),
            f(b't', &[0, 1, 0, 0, 0, 23]),
            description(&[("id", 20002, 1)]),
            ready(b'I'),
        ]
        .concat();
        for _ in 0..2 {
            s.server_says(&described).await;
            s.client_gets(&described).await;
            s.client_says(&start).await;
            s.server_gets(&start).await;
        }
        let recorded = s.recorded();
        let types: Vec<_> = recorded.matches("oids: [").collect();
        assert_eq!(types.len(), 2, "{recorded}");
        assert!(recorded.contains("oids: [20]") && recorded.contains("oids: [23]"));
    })
    .await;
}
