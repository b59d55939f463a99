//! `weir doctor`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::style::{Colour, coloured, paint};
use crate::doctor::{Check, Status, examine};
use crate::record::show::{escape, escape_json, escape_lines};

const HELP: &str = "\
Looks at the kernel, the configuration, the policy, the journal and the certificate authority, logs
in to each datastore and reads its catalogs. It changes nothing and can run beside the daemon. Exit code 1 if
anything fails; warnings alone are 0.

Examples:
  sudo weir doctor
  weir doctor --json | jq '.[] | select(.status != \"ok\")'";

/// Check that this host and the configuration have what Weir needs.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Print a JSON list of {name, status, detail, fix}
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, config: &Path) -> anyhow::Result<ExitCode> {
    let checks = super::block_on(examine(config))?;
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", escape_json(&serde_json::to_string(&checks)?))?;
    } else {
        show(&checks, coloured(), &mut out)?;
    }
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn show(checks: &[Check], coloured: bool, out: &mut impl Write) -> io::Result<()> {
    for check in checks {
        let (word, colour) = match check.status {
            Status::Ok => ("ok  ", Colour::Green),
            Status::Warn => ("warn", Colour::Yellow),
            Status::Fail => ("FAIL", Colour::Red),
        };
        // Details may hold the words of a server.
        let detail = escape_lines(&check.detail).replace('\n', "\n      ");
        writeln!(
            out,
            "{}  {}: {detail}",
            paint(word, colour, coloured),
            escape(&check.name)
        )?;
        if let Some(fix) = &check.fix {
            writeln!(out, "      fix: {}", escape(fix))?;
        }
    }
    let count = |status| checks.iter().filter(|check| check.status == status).count();
    let (failed, warned) = (count(Status::Fail), count(Status::Warn));
    writeln!(
        out,
        "\n{} checks: {failed} failed, {warned} to look at",
        checks.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_shown_with_its_fix_and_nothing_of_it_reaches_the_terminal_raw() {
        let checks = [
            Check {
                name: "a".into(),
                status: Status::Ok,
                detail: "fine".into(),
                fix: None,
            },
            Check {
                name: "b".into(),
                status: Status::Fail,
                detail: "one\ntwo \x1b[2J".into(),
                fix: Some("do it".into()),
            },
        ];
        let mut out = Vec::new();
        show(&checks, false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "ok    a: fine\nFAIL  b: one\n      two \\x1b[2J\n      fix: do it\n\n\
             2 checks: 1 failed, 0 to look at\n"
        );
    }
}
