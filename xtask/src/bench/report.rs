//! `bench/RESULTS.md`: the figures, what they were measured on, and the targets.

use std::{fmt::Write as _, fs, process::Command};

use anyhow::Result;

use super::{
    Results,
    subject::Subject,
    workload::{ALL, MASKED, PREPARED_8, Sample, UNMASKED},
};

/// The report, in Markdown.
pub(crate) fn text(results: &Results) -> Result<String> {
    let mut out = String::from("# Bench\n\n");
    writeln!(
        out,
        "`cargo xtask bench`. Client, gateway and server share {} cores, over loopback, on Linux \
         {}. {} rounds of {} s, subjects in turn, thrice in a round where there is a target; each \
         figure is its median. CPU is what the gateway's process used, user and kernel, for one \
         transaction; it is the stable figure, since the others depend on how client and server \
         share the cores.\n",
        std::thread::available_parallelism()?,
        fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        results.rounds,
        results.length.as_secs(),
    )?;
    for (program, argument) in [("psql", "-V"), ("pgbouncer", "-V"), ("rustc", "-V")] {
        let output = Command::new(program).arg(argument).output()?;
        let version = String::from_utf8_lossy(&output.stdout);
        writeln!(out, "- {}", version.lines().next().unwrap_or(program))?;
    }
    writeln!(
        out,
        "\nWeir enforces, masks and records (`durability = \"os\"`); \"full\" records every row, \
         \"digest\" a hash of each result. The bare relay runs on the same runtime in the same \
         shape, and is built as Weir is, by `cargo xtask release`.\n"
    )?;
    table(&mut out, results)?;
    targets(&mut out, results)?;
    Ok(out)
}

fn table(out: &mut String, results: &Results) -> Result<()> {
    writeln!(
        out,
        "| workload | subject | tx/s | p50 µs | p99 µs | CPU µs/tx | tx/s : relay | CPU : relay |"
    )?;
    writeln!(out, "|---|---|--:|--:|--:|--:|--:|--:|")?;
    for workload in &ALL {
        let relay = results.of(workload.name, Subject::Relay);
        for (subject, sample) in results.all(workload.name) {
            let Sample {
                rate,
                p50,
                p99,
                cpu,
            } = sample;
            let share = |figure: fn(&Sample) -> f64| match relay {
                Some(relay) if figure(&relay) > 0.0 && figure(&sample) > 0.0 => {
                    format!("{:.2}", figure(&sample) / figure(&relay))
                }
                _ => String::new(),
            };
            let figure = |value: f64, digits| match value {
                0.0 => String::new(),
                value => format!("{value:.digits$}"),
            };
            writeln!(
                out,
                "| {} | {subject} | {rate:.1} | {} | {} | {} | {} | {} |",
                workload.name,
                figure(p50, 0),
                figure(p99, 0),
                figure(cpu, 1),
                share(|s| s.rate),
                share(|s| s.cpu),
            )?;
        }
    }
    Ok(())
}

/// A figure that is to be reached.
pub(super) struct Target {
    pub(super) what: &'static str,
    /// None where it wasn't measured.
    pub(super) ratio: Option<f64>,
    /// The limit, and whether it is an upper one.
    pub(super) limit: f64,
    pub(super) at_most: bool,
}

fn targets(out: &mut String, results: &Results) -> Result<()> {
    let ratio = |workload, (subject, other), figure: fn(&Sample) -> f64| {
        Some(figure(&results.of(workload, subject)?) / figure(&results.of(workload, other)?))
    };
    let rate = |s: &Sample| s.rate;
    let (full, digest) = (Subject::WeirFull, Subject::WeirDigest);
    let (relay, pgbouncer) = (Subject::Relay, Subject::Pgbouncer);
    let targets = [
        Target {
            what: "-S prepared, 8 clients: CPU, of the bare relay's",
            ratio: ratio(PREPARED_8, (full, relay), |s| s.cpu),
            limit: 1.25,
            at_most: true,
        },
        Target {
            what: "-S prepared, 8 clients: throughput, of pgbouncer's",
            ratio: ratio(PREPARED_8, (full, pgbouncer), rate),
            limit: 0.95,
            at_most: false,
        },
        Target {
            what: "1000 rows, unmasked, digest: throughput, of the bare relay's",
            ratio: ratio(UNMASKED, (digest, relay), rate),
            limit: 0.95,
            at_most: false,
        },
        Target {
            what: "1000 rows, unmasked, full: throughput, of the bare relay's",
            ratio: ratio(UNMASKED, (full, relay), rate),
            limit: 0.8,
            at_most: false,
        },
        Target {
            what: "1000 rows, masked, full: throughput, of the bare relay's",
            ratio: ratio(MASKED, (full, relay), rate),
            limit: 0.7,
            at_most: false,
        },
        Target {
            what: "an idle session, KiB",
            ratio: results.idle.map(|bytes| bytes as f64 / 1024.0),
            limit: 64.0,
            at_most: true,
        },
    ];
    targets_table(out, targets)
}

/// Which targets are reached.
pub(super) fn targets_table(
    out: &mut String,
    targets: impl IntoIterator<Item = Target>,
) -> Result<()> {
    writeln!(
        out,
        "\n| target | limit | measured | reached |\n|---|--:|--:|---|"
    )?;
    for Target {
        what,
        ratio,
        limit,
        at_most,
    } in targets
    {
        let sign = if at_most { '≤' } else { '≥' };
        let (measured, reached) = match ratio {
            Some(ratio) if (ratio <= limit) == at_most || ratio == limit => (ratio, "yes"),
            Some(ratio) => (ratio, "no"),
            None => continue,
        };
        writeln!(
            out,
            "| {what} | {sign} {limit} | {measured:.2} | {reached} |"
        )?;
    }
    Ok(())
}
