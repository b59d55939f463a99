//! What holds for any policy.

use proptest::prelude::*;

use super::*;

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
    let need = prop::sample::select(vec![Need::Rule, Need::Nothing, Need::Named, Need::Anywhere]);
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
