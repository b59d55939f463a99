//! `weir ca`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use crate::tls::CERTIFICATE_FILE;

const HELP: &str = "\
Agents reach their database with sslmode=require as it is. For verify-full they need this
certificate; it is made when the daemon first starts and stays the same after that.

Examples:
  weir ca > weir-ca.pem
  psql 'host=db.prod.internal sslmode=verify-full sslrootcert=weir-ca.pem'";

/// Print the certificate that agents need for sslmode=verify-full.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {}

pub(super) fn run(_: &Args, dir: &Path) -> anyhow::Result<ExitCode> {
    let file = dir.join(CERTIFICATE_FILE);
    let pem = match std::fs::read_to_string(&file) {
        Ok(pem) => pem,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            bail!(
                "{} isn't there yet: the daemon makes it when it first starts",
                file.display()
            )
        }
        Err(e) => return Err(e).with_context(|| format!("cannot read {}", file.display())),
    };
    io::stdout().lock().write_all(pem.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
