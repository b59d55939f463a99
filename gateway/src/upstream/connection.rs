//! A small client for Weir's own queries: the catalog, and the doctor's questions.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use super::error::{Error, Step};
use super::frames::{Body, Frames, error_response};
use super::stream::Stream;
use super::{Connected, Startup, Target, connect};

/// The longest message of an answer, in bytes.
const MAX_MESSAGE: usize = 64 << 20;
/// The largest answer in bytes: a catalog of a million columns stays below it.
const MAX_ANSWER: usize = 512 << 20;
/// How long one query may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// A row in text format; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// A session of Weir's own, by the simple protocol.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    parameters: Vec<(String, String)>,
    /// Set while an answer is outstanding. A query that ends early, by an error or because its
    /// future is dropped, leaves it set: what comes next on the stream is then unknown.
    broken: bool,
}

impl Connection {
    /// Logs in to `database` on the server at `dst`.
    pub async fn open(target: &Target, dst: SocketAddr, database: &str) -> Result<Self, Error> {
        let parameters = vec![("application_name".to_owned(), "weir".to_owned())];
        let connected = connect(
            target,
            dst,
            &Startup {
                database,
                parameters,
            },
        )
        .await?;
        let Connected {
            stream,
            parameters,
            leftover,
            ..
        } = connected;
        if !leftover.is_empty() {
            let what = "bytes after ReadyForQuery";
            return Err(Error::Protocol {
                step: Step::Ready,
                what,
            });
        }
        Ok(Self {
            stream,
            parameters,
            broken: false,
        })
    }

    /// A setting that the server reported at log-in, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.stream.is_tls()
    }

    /// Runs `sql` and gives its rows; those of several statements one after the other.
    ///
    /// After [`Error::Server`] the connection can be used again, after any other error it can't.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        if std::mem::replace(&mut self.broken, true) {
            return Err(Error::Broken);
        }
        let answer = tokio::time::timeout(QUERY_TIMEOUT, self.round_trip(sql)).await;
        let answer = answer.map_err(|_| Error::Timeout {
            step: Step::Query,
            limit: QUERY_TIMEOUT,
        })?;
        self.broken = !matches!(answer, Ok(_) | Err(Error::Server { .. }));
        answer
    }

    /// Ends the session in the orderly way, so that the server's log has no complaint.
    pub async fn close(mut self) {
        // Best effort: nothing depends on it.
        let _ = self.stream.write_all(&[b'X', 0, 0, 0, 4]).await;
        let _ = self.stream.shutdown().await;
    }

    async fn round_trip(&mut self, sql: &str) -> Result<Vec<Row>, Error> {
        let failed = |e| Error::Io(Step::Query, e);
        self.stream
            .write_all(&query_message(sql)?)
            .await
            .map_err(failed)?;
        self.stream.flush().await.map_err(failed)?;

        let mut frames = Frames::new(MAX_MESSAGE);
        let mut answer = Answer::default();
        let mut size = 0;
        loop {
            let (tag, body) = frames.next(&mut self.stream, Step::Query).await?;
            size += body.len();
            if size > MAX_ANSWER {
                return Err(Error::TooLarge(MAX_ANSWER));
            }
            if answer.take(tag, body)? {
                break;
            }
        }
        if !frames.leftover().is_empty() {
            return Err(protocol("bytes after ReadyForQuery"));
        }
        answer.error.map_or(Ok(answer.rows), Err)
    }
}

#[derive(Default)]
struct Answer {
    columns: Option<i16>,
    rows: Vec<Row>,
    error: Option<Error>,
}

impl Answer {
    /// Takes one message; true after `ReadyForQuery`.
    fn take(&mut self, tag: u8, body: &[u8]) -> Result<bool, Error> {
        match tag {
            b'T' => {
                let columns = Body(body).i16().filter(|n| *n >= 0);
                self.columns = Some(columns.ok_or_else(|| protocol("malformed RowDescription"))?);
            }
            b'D' => {
                let row = self.columns.and_then(|columns| row(body, columns));
                self.rows
                    .push(row.ok_or_else(|| protocol("malformed DataRow"))?);
            }
            b'C' | b'I' => self.columns = None,
            b'E' => match error_response(body, Step::Query) {
                error @ Error::Server { .. } => self.error = self.error.take().or(Some(error)),
                malformed => return Err(malformed),
            },
            b'Z' if matches!(body, b"I" | b"T" | b"E") => return Ok(true),
            b'N' | b'S' | b'A' => {}
            _ => return Err(protocol("unexpected message")),
        }
        Ok(false)
    }
}

fn row(body: &[u8], columns: i16) -> Option<Row> {
    let mut body = Body(body);
    if body.i16()? != columns {
        return None;
    }
    let mut row = Row::with_capacity(usize::try_from(columns).ok()?);
    for _ in 0..columns {
        row.push(match body.i32()? {
            -1 => None,
            length => {
                let value = body.bytes(usize::try_from(length).ok()?)?;
                Some(std::str::from_utf8(value).ok()?.to_owned())
            }
        });
    }
    body.is_empty().then_some(row)
}

fn query_message(sql: &str) -> Result<Vec<u8>, Error> {
    let length = i32::try_from(sql.len() + 5)
        .ok()
        .filter(|_| !sql.contains('\0'));
    let length = length.ok_or_else(|| protocol("a query that can't be sent"))?;
    let mut message = vec![b'Q'];
    message.extend(length.to_be_bytes());
    message.extend(sql.as_bytes());
    message.push(0);
    Ok(message)
}

fn protocol(what: &'static str) -> Error {
    Error::Protocol {
        step: Step::Query,
        what,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn null_and_the_empty_string_are_told_apart() {
        let body = b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\0";
        assert_eq!(
            row(body, 3).unwrap(),
            [Some("a".into()), None, Some(String::new())]
        );
    }

    #[test]
    fn rows_that_do_not_fit_their_description_are_refused() {
        let body = b"\0\x01\0\0\0\x01a";
        assert!(row(body, 1).is_some());
        assert!(row(body, 2).is_none());
        assert!(row(&body[..body.len() - 1], 1).is_none());
        assert!(row(b"\0\x01\0\0\0\x01ab", 1).is_none());
        assert!(row(b"\0\x01\xff\xff\xff\xfe", 1).is_none());
        assert!(row(b"\0\x01\0\0\0\x01\xff", 1).is_none(), "not UTF-8");
        assert!(
            Answer::default().take(b'D', body).is_err(),
            "no RowDescription before it"
        );
    }

    proptest! {
        #[test]
        fn no_row_panics(body in prop::collection::vec(any::<u8>(), 0..80), columns in any::<i16>()) {
            row(&body, columns);
        }
    }
}
