//! Scripted sessions over duplex streams: this file plays the client and the server.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, watch};
use tokio::task::LocalSet;

use super::judging::{Judging, Who};
use super::link::{End, Error, Results};
use super::relay::{self, Left, Parts};
use super::responses::Cancel;
use super::tally::Tally;
use crate::catalog::{Catalog, ColumnRow, RelationRow, SnapshotRows};
use crate::policy::{self, Source};
use crate::policy_store::Active;
use crate::record::{self, Durability, Reader, Recorder, SessionId, SessionOpen};
use crate::wire::{ErrorFields, put_frame};

const POLICY: &str = r#"
version = 1

[[rule]]
name = "read"
effects = ["read"]
objects = ["public.*"]
decision = "allow"
  [[rule.mask]]
  columns = ["ssn"]
  with = "redact"

[[rule]]
name = "few"
effects = ["read"]
objects = ["public.limited"]
decision = "allow"
limits = { max_rows = 2 }

[[rule]]
name = "write"
effects = ["insert", "bulk_load"]
objects = ["public.orders"]
decision = "allow"

[[rule]]
name = "no-ddl"
effects = ["ddl"]
decision = "deny"
message = "schema changes go through migrations"
"#;

const CUSTOMERS: u32 = 20001;

fn catalog() -> Catalog {
    let relation = |oid, name: &str| RelationRow {
        oid,
        schema: "public".into(),
        name: name.into(),
        kind: 'r',
    };
    let column = |relation, attnum, name: &str, type_oid| ColumnRow {
        relation,
        attnum,
        name: name.into(),
        type_oid,
        typmod: -1,
    };
    Catalog::build(SnapshotRows {
        relations: vec![
            relation(CUSTOMERS, "customers"),
            relation(20002, "orders"),
            relation(20003, "limited"),
        ],
        columns: vec![
            column(CUSTOMERS, 1, "id", 23),
            column(CUSTOMERS, 2, "ssn", 25),
            column(20002, 1, "id", 23),
            column(20003, 1, "id", 23),
        ],
        search_path: vec!["public".into()],
        ..SnapshotRows::default()
    })
}

struct NoCancel;

impl Cancel for NoCancel {
    async fn cancel(&self) {}
}

/// A session under way, seen from both ends.
struct Stage {
    client: DuplexStream,
    server: DuplexStream,
    policy: watch::Sender<Arc<Active>>,
    drain: watch::Sender<bool>,
    journal: std::path::PathBuf,
    relay: tokio::task::JoinHandle<Left<DuplexStream, DuplexStream>>,
    _dir: tempfile::TempDir,
}

fn active(text: &str, generation: u64) -> Arc<Active> {
    let sources = [Source {
        name: "test.toml".into(),
        text: text.into(),
    }];
    let policy = policy::parse(&sources).expect("a valid policy");
    Arc::new(Active {
        policy: Arc::new(policy),
        generation,
    })
}

fn opening() -> SessionOpen {
    SessionOpen {
        id: SessionId::now(),
        at: 0,
        agent: "coder".into(),
        groups: vec![],
        datastore: "appdb".into(),
        destination: String::new(),
        cgroup: String::new(),
        container: None,
        pid: 1,
        uid: 1,
        comm: String::new(),
        exe: None,
        claimed_user: String::new(),
        database: String::new(),
        parameters: vec![],
        client_tls: None,
        upstream: None,
        policy: String::new(),
        weir: String::new(),
    }
}

impl Stage {
    /// Starts a relay; `buffer` is how much either side takes before it has to be read.
    fn start(buffer: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let recorder = Recorder::open(&record::Settings {
            dir: dir.path().join("journal"),
            durability: Durability::Os,
            index: dir.path().join("index.db"),
        })
        .expect("a recorder");
        let open = opening();
        let journal = recorder.session(&open).expect("a journal");
        let (client, near_client) = tokio::io::duplex(buffer);
        let (server, near_server) = tokio::io::duplex(buffer);
        let (policy, active) = watch::channel(active(POLICY, 1));
        let (_, catalog) = watch::channel(Arc::new(catalog()));
        let (drain, draining) = watch::channel(false);
        let who = Who {
            agent: "coder".into(),
            groups: [].into(),
            datastore: "appdb".into(),
        };
        let parts = Parts {
            client: near_client,
            upstream: near_server,
            leftover: Vec::new(),
            journal,
            judging: Judging::new(who, active, (catalog, Arc::new(Notify::new())), true),
            results: Results::Full,
            tally: Arc::new(Tally::default()),
        };
        let relay =
            tokio::task::spawn_local(async move { relay::run(parts, &NoCancel, draining).await });
        let journal = open.id.path_in(&dir.path().join("journal"));
        Self {
            client,
            server,
            policy,
            drain,
            journal,
            relay,
            _dir: dir,
        }
    }

    async fn client_says(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.expect("the relay reads");
    }

    async fn server_says(&mut self, bytes: &[u8]) {
        self.server.write_all(bytes).await.expect("the relay reads");
    }

    async fn server_gets(&mut self, bytes: &[u8]) {
        let got = read(&mut self.server, bytes.len()).await;
        assert_eq!(show(&got), show(bytes));
    }

    async fn client_gets(&mut self, bytes: &[u8]) {
        let got = read(&mut self.client, bytes.len()).await;
        assert_eq!(show(&got), show(bytes));
    }

    /// The next frame at the client's end.
    async fn client_frame(&mut self) -> (u8, Vec<u8>) {
        frame(&mut self.client).await
    }

    async fn server_frame(&mut self) -> (u8, Vec<u8>) {
        frame(&mut self.server).await
    }

    /// The client gets an error of this SQLSTATE whose message has these words.
    async fn client_is_refused(&mut self, sqlstate: &str, words: &str) {
        let (tag, body) = self.client_frame().await;
        assert_eq!(tag, b'E');
        let fields = ErrorFields::decode(&body).expect("an error");
        let message = String::from_utf8_lossy(fields.message).into_owned();
        assert_eq!(
            String::from_utf8_lossy(fields.sqlstate),
            sqlstate,
            "{message}"
        );
        assert!(message.contains(words), "{message}");
    }

    async fn nothing_reaches_the_server(&mut self) {
        let more = tokio::time::timeout(Duration::from_millis(50), self.server.read_u8()).await;
        assert!(more.is_err(), "the server got {more:?}");
    }

    async fn end(self) -> Result<End, Error> {
        drop(self.client);
        let left = tokio::time::timeout(Duration::from_secs(5), self.relay).await;
        left.expect("ends in time").expect("no panic").end
    }

    /// The kinds of what the journal holds now.
    fn recorded(&self) -> String {
        let mut all = String::new();
        let mut reader = Reader::open(&self.journal).expect("a journal");
        while let Some(record) = reader.next().expect("an unbroken chain") {
            all.push_str(&format!("{record:?}\n"));
        }
        all
    }
}

async fn read(from: &mut DuplexStream, n: usize) -> Vec<u8> {
    let mut got = vec![0; n];
    let read = tokio::time::timeout(Duration::from_secs(5), from.read_exact(&mut got)).await;
    read.expect("bytes in time").expect("bytes");
    got
}

async fn frame(from: &mut DuplexStream) -> (u8, Vec<u8>) {
    let head = read(from, 5).await;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    (head[0], read(from, length - 4).await)
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn f(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, tag, |b| b.extend_from_slice(body));
    out
}

fn query(text: &str) -> Vec<u8> {
    f(b'Q', format!("{text}\0").as_bytes())
}

fn parse(name: &str, text: &str) -> Vec<u8> {
    f(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

fn bind(portal: &str, statement: &str) -> Vec<u8> {
    f(
        b'B',
        format!("{portal}\0{statement}\0\0\0\0\0\0\0").as_bytes(),
    )
}

fn execute(portal: &str) -> Vec<u8> {
    f(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
}

fn sync() -> Vec<u8> {
    f(b'S', b"")
}

fn ready(status: u8) -> Vec<u8> {
    f(b'Z', &[status])
}

fn complete(tag: &str) -> Vec<u8> {
    f(b'C', format!("{tag}\0").as_bytes())
}

fn error(sqlstate: &str, message: &str) -> Vec<u8> {
    f(
        b'E',
        format!("SERROR\0C{sqlstate}\0M{message}\0\0").as_bytes(),
    )
}

/// A description of text columns: name, table, column.
fn description(columns: &[(&str, u32, i16)]) -> Vec<u8> {
    let mut body = (columns.len() as i16).to_be_bytes().to_vec();
    for (name, table, attnum) in columns {
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        body.extend(table.to_be_bytes());
        body.extend(attnum.to_be_bytes());
        body.extend(25u32.to_be_bytes());
        body.extend((-1i16).to_be_bytes());
        body.extend((-1i32).to_be_bytes());
        body.extend(0i16.to_be_bytes());
    }
    f(b'T', &body)
}

fn row(cells: &[&str]) -> Vec<u8> {
    let mut body = (cells.len() as i16).to_be_bytes().to_vec();
    for cell in cells {
        body.extend((cell.len() as i32).to_be_bytes());
        body.extend_from_slice(cell.as_bytes());
    }
    f(b'D', &body)
}

async fn on_stage<F: Future<Output = ()>>(scene: impl FnOnce(Stage) -> F) {
    LocalSet::new()
        .run_until(async { scene(Stage::start(1 << 16)).await })
        .await;
}

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
async fn a_denied_query_in_a_transaction_fails_the_servers_transaction_too() {
    on_stage(|mut s| async move {
        s.client_says(&query("BEGIN")).await;
        s.server_gets(&query("BEGIN")).await;
        s.server_says(&[complete("BEGIN"), ready(b'T')].concat())
            .await;
        s.client_gets(&[complete("BEGIN"), ready(b'T')].concat())
            .await;
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
        let (tag, body) = s.server_frame().await;
        assert_eq!((tag, show(&body).contains("refused by Weir")), (b'P', true));
        s.server_gets(&sync()).await;
        s.server_says(&[error("42601", "syntax error"), ready(b'I')].concat())
            .await;
        s.client_is_refused("26000", "prepared statement").await;
        s.client_gets(&ready(b'I')).await;
    })
    .await;
}

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
            !recorded.contains("6789"),
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
async fn rows_beyond_the_limit_are_withheld_and_the_transaction_fails() {
    on_stage(|mut s| async move {
        s.client_says(&query("BEGIN")).await;
        s.server_gets(&query("BEGIN")).await;
        s.server_says(&[complete("BEGIN"), ready(b'T')].concat())
            .await;
        s.client_gets(&[complete("BEGIN"), ready(b'T')].concat())
            .await;
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

/// A transaction that is open on both sides.
async fn begun(s: &mut Stage) {
    s.client_says(&query("BEGIN")).await;
    s.server_gets(&query("BEGIN")).await;
    let answer = [complete("BEGIN"), ready(b'T')].concat();
    s.server_says(&answer).await;
    s.client_gets(&answer).await;
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
        s.client_says(&query("ROLLBACK")).await;
        s.server_gets(&query("ROLLBACK")).await;
        let answer = [complete("ROLLBACK"), ready(b'I')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
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
async fn a_look_ahead_behind_work_without_its_sync_asks_for_the_answers_first() {
    on_stage(|mut s| async move {
        let work = [
            parse("", "INSERT INTO orders VALUES (1)"),
            bind("", ""),
            execute(""),
        ]
        .concat();
        let look = query("SELECT ssn FROM customers");
        s.client_says(&[work.clone(), look.clone()].concat()).await;
        s.server_gets(&[work, f(b'H', b"")].concat()).await;
        // It fails, so the query is discarded up to the next Sync.
        let failure = error("23505", "duplicate key");
        s.server_says(&[f(b'1', b""), f(b'2', b""), failure.clone()].concat())
            .await;
        s.client_gets(&[f(b'1', b""), f(b'2', b""), failure].concat())
            .await;
        s.nothing_reaches_the_server().await;
        s.client_says(&sync()).await;
        s.server_gets(&sync()).await;
        s.server_says(&ready(b'I')).await;
        s.client_gets(&ready(b'I')).await;
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
        let notification = f(b'A', b"\0\0\0\x01channel\0payload\0");
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
        s.client_says(&prepare).await;
        s.server_gets(&prepare).await;
        s.server_says(&[f(b'1', b""), ready(b'I')].concat()).await;
        s.client_gets(&[f(b'1', b""), ready(b'I')].concat()).await;
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
            s.client_says(&run).await;
            s.server_gets(&run).await;
            s.server_says(&answer).await;
            s.client_gets(&answer).await;
        }
        let recorded = s.recorded();
        assert_eq!(recorded.matches("Columns {").count(), 1, "{recorded}");
        assert_eq!(recorded.matches("columns: 1,").count(), 3, "{recorded}");
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
            assert!(!s.recorded().contains("6789"));
        })
        .await;
    }
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

#[tokio::test]
async fn a_long_text_is_judged_like_a_short_one() {
    on_stage(|mut s| async move {
        let padding = "1, ".repeat(40_000);
        let allowed = query(&format!("SELECT id FROM orders WHERE id IN ({padding}1)"));
        s.client_says(&allowed).await;
        s.server_gets(&allowed).await;
        let answer = [complete("SELECT 0"), ready(b'I')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.client_says(&query(&format!("DROP TABLE orders /* {padding} */")))
            .await;
        s.client_is_refused("42501", "no-ddl").await;
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
async fn a_cursor_that_sql_declared_can_be_described_but_not_executed() {
    on_stage(|mut s| async move {
        begun(&mut s).await;
        let declare = query("DECLARE c CURSOR FOR SELECT id FROM orders");
        s.client_says(&declare).await;
        s.server_gets(&declare).await;
        let answer = [complete("DECLARE CURSOR"), ready(b'T')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        let describe = [f(b'D', b"Pc\0"), sync()].concat();
        s.client_says(&describe).await;
        s.server_gets(&describe).await;
        let answer = [description(&[("id", 20002, 1)]), ready(b'T')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.client_says(&[execute("c"), sync()].concat()).await;
        assert_eq!(s.server_frame().await.0, b'P', "a stand-in");
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
async fn a_new_policy_judges_the_next_execute_of_a_prepared_statement() {
    on_stage(|mut s| async move {
        s.client_says(&[parse("s", "SELECT id FROM orders"), sync()].concat())
            .await;
        s.server_gets(&[parse("s", "SELECT id FROM orders"), sync()].concat())
            .await;
        s.server_says(&[f(b'1', b""), ready(b'I')].concat()).await;
        s.client_gets(&[f(b'1', b""), ready(b'I')].concat()).await;
        let strict = "version = 1\n[[rule]]\nname = \"none\"\neffects = [\"read\"]\n\
                      objects = [\"*.*\"]\ndecision = \"deny\"\nmessage = \"closed\"\n";
        s.policy.send_replace(active(strict, 2));
        s.client_says(&[bind("", "s"), execute(""), sync()].concat())
            .await;
        assert_eq!(s.server_frame().await.0, b'P');
        s.server_gets(&sync()).await;
        s.server_says(&[error("42601", "syntax error"), ready(b'I')].concat())
            .await;
        s.client_is_refused("42501", "closed").await;
        s.client_gets(&ready(b'I')).await;
        assert!(s.recorded().contains("Policy"));
    })
    .await;
}

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
async fn a_query_denied_behind_work_without_its_sync_fails_that_work_too() {
    on_stage(|mut s| async move {
        let work = [
            parse("", "INSERT INTO orders VALUES (1)"),
            bind("", ""),
            execute(""),
            f(b'H', b""),
        ]
        .concat();
        s.client_says(&work).await;
        s.server_gets(&work).await;
        let answer = [f(b'1', b""), f(b'2', b""), complete("INSERT 0 1")].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
        s.client_says(&query("DROP TABLE orders")).await;
        // Answered without the server, the insert would be committed by the next Sync.
        let (tag, body) = s.server_frame().await;
        assert_eq!((tag, show(&body).contains("no-ddl")), (b'Q', true));
        s.server_says(&[error("42601", "syntax error"), ready(b'I')].concat())
            .await;
        s.client_is_refused("42501", "migrations").await;
        s.client_gets(&ready(b'I')).await;
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
async fn what_was_prepared_by_sql_does_not_run_under_another_policy() {
    on_stage(|mut s| async move {
        for text in ["PREPARE p AS SELECT id FROM orders", "EXECUTE p"] {
            s.client_says(&query(text)).await;
            s.server_gets(&query(text)).await;
            let answer = [complete("PREPARE"), ready(b'I')].concat();
            s.server_says(&answer).await;
            s.client_gets(&answer).await;
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
            s.client_says(&query(store)).await;
            s.server_gets(&query(store)).await;
            s.server_says(&stored).await;
            s.client_gets(&stored).await;
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
        s.client_says(&query(text)).await;
        s.server_gets(&query(text)).await;
        let answer = [said("COPY orders, line 1: \"1\""), ready(b'I')].concat();
        s.server_says(&answer).await;
        s.client_gets(&answer).await;
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
            let (tag, body) = s.server_frame().await;
            assert_eq!((tag, show(&body).contains("refused by Weir")), (b'P', true));
            s.server_gets(&sync()).await;
            s.server_says(&[error("42601", "syntax error"), ready(b'I')].concat())
                .await;
            s.client_is_refused("42622", "63 bytes").await;
            s.client_gets(&ready(b'I')).await;
            let kept = parse(&"n".repeat(63), "SELECT 1");
            s.client_says(&kept).await;
            s.server_gets(&kept).await;
        })
        .await;
    }
}
