//! What the developer's commands and Weir's end-to-end tests share.
//!
//! `world` builds a small, real host (a network namespace, a slice of cgroups, PostgreSQL, the
//! daemon, agents) and takes it down again without a trace. The demo, the bench and
//! `gateway/tests/e2e` all stand on it, so that there is one way to do it.

pub mod cache;
pub mod steps;
pub mod world;
