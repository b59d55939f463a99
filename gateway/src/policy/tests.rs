use proptest::prelude::*;

use super::*;

fn source(text: &str) -> Source {
    Source {
        name: "p.toml".into(),
        text: text.into(),
    }
}

fn policy(text: &str) -> Policy {
    match parse(&[source(&format!("version = 1\n{text}"))]) {
        Ok(policy) => policy,
        Err(diagnostics) => panic!("{diagnostics:?}"),
    }
}

/// The diagnostics of a file whose second line is the first of `text`.
fn wrong(text: &str) -> Vec<String> {
    parse(&[source(&format!("version = 1\n{text}"))])
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn touch(effect: Effect, object: &str) -> ResolvedTouch {
    ResolvedTouch {
        effect,
        object: object
            .split_once('.')
            .map(|(schema, name)| (schema.into(), name.into())),
        has_where: None,
        need: Need::Rule,
    }
}

fn coder() -> Subject<'static> {
    Subject {
        agent: "coder",
        groups: &[],
        datastore: "appdb",
    }
}

fn decide(policy: &Policy, touches: &[ResolvedTouch]) -> Decision {
    policy.decide(&coder(), touches)
}

fn allowed(decision: Decision) -> Allow {
    match decision {
        Decision::Allow(allow) => allow,
        Decision::Deny(deny) => panic!("{deny:?}"),
    }
}

fn denied(decision: Decision) -> Deny {
    match decision {
        Decision::Deny(deny) => deny,
        Decision::Allow(allow) => panic!("{allow:?}"),
    }
}

const READ: &str = r#"
[[rule]]
name = "read"
effects = ["read"]
objects = ["public.*"]
decision = "allow"
"#;

#[test]
fn every_field_of_the_format_is_read() {
    let text = r#"
version = 1
mode = "observe"
[[rule]]
name = "r"
agents = ["coder"]
groups = ["g"]
datastore = ["appdb", "other"]
effects = ["read"]
objects = ["public.customers", "s*.*"]
decision = "allow"
limits = { max_rows = 500, max_bytes = "2MiB" }
mode = "enforce"
  [[rule.mask]]
  columns = ["ssn"]
  with = "partial"
  keep_last = 4
  predicates = "deny"
  [[rule.mask]]
  columns = ["*"]
  with = "constant"
  value = "x"
  [[rule.mask]]
  columns = ["id"]
  with = "hmac"
  key = { file = "/k" }
[[rule]]
name = "d"
datastore = "appdb"
effects = ["update", "delete"]
when = { has_where = false }
decision = "deny"
message = "no"
[[test]]
agent = "coder"
groups = ["g"]
sql = "SELECT 1"
datastore = "appdb"
expect = { decision = "deny", rule = "r", masked = ["ssn", "id"] }
"#;
    let keys = |source: &KeySource| {
        assert_eq!(source, &KeySource::File("/k".into()));
        Ok(mask::Key::new(vec![7; 32]))
    };
    let policy = parse_with(&[source(text)], &keys).unwrap();
    assert_eq!(policy.mode, Mode::Observe);
    let [r, d] = &policy.rules[..] else {
        panic!("{:?}", policy.rules)
    };
    assert_eq!(
        r.limits,
        Limits {
            max_rows: Some(500),
            max_bytes: Some(2 << 20)
        }
    );
    assert_eq!(r.mode, Some(Mode::Enforce));
    assert_eq!(r.datastores, ["appdb".into(), "other".into()]);
    assert_eq!(
        r.position,
        Position {
            file: "p.toml".into(),
            line: 4
        }
    );
    assert_eq!(
        r.masks[0].mask,
        Mask::Partial {
            keep_first: 0,
            keep_last: 4,
            with: '*'
        }
    );
    assert_eq!(r.masks[1].mask, Mask::Constant("x".into()));
    assert_eq!(
        r.masks[2].mask,
        Mask::Hmac {
            key: Arc::new(mask::Key::new(vec![7; 32]))
        }
    );
    assert!(r.masks[0].covers(Some("sales"), "x") && !r.masks[0].covers(Some("public"), "x"));
    assert!(r.masks[0].covers(None, "customers"));
    assert_eq!((d.verdict, d.has_where), (Verdict::Deny, Some(false)));
    assert_eq!(d.message.as_deref(), Some("no"));
    let test = &policy.tests[0];
    assert_eq!((&*test.datastore, test.verdict), ("appdb", Verdict::Deny));
    assert_eq!(
        test.masked.as_deref(),
        Some(&["id".into(), "ssn".into()][..])
    );
}

/// A rule that is right but for what `extra` adds or, by leaving a key out, omits.
fn rule(effects: &str, extra: &str) -> String {
    format!("[[rule]]\nname = \"r\"\neffects = {effects}\n{extra}")
}

#[test]
fn each_mistake_is_told_with_its_place_and_what_to_do() {
    let allow = "decision = \"allow\"\n";
    let deny = "decision = \"deny\"\n";
    let mask = |text: &str| rule("[\"read\"]", &format!("{allow}[[rule.mask]]\n{text}"));
    for (text, expected) in [
        (
            "modus = 1".into(),
            "p.toml:2:1: error: unknown key in a policy file \"modus\"\n  help: did you mean \"mode\"?",
        ),
        (
            "mode = \"obsrve\"".into(),
            "p.toml:2:8: error: unknown mode \"obsrve\"\n  help: did you mean \"observe\"?",
        ),
        (
            "[[grant]]\nx = 1".into(),
            "2:3: error: this version of Weir doesn't have \"grant\" yet",
        ),
        (
            "[rule]\nname = \"x\"".into(),
            "error: \"rule\" must be tables, each written as [[rule]], not a table",
        ),
        (
            rule("[\"reed\"]", allow),
            "4:12: error: unknown effect \"reed\"\n  help: did you mean \"read\"?",
        ),
        (
            rule("[]", allow),
            "4:11: error: \"effects\" is empty and would match nothing",
        ),
        (
            rule("\"read\"", allow),
            "4:11: error: \"effects\" must be a list of strings, not a string",
        ),
        (
            rule("[1]", allow),
            "4:12: error: \"effects\" must be a list of strings, not an integer",
        ),
        (
            rule("[\"read\"]", ""),
            "2:1: error: a rule needs \"decision\"",
        ),
        (
            "[[rule]]\neffects = [\"read\"]\ndecision = \"deny\"".into(),
            "2:1: error: a rule needs \"name\"",
        ),
        (
            "[[rule]]\nname = \"r\"\ndecision = \"deny\"".into(),
            "2:1: error: a rule needs \"effects\"",
        ),
        (
            rule("[\"read\"]", "decision = \"approve\""),
            "5:12: error: this version of Weir doesn't have approvals yet",
        ),
        (
            rule("[\"read\"]", "decision = \"alow\""),
            "5:12: error: unknown decision \"alow\"\n  help: did you mean \"allow\"?",
        ),
        (
            rule("[\"read\"]", &format!("{allow}approval = {{ min = 1 }}")),
            "6:1: error: this version of Weir doesn't have \"approval\" yet",
        ),
        (
            rule("[\"read\"]", &format!("{allow}agents = []")),
            "6:10: error: \"agents\" is empty",
        ),
        (
            rule("[\"read\"]", &format!("{allow}agents = [\"co*\"]")),
            "6:11: error: names of agents, groups and datastores are exact",
        ),
        (
            rule("[\"read\"]", &format!("{allow}objects = [\"customers\"]")),
            "6:12: error: object \"customers\" isn't of the form schema.name\n  help: did you mean \"public.customers\"?",
        ),
        (
            rule(
                "[\"read\"]",
                &format!("{allow}when = {{ has_where = true }}"),
            ),
            "4:12: error: \"has_where\" is of update and delete: with it this rule never matches read",
        ),
        (
            rule("[\"update\"]", &format!("{allow}when = {{}}")),
            "6:8: error: \"when\" is empty and says nothing",
        ),
        (
            rule(
                "[\"update\"]",
                &format!("{allow}when = {{ has_where = 1 }}"),
            ),
            "6:22: error: \"has_where\" must be true or false, not an integer",
        ),
        (
            rule("[\"session\"]", &format!("{allow}objects = [\"a.b\"]")),
            "4:12: error: effect session has no objects",
        ),
        (
            rule(
                "[\"read\"]",
                &format!("{allow}limits = {{ max_bytes = \"2 miles\" }}"),
            ),
            "6:24: error: \"max_bytes\" must be a size such as \"2MiB\" or a number of bytes, not a string",
        ),
        (
            rule(
                "[\"read\"]",
                &format!("{allow}limits = {{ max_rows = -1 }}"),
            ),
            "6:23: error: \"max_rows\" must be a whole number from 0, not an integer",
        ),
        (
            rule("[\"read\"]", &format!("{allow}limits = {{ max_rows = 0 }}")),
            "6:23: error: a limit of 0 allows nothing",
        ),
        (
            rule("[\"read\"]", &format!("{deny}limits = {{ max_rows = 5 }}")),
            "6:10: error: \"limits\" means nothing on a rule that denies",
        ),
        (
            rule("[\"read\"]", &format!("{allow}message = \"m\"")),
            "6:11: error: \"message\" is told when a rule denies",
        ),
        (
            rule("[\"read\"]", &format!("{deny}message = \"a\\u0000\"")),
            "6:11: error: control character in \"message\"",
        ),
        (
            rule(
                "[\"insert\"]",
                &format!("{allow}[[rule.mask]]\ncolumns = [\"a\"]\nwith = \"null\""),
            ),
            "error: a rule without effect read has nothing to mask",
        ),
        (
            mask("with = \"null\""),
            "6:1: error: a mask needs \"columns\"",
        ),
        (
            mask("columns = [\"a\"]"),
            "6:1: error: a mask needs \"with\"",
        ),
        (
            mask("columns = [\"a*\"]\nwith = \"null\""),
            "7:12: error: names of masked columns are exact",
        ),
        (
            mask("columns = [\"a\"]\nwith = \"nul\""),
            "8:8: error: unknown mask function \"nul\"\n  help: did you mean \"null\"?",
        ),
        (
            mask("columns = [\"a\"]\nwith = \"fake\""),
            "8:8: error: this version of Weir doesn't have the mask function \"fake\" yet",
        ),
        (
            mask("columns = [\"a\"]\nwith = \"constant\""),
            "6:1: error: a mask needs \"value\"",
        ),
        (
            mask("columns = [\"a\"]\nwith = \"partial\""),
            "8:8: error: \"partial\" keeps nothing here",
        ),
        (
            mask("columns = [\"a\"]\nwith = \"partial\"\nkeep_last = 70000"),
            "9:13: error: \"keep_last\" must be below 65536",
        ),
        (
            mask("columns = [\"a\"]\nwith = \"null\"\nkeep_last = 4"),
            "9:13: error: \"keep_last\" means nothing to the mask function null",
        ),
        (
            mask("columns = [\"a\"]\nwith = \"null\"\npredicates = \"equality\""),
            "9:14: error: this version of Weir doesn't have predicates = \"equality\" yet",
        ),
        (
            mask("columns = [\"a\"]\nwith = \"hmac\"\nkey = { env = \"A\", file = \"b\" }"),
            "9:7: error: \"key\" needs exactly one of file, env and credential",
        ),
        (
            mask("columns = [\"a\"]\nwith = \"hmac\"\nkey = { env = \"A\" }"),
            "9:7: error: keys can't be read here",
        ),
        (
            "[[test]]\nagent = \"a\"\nsql = \"SELECT 1\"".into(),
            "2:1: error: a test needs \"expect\"",
        ),
        (
            "[[test]]\nagent = \"a\"\nsql = \"x\"\nexpect = { decison = \"deny\" }".into(),
            "5:12: error: unknown key in an expectation \"decison\"",
        ),
        ("a = ".into(), "2:5: error: string values must be quoted"),
        (
            "mode = \"enforce\"\nmode = \"enforce\"".into(),
            "3:1: error: duplicate key",
        ),
    ] {
        let found = wrong(&text).join("\n");
        assert!(
            found.contains(expected),
            "{text}\nexpected: {expected}\nfound: {found}"
        );
    }
}

#[test]
fn one_run_tells_of_all_mistakes_in_all_files() {
    let a =
        source("mode = 3\n[[rule]]\nname = 1\neffects = [\"x\"]\ndecision = \"maybe\"\nfoo = 1\n");
    let b = Source {
        name: "b.toml".into(),
        text: "version = 2\n".into(),
    };
    let found: Vec<_> = parse(&[a, b])
        .unwrap_err()
        .iter()
        .map(|d| (d.file.clone(), d.line))
        .collect();
    let lines: Vec<_> = found
        .iter()
        .map(|(file, line)| (file.as_str(), *line))
        .collect();
    let p = "p.toml";
    assert_eq!(
        lines,
        [
            (p, 1),
            (p, 1),
            (p, 3),
            (p, 4),
            (p, 5),
            (p, 6),
            ("b.toml", 1)
        ]
    );
}

#[test]
fn a_rules_name_is_taken_once_in_all_files() {
    let a = Source {
        name: "a.toml".into(),
        text: format!("version = 1\n{READ}"),
    };
    let b = Source {
        name: "b.toml".into(),
        text: format!("version = 1\n{READ}"),
    };
    let found = parse(&[a, b]).unwrap_err();
    assert_eq!(
        found[0].to_string(),
        "b.toml:4:8: error: rule \"read\" is already defined at a.toml:4"
    );
}

#[test]
fn one_file_in_observe_mode_doesnt_take_the_others_out_of_force() {
    let a = Source {
        name: "a.toml".into(),
        text: "version = 1\nmode = \"observe\"\n".into(),
    };
    let b = Source {
        name: "b.toml".into(),
        text: format!("version = 1\n{READ}"),
    };
    let found = parse(&[a.clone(), b.clone()]).unwrap_err();
    assert!(
        found[0]
            .message
            .contains("the mode of a.toml and b.toml differs"),
        "{found:?}"
    );
    assert!(parse(&[a]).is_ok() && parse(&[b]).is_ok());
}

#[test]
fn the_fingerprint_depends_on_names_and_contents_and_not_on_order_or_place() {
    let file = |name: &str, text: &str| Source {
        name: name.into(),
        text: format!("version = 1\n{text}"),
    };
    let sha = |sources: &[Source]| parse(sources).unwrap().sha256;
    let both = sha(&[file("/etc/a.toml", "#x"), file("/etc/b.toml", "#y")]);
    assert_eq!(
        both,
        sha(&[file("/tmp/b.toml", "#y"), file("/tmp/a.toml", "#x")])
    );
    assert_ne!(both, sha(&[file("a.toml", "#y"), file("b.toml", "#x")]));
    assert_ne!(both, sha(&[file("a.toml", "#x"), file("b.toml", "#z")]));
    assert_ne!(both, sha(&[file("a.toml", "#xb.tomlversion = 1\n#y")]));
}

#[test]
fn what_no_rule_covers_is_denied() {
    let policy = policy(READ);
    allowed(decide(&policy, &[touch(Effect::Read, "public.orders")]));
    let deny = denied(decide(
        &policy,
        &[
            touch(Effect::Read, "public.orders"),
            touch(Effect::Delete, "public.orders"),
        ],
    ));
    assert_eq!(
        deny.message,
        "no rule allows agent coder delete on public.orders"
    );
    assert_eq!((deny.rule, deny.sqlstate), (None, "42501"));
    denied(decide(&policy, &[touch(Effect::Read, "secret.orders")]));
    denied(decide(&policy, &[touch(Effect::Read, "")]));
    denied(decide(&policy, &[touch(Effect::Unknown, "")]));
}

#[test]
fn a_statement_that_does_nothing_known_is_denied() {
    denied(decide(&policy(READ), &[]));
}

#[test]
fn different_rules_can_cover_the_parts_of_a_statement() {
    let text =
        format!("{READ}\n[[rule]]\nname = \"del\"\neffects = [\"delete\"]\ndecision = \"allow\"");
    let touches = [
        touch(Effect::Delete, "public.a"),
        touch(Effect::Read, "public.b"),
    ];
    let allow = allowed(decide(&policy(&text), &touches));
    assert_eq!(allow.rules, ["del".into(), "read".into()]);
}

#[test]
fn any_rule_that_denies_wins_and_says_its_message() {
    let text = format!(
        "{READ}\n[[rule]]\nname = \"no-pay\"\neffects = [\"read\"]\nobjects = [\"*.payroll\"]\ndecision = \"deny\"\nmessage = \"ask HR\""
    );
    let policy = policy(&text);
    let deny = denied(decide(
        &policy,
        &[
            touch(Effect::Read, "public.a"),
            touch(Effect::Read, "public.payroll"),
        ],
    ));
    assert_eq!(deny.message, "denied by rule \"no-pay\": ask HR");
    assert_eq!(deny.rule.as_deref(), Some("no-pay"));
    allowed(decide(&policy, &[touch(Effect::Read, "public.a")]));
}

#[test]
fn of_several_rules_that_deny_the_first_by_name_is_told_whichever_part_it_denies() {
    let rule = |name: &str, effect: &str| {
        format!("[[rule]]\nname = \"{name}\"\neffects = [\"{effect}\"]\ndecision = \"deny\"\n")
    };
    let policy = policy(&format!("{}{}", rule("b", "read"), rule("a", "ddl")));
    let touches = [
        touch(Effect::Read, "public.t"),
        touch(Effect::Ddl, "public.t"),
    ];
    assert_eq!(denied(decide(&policy, &touches)).rule.as_deref(), Some("a"));
}

#[test]
fn rules_are_for_their_agents_groups_and_datastores_only() {
    let text = "[[rule]]\nname = \"r\"\nagents = [\"a\"]\ngroups = [\"g\"]\ndatastore = \"d\"\neffects = [\"read\"]\ndecision = \"allow\"";
    let policy = policy(text);
    let g: [Arc<str>; 2] = ["x".into(), "g".into()];
    for (agent, groups, datastore, expected) in [
        ("a", &g[..0], "d", true),
        ("b", &g[..], "d", true),
        ("b", &g[..1], "d", false),
        ("a", &g[..], "e", false),
    ] {
        let who = Subject {
            agent,
            groups,
            datastore,
        };
        let decision = policy.decide(&who, &[touch(Effect::Read, "public.t")]);
        assert_eq!(matches!(decision, Decision::Allow(_)), expected, "{who:?}");
    }
}

#[test]
fn has_where_that_isnt_known_is_denied_by_either_condition() {
    let rule = |name: &str, has: bool, decision: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\neffects = [\"update\"]\nwhen = {{ has_where = {has} }}\ndecision = \"{decision}\"\n"
        )
    };
    let update = |has_where| {
        [ResolvedTouch {
            has_where,
            ..touch(Effect::Update, "public.t")
        }]
    };
    let scoped = policy(&rule("a", true, "allow"));
    allowed(decide(&scoped, &update(Some(true))));
    denied(decide(&scoped, &update(Some(false))));
    denied(decide(&scoped, &update(None)));
    let all = "[[rule]]\nname = \"all\"\neffects = [\"update\"]\ndecision = \"allow\"\n";
    let guarded = policy(&format!("{all}{}", rule("g", false, "deny")));
    allowed(decide(&guarded, &update(Some(true))));
    denied(decide(&guarded, &update(Some(false))));
    denied(decide(&guarded, &update(None)));
}

#[test]
fn the_strictest_limit_of_all_matching_rules_wins() {
    let rule = |name: &str, objects: &str, limits: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\neffects = [\"read\"]\nobjects = [\"{objects}\"]\ndecision = \"allow\"\nlimits = {limits}\n"
        )
    };
    let text = [
        rule("a", "public.*", "{ max_rows = 9, max_bytes = 5 }"),
        rule("b", "*.t", "{ max_rows = 3 }"),
        rule("c", "other.*", "{ max_rows = 1 }"),
    ];
    let limits = allowed(decide(
        &policy(&text.concat()),
        &[touch(Effect::Read, "public.t")],
    ))
    .limits;
    assert_eq!(
        limits,
        Limits {
            max_rows: Some(3),
            max_bytes: Some(5)
        }
    );
}

#[test]
fn what_needs_no_rule_is_allowed_only_to_agents_that_a_rule_allows_something_and_can_be_denied() {
    let begin = [ResolvedTouch {
        need: Need::Nothing,
        ..touch(Effect::Transaction, "")
    }];
    allowed(decide(&policy(READ), &begin));
    denied(decide(&policy(""), &begin));
    let text =
        format!("{READ}\n[[rule]]\nname = \"t\"\neffects = [\"transaction\"]\ndecision = \"deny\"");
    denied(decide(&policy(&text), &begin));
}

#[test]
fn what_must_be_named_isnt_covered_by_a_pattern() {
    let named = [ResolvedTouch {
        need: Need::Named,
        ..touch(Effect::Read, "pg_catalog.pg_authid")
    }];
    let rule = |objects: &str| {
        format!("[[rule]]\nname = \"r\"\neffects = [\"read\"]\n{objects}\ndecision = \"allow\"")
    };
    for objects in [
        "",
        "objects = [\"*.*\"]",
        "objects = [\"pg_catalog.*\"]",
        "objects = [\"*.pg_authid\"]",
    ] {
        denied(decide(&policy(&rule(objects)), &named));
    }
    allowed(decide(
        &policy(&rule("objects = [\"pg_catalog.pg_authid\"]")),
        &named,
    ));
}

#[test]
fn an_observed_rule_records_its_denial_and_covers_and_limits_nothing() {
    let text = format!(
        "{READ}\n[[rule]]\nname = \"o\"\nmode = \"observe\"\neffects = [\"read\"]\ndecision = \"deny\"\n\
         [[rule]]\nname = \"p\"\nmode = \"observe\"\neffects = [\"read\", \"insert\"]\ndecision = \"allow\"\nlimits = {{ max_rows = 1 }}"
    );
    let policy = policy(&text);
    let allow = allowed(decide(&policy, &[touch(Effect::Read, "public.t")]));
    assert_eq!(allow.observed.unwrap().rule.as_deref(), Some("o"));
    assert_eq!(
        (allow.limits, allow.rules),
        (Limits::default(), vec!["read".into()])
    );
    denied(decide(&policy, &[touch(Effect::Insert, "public.t")]));
}

#[test]
fn an_observed_policy_allows_all_but_what_an_enforced_rule_denies() {
    let text = "mode = \"observe\"\n\
         [[rule]]\nname = \"r\"\neffects = [\"read\"]\ndecision = \"allow\"\nlimits = { max_rows = 1 }\n\
         [[rule]]\nname = \"d\"\neffects = [\"truncate\"]\ndecision = \"deny\"\n\
         [[rule]]\nname = \"e\"\neffects = [\"ddl\"]\nmode = \"enforce\"\ndecision = \"deny\"";
    let policy = policy(text);
    let insert = allowed(decide(&policy, &[touch(Effect::Insert, "public.t")]));
    assert!(insert.observed.unwrap().message.contains("no rule allows"));
    let read = allowed(decide(&policy, &[touch(Effect::Read, "public.t")]));
    assert_eq!((read.observed, read.limits), (None, Limits::default()));
    let truncate = allowed(decide(&policy, &[touch(Effect::Truncate, "public.t")]));
    assert_eq!(truncate.observed.unwrap().rule.as_deref(), Some("d"));
    let ddl = denied(decide(
        &policy,
        &[
            touch(Effect::Truncate, "public.t"),
            touch(Effect::Ddl, "public.t"),
        ],
    ));
    assert_eq!(ddl.rule.as_deref(), Some("e"));
}

#[test]
fn masks_hold_whatever_the_mode_and_for_their_subject_only() {
    let text = "mode = \"observe\"\n[[rule]]\nname = \"r\"\nmode = \"observe\"\nagents = [\"coder\"]\n\
         effects = [\"read\"]\ndecision = \"allow\"\n[[rule.mask]]\ncolumns = [\"ssn\"]\nwith = \"null\"";
    let policy = policy(text);
    assert_eq!(policy.mask_rules(&coder()).count(), 1);
    assert_eq!(policy.for_subject(&coder()).mask_requests().len(), 1);
    let other = Subject {
        agent: "other",
        ..coder()
    };
    assert_eq!(policy.mask_rules(&other).count(), 0);
}

#[test]
fn explaining_shows_all_rules_that_match_and_what_is_missing() {
    let policy = policy(READ).for_subject(&coder());
    let touches = [
        touch(Effect::Read, "public.t"),
        touch(Effect::Ddl, "public.t"),
    ];
    let traces = policy.explain(&touches);
    assert!(traces[0].covered && &*traces[0].rules[0].name == "read");
    assert!(!traces[1].covered && traces[1].rules.is_empty());
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let object = prop::sample::select(vec!["*.*", "public.*", "public.a", "*.b", "s.a"]);
    let effects = prop::collection::vec(prop::sample::select(&Effect::ALL[..4]), 1..3);
    let mode = prop::sample::select(vec![None, Some(Mode::Observe), Some(Mode::Enforce)]);
    let limits = (prop::option::of(1u64..9), prop::option::of(1u64..9));
    let objects = prop::collection::vec(object, 0..2);
    (
        effects,
        objects,
        any::<bool>(),
        prop::option::weighted(0.2, any::<bool>()),
        mode,
        limits,
    )
        .prop_map(
            |(effects, objects, allow, has_where, mode, (max_rows, max_bytes))| Rule {
                name: "".into(),
                position: Position {
                    file: "".into(),
                    line: 1,
                },
                agents: Vec::new(),
                groups: Vec::new(),
                datastores: Vec::new(),
                effects: effects.into_iter().collect(),
                objects: objects.into_iter().filter_map(ObjectPattern::new).collect(),
                has_where,
                verdict: if allow { Verdict::Allow } else { Verdict::Deny },
                limits: Limits {
                    max_rows,
                    max_bytes,
                },
                message: None,
                mode,
                masks: Vec::new(),
            },
        )
}

fn any_touch() -> impl Strategy<Value = ResolvedTouch> {
    let need = prop::sample::select(vec![Need::Rule, Need::Nothing, Need::Named]);
    let object = prop::option::of((
        prop::sample::select(vec!["public", "s"]),
        prop::sample::select(vec!["a", "b"]),
    ));
    let effect = prop::sample::select(&Effect::ALL[..4]);
    (effect, object, prop::option::of(any::<bool>()), need).prop_map(
        |(effect, object, has_where, need)| {
            let object = object.map(|(schema, name)| (schema.into(), name.into()));
            ResolvedTouch {
                effect,
                object,
                has_where,
                need,
            }
        },
    )
}

proptest! {
    #[test]
    fn deciding_doesnt_depend_on_the_order_of_rules(
        (rules, shuffled) in prop::collection::vec(any_rule(), 0..6)
            .prop_map(|mut rules| {
                for (n, rule) in rules.iter_mut().enumerate() {
                    rule.name = format!("r{n}").into();
                }
                rules.into_iter().map(Arc::new).collect::<Vec<_>>()
            })
            .prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        touches in prop::collection::vec(any_touch(), 0..4),
        observe: bool,
    ) {
        let mode = if observe { Mode::Observe } else { Mode::Enforce };
        let policy = |rules| Policy { sha256: [0; 32], mode, rules, tests: Vec::new() };
        prop_assert_eq!(decide(&policy(rules), &touches), decide(&policy(shuffled), &touches));
    }

    #[test]
    fn parsing_never_panics(text in ".{0,200}") {
        let _ = parse(&[source(&text)]);
    }

    #[test]
    fn parsing_damaged_policies_never_panics(at in 0usize..700, cut in 0usize..40, junk in "[\\[\\]{}\"=.,a*é\n]{0,6}") {
        let whole = format!("version = 1\nmode = \"observe\"\n{READ}limits = {{ max_rows = 500, max_bytes = \"2MiB\" }}\n\
            [[rule.mask]]\ncolumns = [\"ssn\"]\nwith = \"partial\"\nkeep_last = 4\nkey = {{ file = \"k\" }}\n\
            [[test]]\nagent = \"a\"\nsql = \"x\"\nexpect = {{ decision = \"deny\", masked = [] }}\n");
        let start = at.min(whole.len());
        let end = (start + cut).min(whole.len());
        let text = format!("{}{junk}{}", &whole[..start], &whole[end..]);
        if let Err(diagnostics) = parse(&[source(&text)]) {
            for diagnostic in diagnostics {
                prop_assert!(diagnostic.line <= text.lines().count() + 1);
                prop_assert!(!diagnostic.pretty().is_empty());
            }
        }
    }
}
