//! The service manager of one daemon, as far as a restart needs it: it hears what the daemon tells,
//! and keeps its listeners for the next one. `manager.py` speaks the protocol, since it takes `fork`
//! and descriptors by number.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::Result;
use nix::sys::signal::Signal;

use super::process::{Place, Process};

const SCRIPT: &str = include_str!("manager.py");

/// Dropping it closes what it keeps.
#[derive(Debug)]
pub(super) struct Manager {
    process: Process,
    dir: String,
}

impl Manager {
    /// One whose sockets are in `dir`.
    pub(super) fn new(place: &Place, dir: &Path) -> Result<Self> {
        let dir = dir.join("manager");
        fs::create_dir_all(&dir)?;
        let log = dir.join("heard");
        let dir = dir.display().to_string();
        let mut keep = place.command("python3", Signal::SIGTERM);
        keep.args(["-Bc", SCRIPT, "keep", &dir]);
        let mut process = Process::start("manager", keep, &log, Signal::SIGTERM)?;
        process.until_says("keeping", Duration::from_secs(30))?;
        Ok(Self { process, dir })
    }

    /// A command that starts `program` as the service, with what is kept. More arguments are its own.
    pub(super) fn command(&self, place: &Place, program: &Path) -> Command {
        let mut command = place.command("python3", Signal::SIGTERM);
        command
            .args(["-Bc", SCRIPT, "start", &self.dir])
            .arg(program);
        command
    }

    /// All that it heard, line by line; after each message a line `stored` with the names of what it
    /// keeps then.
    pub(super) fn heard(&self) -> String {
        self.process.output()
    }
}
