//! The kinds of thing that a statement can do. Their names are those of policy files, and their
//! order is the order of the bits in the journal: append only.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! effects {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// One way in which a statement acts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Effect { $($(#[$doc])* $variant,)* }

        impl Effect {
            /// Every effect, in order.
            pub const ALL: &'static [Effect] = &[$(Effect::$variant,)*];

            /// The name that policies and records use.
            pub fn as_str(self) -> &'static str {
                match self { $(Effect::$variant => $name,)* }
            }
        }
    };
}

effects! {
    /// Reads rows of a relation.
    Read = "read",
    /// Adds rows.
    Insert = "insert",
    /// Changes rows.
    Update = "update",
    /// Removes rows.
    Delete = "delete",
    /// Removes all rows.
    Truncate = "truncate",
    /// Creates, alters, drops, renames or comments an object.
    Ddl = "ddl",
    /// Changes who may do what, or who the session acts as.
    Privilege = "privilege",
    /// Reads or changes the session's own state: settings, prepared statements, cursors.
    Session = "session",
    /// Begins, ends or divides a transaction.
    Transaction = "transaction",
    /// VACUUM, ANALYZE, REINDEX and their like.
    Maintenance = "maintenance",
    /// Takes a lock on a table or on rows.
    Lock = "lock",
    /// LISTEN, UNLISTEN, NOTIFY.
    Notify = "notify",
    /// Runs or installs code that this analysis can't see into: DO, CALL, CREATE FUNCTION.
    Procedural = "procedural",
    /// COPY .. FROM STDIN.
    BulkLoad = "bulk_load",
    /// COPY .. TO STDOUT.
    BulkExport = "bulk_export",
    /// Reaches outside the database: files, programs, libraries, other servers.
    UnsafeIo = "unsafe_io",
    /// What could not be understood.
    Unknown = "unknown",
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that names no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no effect is called `{0}`")]
pub struct NotAnEffect(String);

impl FromStr for Effect {
    type Err = NotAnEffect;

    fn from_str(word: &str) -> Result<Self, NotAnEffect> {
        Effect::ALL
            .iter()
            .copied()
            .find(|e| e.as_str() == word)
            .ok_or_else(|| NotAnEffect(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_and_matches_serde() {
        for e in Effect::ALL {
            assert_eq!(e.as_str().parse::<Effect>(), Ok(*e));
            assert_eq!(
                serde_json::to_string(e).unwrap(),
                format!("\"{}\"", e.as_str())
            );
        }
        assert!("drop".parse::<Effect>().is_err());
    }
}
