//! Weir: nothing reaches the database that was not judged and recorded first.
//!
//! The way of a statement. Each arrow consumes the value before it, so that no stage can be
//! skipped; `session` is the only file that knows the whole order.
//!
//! ```text
//!   agent's connect()            kernel: redirect, remember where it wanted to go   gateway-ebpf
//!     -> accept                  a listener inside the agent's own namespace        listener, capture
//!     -> Origin                  destination, cgroup, pid, uid (a miss closes)      capture
//!     -> Identity                which agent this is (unknown: refused)             agents, identity
//!     -> Preflight               what would let it out (by setting: refused)       preflight
//!     -> Datastore, protocol     by destination and first bytes                     config, detect
//!     -> Client                  TLS, StartupMessage                                startup, tls
//!     -> Connected               dial, TLS, log in with Weir's own credential       upstream, credential
//!     -> for each statement:
//!          Analysis              effects, objects, functions, use of columns        sql
//!          Judgement             Allow(limits, masks) | Deny(reason)                judge, policy, catalog
//!          Recorded              the decision is in the journal                     record
//!          forward               the client's own bytes                             session, wire
//!          results               masked, counted, recorded, then sent               mask, record
//!     -> close                   the session's digest                               record
//! ```
//!
//! An agent's questions for names (DNS), where it reaches no resolver, go the same way up to its
//! identity, and are recorded and answered by `names`.
//!
//! Modules stand in four layers, and import only from the layers above them in this list
//! (`cargo xtask lint` checks it):
//!
//! | layer | modules |
//! |---|---|
//! | pure: no tokio, no files, no clock | `causes`, `identity`, `detect`, `wire`, `catalog`, `sql`, `policy`, `mask`, `judge` |
//! | edge | `capture`, `agents`, `tls`, `credential`, `files`, `upstream`, `startup`, `preflight`, `record`, `policy_store` |
//! | flow | `session`, `names`, `listener` |
//! | top | `config`, `control`, `daemon`, `doctor`, `cli` |

pub mod catalog;
pub mod causes;
pub mod detect;
pub mod identity;
pub mod judge;
pub mod mask;
pub mod policy;
pub mod sql;
pub mod wire;

pub mod agents;
pub mod capture;
pub mod credential;
pub mod files;
pub mod policy_store;
pub mod preflight;
pub mod record;
pub mod startup;
pub mod tls;
pub mod upstream;

pub mod listener;
pub mod names;
pub mod session;

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod doctor;
