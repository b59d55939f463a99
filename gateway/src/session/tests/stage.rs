//! A session under way, whose client and server the tests play; and the messages that they say.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, watch};
use tokio::task::LocalSet;

use super::super::judging::{Judging, Who};
use super::super::link::{End, Error, Results};
use super::super::relay::{self, Left, Parts};
use super::super::responses::Cancel;
use super::super::tally::Tally;
use crate::catalog::{Catalog, ColumnRow, FunctionRow, RelationRow, SnapshotRows};
use crate::policy::{self, Source};
use crate::policy_store::Active;
use crate::record::{self, Durability, Reader, Recorder, SessionId, SessionOpen};
use crate::wire::{ErrorFields, put_frame};

pub(super) const POLICY: &str = r#"
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
name = "other-tenant"
effects = ["read"]
objects = ["tenant.cards"]
decision = "allow"

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

pub(super) const CUSTOMERS: u32 = 20001;
/// `public.cards`, whose `ssn` is masked, and `tenant.cards`, whose isn't.
pub(super) const CARDS: [u32; 2] = [20004, 20005];

pub(super) fn catalog() -> Catalog {
    let relation_in = |schema: &str, oid, name: &str| RelationRow {
        oid,
        schema: schema.into(),
        name: name.into(),
        kind: 'r',
    };
    let relation = |oid, name| relation_in("public", oid, name);
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
            relation(CARDS[0], "cards"),
            relation_in("tenant", CARDS[1], "cards"),
            relation(20006, "plans"),
            relation_in("vault", 20007, "plans"),
        ],
        columns: vec![
            column(CUSTOMERS, 1, "id", 23),
            column(CUSTOMERS, 2, "ssn", 25),
            column(20002, 1, "id", 23),
            column(20003, 1, "id", 23),
            column(CARDS[0], 1, "ssn", 25),
            column(CARDS[1], 1, "ssn", 25),
            column(20006, 1, "id", 23),
            column(20007, 1, "id", 23),
        ],
        functions: vec![FunctionRow {
            oid: 2078,
            schema: "pg_catalog".into(),
            name: "set_config".into(),
            volatility: 'v',
            kind: 'f',
            language: "internal".into(),
        }],
        search_path: vec!["public".into()],
        ..SnapshotRows::default()
    })
}

/// Counts what is cancelled.
struct Counted(Rc<Cell<usize>>);

impl Cancel for Counted {
    async fn cancel(&self) {
        self.0.set(self.0.get() + 1);
    }
}

/// A session under way, seen from both ends.
pub(super) struct Stage {
    pub(super) client: DuplexStream,
    pub(super) server: DuplexStream,
    /// How often the server was asked to cancel.
    pub(super) cancels: Rc<Cell<usize>>,
    pub(super) policy: watch::Sender<Arc<Active>>,
    pub(super) drain: watch::Sender<bool>,
    pub(super) journal: std::path::PathBuf,
    pub(super) relay: tokio::task::JoinHandle<Left<DuplexStream, DuplexStream>>,
    _dir: tempfile::TempDir,
}

pub(super) fn active(text: &str, generation: u64) -> Arc<Active> {
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

pub(super) fn opening() -> SessionOpen {
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
    pub(super) fn start(buffer: usize) -> Self {
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
        let cancels = Rc::default();
        let cancel = Counted(Rc::clone(&cancels));
        let relay =
            tokio::task::spawn_local(async move { relay::run(parts, &cancel, draining).await });
        let journal = open.id.path_in(&dir.path().join("journal"));
        Self {
            client,
            server,
            cancels,
            policy,
            drain,
            journal,
            relay,
            _dir: dir,
        }
    }

    pub(super) async fn client_says(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.expect("the relay reads");
    }

    pub(super) async fn server_says(&mut self, bytes: &[u8]) {
        self.server.write_all(bytes).await.expect("the relay reads");
    }

    /// Returns when whoever can run has; with a paused clock no time has passed.
    pub(super) async fn all_have_run(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    pub(super) async fn server_gets(&mut self, bytes: &[u8]) {
        let got = read(&mut self.server, bytes.len()).await;
        assert_eq!(show(&got), show(bytes));
    }

    pub(super) async fn client_gets(&mut self, bytes: &[u8]) {
        let got = read(&mut self.client, bytes.len()).await;
        assert_eq!(show(&got), show(bytes));
    }

    /// What the client says and what the server answers both pass as they are.
    pub(super) async fn passes(&mut self, said: &[u8], answer: &[u8]) {
        self.client_says(said).await;
        self.server_gets(said).await;
        self.server_says(answer).await;
        self.client_gets(answer).await;
    }

    /// The next frame at the client's end.
    pub(super) async fn client_frame(&mut self) -> (u8, Vec<u8>) {
        frame(&mut self.client).await
    }

    pub(super) async fn server_frame(&mut self) -> (u8, Vec<u8>) {
        frame(&mut self.server).await
    }

    /// The client gets an error of this SQLSTATE whose message has these words.
    pub(super) async fn client_is_refused(&mut self, sqlstate: &str, words: &str) {
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

    /// The server gets, by a message of this tag, a text that it can't parse in place of what was denied.
    pub(super) async fn server_is_to_fail(&mut self, tag: u8) {
        let (got, body) = self.server_frame().await;
        let body = show(&body);
        assert_eq!(
            (got, body.contains("refused by Weir")),
            (tag, true),
            "{body}"
        );
    }

    /// The server fails at a query of Weir's within the client's transaction, and both know.
    pub(super) async fn transaction_fails(&mut self) {
        self.server_is_to_fail(b'Q').await;
        self.server_says(&[error("42601", "syntax error"), ready(b'E')].concat())
            .await;
        self.client_gets(&ready(b'E')).await;
    }

    /// A message of the extended protocol, and a Sync, are refused: the server fails in its place, and is
    /// then in `status`.
    pub(super) async fn is_refused_up_to_a_sync(
        &mut self,
        sqlstate: &str,
        words: &str,
        status: u8,
    ) {
        self.server_is_to_fail(b'P').await;
        self.fails_up_to_a_sync(sqlstate, words, status).await;
    }

    /// The same, of what the server has got up to the Sync.
    pub(super) async fn fails_up_to_a_sync(&mut self, sqlstate: &str, words: &str, status: u8) {
        self.server_gets(&sync()).await;
        self.server_says(&[error("42601", "syntax error"), ready(status)].concat())
            .await;
        self.client_is_refused(sqlstate, words).await;
        self.client_gets(&ready(status)).await;
    }

    pub(super) async fn nothing_reaches_the_server(&mut self) {
        let more = tokio::time::timeout(Duration::from_millis(50), self.server.read_u8()).await;
        assert!(more.is_err(), "the server got {more:?}");
    }

    pub(super) async fn end(self) -> Result<End, Error> {
        drop(self.client);
        let left = tokio::time::timeout(Duration::from_secs(5), self.relay).await;
        left.expect("ends in time").expect("no panic").end
    }

    /// The kinds of what the journal holds now.
    pub(super) fn recorded(&self) -> String {
        let mut all = String::new();
        let mut reader = Reader::open(&self.journal).expect("a journal");
        while let Some(record) = reader.next().expect("an unbroken chain") {
            all.push_str(&format!("{record:?}\n"));
        }
        all
    }
}

pub(super) async fn read(from: &mut DuplexStream, n: usize) -> Vec<u8> {
    let mut got = vec![0; n];
    let read = tokio::time::timeout(Duration::from_secs(5), from.read_exact(&mut got)).await;
    read.expect("bytes in time").expect("bytes");
    got
}

pub(super) async fn frame(from: &mut DuplexStream) -> (u8, Vec<u8>) {
    let head = read(from, 5).await;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    (head[0], read(from, length - 4).await)
}

pub(super) fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

pub(super) fn f(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, tag, |b| b.extend_from_slice(body));
    out
}

pub(super) fn query(text: &str) -> Vec<u8> {
    f(b'Q', format!("{text}\0").as_bytes())
}

pub(super) fn parse(name: &str, text: &str) -> Vec<u8> {
    f(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
}

pub(super) fn bind(portal: &str, statement: &str) -> Vec<u8> {
    f(
        b'B',
        format!("{portal}\0{statement}\0\0\0\0\0\0\0").as_bytes(),
    )
}

pub(super) fn execute(portal: &str) -> Vec<u8> {
    f(b'E', format!("{portal}\0\0\0\0\0").as_bytes())
}

pub(super) fn sync() -> Vec<u8> {
    f(b'S', b"")
}

pub(super) fn ready(status: u8) -> Vec<u8> {
    f(b'Z', &[status])
}

pub(super) fn complete(tag: &str) -> Vec<u8> {
    f(b'C', format!("{tag}\0").as_bytes())
}

pub(super) fn error(sqlstate: &str, message: &str) -> Vec<u8> {
    f(
        b'E',
        format!("SERROR\0C{sqlstate}\0M{message}\0\0").as_bytes(),
    )
}

/// A description of text columns: name, table, column.
pub(super) fn description(columns: &[(&str, u32, i16)]) -> Vec<u8> {
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

pub(super) fn row(cells: &[&str]) -> Vec<u8> {
    let mut body = (cells.len() as i16).to_be_bytes().to_vec();
    for cell in cells {
        body.extend((cell.len() as i32).to_be_bytes());
        body.extend_from_slice(cell.as_bytes());
    }
    f(b'D', &body)
}

pub(super) async fn on_stage<F: Future<Output = ()>>(scene: impl FnOnce(Stage) -> F) {
    LocalSet::new()
        .run_until(async { scene(Stage::start(1 << 16)).await })
        .await;
}

/// A transaction that is open on both sides.
pub(super) async fn begun(s: &mut Stage) {
    s.passes(&query("BEGIN"), &[complete("BEGIN"), ready(b'T')].concat())
        .await;
}
