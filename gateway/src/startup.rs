//! A client's way from its first byte to a StartupMessage.
//!
//! Guarantees: at most [`FIRST_PACKET_LIMIT`] bytes are read per packet and the caller's time limit
//! bounds the whole; no byte that arrived in plain text is ever read as part of the TLS session
//! (CVE-2021-23214); GSS encryption is refused; TLS is entered at most once.
//!
//! ```text
//!   first byte 0x16 -> TLS (ALPN "postgresql") -> StartupMessage | CancelRequest
//!   GSSENCRequest -> 'N', again
//!   SSLRequest    -> 'S', TLS -> StartupMessage | CancelRequest
//!   StartupMessage | CancelRequest, in plain text where the datastore allows it
//! ```

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::detect::{self, Opening};
use crate::wire::{self, FIRST_PACKET_LIMIT, FirstPacket, ProtocolVersion, Startup};

/// What TLS means to a datastore's clients.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// Weir's leaf for the datastore.
    pub config: Arc<ServerConfig>,
    /// Whether a client that doesn't ask for TLS is refused.
    pub required: bool,
}

/// A connection after its start-up.
#[derive(Debug)]
pub enum Hello {
    /// A session: the stream stands right behind the StartupMessage.
    Session {
        /// The client, in TLS if it wanted.
        client: Client,
        /// What it claims.
        startup: Startup,
    },
    /// A CancelRequest; nothing is ever answered to it.
    Cancel {
        /// Whoever asks; gets no answer.
        client: Client,
        /// The key's process id.
        pid: i32,
        /// The key's secret.
        secret: Vec<u8>,
    },
}

/// Why a start-up failed. [`Error::client`] gives the stream back where an answer can be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection broke, or ended before its StartupMessage.
    #[error("the client's connection failed during start-up")]
    Io(#[from] io::Error),
    /// The first bytes are of no protocol that the datastore speaks.
    #[error("the first bytes are not PostgreSQL's")]
    NotPostgres,
    /// A first packet that can't be read.
    #[error("unreadable first packet")]
    Wire(#[from] wire::Error),
    /// A first packet below 8 bytes or over [`FIRST_PACKET_LIMIT`].
    #[error("first packet of {0} bytes")]
    Length(u32),
    /// Bytes behind an SSLRequest that came before the handshake.
    #[error("bytes in plain text behind the SSLRequest")]
    Injection,
    /// Direct TLS without ALPN `postgresql`, or encryption asked for twice.
    #[error("{0}")]
    Sequence(&'static str),
    /// The datastore wants TLS and the client didn't ask for it.
    #[error("the client did not ask for TLS, which this datastore requires")]
    TlsRequired(Box<Client>),
    /// The client speaks another major version of the protocol.
    #[error("the client asked for protocol {}.{}", .1.major, .1.minor)]
    Version(Box<Client>, ProtocolVersion),
}

/// The agent's side of a session.
#[derive(Debug)]
pub enum Client {
    /// In plain text, which never leaves the host's loopback.
    Plain(TcpStream),
    /// In TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Client {
    /// The TLS version, for the record; `None` in plain text.
    pub fn tls_version(&self) -> Option<&'static str> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(t) => match t.get_ref().1.protocol_version() {
                Some(rustls::ProtocolVersion::TLSv1_3) => Some("TLSv1.3"),
                Some(rustls::ProtocolVersion::TLSv1_2) => Some("TLSv1.2"),
                _ => Some("TLS"),
            },
        }
    }
}

impl AsyncRead for Client {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Client {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_write(cx, buf),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Takes a fresh connection to its StartupMessage or CancelRequest.
///
/// # Errors
/// See [`Error`]; the connection is to be closed. Not cancel safe: after a time-out, close.
pub async fn greet(tcp: TcpStream, tls: &ClientTls) -> Result<Hello, Error> {
    match detect::opening(peek_first(&tcp).await?) {
        Opening::Postgres => plain(tcp, tls).await,
        Opening::Tls => {
            let client = accept(tcp, tls).await?;
            if client.get_ref().1.alpn_protocol() != Some(b"postgresql") {
                return Err(Error::Sequence("direct TLS without ALPN \"postgresql\""));
            }
            inside_tls(client).await
        }
        Opening::Unknown => Err(Error::NotPostgres),
    }
}

async fn peek_first(tcp: &TcpStream) -> Result<u8, Error> {
    let mut first = [0];
    if tcp.peek(&mut first).await? == 0 {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(first[0])
}

async fn plain(mut tcp: TcpStream, tls: &ClientTls) -> Result<Hello, Error> {
    let mut gss_refused = false;
    loop {
        match first_packet(&mut tcp).await? {
            FirstPacket::GssEnc if !gss_refused => {
                gss_refused = true;
                tcp.write_all(b"N").await?;
            }
            FirstPacket::GssEnc => return Err(Error::Sequence("a second GSSENCRequest")),
            FirstPacket::Ssl => {
                refuse_bytes_behind_the_request(&tcp)?;
                tcp.write_all(b"S").await?;
                return inside_tls(accept(tcp, tls).await?).await;
            }
            FirstPacket::Cancel { pid, secret } => {
                return Ok(Hello::Cancel {
                    client: Client::Plain(tcp),
                    pid,
                    secret,
                });
            }
            FirstPacket::Unsupported(version) => {
                return Err(Error::Version(Box::new(Client::Plain(tcp)), version));
            }
            FirstPacket::Startup(_) if tls.required => {
                return Err(Error::TlsRequired(Box::new(Client::Plain(tcp))));
            }
            FirstPacket::Startup(startup) => {
                return Ok(Hello::Session {
                    client: Client::Plain(tcp),
                    startup,
                });
            }
        }
    }
}

/// A client waits for the answer to its SSLRequest. Bytes that are there already were put in by
/// someone who can't break TLS but would like to speak before it.
fn refuse_bytes_behind_the_request(tcp: &TcpStream) -> Result<(), Error> {
    let mut byte = [0];
    match tcp.try_read(&mut byte) {
        Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Ok(_) => Err(Error::Injection),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(e) => Err(e.into()),
    }
}

async fn accept(tcp: TcpStream, tls: &ClientTls) -> Result<Box<TlsStream<TcpStream>>, Error> {
    Ok(Box::new(
        TlsAcceptor::from(Arc::clone(&tls.config))
            .accept(tcp)
            .await?,
    ))
}

async fn inside_tls(mut tls: Box<TlsStream<TcpStream>>) -> Result<Hello, Error> {
    match first_packet(tls.as_mut()).await? {
        FirstPacket::Startup(startup) => Ok(Hello::Session {
            client: Client::Tls(tls),
            startup,
        }),
        FirstPacket::Cancel { pid, secret } => Ok(Hello::Cancel {
            client: Client::Tls(tls),
            pid,
            secret,
        }),
        FirstPacket::Unsupported(version) => {
            Err(Error::Version(Box::new(Client::Tls(tls)), version))
        }
        FirstPacket::Ssl | FirstPacket::GssEnc => {
            Err(Error::Sequence("encryption asked for inside TLS"))
        }
    }
}

/// Reads exactly one first packet, never a byte more.
async fn first_packet(stream: &mut (impl AsyncRead + Unpin)) -> Result<FirstPacket, Error> {
    let length = stream.read_u32().await?;
    let size = length as usize;
    if !(8..=FIRST_PACKET_LIMIT).contains(&size) {
        return Err(Error::Length(length));
    }
    let mut packet = vec![0; size - 4];
    stream.read_exact(&mut packet).await?;
    Ok(FirstPacket::decode(&packet)?)
}
