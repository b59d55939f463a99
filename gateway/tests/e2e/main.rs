//! Weir from end to end: real clients in real cgroups and namespaces, real eBPF, a real
//! PostgreSQL. Needs root; `cargo xtask test` runs it.
//!
//! Each test has a world of its own (`xtask::world`), so they run side by side.

mod agents;
mod bypass;
mod drivers;
mod egress;
mod encryption;
mod failing;
mod harness;
mod masking;
mod names;
mod psql;
mod questions;
mod refusing;
mod restart;
mod sequences;
mod sessions;
mod support;
