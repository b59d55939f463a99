//! How a session begins and ends: its id, the JSON of `Open` and of `Close`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::entry::Totals;

/// A session's id: a UUID v7, so that ids sort by time. Shown hyphenated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(Uuid);

impl SessionId {
    /// A new id, of now.
    pub fn now() -> SessionId {
        SessionId(Uuid::now_v7())
    }

    pub(super) fn from_bytes(bytes: [u8; 16]) -> SessionId {
        SessionId(Uuid::from_bytes(bytes))
    }

    pub(super) fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// The UTC day of the id's own time stamp, `YYYY-MM-DD`: the directory of its journal.
    pub fn day(self) -> String {
        let seconds = self.0.get_timestamp().map_or(0, |t| t.to_unix().0);
        let seconds = i64::try_from(seconds).unwrap_or(0);
        let date = time::OffsetDateTime::from_unix_timestamp(seconds)
            .unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
            .date();
        format!(
            "{:04}-{:02}-{:02}",
            date.year(),
            u8::from(date.month()),
            date.day()
        )
    }

    /// Where the journal of this session is.
    pub fn path_in(self, journal: &Path) -> PathBuf {
        journal.join(self.day()).join(format!("{self}.{EXTENSION}"))
    }
}

/// The extension of a journal's file name.
pub(super) const EXTENSION: &str = "weir";

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for SessionId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<SessionId, uuid::Error> {
        Uuid::try_parse(text).map(SessionId)
    }
}

impl TryFrom<String> for SessionId {
    type Error = uuid::Error;
    fn try_from(text: String) -> Result<SessionId, uuid::Error> {
        text.parse()
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> String {
        id.to_string()
    }
}

/// Who connected from where to what: the first record of a journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOpen {
    /// The session's id; also the journal's file name.
    pub id: SessionId,
    /// When the client was accepted: microseconds since the Unix epoch.
    pub at: u64,
    /// The agent's name; verified by the kernel's word.
    pub agent: Arc<str>,
    /// The agent's groups.
    pub groups: Vec<Arc<str>>,
    /// The datastore's name in the configuration.
    pub datastore: Arc<str>,
    /// Where the agent connected to, `address:port`.
    pub destination: String,
    /// Path of the connecting process's cgroup below the cgroup2 mount.
    pub cgroup: String,
    /// The container's id, where the cgroup's path holds one.
    pub container: Option<String>,
    /// Process id in the daemon's PID namespace.
    pub pid: u32,
    /// User id of the process.
    pub uid: u32,
    /// The process's command name.
    pub comm: String,
    /// Path of its executable, if it could be read.
    pub exe: Option<String>,
    /// The user name that the client claims; recorded and replaced.
    pub claimed_user: String,
    /// The database that the client asked for.
    pub database: String,
    /// The client's other start-up parameters, as sent.
    pub parameters: Vec<(String, String)>,
    /// TLS version and cipher between client and Weir; `None`: no TLS.
    pub client_tls: Option<String>,
    /// What Weir logged in to; `None` where it did not come to that.
    pub upstream: Option<Upstream>,
    /// SHA-256 of the policy at the start, hex.
    pub policy: String,
    /// Version of the daemon.
    pub weir: String,
}

/// The connection to the database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// `address:port`.
    pub address: String,
    /// Name of the role that Weir logged in as.
    pub user: String,
    /// TLS version and cipher; `None`: no TLS.
    pub tls: Option<String>,
}

/// Why a session ended. The text of a variant is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason", content = "detail")]
pub enum CloseReason {
    /// The client said Terminate.
    ClientQuit,
    /// The client's connection ended without a word.
    ClientLost,
    /// The database ended the connection, or the connection broke.
    UpstreamLost,
    /// The session was not allowed, or could not be set up.
    Refused(String),
    /// There was no session: the agent spoke to a database past Weir, and was stopped.
    Bypass(String),
    /// There was no session: the agent asked for names, and this journal of it is over.
    Questions(String),
    /// One side broke the protocol.
    ProtocolError(String),
    /// A time limit passed.
    TimedOut(String),
    /// The daemon shut down.
    Drained,
    /// Weir failed.
    Internal(String),
}

impl CloseReason {
    /// The reason in words, without its detail.
    pub fn as_str(&self) -> &'static str {
        match self {
            CloseReason::ClientQuit => "client quit",
            CloseReason::ClientLost => "client lost",
            CloseReason::UpstreamLost => "upstream lost",
            CloseReason::Refused(_) => "refused",
            CloseReason::Bypass(_) => "bypass attempt",
            CloseReason::Questions(_) => "end of questions",
            CloseReason::ProtocolError(_) => "protocol error",
            CloseReason::TimedOut(_) => "timed out",
            CloseReason::Drained => "drained",
            CloseReason::Internal(_) => "internal error",
        }
    }

    /// What there is to say beyond [`CloseReason::as_str`].
    pub fn detail(&self) -> Option<&str> {
        match self {
            CloseReason::Refused(d)
            | CloseReason::Bypass(d)
            | CloseReason::Questions(d)
            | CloseReason::ProtocolError(d)
            | CloseReason::TimedOut(d)
            | CloseReason::Internal(d) => Some(d),
            CloseReason::ClientQuit
            | CloseReason::ClientLost
            | CloseReason::UpstreamLost
            | CloseReason::Drained => None,
        }
    }
}

/// The last record of a session that ended in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// When: microseconds since the Unix epoch.
    pub at: u64,
    /// Why.
    #[serde(flatten)]
    pub reason: CloseReason,
    /// What the session came to.
    pub totals: Totals,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_day_of_a_session_is_that_of_its_id() {
        // 0x018bcfe5_6800 ms = 1700000000000 ms = 2023-11-14T22:13:20Z.
        let id: SessionId = "018bcfe5-6800-7000-8000-000000000000".parse().unwrap();
        assert_eq!(id.day(), "2023-11-14");
        assert_eq!(
            id.path_in(Path::new("/j")),
            Path::new("/j/2023-11-14/018bcfe5-6800-7000-8000-000000000000.weir")
        );
    }

    #[test]
    fn a_close_reason_survives_json() {
        for reason in [CloseReason::Drained, CloseReason::Bypass("at x".into())] {
            let close = Close {
                at: 5,
                reason,
                totals: Totals::default(),
            };
            let json = serde_json::to_string(&close).unwrap();
            assert_eq!(serde_json::from_str::<Close>(&json).unwrap(), close);
        }
    }
}
