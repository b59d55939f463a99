//! Checks of the host, each with its fix.
