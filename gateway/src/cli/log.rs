//! The daemon's log on standard error.
//!
//! Agents decide how often many of its lines are written: a start-up that fails, a process that is warned
//! of, what an eBPF program says. So only [`LINES`] a second of one kind pass, or the log would be full of
//! them, and journald, which has a limit for all of a service, would drop others behind them.

use std::collections::HashMap;
use std::fmt;
use std::io::{IsTerminal, stderr};
use std::sync::{Mutex, PoisonError};

use nix::time::{ClockId, clock_gettime};
use tracing::callsite::Identifier;
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

/// Lines a second at most of what one place in the code logs.
const LINES: u32 = 20;

/// How a line is written.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(super) enum Format {
    /// Lines for people
    Human,
    /// One JSON object per line
    Json,
}

/// Has everything logged from now on.
pub(super) fn start(format: Format) {
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr);
    match format {
        Format::Human => {
            let colours =
                stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            let log = log.with_ansi(colours).with_target(false);
            log.map_event_format(|lines| Bounded::new(lines, format, seconds))
                .init();
        }
        Format::Json => {
            let log = log.json().flatten_event(true);
            log.map_event_format(|lines| Bounded::new(lines, format, seconds))
                .init();
        }
    }
}

/// Seconds since some time, of a clock that isn't set.
fn seconds() -> i64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec())
}

/// Writes so many lines of a kind, and says in the last of them that it stops.
struct Bounded<F> {
    lines: F,
    format: Format,
    now: fn() -> i64,
    kinds: Mutex<HashMap<Identifier, Second>>,
}

/// A second of the clock, and the lines of a kind in it.
#[derive(Default)]
struct Second {
    number: i64,
    lines: u32,
}

impl Second {
    /// How many lines this second has had, this one included.
    fn count(&mut self, number: i64) -> u32 {
        if self.number != number {
            *self = Self { number, lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        self.lines
    }
}

impl<F> Bounded<F> {
    fn new(lines: F, format: Format, now: fn() -> i64) -> Self {
        Self {
            lines,
            format,
            now,
            kinds: Mutex::default(),
        }
    }

    fn count(&self, kind: Identifier) -> u32 {
        let now = (self.now)();
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.entry(kind).or_default().count(now)
    }
}

impl<S, N, F> FormatEvent<S, N> for Bounded<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let count = self.count(event.metadata().callsite());
        if count < LINES {
            return self.lines.format_event(context, writer, event);
        }
        if count > LINES {
            return Ok(());
        }
        let mut line = String::new();
        let whole = Writer::new(&mut line);
        self.lines.format_event(context, whole, event)?;
        let line = line.trim_end();
        match self.format {
            Format::Human => writeln!(
                writer,
                "{line} (more than {LINES} such lines a second: the rest of them is dropped)"
            ),
            Format::Json => {
                let open = line.strip_suffix('}').unwrap_or(line);
                writeln!(writer, "{open},\"rest_dropped\":true}}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.lines().map(str::to_owned).collect()
        }
    }

    fn log_much() {
        for agent in 0..100 {
            tracing::warn!(agent, "refused");
        }
        tracing::warn!("something else");
    }

    #[test]
    fn a_kind_of_line_fills_no_more_of_the_log_than_its_part() {
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .map_event_format(|lines| Bounded::new(lines, Format::Human, || 7));
        tracing::subscriber::with_default(log.finish(), log_much);
        let lines = written.lines();
        assert_eq!(lines.len(), 21, "{lines:?}");
        assert!(lines[18].ends_with("refused agent=18"), "{}", lines[18]);
        let last =
            "refused agent=19 (more than 20 such lines a second: the rest of them is dropped)";
        assert!(lines[19].ends_with(last), "{}", lines[19]);
        assert!(lines[20].ends_with("something else"), "{}", lines[20]);
    }

    #[test]
    fn each_line_of_json_stays_an_object() {
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .json()
            .flatten_event(true)
            .map_event_format(|lines| Bounded::new(lines, Format::Json, || 7));
        tracing::subscriber::with_default(log.finish(), log_much);
        let lines = written.lines();
        let objects: Vec<serde_json::Value> = lines
            .iter()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(objects.len(), 21, "{lines:?}");
        let dropped = objects
            .iter()
            .filter(|object| object["rest_dropped"] == true);
        let agents: Vec<_> = dropped.map(|object| object["agent"].as_i64()).collect();
        assert_eq!(agents, [Some(19)]);
    }

    #[test]
    fn each_second_has_its_own_lines() {
        let mut kind = Second::default();
        assert_eq!([kind.count(0), kind.count(0)], [1, 2]);
        assert_eq!([kind.count(7), kind.count(7), kind.count(8)], [1, 2, 1]);
    }
}
