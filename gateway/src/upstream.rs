//! The way to the datastores: dial, TLS, log in with Weir's own credential.
//!
//! [`connect`] gives the raw stream of a session that is ready for its first statement;
//! [`Connection`] is a small client for Weir's own queries. A server is not trusted either: each
//! message is bounded and checked, everything runs under one time limit, and a session whose
//! settings would make the server read a statement differently from Weir is not used.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

pub mod catalog;
mod connection;
mod error;
mod frames;
mod login;
mod stream;
mod tls;

pub use connection::{Connection, Row};
pub use error::{ClientError, Error, Step};
pub use stream::Stream;
pub use tls::{Tls, TlsMode};

use crate::credential;

/// `CancelRequest`'s code.
const CANCEL_REQUEST: i32 = 80_877_102;

/// A datastore as it is dialled.
#[derive(Debug, Clone)]
pub struct Target {
    /// The name that the server's certificate must bear; `None` for the address that is dialled.
    pub server_name: Option<String>,
    /// How the connection is protected.
    pub tls: Tls,
    /// Who Weir is there.
    pub login: Login,
    /// The limit of the whole way from the dial to `ReadyForQuery`.
    pub connect_timeout: Duration,
}

/// Weir's log-in at a datastore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Where its password comes from, each time anew.
    pub password: credential::Source,
    /// Weak ways to log in that are allowed.
    pub allow: AuthPolicy,
}

/// Which ways to log in are allowed besides SCRAM: those that hand a password, or what is as good
/// as one, to whoever asks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AuthPolicy {
    /// MD5.
    pub md5: bool,
    /// The bare password.
    pub cleartext: bool,
}

/// What a session is opened with.
#[derive(Debug, Clone)]
pub struct Startup<'a> {
    /// The database.
    pub database: &'a str,
    /// Start-up parameters that were allowed, `application_name` among them. `user`, `database`,
    /// `replication` and `client_encoding` are Weir's own and refused here.
    pub parameters: Vec<(String, String)>,
}

/// A session that is ready for its first statement.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: Stream,
    /// What the server reported, in its order.
    pub parameters: Vec<(String, String)>,
    /// What it takes to cancel a statement of this session, where the server supports it.
    pub key: Option<BackendKey>,
    /// Bytes that came after `ReadyForQuery`; empty but for an asynchronous message that arrived
    /// together with it.
    pub leftover: Vec<u8>,
}

/// The server's cancel key. It never reaches a client.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendKey {
    /// The server's process.
    pub pid: i32,
    /// The secret, 4 to 256 bytes.
    pub secret: Vec<u8>,
}

impl fmt::Debug for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendKey")
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

/// Opens a session on the server at `dst`.
///
/// Cancel safe: dropping the future closes the connection.
pub async fn connect(
    target: &Target,
    dst: SocketAddr,
    startup: &Startup<'_>,
) -> Result<Connected, Error> {
    let deadline = Deadline::new(target.connect_timeout);
    let mut stream = open(target, dst, &deadline).await?;
    let login = login::authenticate(&mut stream, &target.login, startup);
    let frames = deadline.run(Step::Auth, login).await?;
    let session = deadline
        .run(Step::Ready, login::ready(&mut stream, frames))
        .await?;
    let login::Session {
        parameters,
        key,
        leftover,
    } = session;
    Ok(Connected {
        stream,
        parameters,
        key,
        leftover,
    })
}

/// Asks the server at `dst` to cancel the statement that runs in the session of `key`, over a
/// connection as protected as that session's. Returns when the server has taken the request;
/// whether there was anything to cancel it doesn't say.
pub async fn cancel(target: &Target, dst: SocketAddr, key: &BackendKey) -> Result<(), Error> {
    let deadline = Deadline::new(target.connect_timeout);
    let mut stream = open(target, dst, &deadline).await?;
    let mut message = Vec::with_capacity(12 + key.secret.len());
    // At most 268: see the key's length.
    message.extend((12 + key.secret.len() as u32).to_be_bytes());
    message.extend(CANCEL_REQUEST.to_be_bytes());
    message.extend(key.pid.to_be_bytes());
    message.extend(&key.secret);
    let request = async {
        let failed = |e| Error::Io(Step::Cancel, e);
        stream.write_all(&message).await.map_err(failed)?;
        stream.flush().await.map_err(failed)?;
        // The server closes without a word when it has done its part, over TLS without a
        // close_notify; any end will do.
        let _ = stream.read(&mut [0]).await;
        Ok(())
    };
    deadline.run(Step::Cancel, request).await
}

async fn open(target: &Target, dst: SocketAddr, deadline: &Deadline) -> Result<Stream, Error> {
    let tcp = deadline.run(Step::Dial, dial(dst)).await?;
    let tls = target
        .tls
        .negotiate(tcp, target.server_name.as_deref(), dst);
    deadline.run(Step::Tls, tls).await
}

async fn dial(dst: SocketAddr) -> Result<TcpStream, Error> {
    let dial = async {
        let tcp = TcpStream::connect(dst).await?;
        tcp.set_nodelay(true)?;
        // A server that is gone without a word is noticed within two minutes.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(15))
            .with_retries(4);
        SockRef::from(&tcp).set_tcp_keepalive(&keepalive)?;
        Ok(tcp)
    };
    dial.await.map_err(|e| Error::Io(Step::Dial, e))
}

/// One limit for several steps, so that the error can name the one that was too slow.
struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    fn new(limit: Duration) -> Self {
        Self {
            at: Instant::now() + limit,
            limit,
        }
    }

    async fn run<T>(
        &self,
        step: Step,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let done = tokio::time::timeout_at(self.at, work).await;
        done.unwrap_or_else(|_| {
            Err(Error::Timeout {
                step,
                limit: self.limit,
            })
        })
    }
}
