use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{ClientTls, Error, Host, OnDetect, TlsMode};
use crate::credential::Source;
use crate::upstream::AuthPolicy;

const GOOD: &str = r#"
[datastore.appdb]
protocol  = "postgres"
hosts     = ["DB.prod.internal:5432", "10.0.3.7:5432", "[fd00::1]:5433"]
tls       = { mode = "verify-full", ca = "/etc/weir/ca.pem" }
databases = ["app"]
login     = { user = "weir_agents", password = { credential = "appdb" } }

[agent.coder]
match  = { cgroup = "weir-agents.slice/coder-*" }
groups = ["coding-agents"]
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("weir.toml"), text).map_err(|e| {
        assert!(matches!(e, Error::Invalid(_)));
        e.to_string()
    })
}

/// `GOOD` with one text in it replaced; it must be there.
fn with(from: &str, to: &str) -> Result<Config, String> {
    assert!(GOOD.contains(from), "{from}");
    parse(&GOOD.replace(from, to))
}

/// Asserts that the error begins with this place and holds this text.
#[track_caller]
fn refused(result: Result<Config, String>, place: &str, text: &str) {
    let error = result.expect_err("must be refused");
    assert!(
        error.starts_with(&format!("weir.toml:{place}: error: ")),
        "{error}"
    );
    assert!(error.contains(text), "{error}");
    assert_eq!(error.matches("error: ").count(), 1, "{error}");
}

#[test]
fn the_example_of_the_design_is_read_as_meant() {
    let config = parse(GOOD).unwrap();
    let appdb = &config.datastores[0];
    assert_eq!(&*appdb.name, "appdb");
    assert_eq!(
        appdb.hosts,
        [
            Host::Name("db.prod.internal".into(), 5432),
            Host::Addr("10.0.3.7:5432".parse().unwrap()),
            Host::Addr("[fd00::1]:5433".parse().unwrap()),
        ]
    );
    assert_eq!(appdb.names(), ["10.0.3.7", "db.prod.internal", "fd00::1"]);
    assert_eq!(appdb.server_name.as_deref(), Some("db.prod.internal"));
    assert_eq!(
        appdb.tls,
        TlsMode::VerifyFull {
            ca: "/etc/weir/ca.pem".into()
        }
    );
    assert_eq!(
        appdb.login.password,
        Source::Systemd {
            name: "appdb".into()
        }
    );
    assert_eq!(appdb.login.allow, AuthPolicy::default());
    assert_eq!(appdb.client_tls, ClientTls::Optional);
    assert_eq!(appdb.connect_timeout, Duration::from_secs(10));
    let agent = config.agents.agents().next().unwrap();
    assert_eq!(
        (&*agent.name, &*agent.groups[0]),
        ("coder", "coding-agents")
    );
    assert_eq!(config.capture.slice, Path::new("weir-agents.slice"));
    assert_eq!(config.paths.socket(), Path::new("/run/weir/weir.sock"));
    assert_eq!(
        config.journal,
        Journal {
            durability: Durability::Os,
            results: Results::Full
        }
    );
}

#[test]
fn everything_can_be_moved_and_set() {
    let more = r#"
[capture]
slice = "test.slice/weir"
pin_dir = "/sys/fs/bpf/test"
cgroup_root = "/sys/fs/cgroup/unified"
require = ["perimeter", "connect-unix"]
[paths]
state_dir = "/tmp/s"
run_dir = "/tmp/r"
policies = "/tmp/p"
[journal]
durability = "disk"
results = "digest"
"#;
    let config = parse(&(GOOD.replace("weir-agents.slice/", "test.slice/weir/") + more)).unwrap();
    assert_eq!(config.capture.pin_dir, Path::new("/sys/fs/bpf/test"));
    assert_eq!(
        config.capture.cgroup_root.as_deref(),
        Some(Path::new("/sys/fs/cgroup/unified"))
    );
    assert_eq!(
        config.capture.require,
        [capture::Hook::Perimeter, capture::Hook::ConnectUnix]
    );
    assert_eq!(config.paths.journal(), Path::new("/tmp/s/journal"));
    assert_eq!(config.paths.socket(), Path::new("/tmp/r/weir.sock"));
    assert_eq!(
        config.journal,
        Journal {
            durability: Durability::Disk,
            results: Results::Digest
        }
    );
}

#[test]
fn the_sources_of_a_password_are_four() {
    let source = |toml: &str| {
        with(r#"{ credential = "appdb" }"#, toml)
            .unwrap()
            .datastores[0]
            .login
            .password
            .clone()
    };
    assert_eq!(
        source(r#"{ file = "/x" }"#),
        Source::File { path: "/x".into() }
    );
    assert_eq!(
        source(r#"{ env = "PGX" }"#),
        Source::Env {
            variable: "PGX".into()
        }
    );
    assert_eq!(
        source(r#"{ command = ["/bin/x", "y"] }"#),
        Source::Command {
            argv: vec!["/bin/x".into(), "y".into()]
        }
    );
    let password = |toml: &str| with(r#"{ credential = "appdb" }"#, toml);
    refused(password("{}"), "7:48", "exactly one source");
    refused(
        password(r#"{ env = "A", file = "/x" }"#),
        "7:48",
        "exactly one source",
    );
    refused(
        password(r#"{ command = ["vault"] }"#),
        "7:60",
        "absolute path",
    );
    refused(password("{ command = [] }"), "7:60", "absolute path");
    refused(password(r#"{ credential = "a/b" }"#), "7:63", "no slash");
    refused(password(r#"{ file = "x" }"#), "7:57", "must be absolute");
}

#[test]
fn misspelt_keys_are_errors_with_the_nearest_known_one() {
    refused(with("hosts ", "host "), "4:1", "did you mean `hosts`?");
    refused(
        with("[agent.coder]", "[agents.coder]"),
        "9:2",
        "did you mean `agent`?",
    );
    refused(with("mode =", "sslmode ="), "5:15", "unknown key `sslmode`");
    refused(
        with("groups =", "group ="),
        "11:1",
        "did you mean `groups`?",
    );
}

#[test]
fn missing_keys_and_broken_toml_are_errors_with_their_place() {
    refused(
        with("databases = [\"app\"]\n", ""),
        "2:1",
        "key `databases` is missing",
    );
    refused(with("[agent.coder]", "[agent.coder"), "9:13", "");
    refused(
        with("groups = [\"coding-agents\"]", "groups = 3"),
        "11:10",
        "invalid type",
    );
}

#[test]
fn keys_of_a_later_version_are_refused_by_name() {
    let later = "not in this version yet";
    refused(
        with("groups =", "identity = { oidc = {} }\ngroups ="),
        "11:12",
        later,
    );
    refused(
        with("groups =", "login.appdb.user = \"x\"\ngroups ="),
        "11:1",
        later,
    );
    refused(
        parse(&format!("state = \"postgres\"\n{GOOD}")),
        "1:9",
        later,
    );
    refused(
        parse(&format!("[export]\notlp = true\n{GOOD}")),
        "1:1",
        later,
    );
    refused(
        with("protocol  = \"postgres\"", "protocol  = \"mysql\""),
        "3:13",
        later,
    );
}

#[test]
fn hosts_that_are_none_are_refused() {
    let host = |host: &str| with("DB.prod.internal:5432", host);
    refused(host("db"), "4:14", "has no port");
    refused(host("[fd00::1]"), "4:14", "has no port");
    refused(host(":5432"), "4:14", "has no port");
    refused(host("db:0"), "4:14", "not a port");
    refused(host("db:65536"), "4:14", "not a port");
    refused(host("fd00::1:5432"), "4:14", "brackets");
    refused(host("0.0.0.0:5432"), "4:14", "no address of a server");
    refused(host("[10.0.0.1]:5432"), "4:14", "neither");
    refused(host("d b:5432"), "4:14", "neither");
    refused(
        with(
            r#"["DB.prod.internal:5432", "10.0.3.7:5432", "[fd00::1]:5433"]"#,
            "[]",
        ),
        "4:13",
        "at least one host",
    );
}

#[test]
fn an_endpoint_belongs_to_one_datastore_however_it_is_written() {
    let second = |host: &str| {
        let second = GOOD[..GOOD.find("[agent").unwrap()]
            .replace("appdb]", "other]")
            .replace(
                "DB.prod.internal:5432\", \"10.0.3.7:5432\", \"[fd00::1]:5433",
                host,
            );
        parse(&format!("{GOOD}{second}"))
    };
    assert_eq!(second("10.0.3.7:5433").unwrap().datastores.len(), 2);
    for host in [
        "10.0.3.7:5432",
        "[::ffff:10.0.3.7]:5432",
        "db.PROD.internal:5432",
        "[fd00:0::1]:5433",
    ] {
        refused(
            second(host),
            "15:14",
            "already a host of datastore \"appdb\"",
        );
    }
}

#[test]
fn tls_settings_that_would_not_do_what_they_say_are_refused() {
    let tls = |tls: &str| with(r#"{ mode = "verify-full", ca = "/etc/weir/ca.pem" }"#, tls);
    assert_eq!(
        tls(r#"{ mode = "require" }"#).unwrap().datastores[0].tls,
        TlsMode::Require
    );
    refused(tls(r#"{ mode = "verify-full" }"#), "5:13", "needs a ca");
    refused(
        tls(r#"{ mode = "require", ca = "/x" }"#),
        "5:38",
        "verifies nothing",
    );
    refused(
        tls(r#"{ mode = "verify-ful", ca = "/x" }"#),
        "5:22",
        "did you mean \"verify-full\"?",
    );
    refused(
        tls(r#"{ mode = "verify-full", ca = "x.pem" }"#),
        "5:42",
        "must be absolute",
    );
    refused(
        tls(r#"{ mode = "require", server_name = "a b" }"#),
        "5:47",
        "neither",
    );
    refused(
        with("10.0.3.7:5432", "replica.internal:5432"),
        "5:13",
        "needs a server_name",
    );
}

#[test]
fn values_that_are_no_choice_are_refused() {
    let set = |line: &str| with("databases =", &format!("{line}\ndatabases ="));
    assert_eq!(
        set("client_tls = \"require\"").unwrap().datastores[0].client_tls,
        ClientTls::Require
    );
    refused(
        set("client_tls = \"disable\""),
        "6:14",
        "one of optional, require",
    );
    refused(set("connect_timeout = \"5\""), "6:19", "not a time");
    refused(set("connect_timeout = \"0s\""), "6:19", "not a time");
    refused(set("connect_timeout = \"11m\""), "6:19", "not a time");
    refused(with("[\"app\"]", "[]"), "6:13", "at least one database");
    let login = |s: &str| with("login     = { ", &format!("login     = {{ {s}, "));
    assert!(
        login("allow_auth = [\"md5\"]").unwrap().datastores[0]
            .login
            .allow
            .md5
    );
    refused(
        login("allow_auth = [\"trust\"]"),
        "7:29",
        "one of md5, cleartext",
    );
    refused(
        parse(&format!("{GOOD}[journal]\nresults = \"ful\"")),
        "13:11",
        "did you mean \"full\"?",
    );
}

#[test]
fn the_slice_is_one_cgroup_below_the_mount() {
    let slice = |s: &str| parse(&format!("{GOOD}[capture]\nslice = \"{s}\""));
    refused(slice("/"), "13:9", "relative to the cgroup2 mount");
    refused(slice("/weir"), "13:9", "relative to the cgroup2 mount");
    refused(slice(""), "13:9", "path of one cgroup");
    refused(slice("a/../.."), "13:9", "path of one cgroup");
    refused(slice("weir-*"), "13:9", "path of one cgroup");
}

#[test]
fn agents_that_could_never_be_told_are_refused() {
    let cgroup = |c: &str| with("weir-agents.slice/coder-*", c);
    refused(cgroup("system.slice/coder"), "10:21", "can never match");
    refused(cgroup(""), "10:21", "empty");
    refused(cgroup("a//b"), "10:21", "component");
    refused(
        with(
            "match  = { cgroup = \"weir-agents.slice/coder-*\" }",
            "match = {}",
        ),
        "10:9",
        "needs a cgroup",
    );
    let twice = GOOD[GOOD.find("[agent").unwrap()..].replace("coder]", "twin]");
    refused(
        parse(&format!("{GOOD}{twice}")),
        "13:10",
        "agent \"coder\" has the same match",
    );
    refused(
        with("[agent.coder]", "[agent.\"a b\"]"),
        "9:8",
        "can't be a name",
    );
}

fn matched(by: &str) -> Result<Config, String> {
    with("{ cgroup = \"weir-agents.slice/coder-*\" }", by)
}

#[test]
fn an_agent_is_matched_by_unit_container_label_or_pod() {
    for (by, shown) in [
        (r#"{ unit = "coder@.service" }"#, "unit coder@.service"),
        (
            r#"{ unit = "coder-*.service", user = 1000 }"#,
            "unit coder-*.service of user 1000",
        ),
        (
            r#"{ container = "0123456789ab" }"#,
            "container 0123456789ab",
        ),
        (
            r#"{ cgroup = "weir-agents.slice", label = { "a.b/c" = "d", e = "" } }"#,
            "cgroup weir-agents.slice, label a.b/c=d, label e=",
        ),
        (
            r#"{ kubernetes = { namespace = "n", service_account = "s", labels = { app = "x" } } }"#,
            "namespace n, service account s, pod label app=x",
        ),
    ] {
        let config = matched(by).unwrap();
        let (_, selector) = config.agents.selectors().next().unwrap();
        assert_eq!(selector.to_string(), shown);
    }
}

#[test]
fn a_match_that_never_holds_or_means_nobody_is_refused() {
    refused(
        matched(r#"{ unit = "x.slice" }"#),
        "10:19",
        "can never match",
    );
    refused(
        matched(r#"{ unit = "a/b.service" }"#),
        "10:19",
        "can never match",
    );
    refused(matched("{ user = 7 }"), "10:19", "there is no unit");
    refused(
        matched(r#"{ container = "0123" }"#),
        "10:24",
        "12 to 64 hexadecimal digits",
    );
    refused(matched("{ label = {} }"), "10:10", "the match is empty");
    refused(
        matched(r#"{ kubernetes = { service_account = "x" } }"#),
        "10:25",
        "key `namespace` is missing",
    );
    refused(
        matched(r#"{ kubernetes = { namespace = "A b" } }"#),
        "10:39",
        "can't be the name of a namespace",
    );
    refused(
        matched(r#"{ labels = { a = "b" } }"#),
        "10:12",
        "did you mean `label`",
    );
}

#[test]
fn preflight_is_by_reason_unless_it_is_set() {
    use crate::identity::PreflightMode;
    let mode = |line: &str| {
        let config = with("groups =", &format!("{line}\ngroups ="))?;
        Ok(config.agents.agents().next().unwrap().preflight)
    };
    assert_eq!(mode(""), Ok(PreflightMode::Reasonable));
    assert_eq!(mode("preflight = \"warn\""), Ok(PreflightMode::Warn));
    assert_eq!(mode("preflight = \"refuse\""), Ok(PreflightMode::Refuse));
    let error: String = mode("preflight = \"refused\"").unwrap_err();
    assert!(error.contains("did you mean \"refuse\""), "{error}");
}

#[test]
fn runtimes_are_where_they_always_are_unless_they_are_set() {
    let usual = parse(GOOD).unwrap().runtimes;
    assert_eq!(usual, crate::agents::Settings::default());
    let text = format!("{GOOD}[runtimes]\ncontainerd = \"/run/k3s/containerd.sock\"\n");
    let set = parse(&text).unwrap().runtimes;
    assert_eq!(set.containerd, Path::new("/run/k3s/containerd.sock"));
    assert_eq!(set.docker, usual.docker);
    let text = format!("{GOOD}[runtimes]\ndocker = \"run/docker.sock\"\n");
    refused(parse(&text), "13:10", "must be absolute");
}

#[test]
fn an_empty_file_says_what_is_missing_and_all_errors_are_told_at_once() {
    let error = parse("").unwrap_err();
    assert!(
        error.contains("there is no datastore") && error.contains("there is no agent"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_damaged_file_panics(at in 0..GOOD.len(), with in "\\PC{0,3}") {
        let mut text = GOOD.to_owned();
        if text.is_char_boundary(at) {
            text.replace_range(at..at + 1, &with);
        }
        let _ = parse(&text);
    }

    #[test]
    fn no_host_panics(host in "[a-z0-9:.\\[\\]]{0,30}") {
        let _ = Host::parse(&host);
    }
}

#[test]
fn a_required_hook_has_to_be_one() {
    let text = format!("{GOOD}[capture]\nrequire = [\"lsm\", \"conect-unix\"]");
    refused(parse(&text), "13:19", "did you mean \"connect-unix\"?");
}

#[test]
fn one_datastore_may_govern_what_is_detected() {
    let login = "login     =";
    let set = |value: &str| with(login, &format!("on_detect = {value}\n{login}"));
    let of = |config: Config| config.datastores[0].on_detect;
    assert_eq!(of(parse(GOOD).unwrap()), OnDetect::Deny);
    assert_eq!(of(set("\"deny\"").unwrap()), OnDetect::Deny);
    assert_eq!(of(set("\"govern\"").unwrap()), OnDetect::Govern);
    refused(set("\"allow\""), "7:13", "one of deny, govern");

    let (first, agents) = GOOD.split_once("[agent").unwrap();
    let second = first.replace("appdb]", "other]");
    let second = second.replace("5432", "6432").replace("5433", "6433");
    let both = |value: &str| {
        let set = |text: &str, value: &str| {
            text.replace(login, &format!("on_detect = \"{value}\"\n{login}"))
        };
        let (first, second) = (set(first, "govern"), set(&second, value));
        parse(&format!("{first}{second}[agent{agents}"))
    };
    assert_eq!(both("deny").unwrap().datastores.len(), 2);
    refused(both("govern"), "16:13", "datastore \"appdb\" governs");
}

/// `GOOD` with this as the agent's egress.
fn with_egress(value: &str) -> Result<Config, String> {
    let groups = "groups = [\"coding-agents\"]";
    with(groups, &format!("{groups}\negress = {value}"))
}

#[test]
fn an_agents_egress_is_open_closed_or_a_list() {
    let of = |config: Config| (config.egress["coder"].clone(), config.capture.governed);
    assert_eq!(of(parse(GOOD).unwrap()), (Egress::Open, false));
    assert_eq!(of(with_egress("\"open\"").unwrap()), (Egress::Open, false));
    let nothing = of(with_egress("\"none\"").unwrap());
    assert_eq!(nothing, (Egress::Only(Vec::new()), true));
    let (Egress::Only(list), true) = of(with_egress("[\"10.0.0.0/8:443\", \"a.b:1\"]").unwrap())
    else {
        panic!("a list, and governed");
    };
    assert_eq!(list[1].place, crate::config::Place::Name("a.b".into()));
    assert_eq!((list.len(), list[1].port), (2, Some(1)));
}

#[test]
fn a_wrong_egress_is_refused_at_its_place() {
    refused(with_egress("\"some\""), "12:10", "unknown value \"some\"");
    refused(with_egress("[]"), "12:10", "the list is empty");
    refused(with_egress("[\"a.b\", \"*\"]"), "12:18", "lists everything");
    refused(with_egress("7"), "12:10", "a list of what may be reached");
}
