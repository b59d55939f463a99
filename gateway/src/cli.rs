//! The command line.

pub mod audit;
pub mod policy;
pub mod replay;
pub mod sessions;
pub mod tail;
