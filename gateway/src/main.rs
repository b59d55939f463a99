//! The `weir` binary: makes sure that no secret ends up in a core dump, and hands over to the
//! command line.

use std::io::Write;
use std::process::ExitCode;

use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};

fn main() -> ExitCode {
    // Credentials and rows pass through this memory: no core dumps, and nobody of the same user
    // may attach to it.
    if let Err(e) = setrlimit(Resource::RLIMIT_CORE, 0, 0).and_then(|()| set_dumpable(false)) {
        // Nothing is left to do if standard error is gone too.
        let _ = writeln!(std::io::stderr(), "weir: cannot switch off core dumps: {e}");
        return ExitCode::FAILURE;
    }
    weir::cli::main()
}
