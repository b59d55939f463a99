//! Journals of questions opened, closed and failing.

use std::fs;
use std::path::Path;

use super::*;
use crate::identity::{Agent, Process};
use crate::policy_store::PolicyStore;
use crate::record::{Durability, Reader, Settings, Stored, Told, Verification, journals, verify};

struct Place {
    dir: tempfile::TempDir,
    journals: Journals,
}

impl Place {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let policies = dir.path().join("policies");
        fs::create_dir(&policies).unwrap();
        fs::write(policies.join("policy.toml"), "version = 1\n").unwrap();
        let recorder = Recorder::open(&Settings {
            dir: dir.path().join("journal"),
            durability: Durability::Os,
            index: dir.path().join("index.db"),
        });
        let policy = PolicyStore::open(&policies).await.unwrap().handle();
        let journals = Journals::new(recorder.unwrap(), policy);
        Self { dir, journals }
    }

    async fn ask(&self, cgroup: &str, name: &str) -> Option<Recorded> {
        let asker = asker(cgroup);
        self.journals.record(&asker, &question(name), 0).await
    }

    fn journal(&self) -> std::path::PathBuf {
        self.dir.path().join("journal")
    }

    /// What each journal holds, by age: its cgroup, the names, how it ended.
    fn read(&self) -> Vec<(String, Vec<String>, Option<CloseReason>)> {
        let all = journals(&self.journal(), "").unwrap();
        all.iter().map(|(_, path)| read(path)).collect()
    }
}

fn asker(cgroup: &str) -> Asker {
    let agent = Agent {
        name: "coder".into(),
        groups: Arc::new(["agents".into()]),
        preflight: crate::identity::PreflightMode::default(),
    };
    Asker {
        identity: Identity {
            agent,
            cgroup: cgroup.to_owned(),
            container: None,
            pod: None,
            process: Process {
                pid: 4711,
                uid: 1000,
                comm: "getent".into(),
                exe: None,
            },
        },
        resolver: "192.0.2.53:53".parse().unwrap(),
    }
}

fn question(name: &str) -> Question<'_> {
    Question {
        at: 1_700_000_000_000_000,
        pid: 4711,
        comm: "getent",
        name,
        record_type: "A",
        told: Told::Refused,
    }
}

fn read(path: &Path) -> (String, Vec<String>, Option<CloseReason>) {
    let mut reader = Reader::open(path).unwrap();
    let (mut cgroup, mut names, mut reason) = (String::new(), Vec::new(), None);
    while let Some(record) = reader.next().unwrap() {
        match record.entry {
            Stored::Open(open) => {
                assert_eq!((&*open.datastore, &*open.agent), ("(names)", "coder"));
                assert_eq!(open.destination, "192.0.2.53:53");
                cgroup = open.cgroup;
            }
            Stored::Question(question) => names.push(question.name.to_owned()),
            Stored::Note { kind, text, .. } => names.push(format!("{kind}: {text}")),
            Stored::Close(close) => reason = Some(close.reason),
            other => panic!("{other:?}"),
        }
    }
    (cgroup, names, reason)
}

fn ended(why: &str) -> Option<CloseReason> {
    Some(CloseReason::Questions(why.to_owned()))
}

#[tokio::test]
async fn questions_of_one_cgroup_are_on_record_together_before_they_may_be_answered() {
    let place = Place::new().await;
    for (count, name) in ["a.example", "b.example"].into_iter().enumerate() {
        assert!(place.ask("s/coder-1", name).await.is_some());
        assert_eq!(place.read()[0].1.len(), count + 1);
    }
    assert!(place.ask("s/coder-2", "c.example").await.is_some());
    let expected = [
        ("s/coder-1", vec!["a.example", "b.example"]),
        ("s/coder-2", vec!["c.example"]),
    ];
    for ((cgroup, names, reason), expected) in place.read().into_iter().zip(expected) {
        assert_eq!((&*cgroup, reason), (expected.0, None));
        assert_eq!(names, expected.1);
    }
    place.journals.close().await;
    for (_, path) in journals(&place.journal(), "").unwrap() {
        assert_eq!(verify(&path).unwrap().end, Verification::Complete);
        assert_eq!(read(&path).2, Some(CloseReason::Drained));
    }
    assert!(place.ask("s/coder-1", "late.example").await.is_none());
    assert_eq!(place.read().len(), 2);
}

#[tokio::test]
async fn cgroups_of_one_container_share_a_journal() {
    let place = Place::new().await;
    let container = format!("s/docker-{}.scope", "0123456789abcdef".repeat(4));
    for below in ["", "/child", "/child/grandchild"] {
        let cgroup = format!("{container}{below}");
        assert!(place.ask(&cgroup, "a.example").await.is_some());
    }
    assert_eq!(place.read().len(), 1);
}

#[tokio::test]
async fn a_journal_ends_when_nobody_asks_and_when_it_is_old() {
    let place = Place::new().await;
    assert!(place.ask("s/coder-1", "a.example").await.is_some());
    let now = Instant::now();
    assert!(place.journals.state().over(now).is_empty());
    let idle = place.journals.state().over(now + IDLE);
    for over in idle {
        end(over).await;
    }
    assert_eq!(place.read()[0].2, ended("none for 60 s"));

    let (asker, asked) = (asker("s/coder-1"), question("b.example"));
    let mut seconds = 0;
    while place.read().len() < 3 {
        let later = now + Duration::from_secs(seconds);
        let written = place.journals.write(&asker, &asked, 0, later);
        assert!(written.is_some());
        seconds += 30;
    }
    // One each 30 s, and the ending is a task of its own.
    tokio::task::yield_now().await;
    let read = place.read();
    assert_eq!(
        (read[1].1.len(), &read[1].2),
        (20, &ended("open for 600 s"))
    );
    assert_eq!((read[2].1.len(), &read[2].2), (1, &None));
}

#[tokio::test]
async fn of_too_many_journals_the_idlest_ends() {
    let place = Place::new().await;
    for number in 0..=OPEN {
        let cgroup = format!("s/coder-{number}");
        assert!(place.ask(&cgroup, "a.example").await.is_some());
        // The second is the idlest by the time that there are too many.
        assert!(place.ask("s/coder-0", "a.example").await.is_some());
    }
    tokio::task::yield_now().await;
    assert_eq!(place.journals.state().open.len(), OPEN);
    let over: Vec<_> = place
        .read()
        .into_iter()
        .filter(|(.., reason)| reason.is_some())
        .collect();
    assert_eq!(over.len(), 1);
    assert_eq!(
        (&*over[0].0, &over[0].2),
        ("s/coder-1", &ended("256 others ask"))
    );
}

#[tokio::test]
async fn what_was_not_answered_is_on_record_before_the_next_that_is() {
    let place = Place::new().await;
    let (asker, asked) = (asker("s/coder-1"), question("a.example"));
    let recorded = place.journals.record(&asker, &asked, 7).await;
    assert!(recorded.is_some());
    let names = &place.read()[0].1;
    let expected = ["unanswered: 7 questions: more than 32 at once", "a.example"];
    assert_eq!(names, &expected);
}

#[tokio::test]
async fn what_cant_be_recorded_has_no_answer_until_it_can() {
    let place = Place::new().await;
    fs::rename(place.journal(), place.dir.path().join("gone")).unwrap();
    assert!(place.ask("s/coder-1", "a.example").await.is_none());
    assert!(place.journals.state().open.is_empty());
    fs::rename(place.dir.path().join("gone"), place.journal()).unwrap();
    assert!(place.ask("s/coder-1", "b.example").await.is_some());
    assert_eq!(place.read()[0].1, ["b.example"]);
}
