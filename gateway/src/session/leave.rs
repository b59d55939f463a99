//! Leaving a server that may still be at work: nothing runs on for a client that has left.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::responses::Cancel;

/// How long the server has to end the connection before it is asked again.
const PATIENCE: Duration = Duration::from_millis(200);
/// How long it is asked in all, beside the first time.
const LIMIT: Duration = Duration::from_secs(1);

/// Cancels what the server is doing and waits for the end of the connection. A server ignores a cancel
/// that comes before it has begun with the statement, so that one may not be enough.
pub(super) async fn cancelled<U, X>(upstream: &mut U, cancel: &X)
where
    U: AsyncRead + AsyncWrite + Unpin,
    X: Cancel,
{
    cancel.cancel().await;
    let _ = upstream.shutdown().await;
    let again = async {
        while timeout(PATIENCE, ended(upstream)).await.is_err() {
            cancel.cancel().await;
        }
    };
    let _ = timeout(LIMIT, again).await;
}

/// Reads to the end of the connection, whatever that brings.
async fn ended<U: AsyncRead + Unpin>(upstream: &mut U) {
    let mut rest = [0; 4096];
    while let Ok(1..) = upstream.read(&mut rest).await {}
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use tokio::io::DuplexStream;

    use super::*;

    /// A server that ends the connection at one of the requests.
    struct Server {
        stream: RefCell<Option<DuplexStream>>,
        asked: Cell<usize>,
        ends_at: usize,
    }

    impl Cancel for Server {
        async fn cancel(&self) {
            self.asked.set(self.asked.get() + 1);
            if self.asked.get() == self.ends_at {
                self.stream.take();
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_did_not_hear_it_is_asked_again_and_not_for_ever() {
        for (ends_at, asked) in [(1, 1..=1), (2, 2..=2), (usize::MAX, 4..=6)] {
            let (mut upstream, mut stream) = tokio::io::duplex(1 << 16);
            stream.write_all(&[0; 10_000]).await.expect("there is room");
            let server = Server {
                stream: RefCell::new(Some(stream)),
                asked: Cell::new(0),
                ends_at,
            };
            let begin = tokio::time::Instant::now();
            cancelled(&mut upstream, &server).await;
            assert!(
                asked.contains(&server.asked.get()),
                "{}",
                server.asked.get()
            );
            assert!(begin.elapsed() < 2 * LIMIT);
        }
    }
}
