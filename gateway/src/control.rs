//! The daemon's unix socket: HTTP and JSON for the CLI.
