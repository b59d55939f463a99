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
    let cli = Cli::try_parse_from([&["weir"], args].concat()).unwrap();
    let mut out = Vec::new();
    let code = match &cli.command {
        Command::Check(files) => check(files, &mut out),
        Command::Test(args) => test(args, &mut out),
        Command::Explain(args) => explain(args, &mut out),
        Command::Schema => schema(&mut out),
    };
    (
        String::from_utf8(out).unwrap(),
        code.unwrap() == ExitCode::SUCCESS,
    )
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
        "{READ}[[test]]\nagent = \"a\"\nsql = \"SELECT 1 FROM t\"\nexpect = {{ decision = \"deny\", rule = \"other\" }}\n\
         [[test]]\nagent = \"a\"\nsql = \"DROP TABLE t\"\nexpect = {{ decision = \"allow\", masked = [\"x\"] }}\n\
         [[test]]\nagent = \"a\"\nsql = \"--\"\nexpect = {{ decision = \"deny\" }}\n\
         [[test]]\nagent = \"a\"\nsql = \"SELECT 1\"\nexpect = {{ decision = \"allow\" }}\n"
    );
    let file = file(&cases);
    let path = file.path().display().to_string();
    let (out, ok) = weir(&["test", &path]);
    assert!(!ok);
    for expected in [
        ":7: a: SELECT 1 FROM t\n    expected deny, but it is allowed by \"read\"\n    expected rule \"other\" to decide, but it was \"read\"",
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
