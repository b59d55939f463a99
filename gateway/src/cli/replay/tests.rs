//! A recorded session, shown in each way.

use super::*;
use crate::record::{
    CloseReason, Durability, Entry, Question, Recorder, SessionJournal, SessionOpen, Settings,
    Status, Told as Answer, Verdict, Via,
};

/// 2023-11-14 22:13:20 UTC.
const START: u64 = 1_700_000_000_000_000;

pub(in crate::cli) struct Place {
    _dir: tempfile::TempDir,
    pub(in crate::cli) paths: Paths,
}

impl Place {
    pub(in crate::cli) fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            journal: dir.path().join("journal"),
            index: dir.path().join("index.db"),
        };
        Place { _dir: dir, paths }
    }

    pub(in crate::cli) fn recorder(&self) -> Recorder {
        Recorder::open(&Settings {
            dir: self.paths.journal.clone(),
            durability: Durability::Os,
            index: self.paths.index.clone(),
        })
        .unwrap()
    }
}

/// A session that is being recorded.
pub(in crate::cli) struct Session {
    id: SessionId,
    journal: Option<SessionJournal>,
}

impl Session {
    pub(in crate::cli) fn id(&self) -> SessionId {
        self.id
    }

    fn append(&mut self, entries: &[Entry<'_>]) {
        let journal = self.journal.as_mut().unwrap();
        entries.iter().for_each(|entry| journal.append(entry));
        let _ = block_on(journal.commit()).unwrap();
    }

    pub(in crate::cli) fn deny(&mut self, statement: u64) {
        let verdict = Verdict::Deny {
            sqlstate: "42501",
            message: "not yours",
        };
        self.append(&[decision(statement, verdict, None)]);
    }

    pub(in crate::cli) fn close(&mut self) {
        self.close_as(CloseReason::ClientQuit);
    }

    pub(in crate::cli) fn close_as(&mut self, reason: CloseReason) {
        let journal = self.journal.take().unwrap();
        block_on(journal.close(START + 20_000_000, reason)).unwrap();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

fn decision<'a>(statement: u64, verdict: Verdict<'a>, parameters: Option<&'a [u8]>) -> Entry<'a> {
    Entry::Decision {
        statement,
        at: START + statement * 1_000_000,
        text: 1,
        span: 0..28,
        via: if parameters.is_some() {
            Via::Execute
        } else {
            Via::Simple
        },
        parameters,
        verdict,
        rules: &[],
        effects: 1,
    }
}

/// A session that has begun, and has ended where `close` says so.
pub(in crate::cli) fn session(recorder: &Recorder, close: bool) -> Session {
    let id = SessionId::now();
    let journal = Some(recorder.session(&opening(id)).unwrap());
    let mut session = Session { id, journal };
    session.append(&[Entry::Text {
        id: 1,
        sql: b"select \x1b[2J * from customers",
    }]);
    if close {
        session.close();
    }
    session
}

/// A session of this id that ended without a statement.
pub(in crate::cli) fn session_as(paths: &Paths, id: SessionId) {
    let settings = Settings {
        dir: paths.journal.clone(),
        durability: Durability::Os,
        index: paths.index.clone(),
    };
    let recorder = Recorder::open(&settings).unwrap();
    let journal = Some(recorder.session(&opening(id)).unwrap());
    Session { id, journal }.close();
}

fn opening(id: SessionId) -> SessionOpen {
    SessionOpen {
        id,
        at: START,
        agent: "coder".into(),
        groups: vec!["agents".into()],
        datastore: "appdb".into(),
        destination: "10.0.3.7:5432".into(),
        cgroup: "weir-agents.slice/coder-1".into(),
        container: None,
        pid: 4711,
        uid: 1000,
        comm: "psql".into(),
        exe: None,
        claimed_user: "post\ngres".into(),
        database: "app".into(),
        parameters: Vec::new(),
        client_tls: None,
        upstream: None,
        policy: "00ff".into(),
        weir: "0.1.0".into(),
    }
}

/// A frame with a tag, as the protocol has it.
fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// A statement with an int4 parameter and a result of two columns, one of them masked, whose
/// second row comes in two pieces; then a COPY in each direction, and one that fails.
fn busy_session(recorder: &Recorder) -> SessionId {
    let mut session = session(recorder, false);
    let bind = [
        &[0, 1, 0, 1, 0, 1, 0, 0, 0, 4, 0, 0, 0, 42][..],
        &[0, 2, 0, 1, 0, 0],
    ]
    .concat();
    let field = |name: &[u8], type_oid: u8| {
        [name, &[0; 7], &[0, 0, 0, type_oid], &[0; 6], &[0, 0]].concat()
    };
    let fields = [&[0, 2][..], &field(b"id", 23), &field(b"ssn", 25)].concat();
    let row = |id: u8, ssn: &[u8]| {
        let id = [0, 0, 0, 4, 0, 0, 0, id];
        frame(
            b'D',
            &[&[0, 2][..], &id, &[0, 0, 0, ssn.len() as u8], ssn].concat(),
        )
    };
    let rows = [row(1, b"***-6789"), row(200, b"\x1b[31m")].concat();
    let null = frame(b'D', &[&[0, 2][..], &[0xff; 4], &[0xff; 4]].concat());
    let rows = [rows, null].concat();
    let outcome = |statement, status, rows| Entry::Outcome {
        statement,
        at: START + 2_000_000,
        micros: 1250,
        status,
        rows,
        bytes: 60,
        masked_cells: rows,
        digest: None,
    };
    session.append(&[
        Entry::Types {
            text: 1,
            oids: &[[0, 0, 0, 23]],
        },
        decision(1, Verdict::Allow, Some(&bind)),
        Entry::Columns {
            statement: 1,
            number: 0,
            fields: &fields,
            masked: &[1],
        },
        Entry::Rows {
            statement: 1,
            columns: 0,
            frames: &rows[..30],
        },
        Entry::Rows {
            statement: 1,
            columns: 0,
            frames: &rows[30..],
        },
        outcome(1, Status::Completed { tag: b"SELECT 3" }, 3),
    ]);
    let observed = Verdict::Observe {
        sqlstate: "42501",
        message: "no copies",
    };
    session.append(&[
        decision(2, observed, None),
        Entry::CopyIn {
            statement: 2,
            frames: &frame(b'd', b"1\ta\n"),
        },
        Entry::Rows {
            statement: 2,
            columns: 0,
            frames: &frame(b'd', b"2\tb\n"),
        },
        outcome(
            2,
            Status::Failed {
                sqlstate: b"22P02",
                message: b"bad \x9b",
            },
            0,
        ),
    ]);
    session.close();
    session.id
}

fn shown(place: &Place, id: &str, args: &str) -> (String, ExitCode) {
    let args = Args {
        id: id.to_owned(),
        speed: 0.0,
        json: args.contains("json"),
        statements_only: args.contains("only"),
    };
    let (_, path) = find(&place.paths.journal, id).unwrap();
    let mut out = Vec::new();
    let code = replay(&args, &path, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), code)
}

#[test]
fn a_session_is_shown_as_it_happened() {
    let place = Place::new();
    let id = busy_session(&place.recorder()).to_string();
    let expected = format!(
        r"session {id}, 2023-11-14 22:13:20.000 UTC
  agent      coder [agents]
  process    psql, pid 4711, uid 1000, cgroup weir-agents.slice/coder-1
  datastore  appdb (10.0.3.7:5432), database app
  client     claims to be post\ngres, no TLS
  policy     00ff

+1.000 s  #1  read
    select \x1b[2J * from customers
    $1 = 42
  ALLOW
   id   | ssn [masked]
  ------+--------------
   1    | ***-6789
   200  | \x1b[31m
   null | null
  SELECT 3 (3 rows, 60 bytes, 1.2 ms, 3 cells masked)

+2.000 s  #2  read
    select \x1b[2J * from customers
  ALLOW, would deny: 42501 no copies
  < 1\ta
  > 2\tb
  failed: 22P02 bad \x9b (0 rows, 60 bytes, 1.2 ms)

+20.000 s  closed, client quit (2 statements, 0 denied, 3 rows, 120 bytes, 3 cells masked)
"
    );
    assert_eq!(shown(&place, &id, "").0, expected);
}

#[test]
fn json_holds_each_record_exactly() {
    let place = Place::new();
    let id = busy_session(&place.recorder()).to_string();
    let (text, _) = shown(&place, &id, "json");
    let events: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let types: Vec<&str> = events
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    assert_eq!(
        types,
        [
            "open", "decision", "columns", "rows", "rows", "outcome", "decision", "copy_in",
            "rows", "outcome", "close", "end"
        ]
    );
    assert_eq!(events[0]["claimed_user"], "post\ngres");
    assert_eq!(events[1]["text"], "select \u{1b}[2J * from customers");
    assert_eq!(events[1]["parameters"], serde_json::json!(["42"]));
    assert_eq!(events[2]["columns"][1]["masked"], true);
    assert_eq!(
        events[4]["rows"],
        serde_json::json!([["200", "\u{1b}[31m"], [null, null]])
    );
    assert_eq!(
        events[9]["message"],
        serde_json::json!({ "hex": "626164209b" })
    );
    assert_eq!(events[10]["session"], *id);
    assert_eq!(events[11]["state"], "closed");
}

/// Questions with each answer, of which one would mislead whoever reads it.
fn questions(recorder: &Recorder) -> SessionId {
    let id = SessionId::now();
    let open = SessionOpen {
        datastore: "(names)".into(),
        destination: "192.0.2.53:53".into(),
        claimed_user: String::new(),
        database: String::new(),
        ..opening(id)
    };
    let mut journal = recorder.session(&open).unwrap();
    let both = vec![[10, 0, 3, 7].into(), [10, 0, 3, 8].into()];
    let asked = [
        ("db.internal", Answer::Addresses(both.into())),
        ("db.internal", Answer::Addresses(Vec::new().into())),
        ("db.internal.svc", Answer::Nonexistent),
        ("api.example", Answer::Failed),
        ("\x1b[2J\nevil", Answer::Refused),
    ];
    for (name, told) in asked {
        journal.append(&Entry::Question(Question {
            at: START + 1_000_000,
            pid: 4711,
            comm: "get\tent",
            name,
            record_type: "A",
            told,
        }));
    }
    let reason = CloseReason::Questions("none for 60 s".to_owned());
    block_on(journal.close(START + 61_000_000, reason)).unwrap();
    id
}

#[test]
fn questions_are_shown_with_their_answers() {
    let place = Place::new();
    let id = questions(&place.recorder()).to_string();
    let expected = format!(
        r"session {id}, 2023-11-14 22:13:20.000 UTC
  agent      coder [agents]
  process    psql, pid 4711, uid 1000, cgroup weir-agents.slice/coder-1
  datastore  (names) (192.0.2.53:53)
  policy     00ff

+1.000 s  A db.internal: 10.0.3.7, 10.0.3.8; asked by get\tent (pid 4711)

+1.000 s  A db.internal: no address; asked by get\tent (pid 4711)

+1.000 s  A db.internal.svc: no such name; asked by get\tent (pid 4711)

+1.000 s  A api.example: failed; asked by get\tent (pid 4711)

+1.000 s  A \x1b[2J\nevil: REFUSED; asked by get\tent (pid 4711)

+61.000 s  closed, end of questions: none for 60 s (5 statements, 1 denied, 0 rows, 0 bytes, 0 cells masked)
"
    );
    assert_eq!(shown(&place, &id, "").0, expected);
    let (json, _) = shown(&place, &id, "json");
    let events: Vec<serde_json::Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let first = serde_json::json!({
        "type": "question", "session": id, "at": START + 1_000_000, "pid": 4711,
        "comm": "get\tent", "name": "db.internal", "record_type": "A", "answer": "answered",
        "addresses": ["10.0.3.7", "10.0.3.8"],
    });
    assert_eq!(events[1], first);
    assert_eq!(events[5]["name"], "\x1b[2J\nevil");
    assert_eq!(events[5]["answer"], "refused");
}

#[test]
fn statements_only_leaves_out_the_data() {
    let place = Place::new();
    let id = busy_session(&place.recorder()).to_string();
    let (text, _) = shown(&place, &id, "only");
    assert!(text.contains("$1 = 42") && text.contains("SELECT 3"));
    assert!(
        !text.contains("***-6789") && !text.contains("2\\tb"),
        "{text}"
    );
}

#[test]
fn a_damaged_journal_is_shown_up_to_the_damage_and_fails() {
    let place = Place::new();
    let id = busy_session(&place.recorder());
    let path = id.path_in(&place.paths.journal);
    let mut bytes = std::fs::read(&path).unwrap();
    let near_the_end = bytes.len() - 300;
    bytes[near_the_end] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let (text, code) = shown(&place, &id.to_string(), "");
    assert!(
        text.contains("***-6789") && text.contains("is broken"),
        "{text}"
    );
    assert!(!text.contains("closed"));
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
}

#[test]
fn an_id_may_be_cut_short_as_long_as_it_is_unique() {
    let place = Place::new();
    let recorder = place.recorder();
    let ids: Vec<String> = (0..2)
        .map(|_| session(&recorder, true).id.to_string())
        .collect();
    let same = ids[0]
        .bytes()
        .zip(ids[1].bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let (found, _) = find(&place.paths.journal, &ids[0][..=same].to_uppercase()).unwrap();
    assert_eq!(found.to_string(), ids[0]);
    let error = find(&place.paths.journal, &ids[0][..3])
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("2 sessions begin with"), "{error}");
    let error = find(&place.paths.journal, "fff\x1b")
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("no session fff\\x1b in"), "{error}");
}

#[test]
fn a_session_that_is_gone_without_a_close_is_said_to_be_cut() {
    let place = Place::new();
    let recorder = place.recorder();
    let mut open = session(&recorder, false);
    let id = open.id.to_string();
    assert!(
        shown(&place, &id, "")
            .0
            .ends_with("the session is still open\n")
    );
    open.journal = None;
    assert!(
        shown(&place, &id, "")
            .0
            .ends_with("the daemon died, or could not write\n")
    );
}

#[test]
fn a_journal_swapped_for_another_is_not_shown_under_its_name() {
    let place = Place::new();
    let recorder = place.recorder();
    let shown_id = session(&recorder, true).id;
    let swapped_in = session(&recorder, true).id;
    let path = |id: SessionId| id.path_in(&place.paths.journal);
    std::fs::rename(path(swapped_in), path(shown_id)).unwrap();
    for args in ["", "json"] {
        let (text, code) = shown(&place, &shown_id.to_string(), args);
        assert!(text.contains("belongs to another session"), "{text}");
        assert!(
            !text.contains("coder") && !text.contains("closed"),
            "{text}"
        );
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
    }
}
