//! The command line's side of the control socket.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use super::{Agents, OpenSession, Path, PathBuf, Status, UnixStream, io};

/// A daemon that is alive answers at once.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The longest answer, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// Why the daemon couldn't be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens.
    #[error("the daemon is not running (nobody listens on {}); start it with: systemctl start weir, or weir run", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// This user may not ask.
    #[error("no permission to ask the daemon on {}; use root or a member of group weir", path.display())]
    Permission {
        /// The socket.
        path: PathBuf,
    },
    /// The connection broke.
    #[error("cannot ask the daemon on {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer isn't one of this version's.
    #[error("the daemon's answer makes no sense (is it of another version?)")]
    Answer {
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A way to the daemon; each question is a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
}

impl Client {
    /// A client of the daemon that listens at `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Asks how the daemon is.
    pub async fn status(&self) -> Result<Status, Error> {
        self.json("/v1/status").await
    }

    /// Asks which sessions are open.
    pub async fn open_sessions(&self) -> Result<Vec<OpenSession>, Error> {
        self.json("/v1/sessions/open").await
    }

    /// Asks who is governed.
    pub async fn agents(&self) -> Result<Agents, Error> {
        self.json("/v1/agents").await
    }

    /// Has the daemon look at its policy files. What came of it is in [`Status::policy`].
    pub async fn reload(&self) -> Result<(), Error> {
        self.ask(Method::POST, "/v1/reload").await.map(drop)
    }

    async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let body = self.ask(Method::GET, path).await?;
        serde_json::from_slice(&body).map_err(|e| Error::Answer { source: e.into() })
    }

    async fn ask(&self, method: Method, path: &str) -> Result<Bytes, Error> {
        let answer = tokio::time::timeout(TIMEOUT, self.exchange(method, path)).await;
        answer.unwrap_or_else(|late| Err(self.broken(late)))
    }

    async fn exchange(&self, method: Method, path: &str) -> Result<Bytes, Error> {
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|e| self.unreachable(e))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(|e| self.broken(e))?;
        // Ends when the sender is dropped, below. Its errors reach the request too.
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "weir")
            .body(Empty::new())
            .map_err(|e| self.broken(e))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|e| self.broken(e))?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::FORBIDDEN => {
                return Err(Error::Permission {
                    path: self.path.clone(),
                });
            }
            status => {
                return Err(Error::Answer {
                    source: status.to_string().into(),
                });
            }
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        body.map(|body| body.to_bytes())
            .map_err(|source| self.broken(source))
    }

    fn unreachable(&self, error: io::Error) -> Error {
        let path = self.path.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::NotRunning { path }
            }
            io::ErrorKind::PermissionDenied => Error::Permission { path },
            _ => self.broken(error),
        }
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::Io {
            path: self.path.clone(),
            source: source.into(),
        }
    }
}
