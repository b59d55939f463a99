//! COPY FROM STDIN: who reads or sends data now, and what becomes of the Syncs among them.
//!
//! ```text
//!   None -- CopyInResponse --> Reading -- the client ends its data --> Ended -- answered --> None
//!     |                           '------ the server fails --> Failed -- Syncs are sent --> None
//!     '-- CopyInResponse, of which the client must not know --> Refused -- CopyFail --> None
//! ```

/// See the module.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum CopyIn {
    /// The server has asked for no data, or they are dealt with.
    #[default]
    None,
    /// The server reads the data of a statement, and ignores a Sync.
    Reading {
        /// The statement's number.
        statement: u64,
        /// Syncs that came behind the last data. They don't go upstream before it is known whether the
        /// server still reads data, and would ignore them.
        syncs: usize,
    },
    /// The client has ended the data of the COPY that the server answers next.
    Ended,
    /// It has to be ended for a client that doesn't know of it.
    Refused,
    /// It has failed: the server would answer these Syncs.
    Failed {
        /// Held Syncs that have to go upstream.
        syncs: usize,
    },
}

impl CopyIn {
    /// The statement whose data the server reads.
    pub(in super::super) fn reading(self) -> Option<u64> {
        match self {
            Self::Reading { statement, .. } => Some(statement),
            _ => None,
        }
    }

    /// The server asks for data. False if it can't: the last COPY isn't dealt with.
    #[must_use]
    pub(in super::super) fn begin(&mut self, statement: u64, client_knows: bool) -> bool {
        let before = *self;
        *self = match client_knows {
            true => Self::Reading {
                statement,
                syncs: 0,
            },
            false => Self::Refused,
        };
        before == Self::None
    }

    /// The client sends data. Whether the server has read the Syncs before them can't be known.
    pub(in super::super) fn data(&mut self) {
        if let Self::Reading { syncs, .. } = self {
            *syncs = 0;
        }
    }

    /// The client sends a Sync. False unless it is held back.
    pub(in super::super) fn hold_sync(&mut self) -> bool {
        match self {
            Self::Reading { syncs, .. } => {
                *syncs += 1;
                true
            }
            _ => false,
        }
    }

    /// The client has ended its data.
    pub(in super::super) fn end(&mut self) {
        if matches!(self, Self::Reading { .. }) {
            *self = Self::Ended;
        }
    }

    /// What the server answered has completed. If that was a COPY, it has read on to the end of its data,
    /// and ignored the Syncs among them.
    pub(in super::super) fn completed(&mut self) {
        if !matches!(self, Self::Failed { .. }) {
            *self = Self::None;
        }
    }

    /// What the server answered has failed: it reads no more data.
    pub(in super::super) fn failed(&mut self) {
        *self = match *self {
            Self::Reading {
                syncs: syncs @ 1.., ..
            }
            | Self::Failed { syncs } => Self::Failed { syncs },
            _ => Self::None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(syncs: usize) -> CopyIn {
        let mut copy = CopyIn::default();
        assert!(copy.begin(7, true));
        (0..syncs).for_each(|_| assert!(copy.hold_sync()));
        copy
    }

    #[test]
    fn syncs_behind_the_last_data_go_upstream_once_it_has_failed_and_only_then() {
        let mut copy = reading(2);
        copy.failed();
        assert_eq!(copy, CopyIn::Failed { syncs: 2 });
        copy.completed();
        copy.failed();
        assert_eq!(copy, CopyIn::Failed { syncs: 2 }, "until they are sent");

        let mut copy = reading(2);
        copy.completed();
        assert_eq!(copy, CopyIn::None);

        let mut copy = reading(2);
        copy.data();
        copy.failed();
        assert_eq!(copy, CopyIn::None, "the server may have read them");
    }

    #[test]
    fn a_sync_is_held_only_while_data_are_read() {
        let mut copy = reading(0);
        assert_eq!(copy.reading(), Some(7));
        copy.end();
        assert_eq!(copy, CopyIn::Ended);
        assert_eq!(copy.reading(), None);
        assert!(!copy.hold_sync());
        assert!(!CopyIn::Refused.clone().hold_sync());
    }

    #[test]
    fn one_begins_when_the_last_is_dealt_with() {
        for mut copy in [
            reading(0),
            CopyIn::Ended,
            CopyIn::Refused,
            CopyIn::Failed { syncs: 1 },
        ] {
            assert!(!copy.begin(8, true), "{copy:?}");
        }
        let mut copy = CopyIn::None;
        assert!(copy.begin(8, false));
        assert_eq!(copy, CopyIn::Refused);
    }

    #[test]
    fn what_has_failed_by_itself_needs_no_end() {
        let mut copy = CopyIn::Refused;
        copy.failed();
        assert_eq!(copy, CopyIn::None);
    }
}
