use std::fs;

use clap::Parser;

use super::*;

#[derive(clap::Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Runs `weir policy <args>`.
fn weir(args: &[&str]) -> (String, bool) {
    weir_with(None, args).unwrap()
}

/// Runs `weir --config <config> policy <args>`.
fn weir_with(config: Option<&Path>, args: &[&str]) -> anyhow::Result<(String, bool)> {
    let cli = Cli::try_parse_from([&["weir"], args].concat()).unwrap();
    let mut out = Vec::new();
    let code = to(&cli.command, config, &mut out)?;
    Ok((String::from_utf8(out).unwrap(), code == ExitCode::SUCCESS))
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

fn example(name: &str) -> String {
    examples().join(name).display().to_string()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    fs::write(file.path(), format!("version = 1\n{text}")).unwrap();
    file
}

const READ: &str = "[[rule]]\nname = \"read\"\neffects = [\"read\"]\nobjects = [\"public.*\"]\ndecision = \"allow\"\n";

const OTHER: &str =
    "[[rule]]\nname = \"other\"\neffects = [\"ddl\"]\ndecision = \"deny\"\nmode = \"observe\"\n";

#[test]
fn the_examples_pass_their_own_cases_each_alone_and_all_together() {
    let mut paths = vec![examples()];
    paths.extend(
        fs::read_dir(examples())
            .unwrap()
            .map(|entry| entry.unwrap().path()),
    );
    assert!(paths.len() >= 4, "{paths:?}");
    for path in paths {
        let path = path.display().to_string();
        assert!(weir(&["check", &path]).1, "{path}");
        let (out, ok) = weir(&["test", &path]);
        assert!(ok && !out.starts_with("0 passed"), "{path}: {out}");
    }
}

#[test]
fn a_case_that_fails_tells_what_happened_instead() {
    let cases = format!(
        "{READ}{OTHER}[[test]]\nagent = \"a\"\nsql = \"SELECT 1 FROM t\"\nexpect = {{ decision = \"deny\", rule = \"other\" }}\n\
         [[test]]\nagent = \"a\"\nsql = \"DROP TABLE t\"\nexpect = {{ decision = \"allow\", masked = [\"x\"] }}\n\
         [[test]]\nagent = \"a\"\nsql = \"--\"\nexpect = {{ decision = \"deny\" }}\n\
         [[test]]\nagent = \"a\"\nsql = \"SELECT 1\"\nexpect = {{ decision = \"allow\" }}\n"
    );
    let file = file(&cases);
    let path = file.path().display().to_string();
    let (out, ok) = weir(&["test", &path]);
    assert!(!ok);
    for expected in [
        ":12: a: SELECT 1 FROM t\n    expected deny, but it is allowed by \"read\"\n    expected rule \"other\" to decide, but it was \"read\"",
        "expected allow, but it is denied: no rule allows agent a ddl on public.t\n    expected masked columns [x], but they are []",
        "there is no statement in it",
        "1 passed, 3 failed",
    ] {
        assert!(out.contains(expected), "{expected}\n{out}");
    }
    let (out, ok) = weir(&["test", "--json", &path]);
    let lines: Vec<serde_json::Value> = out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        !ok && lines.len() == 4 && lines[0]["ok"] == false && lines[3]["ok"] == true,
        "{out}"
    );
}

#[test]
fn a_broken_policy_fails_each_command() {
    let file = file("mode = 1");
    let path = file.path().display().to_string();
    assert!(!weir(&["check", &path]).1);
    assert!(!weir(&["test", &path]).1);
    assert!(!weir(&["explain", "--agent", "a", "--sql", "SELECT 1", &path]).1);
}

/// A configuration whose agent `coder` is in group `g`, and a policy that allows this group to
/// read.
fn configured() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let policies = dir.path().join("p");
    fs::create_dir(&policies).unwrap();
    let rule = format!("version = 1\n{READ}groups = [\"g\"]\n");
    fs::write(policies.join("a.toml"), rule).unwrap();
    let config = format!(
        "[paths]\npolicies = \"{}\"\n[datastore.d]\nprotocol = \"postgres\"\n\
         hosts = [\"10.0.0.1:5432\"]\ndatabases = [\"d\"]\n\
         login = {{ user = \"w\", password = {{ credential = \"d\" }} }}\n\
         tls = {{ mode = \"disable\" }}\n\
         [agent.coder]\nmatch = {{ cgroup = \"weir-agents.slice/c\" }}\ngroups = [\"g\"]\n",
        policies.display()
    );
    let file = dir.path().join("weir.toml");
    fs::write(&file, config).unwrap();
    (dir, file)
}

#[test]
fn a_configuration_that_is_given_names_the_policy_and_the_agents_groups() {
    let (_dir, config) = configured();
    let run = |args: &[&str]| weir_with(Some(&config), args).unwrap();
    let ok = ("ok: 1 files, 1 rules, 0 tests\n".to_owned(), true);
    assert_eq!(run(&["check"]), ok);
    assert_eq!(run(&["test"]), ("0 passed, 0 failed\n".to_owned(), true));
    let read = ["explain", "--sql", "SELECT 1 FROM t", "--agent"];
    let explain = |more: &[&str]| run(&[&read, more].concat()).0;
    assert!(explain(&["coder"]).contains("\n  allowed"));
    for other in [&["analyst"][..], &["coder", "--group", "h"]] {
        assert!(explain(other).contains("DENIED"), "{other:?}");
    }
    // Files that are named are the policy, and the groups are still those of the agent.
    let named = file(&format!(
        "{READ}groups = [\"g\"]\n[[rule]]\nname = \"x\"\neffects = [\"ddl\"]\ndecision = \"deny\"\n"
    ));
    let named = named.path().display().to_string();
    assert!(run(&["check", &named]).0.contains("2 rules"));
    assert!(explain(&["coder", &named]).contains("\n  allowed"));
}

#[test]
fn a_configuration_that_is_given_and_wrong_is_an_error() {
    let policy = example("demo.toml");
    let wrong = file("nonsense = 1");
    for config in [wrong.path(), Path::new("/nonexistent/weir.toml")] {
        for args in [&["check"][..], &["test", &policy]] {
            assert!(
                weir_with(Some(config), args).is_err(),
                "{config:?} {args:?}"
            );
        }
    }
}

#[test]
fn explaining_to_a_stranger_says_that_nothing_is_allowed_to_it() {
    let file = file(&format!("{READ}agents = [\"coder\"]\n"));
    let path = file.path().display().to_string();
    let explain = |agent, sql| weir(&["explain", "--agent", agent, "--sql", sql, &path]).0;
    let out = explain("stranger", "SELECT 1");
    assert!(
        out.contains("- read: needs a rule that allows the agent anything, and there is none\n"),
        "{out}"
    );
    // No datastore is meant, so none is named.
    assert!(
        out.contains("DENIED") && out.ends_with("allows effect read\n"),
        "{out}"
    );
    assert!(explain("coder", "SELECT 1").contains("+ read: needs no rule\n"));
}

#[test]
fn of_several_statements_none_runs_if_one_is_denied() {
    let file = file(READ);
    let path = file.path().display().to_string();
    let explain = |sql| weir(&["explain", "--agent", "a", "--sql", sql, &path]).0;
    let last = "\nnone of this text runs: one statement that is denied denies all of it\n";
    assert!(explain("SELECT 1 FROM t; DROP TABLE t").ends_with(last));
    for sql in ["DROP TABLE t", "SELECT 1 FROM t; SELECT 2 FROM t"] {
        assert!(!explain(sql).contains("none of this text"), "{sql}");
    }
}

#[test]
fn explaining_names_each_effect_its_rules_and_the_outcome() {
    let sql = "UPDATE orders SET paid = true";
    let (out, _) = weir(&[
        "explain",
        "--agent",
        "coder",
        "--sql",
        sql,
        &example("demo.toml"),
    ]);
    assert!(
        out.contains("- update public.orders without WHERE: rule \"unscoped-write\""),
        "{out}"
    );
    assert!(
        out.contains("denies it; rule \"work-on-orders\"") && out.contains("DENIED (42501)"),
        "{out}"
    );

    let sql = "SELECT id, ssn FROM customers";
    let args = [
        "explain",
        "--json",
        "--agent",
        "coder",
        "--sql",
        sql,
        &example("demo.toml"),
    ];
    let (out, _) = weir(&args);
    let out: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(out["decision"], "allow");
    assert_eq!(out["statements"][0]["masked"], serde_json::json!(["ssn"]));
    assert_eq!(out["statements"][0]["because"]["limits"]["max_rows"], 500);
    assert_eq!(
        out["statements"][0]["touches"][0]["rules"][0]["name"],
        "read-customers"
    );
}

#[test]
fn hostile_statements_are_shown_escaped() {
    let sql = "SELECT '\u{1b}[2J\u{202e}' FROM \"a\u{1b}b\"";
    let demo = example("demo.toml");
    for more in [&[][..], &["--json"]] {
        let args = [&["explain", "--agent", "coder", "--sql", sql, &demo], more].concat();
        let (out, _) = weir(&args);
        assert!(
            out.contains("SELECT") && !out.contains(['\u{1b}', '\u{202e}']),
            "{out:?}"
        );
    }
}

#[test]
fn the_schema_is_printed_as_json() {
    let (out, ok) = weir(&["schema"]);
    let schema: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(ok && schema["$schema"].as_str().unwrap().contains("2020-12"));
}
