//! Weir from end to end: real clients in real cgroups and namespaces, real eBPF, a real
//! PostgreSQL. Needs root; `cargo xtask test` runs it.

mod harness;
mod support;
