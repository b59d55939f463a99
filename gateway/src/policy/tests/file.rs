//! What a file may say, and how a mistake in it is told.

use super::*;

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
            "4:11: error: \"effects\" is empty and would match nothing\n  help: name at least one of read, insert,",
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
            "6:10: error: \"agents\" is empty and would match nothing\n  help: leave the key out to mean all",
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
            "6:24: error: \"max_bytes\" can't be \"2 miles\": its unit isn't known\n  help: write a whole number and a unit (kB, MB, GB, KiB, MiB, GiB), such as \"2MiB\"",
        ),
        (
            rule(
                "[\"read\"]",
                &format!("{allow}limits = {{ max_bytes = \"1.5MiB\" }}"),
            ),
            "\"max_bytes\" can't be \"1.5MiB\": it isn't a whole number\n  help: ",
        ),
        (
            rule(
                "[\"read\"]",
                &format!("{allow}limits = {{ max_bytes = \"99999999999GiB\" }}"),
            ),
            "\"max_bytes\" can't be \"99999999999GiB\": it is larger than",
        ),
        (
            rule(
                "[\"read\"]",
                &format!("{allow}limits = {{ max_bytes = 1.5 }}"),
            ),
            "\"max_bytes\" must be a size such as \"2MiB\" or a number of bytes, not a float",
        ),
        (
            rule(
                "[\"read\"]",
                &format!("{allow}limits = {{ max_rows = -1 }}"),
            ),
            "6:23: error: \"max_rows\" can't be -1: it must not be negative",
        ),
        (
            rule(
                "[\"read\"]",
                &format!("{allow}limits = {{ max_rows = 99999999999999999999 }}"),
            ),
            "\"max_rows\" can't be 99999999999999999999: it is larger than",
        ),
        (
            rule(
                "[\"read\"]",
                &format!("{allow}limits = {{ max_rows = \"5\" }}"),
            ),
            "6:23: error: \"max_rows\" must be a whole number, not a string",
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
            mask("columns = []\nwith = \"null\""),
            "7:11: error: \"columns\" is empty and would match nothing\n  help: name at least one, or write [\"*\"]",
        ),
        (
            mask("columns = [\"a\"]\nwith = \"hmac\"\nkey = { file = \"d1/pw\" }"),
            "9:16: error: path \"d1/pw\" must be absolute\n  help: the daemon has no working directory",
        ),
        (
            "[[test]]\nagent = \"a\"\ngroups = []\nsql = \"\"\nexpect = { decision = \"deny\" }"
                .into(),
            "4:10: error: \"groups\" is empty and would match nothing\n  help: leave the key out to mean none",
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
fn a_test_names_its_datastore_where_there_are_several_and_a_rule_that_there_is() {
    let rule = |name: &str, datastore: &str| {
        rule(
            "[\"read\"]",
            &format!("decision = \"allow\"\ndatastore = \"{datastore}\"\n"),
        )
        .replace("\"r\"", &format!("\"{name}\""))
    };
    let test = |datastore: &str, expected: &str| {
        format!(
            "[[test]]\nagent = \"a\"\nsql = \"SELECT 1\"\n{datastore}\
             expect = {{ decision = \"allow\", rule = \"{expected}\" }}\n"
        )
    };
    let several = rule("one", "d1") + &rule("two", "d2");
    assert_eq!(
        wrong(&(several.clone() + &test("", "one"))),
        [
            "p.toml:12:1: error: rules name several datastores, and this test none\n  \
             help: add datastore = \"d1\" or \"d2\""
        ]
    );
    assert_eq!(
        wrong(&(several.clone() + &test("datastore = \"d1\"\n", "onne"))),
        ["p.toml:16:39: error: there is no rule \"onne\"\n  help: did you mean \"one\"?"]
    );
    let right = policy(&(several + &test("datastore = \"d1\"\n", "two")));
    assert_eq!(&*right.tests[0].datastore, "d1");
    let one = rule("one", "d1") + &rule("two", "d1") + &test("", "one");
    assert_eq!(&*policy(&one).tests[0].datastore, "d1");
    // A rule that couldn't be read isn't called missing.
    let broken = rule("one", "d1").replace("allow", "alow") + &test("", "one");
    assert_eq!(wrong(&broken).len(), 1);
}
