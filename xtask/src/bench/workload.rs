//! What is measured, and reading it off pgbench, psql and /proc.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::Pid,
};

/// One thing a client does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// How the report calls it.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// `pgbench -S` in a protocol, with so many clients.
    Point {
        protocol: &'static str,
        clients: u32,
    },
    /// 1000 rows of five columns a query, four clients, prepared.
    Rows { table: &'static str },
    /// One million rows by COPY.
    CopyOut,
    /// A connection for each transaction.
    Connect,
}

const fn point(name: &'static str, protocol: &'static str, clients: u32) -> Workload {
    Workload {
        name,
        kind: Kind::Point { protocol, clients },
    }
}

/// The targets look at these.
pub(crate) const PREPARED_8: &str = "-S prepared, 8 clients";
pub(crate) const UNMASKED: &str = "1000 rows a query, unmasked";
pub(crate) const MASKED: &str = "1000 rows a query, one column masked";

impl Workload {
    /// How often a round measures it. On a machine that is shared, a run differs from the next by as
    /// much as there is between a target and its miss: where there is a target, the median is of more.
    pub(crate) fn turns(&self) -> usize {
        match self.name {
            PREPARED_8 | UNMASKED | MASKED => 3,
            _ => 1,
        }
    }
}

/// Everything, in the report's order.
pub(crate) const ALL: [Workload; 10] = [
    point("-S simple, 1 client", "simple", 1),
    point("-S simple, 8 clients", "simple", 8),
    point("-S extended, 1 client", "extended", 1),
    point("-S extended, 8 clients", "extended", 8),
    point("-S prepared, 1 client", "prepared", 1),
    point(PREPARED_8, "prepared", 8),
    Workload {
        name: UNMASKED,
        kind: Kind::Rows { table: "plain" },
    },
    Workload {
        name: MASKED,
        kind: Kind::Rows { table: "wide" },
    },
    Workload {
        name: "COPY out, 1 M rows",
        kind: Kind::CopyOut,
    },
    Workload {
        name: "connect, 1 client",
        kind: Kind::Connect,
    },
];

/// What one run showed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sample {
    /// Transactions a second.
    pub(crate) rate: f64,
    /// Microseconds that half of all transactions stay below; 0 where that wasn't measured.
    pub(crate) p50: f64,
    /// Microseconds that 99 of 100 transactions stay below; 0 likewise.
    pub(crate) p99: f64,
    /// Microseconds of the gateway's CPU for a transaction; 0 without a gateway.
    pub(crate) cpu: f64,
}

/// Runs a workload. `client` makes a command of that program in its place; `gateway` is the
/// process whose CPU is counted.
pub(crate) fn run(
    workload: &Workload,
    length: Duration,
    dir: &Path,
    gateway: Option<u32>,
    client: &dyn Fn(&str) -> Command,
) -> Result<Sample> {
    let before = gateway.map(cpu_at_rest).transpose()?.unwrap_or_default();
    let (count, mut sample) = match workload.kind {
        Kind::CopyOut => copy(client("psql"))?,
        kind => {
            let log = dir.join("pgbench");
            fs::create_dir_all(&log)?;
            pgbench(client("pgbench"), kind, length, &log)?
        }
    };
    let after = gateway.map(cpu_at_rest).transpose()?.unwrap_or_default();
    sample.cpu = (after - before).as_secs_f64() * 1e6 / count;
    Ok(sample)
}

fn pgbench(
    mut command: Command,
    kind: Kind,
    length: Duration,
    log: &Path,
) -> Result<(f64, Sample)> {
    command.args(["-n", "-T", &length.as_secs().to_string(), "-l"]);
    command.arg("--log-prefix").arg(log.join("log"));
    match kind {
        Kind::Point { protocol, clients } => {
            // All latencies would cost the client as much as a statement does.
            command.args(["-S", "--sampling-rate=0.1", "-M", protocol]);
            command.args([
                "-c",
                &clients.to_string(),
                "-j",
                &clients.min(2).to_string(),
            ]);
        }
        Kind::Rows { table } => {
            let script = log.join("script.sql");
            fs::write(
                &script,
                format!("SELECT * FROM {table} WHERE id <= 1000;\n"),
            )?;
            command
                .args(["-M", "prepared", "-c", "4", "-j", "2", "-f"])
                .arg(script);
        }
        Kind::Connect | Kind::CopyOut => {
            command.args(["-S", "-C", "-c", "1"]);
        }
    }
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pgbench: {error}{text}");
    let count = number_after(&text, "actually processed: ")?;
    let rate = number_after(&text, "tps = ")?;
    let mut latencies = latencies(log)?;
    if matches!(kind, Kind::Connect) {
        // pgbench's log has the statement alone, and it is the connection that counts here.
        latencies.clear();
    }
    let (p50, p99) = (
        percentile(&mut latencies, 0.5),
        percentile(&mut latencies, 0.99),
    );
    Ok((
        count,
        Sample {
            rate,
            p50,
            p99,
            cpu: 0.0,
        },
    ))
}

fn copy(mut command: Command) -> Result<(f64, Sample)> {
    let start = Instant::now();
    let output = command
        .args(["-X", "-o", "/dev/null", "-c", "COPY export TO STDOUT"])
        .output()?;
    let took = start.elapsed().as_secs_f64();
    ensure!(
        output.status.success(),
        "psql: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let sample = Sample {
        rate: 1.0 / took,
        ..Sample::default()
    };
    Ok((1.0, sample))
}

fn number_after(text: &str, mark: &str) -> Result<f64> {
    let rest = text
        .split(mark)
        .nth(1)
        .with_context(|| format!("no `{mark}` in: {text}"))?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(rest.len());
    Ok(rest[..end].parse()?)
}

/// Takes in pgbench's logs and removes them: client, transaction, microseconds, ..
fn latencies(folder: &Path) -> Result<Vec<f64>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("log."))
        {
            let text = fs::read_to_string(&path)?;
            let third = text
                .lines()
                .filter_map(|line| line.split(' ').nth(2)?.parse::<f64>().ok());
            all.extend(third);
            fs::remove_file(path)?;
        }
    }
    Ok(all)
}

/// The value that a share of all values stays below; 0 if there are none.
fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share) as usize;
    values
        .get(at.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// The middle one of some runs, each figure by itself.
pub(crate) fn median(samples: &[Sample]) -> Sample {
    let middle = |figure: fn(&Sample) -> f64| {
        percentile(&mut samples.iter().map(figure).collect::<Vec<_>>(), 0.5)
    };
    Sample {
        rate: middle(|s| s.rate),
        p50: middle(|s| s.p50),
        p99: middle(|s| s.p99),
        cpu: middle(|s| s.cpu),
    }
}

/// CPU time of a process that has done all it has to do: what a gateway puts off until its clients have
/// left belongs to them.
fn cpu_at_rest(pid: u32) -> Result<Duration> {
    const LOOK: Duration = Duration::from_millis(100);
    let mut last = cpu(pid)?;
    for _ in 0..100 {
        thread::sleep(LOOK);
        let now = cpu(pid)?;
        // Timers and scans go on.
        if now.saturating_sub(last) < LOOK / 50 {
            return Ok(now);
        }
        last = now;
    }
    bail!("the gateway is still busy 10 s after its clients have left");
}

/// CPU time of a process in user and kernel mode, that of threads which have ended included.
fn cpu(pid: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into()?))?;
    Ok(clock_gettime(clock)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_threads_that_have_ended_counts() {
        let before = cpu(std::process::id()).unwrap();
        let work = thread::spawn(|| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(50) {}
        });
        work.join().unwrap();
        assert!(cpu(std::process::id()).unwrap() > before + Duration::from_millis(1));
    }

    #[test]
    fn a_median_takes_each_figure_by_itself() {
        let sample = |rate, cpu| Sample {
            rate,
            cpu,
            p50: 0.0,
            p99: 0.0,
        };
        let middle = median(&[sample(1.0, 30.0), sample(3.0, 10.0), sample(2.0, 20.0)]);
        assert_eq!((middle.rate, middle.cpu), (2.0, 20.0));
    }

    #[test]
    fn a_percentile_is_a_value_that_was_measured() {
        let mut values: Vec<_> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&mut values, 0.99), 100.0);
        assert_eq!(percentile(&mut values, 0.5), 51.0);
        assert_eq!(percentile(&mut [], 0.5), 0.0);
    }

    #[test]
    fn numbers_are_read_from_pgbench() {
        let text = "number of transactions actually processed: 400/400\ntps = 123.5 (without";
        assert_eq!(number_after(text, "actually processed: ").unwrap(), 400.0);
        assert_eq!(number_after(text, "tps = ").unwrap(), 123.5);
        assert!(number_after(text, "latency = ").is_err());
    }
}
