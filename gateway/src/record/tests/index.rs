//! The index, kept and rebuilt.

use super::*;

/// Waits for the index's thread, which gathers for a quarter of a second.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..200 {
        if holds() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(25));
    }
    panic!("not within 5 s: {what}");
}

fn all() -> Filter {
    Filter {
        limit: usize::MAX,
        ..Filter::default()
    }
}

#[test]
fn a_rebuilt_index_equals_one_that_was_kept_live() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    for session in 0..5 {
        write_session(&recorder, session, session != 3);
    }
    drop(recorder);
    let live = Index::read(&place.paths.index).unwrap().dump();
    // Five sessions, of which four have a group of statements.
    assert_eq!(live.len(), 5 + 4);
    let rebuilt = place.dir.path().join("rebuilt.db");
    assert_eq!(reindex(&rebuilt, &place.paths.journal).unwrap(), 5);
    assert_eq!(Index::read(&rebuilt).unwrap().dump(), live);
    assert_eq!(
        reindex(&place.paths.index, &place.paths.journal).unwrap(),
        5
    );
    assert_eq!(Index::read(&place.paths.index).unwrap().dump(), live);
}

/// A session with statements of every kind, in so many different texts.
fn write_varied(recorder: &Recorder, texts: u32) -> bool {
    let mut journal = recorder.session(&open_of(SessionId::now())).unwrap();
    let rules: [Arc<str>; 2] = ["a".into(), "b".into()];
    let denied = Verdict::Deny {
        sqlstate: "42501",
        message: "no",
    };
    let observed = Verdict::Observe {
        sqlstate: "42501",
        message: "no",
    };
    let mut statement = 0;
    for text in 0..texts {
        let sql = format!("select {text}; select 1");
        // Numbers are used again.
        let id = text % 100;
        journal.append(&Entry::Text {
            id,
            sql: sql.as_bytes(),
        });
        let end = sql.len() as u32;
        for (via, verdict, rules, span) in [
            (Via::Parse, Verdict::Allow, &rules[..1], 0..end),
            (Via::Execute, Verdict::Allow, &rules[..1], 0..end),
            (Via::Simple, Verdict::Allow, &rules[..], end - 8..end),
            (Via::Simple, Verdict::Allow, &rules[1..], end - 8..end),
            (Via::Parse, denied, &rules[..], 0..end),
            (Via::Execute, observed, &[], 0..end),
            (Via::Execute, observed, &[], 0..end + 1),
        ] {
            statement += 1;
            journal.append(&Entry::Decision {
                statement,
                at: 1_700_000_000_000_100 + statement,
                text: id,
                span,
                via,
                parameters: None,
                verdict,
                rules,
                effects: 1,
            });
            let runs = via != Via::Parse;
            for status in [Status::Suspended, Status::Cut]
                .into_iter()
                .filter(|_| runs)
            {
                let mut outcome = outcome(statement, 3);
                if let Entry::Outcome { status: ended, .. } = &mut outcome {
                    *ended = status;
                }
                journal.append(&outcome);
            }
        }
    }
    let kept = journal.keeps_account();
    let close = journal.close(1_700_000_000_900_000, CloseReason::Refused("so".into()));
    block_on(close).unwrap();
    kept
}

#[test]
fn what_a_session_tells_of_itself_is_what_its_journal_says() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    assert!(write_varied(&recorder, 3));
    assert!(!write_varied(&recorder, 200), "what is kept has a bound");
    drop(recorder);
    let live = Index::read(&place.paths.index).unwrap().dump();
    let rebuilt = place.dir.path().join("rebuilt.db");
    assert_eq!(reindex(&rebuilt, &place.paths.journal).unwrap(), 2);
    assert_eq!(Index::read(&rebuilt).unwrap().dump(), live);
}

fn question<'a>(name: &'a str, told: Told<'static>) -> Entry<'a> {
    Entry::Question(Question {
        at: 1_700_000_000_000_300,
        pid: 4711,
        comm: "getent",
        name,
        record_type: "A",
        told,
    })
}

#[test]
fn questions_are_summed_up_as_statements_and_refused_ones_as_denied() {
    let (place, recorder, mut journal) = session();
    let id = journal.id();
    let addresses = vec![[10, 0, 0, 1].into()];
    journal.append(&question("db.internal", Told::Addresses(addresses.into())));
    journal.append(&question("db.internal", Told::Addresses(vec![].into())));
    journal.append(&question("x.evil.example", Told::Refused));
    journal.append(&question("db.internal.svc", Told::Nonexistent));
    journal.append(&question("api.example", Told::Failed));
    let totals = journal.totals();
    assert_eq!((totals.statements, totals.denied), (5, 1));
    let reason = CloseReason::Questions("none for 60 s".into());
    block_on(journal.close(1_700_000_000_900_000, reason)).unwrap();
    assert_eq!(verify(&place.path(id)).unwrap().records, 7);
    let summary = Summary::of(&place.path(id), None).unwrap().unwrap();
    assert_eq!(summary.totals, totals);
    let reason = summary.reason.as_deref();
    assert_eq!(reason, Some("end of questions: none for 60 s"));
    let groups = summary.groups.iter();
    let groups: Vec<_> = groups
        .map(|group| (&*group.text, group.decision, group.count))
        .collect();
    let expected = [
        ("A db.internal", "allow", 2),
        ("A x.evil.example", "deny", 1),
        ("A db.internal.svc", "allow", 1),
        ("A api.example", "allow", 1),
    ];
    assert_eq!(groups, expected);
    drop(recorder);
    let live = Index::read(&place.paths.index).unwrap().dump();
    assert_eq!(live.len(), 1 + 4);
    let rebuilt = place.dir.path().join("rebuilt.db");
    assert_eq!(reindex(&rebuilt, &place.paths.journal).unwrap(), 1);
    assert_eq!(Index::read(&rebuilt).unwrap().dump(), live);
}

#[test]
fn an_index_that_was_lost_or_damaged_is_made_anew_at_the_next_start() {
    let place = Place::new();
    let id = write_session(&place.recorder(Durability::Os), 2, true);
    fs::write(
        &place.paths.index,
        "this is not a database, and it is long enough",
    )
    .unwrap();
    let _recorder = place.recorder(Durability::Os);
    eventually("the session is indexed again", || {
        let sessions = Index::read(&place.paths.index)
            .unwrap()
            .sessions(&all())
            .unwrap();
        sessions.len() == 1 && sessions[0].id == id && sessions[0].totals.statements == 2
    });
}

#[test]
fn a_session_is_listed_as_open_then_as_closed() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let state = || {
        let sessions = Index::read(&place.paths.index)
            .unwrap()
            .sessions(&all())
            .unwrap();
        sessions.first().map(|session| session.state)
    };
    let mut journal = recorder.session(&open_of(SessionId::now())).unwrap();
    let _ = block_on(journal.commit()).unwrap();
    eventually("the session is open", || state() == Some(State::Open));
    block_on(journal.close(1_700_000_000_900_000, CloseReason::ClientQuit)).unwrap();
    eventually("the session is closed", || state() == Some(State::Closed));
}

#[test]
fn sessions_are_filtered_and_the_newest_come_first() {
    let place = Place::new();
    let recorder = place.recorder(Durability::Os);
    let mut ids = Vec::new();
    for (minute, agent) in ["coder", "analyst", "coder"].into_iter().enumerate() {
        let id = SessionId::now();
        let at = 1_000_000 + minute as u64 * 60_000_000;
        let open = SessionOpen {
            agent: agent.into(),
            at,
            ..open_of(id)
        };
        let mut journal = recorder.session(&open).unwrap();
        if minute == 0 {
            journal.append(&Entry::Decision {
                statement: 1,
                at,
                text: 1,
                span: 0..0,
                via: Via::Parse,
                parameters: None,
                verdict: Verdict::Deny {
                    sqlstate: "42501",
                    message: "no",
                },
                rules: &[],
                effects: 0,
            });
        }
        block_on(journal.close(at + 1, CloseReason::ClientQuit)).unwrap();
        ids.push(id);
    }
    drop(recorder);
    let index = Index::read(&place.paths.index).unwrap();
    let listed = |filter: Filter| -> Vec<SessionId> {
        index
            .sessions(&filter)
            .unwrap()
            .into_iter()
            .map(|session| session.id)
            .collect()
    };
    assert_eq!(listed(all()), [ids[2], ids[1], ids[0]]);
    assert_eq!(listed(Filter { limit: 1, ..all() }), [ids[2]]);
    assert_eq!(
        listed(Filter {
            agent: Some("coder".into()),
            ..all()
        }),
        [ids[2], ids[0]]
    );
    assert_eq!(
        listed(Filter {
            datastore: Some("other".into()),
            ..all()
        }),
        []
    );
    assert_eq!(
        listed(Filter {
            since: Some(61_000_001),
            ..all()
        }),
        [ids[2], ids[1]]
    );
    assert_eq!(
        listed(Filter {
            denied: true,
            ..all()
        }),
        [ids[0]]
    );
}
