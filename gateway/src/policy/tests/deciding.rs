//! Which rules decide what.

use super::*;

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
fn what_can_be_anywhere_is_allowed_by_a_rule_for_all_schemas_alone_and_denied_by_one_for_any() {
    let rule = |objects: &str, decision: &str| {
        format!(
            "[[rule]]\nname = \"{decision}\"\neffects = [\"delete\"]\n{objects}\ndecision = \"{decision}\"\n"
        )
    };
    let anywhere = |name: &str| {
        [ResolvedTouch {
            need: Need::Anywhere,
            ..touch(Effect::Delete, &format!(".{name}"))
        }]
    };
    for (objects, named, unnamed) in [
        ("", true, true),
        ("objects = [\"*.*\"]", true, true),
        ("objects = [\"*.t\"]", true, false),
        ("objects = [\"public.*\"]", false, false),
        ("objects = [\"p*.t\"]", false, false),
    ] {
        let policy = policy(&rule(objects, "allow"));
        for (name, expected) in [("t", named), ("", unnamed)] {
            let allows = matches!(decide(&policy, &anywhere(name)), Decision::Allow(_));
            assert_eq!(allows, expected, "{objects} {name:?}");
        }
    }
    for (objects, named) in [("public.t", true), ("public.u", false), ("p*.*", true)] {
        let deny = rule(&format!("objects = [\"{objects}\"]"), "deny");
        let policy = policy(&format!("{}{deny}", rule("", "allow")));
        let denies = |name| matches!(decide(&policy, &anywhere(name)), Decision::Deny(_));
        assert_eq!((denies("t"), denies("")), (named, true), "{objects}");
    }
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
