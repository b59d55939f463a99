//! What the programs log, as tracing events. An agent decides how often a program has something to
//! say, so only so many lines a second pass.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::PollTimeout;

use super::Error;
use super::worker::{Stop, Worker};

/// Lines a second at most.
const LINES: u64 = 20;

/// Starts the thread that reads the log.
pub(super) fn start(ebpf: &mut Ebpf) -> Result<Worker, Error> {
    let logger = EbpfLogger::init_with_logger(ebpf, ToTracing::new())
        .map_err(|_| Error::Incomplete("AYA_LOGS"))?;
    // aya-log reads until there is nothing more, which agents that make lines fast enough can put off.
    Worker::spawn("weir-ebpf-log", move |stop| read(logger, &stop))
        .map(Worker::unjoined)
        .map_err(Error::io("the thread for the eBPF log can't be started"))
}

fn read(mut logger: EbpfLogger<ToTracing>, stop: &Stop) {
    while stop.wait(&[logger.as_fd()], PollTimeout::NONE) {
        logger.flush();
    }
}

struct ToTracing {
    start: Instant,
    /// The second since `start` in the upper half, lines in it in the lower.
    window: AtomicU64,
}

impl ToTracing {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            window: AtomicU64::new(0),
        }
    }

    /// How many lines this second has had, this one included. Only one thread logs.
    fn count(&self, now: Duration) -> u64 {
        let second = now.as_secs() << 32;
        let window = self.window.load(Ordering::Relaxed);
        let next = if window & !0xffff_ffff == second {
            window + 1
        } else {
            second + 1
        };
        self.window.store(next, Ordering::Relaxed);
        next & 0xffff_ffff
    }
}

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let count = self.count(self.start.elapsed());
        if count > LINES {
            if count == LINES + 1 {
                tracing::warn!(
                    "the eBPF programs log more than {LINES} lines a second; the rest is dropped"
                );
            }
            return;
        }
        let message = record.args();
        match record.level() {
            log::Level::Error => tracing::error!(target: "weir::ebpf", "{message}"),
            log::Level::Warn => tracing::warn!(target: "weir::ebpf", "{message}"),
            log::Level::Info => tracing::info!(target: "weir::ebpf", "{message}"),
            log::Level::Debug => tracing::debug!(target: "weir::ebpf", "{message}"),
            log::Level::Trace => tracing::trace!(target: "weir::ebpf", "{message}"),
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_by_the_second() {
        let log = ToTracing::new();
        assert_eq!(log.count(Duration::from_millis(100)), 1);
        assert_eq!(log.count(Duration::from_millis(900)), 2);
        assert_eq!(log.count(Duration::from_millis(1000)), 1);
        assert_eq!(log.count(Duration::from_millis(5000)), 1);
        assert_eq!(log.count(Duration::from_millis(5999)), 2);
    }
}
