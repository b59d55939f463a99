//! What can go wrong on the way upstream, and what of it an agent may be told.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::credential;

/// A step of opening a session upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The TCP connection.
    Dial,
    /// `SSLRequest` and the TLS handshake.
    Tls,
    /// From the `StartupMessage` to `AuthenticationOk`.
    Auth,
    /// From there to the first `ReadyForQuery`.
    Ready,
    /// A query on an open session.
    Query,
    /// A cancel request.
    Cancel,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dial => "connecting",
            Self::Tls => "the TLS handshake",
            Self::Auth => "logging in",
            Self::Ready => "session start",
            Self::Query => "a query",
            Self::Cancel => "a cancel request",
        })
    }
}

/// Why there is no session upstream, or why it can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection broke, or there never was one.
    #[error("{0} failed")]
    Io(Step, #[source] io::Error),
    /// Too slow.
    #[error("{step} took more than {} s", limit.as_secs_f32())]
    Timeout {
        /// The step that was under way.
        step: Step,
        /// The limit of the whole.
        limit: Duration,
    },
    /// The server doesn't do TLS, and the setting wants it.
    #[error("the server refuses TLS")]
    TlsRefused,
    /// The handshake failed; most of all, the server's certificate isn't the one expected.
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The settings of TLS can't be used.
    #[error("cannot use {}", path.display())]
    Ca {
        /// The file of authorities.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// rustls doesn't take the settings.
    #[error("cannot set up TLS")]
    TlsSettings(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The server's name can't be verified.
    #[error("{0:?} is neither a host name nor an address")]
    ServerName(String),
    /// The credential can't be had.
    #[error("cannot get the credential")]
    Credential(#[from] credential::Error),
    /// The server asks for a way to log in that the settings don't allow.
    #[error("the server asks for {0}, which the settings don't allow (see allow_auth)")]
    AuthNotAllowed(&'static str),
    /// The server asks for a way to log in that Weir doesn't know.
    #[error("the server asks for an authentication that is not supported ({0})")]
    AuthUnsupported(String),
    /// The SCRAM exchange failed: the server couldn't prove that it knows the password's verifier.
    #[error("the SCRAM exchange failed")]
    Scram(#[source] io::Error),
    /// A start-up parameter that can't be sent.
    #[error("start-up parameter {0:?} cannot be set by a client")]
    Parameter(String),
    /// Neither server nor network error: bytes that PostgreSQL's protocol doesn't allow here.
    #[error("protocol violation during {step}: {what}")]
    Protocol {
        /// When it came.
        step: Step,
        /// What was wrong.
        what: &'static str,
    },
    /// The session has a setting under which statements can't be judged.
    #[error("the server reports {name} = {value:?}, and Weir needs {wanted}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// What the server reports.
        value: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// The server said no.
    #[error("server: {message} ({sqlstate})")]
    Server {
        /// The server's SQLSTATE.
        sqlstate: String,
        /// Its primary message.
        message: String,
    },
    /// An answer larger than anything that was asked for.
    #[error("the server's answer is larger than {0} bytes")]
    TooLarge(usize),
    /// An earlier error left this session in an unknown state.
    #[error("the session is broken by an earlier error")]
    Broken,
}

/// What an agent is told: a SQLSTATE and a sentence that holds nothing of Weir's log-in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientError {
    /// Five characters. Never of class 08 or 40, which drivers retry.
    pub sqlstate: &'static str,
    /// The message, in English.
    pub message: String,
}

impl Error {
    /// The SQLSTATE of the server's own error, where there was one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Server { sqlstate, .. } => Some(sqlstate),
            _ => None,
        }
    }

    /// What a client that wanted a session on `datastore` may know of this.
    ///
    /// Only what the client itself had a hand in (the database, its start-up parameters) is passed
    /// on in the server's words.
    pub fn for_client(&self, datastore: &str) -> ClientError {
        let (sqlstate, message) = match self {
            Self::Server { sqlstate, message } => {
                return server_for_client(sqlstate, message, datastore);
            }
            Self::Credential(_)
            | Self::AuthNotAllowed(_)
            | Self::AuthUnsupported(_)
            | Self::Scram(_) => (
                "28000",
                format!("Weir could not log in to datastore {datastore}"),
            ),
            Self::Parameter(name) => (
                "22023",
                format!("start-up parameter {name:?} is not allowed"),
            ),
            Self::Timeout { .. } => (
                "57P03",
                format!("datastore {datastore} did not answer Weir in time"),
            ),
            Self::Io(Step::Dial, _) => {
                ("57P03", format!("Weir cannot reach datastore {datastore}"))
            }
            Self::Tls(_)
            | Self::TlsRefused
            | Self::Ca { .. }
            | Self::TlsSettings(_)
            | Self::ServerName(_) => (
                "57P03",
                format!("Weir could not make a secure connection to datastore {datastore}"),
            ),
            Self::Setting { .. } => (
                "57P03",
                format!(
                    "datastore {datastore} has settings under which Weir cannot judge statements"
                ),
            ),
            Self::Io(..) | Self::Protocol { .. } | Self::TooLarge(_) | Self::Broken => (
                "57P03",
                format!("Weir lost its connection to datastore {datastore}"),
            ),
        };
        ClientError { sqlstate, message }
    }
}

fn server_for_client(sqlstate: &str, message: &str, datastore: &str) -> ClientError {
    let (sqlstate, message) = match sqlstate {
        "3D000" => ("3D000", message.to_owned()),
        "22023" => ("22023", message.to_owned()),
        "42704" => ("42704", message.to_owned()),
        "53300" => (
            "53300",
            format!("datastore {datastore} has no connection left for Weir"),
        ),
        "42501" => (
            "42501",
            format!("Weir's log-in may not open this database of datastore {datastore}"),
        ),
        code if code.starts_with("28") => (
            "28000",
            format!("Weir could not log in to datastore {datastore}"),
        ),
        _ => (
            "57P03",
            format!("datastore {datastore} refused the session"),
        ),
    };
    ClientError { sqlstate, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(sqlstate: &str) -> Error {
        Error::Server {
            sqlstate: sqlstate.into(),
            message: "role \"weir_agents\" is odd".into(),
        }
    }

    #[test]
    fn no_error_reaches_a_client_in_a_class_that_drivers_retry() {
        let io = || io::Error::other("10.0.0.1 weir_agents");
        let errors = [
            Error::Io(Step::Dial, io()),
            Error::Io(Step::Ready, io()),
            Error::Timeout {
                step: Step::Auth,
                limit: Duration::from_secs(1),
            },
            Error::Tls(io()),
            Error::TlsRefused,
            Error::Scram(io()),
            Error::AuthNotAllowed("md5"),
            Error::Protocol {
                step: Step::Auth,
                what: "weir_agents",
            },
            server("08006"),
            server("40001"),
            server("28P01"),
            server("57P03"),
            server("XX000"),
        ];
        for error in errors {
            let told = error.for_client("appdb");
            assert!(
                !["08", "40"].contains(&&told.sqlstate[..2]),
                "{error} -> {told:?}"
            );
            assert!(!told.message.contains("weir_agents"), "{error} -> {told:?}");
        }
    }

    #[test]
    fn a_wrong_credential_and_an_unknown_database_are_told_apart() {
        assert_eq!(server("28P01").for_client("appdb").sqlstate, "28000");
        assert_eq!(server("3D000").for_client("appdb").sqlstate, "3D000");
    }
}
