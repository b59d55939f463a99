//! What the programs log, as tracing events.

use std::os::fd::AsFd;

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::PollTimeout;

use super::Error;
use super::worker::{Stop, Worker};

/// Starts the thread that reads the log.
pub(super) fn start(ebpf: &mut Ebpf) -> Result<Worker, Error> {
    let logger =
        EbpfLogger::init_with_logger(ebpf, ToTracing).map_err(|_| Error::Incomplete("AYA_LOGS"))?;
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

struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
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
