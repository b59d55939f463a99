//! `weir status`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::style::{Colour, coloured, paint};
use crate::control::{Client, DatastoreStatus, Status};
use crate::record::show::{escape, escape_json};

const HELP: &str = "\
Exit code 3 if the daemon is not running.

Examples:
  weir status
  weir status --json | jq .open_sessions";

/// Show how the daemon is.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let status = super::block_on(async { Client::new(socket).status().await })??;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", escape_json(&serde_json::to_string(&status)?))?;
    } else {
        show(&status, coloured(), &mut out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show(status: &Status, coloured: bool, out: &mut impl Write) -> io::Result<()> {
    let running = paint("running", Colour::Green, coloured);
    let (version, pid) = (escape(&status.version), status.pid);
    writeln!(
        out,
        "weir {version} {running} for {}, process {pid}",
        age(status.uptime_seconds)
    )?;

    let policy = &status.policy;
    let sha: String = policy.sha256.chars().take(12).collect();
    let observed = if policy.observed {
        ", only observed"
    } else {
        ""
    };
    writeln!(
        out,
        "policy       {} rules, {}{observed}",
        policy.rules,
        escape(&sha)
    )?;
    if let Some(problem) = &policy.problem {
        // Of several mistakes each has a line of its own.
        let gap = if problem.contains('\n') { '\n' } else { ' ' };
        let problem = format!("the files are wrong, an older policy is in force:{gap}{problem}");
        problem_lines(&problem, coloured, out)?;
    }
    for warning in &policy.warnings {
        problem_line(warning, coloured, out)?;
    }
    for datastore in &status.datastores {
        show_datastore(datastore, coloured, out)?;
    }
    writeln!(out, "agents       {}", escape(&status.agents.join(", ")))?;
    let listeners: usize = status.namespaces.iter().map(|n| n.listeners).sum();
    writeln!(
        out,
        "namespaces   {}, {listeners} listeners",
        status.namespaces.len()
    )?;
    for namespace in status.namespaces.iter().filter(|n| !n.open.is_empty()) {
        let (id, devices) = (namespace.id, namespace.open.join(", "));
        let problem = format!("{devices} of namespace {id} leads out past the perimeter");
        problem_line(&problem, coloured, out)?;
    }
    for gap in &status.gaps {
        writeln!(
            out,
            "gap          {}: {}",
            escape(&gap.hook),
            escape(&gap.why)
        )?;
        problem_line(&gap.consequence, coloured, out)?;
    }
    if status.bypass_attempts > 0 {
        writeln!(out, "bypasses     {} attempted", status.bypass_attempts)?;
    }
    let (open, opened) = (status.open_sessions, status.sessions_opened);
    let refused = status.sessions_refused;
    writeln!(
        out,
        "sessions     {open} open, {opened} since the start, {refused} refused"
    )?;
    let (allowed, denied) = (status.statements_allowed, status.statements_denied);
    writeln!(out, "statements   {allowed} allowed, {denied} denied")
}

fn show_datastore(
    datastore: &DatastoreStatus,
    coloured: bool,
    out: &mut impl Write,
) -> io::Result<()> {
    let catalog = match datastore.relations {
        Some(relations) => format!("{relations} relations known"),
        None => "catalog not loaded".to_owned(),
    };
    let (name, endpoints) = (escape(&datastore.name), datastore.endpoints.join(", "));
    writeln!(
        out,
        "datastore    {name} at {}: {catalog}",
        escape(&endpoints)
    )?;
    match &datastore.problem {
        Some(problem) => problem_line(problem, coloured, out),
        None => Ok(()),
    }
}

/// As [`problem_line`], with what follows the first line below it.
fn problem_lines(problem: &str, coloured: bool, out: &mut impl Write) -> io::Result<()> {
    let mut lines = problem.split('\n');
    problem_line(lines.next().unwrap_or_default(), coloured, out)?;
    lines.try_for_each(|line| writeln!(out, "                 {}", escape(line)))
}

fn problem_line(problem: &str, coloured: bool, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "             {} {}",
        paint("!", Colour::Red, coloured),
        escape(problem)
    )
}

fn age(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{GapStatus, NamespaceStatus, PolicyStatus};

    #[test]
    fn everything_that_is_wrong_is_shown() {
        let status = Status {
            version: "0.1.0".into(),
            pid: 7,
            uptime_seconds: 3_725,
            policy: PolicyStatus {
                sha256: "0123456789abcdef".into(),
                rules: 3,
                problem: Some("p.toml:1:1: error".into()),
                warnings: vec!["p.toml:2: rule \"r\"\x1b".into()],
                ..PolicyStatus::default()
            },
            datastores: vec![DatastoreStatus {
                name: "appdb".into(),
                endpoints: vec!["10.0.3.7:5432".into()],
                relations: None,
                problem: Some("connecting failed\x1b[2J".into()),
            }],
            agents: vec!["coder".into()],
            namespaces: vec![NamespaceStatus {
                id: 1,
                listeners: 2,
                perimeter: vec!["veth0".into()],
                open: vec!["mac0\x1b".into()],
            }],
            gaps: vec![GapStatus {
                hook: "lsm".into(),
                why: "it isn't on".into(),
                consequence: "a way is open".into(),
                ..GapStatus::default()
            }],
            bypass_attempts: 3,
            open_sessions: 4,
            sessions_opened: 9,
            sessions_refused: 2,
            statements_allowed: 5,
            statements_denied: 6,
        };
        let mut out = Vec::new();
        show(&status, false, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
weir 0.1.0 running for 1 h 2 min, process 7
policy       3 rules, 0123456789ab
             ! the files are wrong, an older policy is in force: p.toml:1:1: error
             ! p.toml:2: rule \"r\"\\x1b
datastore    appdb at 10.0.3.7:5432: catalog not loaded
             ! connecting failed\\x1b[2J
agents       coder
namespaces   1, 2 listeners
             ! mac0\\x1b of namespace 1 leads out past the perimeter
gap          lsm: it isn't on
             ! a way is open
bypasses     3 attempted
sessions     4 open, 9 since the start, 2 refused
statements   5 allowed, 6 denied
"
        );
    }

    #[test]
    fn each_mistake_of_a_policy_has_its_line_and_controls_nothing() {
        let status = Status {
            policy: PolicyStatus {
                problem: Some("p.toml:1:1: error\np.toml:2:1: \x1b[2J\terror\r".into()),
                ..PolicyStatus::default()
            },
            ..Status::default()
        };
        let mut out = Vec::new();
        show(&status, false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains(
                "             ! the files are wrong, an older policy is in force:\n\
                 \u{20}                p.toml:1:1: error\n\
                 \u{20}                p.toml:2:1: \\x1b[2J\\terror\\r\n"
            ),
            "{text}"
        );
    }

    #[test]
    fn ages_are_told_in_their_two_largest_units() {
        assert_eq!(age(59), "59 s");
        assert_eq!(age(60), "1 min");
        assert_eq!(age(7_260), "2 h 1 min");
        assert_eq!(age(90_000), "1 d 1 h");
    }
}
