//! The HTTP API of Docker's engine (`GET /containers/{id}/json`), which Podman speaks too.
//!
//! <https://docs.docker.com/reference/api/engine/>

use std::path::Path;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;

use super::socket::{MAX_ANSWER, broken, connect};
use super::{Error, Told};
use crate::identity::{Container, Labels};

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    id: String,
    state: State,
    config: Config,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    pid: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    /// `null` if there is none.
    labels: Option<Labels>,
}

/// Asks about a container.
pub(super) async fn inspect(socket: &Path, id: &str) -> Result<Told, Error> {
    let stream = connect(socket).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(|e| broken(socket, e))?;
    // Ends when the sender is dropped, below. Its errors reach the request too.
    tokio::spawn(connection);
    let request = hyper::Request::get(format!("/containers/{id}/json"))
        .header("host", "weir")
        .body(Empty::new())
        .map_err(|e| broken(socket, e))?;
    let response = sender.send_request(request).await;
    let response = response.map_err(|e| broken(socket, e))?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(Error::NoSuchContainer(socket.to_owned())),
        status => return Err(Error::Answer(status.to_string())),
    }
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await;
    let body = body.map_err(|e| broken(socket, e))?;
    read(&body.to_bytes(), id)
}

fn read(body: &[u8], id: &str) -> Result<Told, Error> {
    let inspected: Inspected =
        serde_json::from_slice(body).map_err(|e| Error::Answer(e.to_string()))?;
    if inspected.id != id {
        return Err(Error::Answer("it is of another container".to_owned()));
    }
    Ok(Told {
        container: Container {
            labels: inspected.config.labels.unwrap_or_default(),
            pod: None,
        },
        pid: inspected.state.pid,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Docker 20.10 and Podman 4.3 answer, shortened.
    const ANSWER: &str = r#"{"Id":"abc","Created":"2026-11-21T08:00:00Z",
        "State":{"Status":"running","Running":true,"Pid":4242,"ExitCode":0},
        "Config":{"Hostname":"x","Env":["A=b"],"Labels":{"agent":"coder","n":""}}}"#;

    #[test]
    fn labels_and_the_first_process_are_read() {
        let told = read(ANSWER.as_bytes(), "abc").unwrap();
        assert_eq!(told.pid, 4242);
        assert_eq!(told.container.labels["agent"], "coder");
        assert_eq!(told.container.pod, None);
        let none = ANSWER.replace(r#"{"agent":"coder","n":""}"#, "null");
        let told = read(none.as_bytes(), "abc").unwrap();
        assert!(told.container.labels.is_empty());
    }

    #[test]
    fn another_containers_answer_and_half_a_one_are_none() {
        assert!(read(ANSWER.as_bytes(), "abd").is_err());
        assert!(read(&ANSWER.as_bytes()[..90], "abc").is_err());
        assert!(read(b"{}", "abc").is_err());
    }
}
