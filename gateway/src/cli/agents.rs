//! `weir agents`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::style::{Colour, coloured, paint};
use crate::control::{AgentStatus, Agents, Client, Members};
use crate::record::show::{escape, escape_json};

const HELP: &str = "\
Lists each agent with what it is told apart by, its open sessions, and the containers, units and
cgroups that it runs in now. A line with ! says what would let those processes get round Weir, or
why they belong to no agent and are refused. Exit code 1 if something that an agent's match means
runs outside of the slice, where nothing governs it.

Examples:
  weir agents
  weir agents --json | jq '.agents[] | {name, sessions}'";

/// Show who is governed, and what would let them out.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, socket: &Path) -> anyhow::Result<ExitCode> {
    let agents = super::block_on(async { Client::new(socket).agents().await })??;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", escape_json(&serde_json::to_string(&agents)?))?;
    } else {
        show(&agents, coloured(), &mut out)?;
    }
    Ok(if agents.outside.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(agents: &Agents, coloured: bool, out: &mut impl Write) -> io::Result<()> {
    for agent in &agents.agents {
        show_agent(agent, coloured, out)?;
    }
    if !agents.unknown.is_empty() {
        writeln!(out, "in the slice, of no agent: refused")?;
    }
    for members in &agents.unknown {
        show_members(members, coloured, out)?;
    }
    if !agents.outside.is_empty() {
        let words = "outside of the slice: NOT GOVERNED";
        writeln!(out, "{}", paint(words, Colour::Red, coloured))?;
    }
    for members in &agents.outside {
        show_members(members, coloured, out)?;
    }
    if agents.truncated {
        let words = "there is more: too many cgroups, or a container runtime that doesn't answer";
        writeln!(out, "{}", paint(words, Colour::Yellow, coloured))?;
    }
    Ok(())
}

fn show_agent(agent: &AgentStatus, coloured: bool, out: &mut impl Write) -> io::Result<()> {
    let groups = if agent.groups.is_empty() {
        String::new()
    } else {
        format!(", groups {}", agent.groups.join(" "))
    };
    writeln!(
        out,
        "{}  by {}{}, {} open",
        escape(&agent.name),
        escape(&agent.matched_by),
        escape(&groups),
        count(agent.sessions, "session")
    )?;
    for members in &agent.governed {
        show_members(members, coloured, out)?;
    }
    Ok(())
}

fn show_members(members: &Members, coloured: bool, out: &mut impl Write) -> io::Result<()> {
    let container = members.container.as_ref().map(|id| {
        let short: String = id.chars().take(12).collect();
        format!("container {short}")
    });
    let unit = members.unit.as_ref().map(|unit| format!("unit {unit}"));
    let pod = members.pod.as_ref().map(|pod| format!("pod {pod}"));
    let what: Vec<String> = [pod, container.or(unit)].into_iter().flatten().collect();
    let what = if what.is_empty() {
        String::new()
    } else {
        format!(", {}", what.join(", "))
    };
    writeln!(
        out,
        "  {}{}, {}",
        escape(&members.cgroup),
        escape(&what),
        count(members.processes, "process")
    )?;
    for problem in members.preflight.iter().chain(&members.problem) {
        let mark = paint("!", Colour::Red, coloured);
        writeln!(out, "    {mark} {}", escape(problem))?;
    }
    Ok(())
}

pub(super) fn count(number: usize, what: &str) -> String {
    match (number, what.ends_with('s')) {
        (1, _) => format!("1 {what}"),
        (_, true) => format!("{number} {what}es"),
        (_, false) => format!("{number} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(cgroup: &str) -> Members {
        Members {
            cgroup: cgroup.into(),
            processes: 1,
            ..Members::default()
        }
    }

    #[test]
    fn everybody_is_shown_and_nothing_of_them_reaches_the_terminal_raw() {
        let agents = Agents {
            agents: vec![AgentStatus {
                name: "coder".into(),
                groups: vec!["coding-agents".into()],
                matched_by: "label agent=coder".into(),
                sessions: 2,
                governed: vec![Members {
                    container: Some("0123456789abcdef".into()),
                    pod: Some("agents/coder-0".into()),
                    processes: 3,
                    preflight: vec!["it has CAP_NET_ADMIN".into()],
                    ..members("weir-agents.slice/x")
                }],
            }],
            unknown: vec![Members {
                problem: Some("no agent".into()),
                ..members("weir-agents.slice/\x1b[2J")
            }],
            outside: vec![Members {
                unit: Some("coder-2.service".into()),
                ..members("system.slice/coder-2.service")
            }],
            truncated: false,
        };
        let mut out = Vec::new();
        show(&agents, false, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
coder  by label agent=coder, groups coding-agents, 2 sessions open
  weir-agents.slice/x, pod agents/coder-0, container 0123456789ab, 3 processes
    ! it has CAP_NET_ADMIN
in the slice, of no agent: refused
  weir-agents.slice/\\x1b[2J, 1 process
    ! no agent
outside of the slice: NOT GOVERNED
  system.slice/coder-2.service, unit coder-2.service, 1 process
"
        );
    }
}
