//! What is on record of agents' questions for names, and that nothing is told without.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use xtask::world::{ADDRESS, ADDRESS6, Agent, Network, Process, Setup, Weir};

use crate::egress::{MASKED, agent};
use crate::names::Stage;
use crate::support::{SmallDisk, until};

/// A journal of questions: its id, and each of its records.
struct Journal {
    id: String,
    records: Vec<Value>,
}

impl Journal {
    fn of_type<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a Value> {
        self.records.iter().filter(move |r| r["type"] == wanted)
    }

    /// The questions of this name: type, answer and addresses.
    fn asked(&self, name: &str) -> Vec<(String, String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let of_name = self.of_type("question").filter(|q| q["name"] == name);
        let mut asked: Vec<_> = of_name
            .map(|q| {
                let addresses = q["addresses"].as_array().into_iter().flatten();
                let addresses: Vec<_> = addresses.map(text).collect();
                (
                    text(&q["record_type"]),
                    text(&q["answer"]),
                    addresses.join(" "),
                )
            })
            .collect();
        asked.sort();
        asked.dedup();
        asked
    }
}

/// The journals of questions, oldest first.
fn journals(weir: &Weir) -> Result<Vec<Journal>> {
    let sessions = weir.cli(&["sessions", "--json", "--datastore", "(names)"])?;
    ensure!(sessions.ok(), "{sessions:?}");
    let mut all = Vec::new();
    for line in sessions.stdout.lines() {
        let session: Value = serde_json::from_str(line)?;
        let id = session["id"].as_str().context("an id")?.to_owned();
        let replay = weir.cli(&["replay", &id, "--json"])?;
        ensure!(replay.ok(), "{replay:?}");
        let records = replay.stdout.lines().map(serde_json::from_str);
        let records = records.collect::<Result<_, _>>()?;
        all.push(Journal { id, records });
    }
    all.reverse();
    Ok(all)
}

/// As [`journals`], once there are so many.
fn journals_when(weir: &Weir, count: usize) -> Result<Vec<Journal>> {
    until("the journals are listed", || {
        journals(weir).is_ok_and(|journals| journals.len() == count)
    })?;
    journals(weir)
}

fn told(record_type: &str, answer: &str, addresses: &str) -> (String, String, String) {
    (record_type.into(), answer.into(), addresses.into())
}

/// Asks for the database's address `argv[1]` times, each after the one before, and once for a name that
/// would mislead whoever reads it.
const ASK: &str = r#"
import socket, struct, sys
def message(name, kind):
    labels = b''.join(bytes([len(label)]) + label for label in name)
    return struct.pack('!6H', 77, 0x100, 1, 0, 0, 0) + labels + struct.pack('!BHH', 0, kind, 1)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
s.connect(('192.0.2.53', 53))
def ask(name, kind=1):
    s.send(message(name, kind))
    return s.recv(2000)[3] & 15
db = (b'db', b'prod', b'internal')
if sys.argv[1] == 'flood':
    s.settimeout(3)
    for _ in range(400): s.send(message(db, 1))
    answers = 0
    try:
        while s.recv(2000): answers += 1
    except TimeoutError: pass
    print(answers, ask(db))
else:
    print(ask((b'a\nERROR forged', b'\x1b[2J\xff'), 16), *(ask(db) for _ in range(int(sys.argv[1]))))
"#;

fn ask(stage: &Stage, agent: &Agent, what: &str) -> Result<Vec<usize>> {
    let seen = stage.run(agent, &[], &["python3", "-c", ASK, what])?;
    let codes = seen.split_whitespace().map(|code| code.parse());
    codes
        .collect::<Result<_, _>>()
        .with_context(|| seen.clone())
}

#[test]
fn each_question_is_recorded_listed_replayed_followed_and_verified() -> Result<()> {
    // The other tests have "os".
    let durability = "disk";
    let mut stage = Stage::with(None, |_, setup| {
        Ok(Setup {
            durability,
            ..setup
        })
    })?;
    let mut tail = stage.world.outside(env!("CARGO_BIN_EXE_weir"));
    tail.args(["tail", "--config"]);
    tail.arg(stage.world.dir().join("weir/weir.toml"));
    let tail_log = stage.world.dir().join("tail.log");
    let tail = Process::start("weir tail", tail, &tail_log, Signal::SIGKILL)?;

    let coder = agent(&stage.world, "coder", Network::OnlyLo)?;
    assert_eq!(stage.psql(&coder)?, MASKED);
    for options in ["single-request", "use-vc"] {
        let seen = stage.resolved(&coder, "db.prod.internal", options)?;
        assert_eq!(seen, [ADDRESS, ADDRESS6]);
    }
    assert!(stage.resolved(&coder, "api.example.com", "")?.is_empty());
    assert_eq!(ask(&stage, &coder, "1")?, [5, 0]);

    let journals = journals_when(&stage.weir, 1)?;
    let journal = &journals[0];
    let open = &journal.records[0];
    assert_eq!(
        (&open["type"], &open["agent"], &open["comm"]),
        (&"open".into(), &"coder".into(), &"psql".into())
    );
    let both = [
        told("A", "answered", ADDRESS),
        told("AAAA", "answered", ADDRESS6),
    ];
    assert_eq!(journal.asked("db.prod.internal"), both);
    let refused = [told("A", "refused", ""), told("AAAA", "refused", "")];
    assert_eq!(journal.asked("api.example.com"), refused);
    let forged = r"a\012error\040forged.\033\[2j\377";
    assert_eq!(journal.asked(forged), [told("TXT", "refused", "")]);
    let by = |comm: &str| journal.of_type("question").any(|q| q["comm"] == comm);
    assert!(by("psql") && by("getent") && by("python3"));

    let replay = stage.weir.cli(&["replay", &journal.id])?.stdout;
    let line = |name: &str| replay.lines().find(|line| line.contains(name));
    let line = |name: &str| line(name).with_context(|| replay.clone());
    let by_psql = format!("A db.prod.internal: {ADDRESS}; asked by psql (pid ");
    line(&by_psql)?;
    line("A api.example.com: REFUSED; asked by getent (pid ")?;
    assert!(line("forged")?.contains("  TXT a"), "{replay}");
    assert!(!replay.contains('\x1b'), "{replay:?}");
    until("tail shows it", || tail.output().contains("forged"))?;
    let tail = tail.output();
    let line = format!("coder@(names)  {by_psql}");
    assert!(tail.contains(&line), "{tail}");
    assert!(!tail.contains('\x1b'), "{tail:?}");

    let verify = |weir: &Weir| weir.cli(&["audit", "verify", &journal.id]);
    let verified = verify(&stage.weir)?;
    assert!(
        verified.stdout.ends_with("open, sound until now"),
        "{verified:?}"
    );
    assert!(stage.weir.drain(Duration::from_secs(20))?.success());
    let verified = verify(&stage.weir)?;
    assert!(verified.stdout.ends_with("complete"), "{verified:?}");

    let list = |weir: &Weir| weir.cli(&["sessions", "--json", "--denied"]);
    let listed = list(&stage.weir)?.stdout;
    let session: Value = serde_json::from_str(&listed)?;
    let asked = journal.of_type("question").count();
    assert_eq!(session["statements"], asked, "{listed}");
    assert_eq!(session["reason"], "drained", "{listed}");
    assert!(stage.weir.cli(&["audit", "reindex"])?.ok());
    assert_eq!(list(&stage.weir)?.stdout, listed);
    Ok(())
}

#[test]
fn without_a_record_there_is_no_answer() -> Result<()> {
    let mut disk = None;
    let stage = Stage::with(None, |world, mut setup| {
        let small = SmallDisk::mount(world.dir().join("small"))?;
        setup.state = Some(small.state());
        disk = Some(small);
        Ok(setup)
    })?;
    let disk = disk.context("a disk")?;
    let coder = agent(&stage.world, "coder", Network::OnlyLo)?;
    assert_eq!(ask(&stage, &coder, "1")?, [5, 0]);
    let before = journals_when(&stage.weir, 1)?;
    let before = before[0].of_type("question").count();
    assert_eq!(before, 2);

    disk.fill()?;
    // The journal's last page has room for some.
    let codes = ask(&stage, &coder, "100")?;
    let answered = codes.iter().take_while(|code| **code != 2).count();
    assert!((1..60).contains(&answered), "{codes:?}");
    assert!(codes[answered..].iter().all(|code| *code == 2), "{codes:?}");
    assert!(stage.resolved(&coder, "db.prod.internal", "")?.is_empty());
    disk.free()?;
    assert_eq!(ask(&stage, &coder, "1")?, [5, 0]);

    let journals = journals_when(&stage.weir, 2)?;
    let recorded = journals[0].of_type("question").count();
    assert_eq!(recorded, before + answered);
    assert_eq!(journals[1].of_type("question").count(), 2);
    for (journal, end) in journals.iter().zip(["cut", "open"]) {
        let verified = stage.weir.cli(&["audit", "verify", &journal.id])?;
        assert!(
            verified.ok() && verified.stdout.contains(end),
            "{verified:?}"
        );
    }
    drop(stage);
    drop(disk);
    Ok(())
}

#[test]
fn of_a_flood_what_is_answered_is_recorded_and_what_is_not_is_counted() -> Result<()> {
    let stage = Stage::with(None, |_, setup| Ok(setup))?;
    let coder = agent(&stage.world, "coder", Network::OnlyLo)?;
    let begin = Instant::now();
    let codes = ask(&stage, &coder, "100")?;
    assert!(codes.len() == 101 && codes[1..].iter().all(|code| *code == 0));
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(900), "{took:?}");

    let flooded = ask(&stage, &coder, "flood")?;
    let (answers, last) = (flooded[0], flooded[1]);
    assert!((32..=150).contains(&answers) && last == 0, "{flooded:?}");
    let journals = journals_when(&stage.weir, 1)?;
    let recorded = journals[0].of_type("question").count();
    assert_eq!(recorded, 101 + answers + 1);
    let counted: usize = journals[0]
        .of_type("note")
        .filter_map(|note| {
            note["text"]
                .as_str()?
                .split(' ')
                .next()?
                .parse::<usize>()
                .ok()
        })
        .sum();
    println!("of 400 at once {answers} were answered, {counted} counted");
    assert!(counted > 0 && counted + answers <= 400, "{counted}");
    Ok(())
}
