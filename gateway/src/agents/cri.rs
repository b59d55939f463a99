//! The container runtime interface of Kubernetes, as containerd and CRI-O speak it: gRPC over a
//! unix socket.
//!
//! Two questions with a handful of fields are all that is needed, so they are written here over
//! hyper's HTTP/2, rather than with tonic and the generated messages of the whole interface.
//!
//! <https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto>,
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>

use std::path::Path;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde::Deserialize;

use super::socket::{MAX_ANSWER, broken, connect};
use super::{Error, Told};
use crate::identity::{Container, Labels, Pod};

/// gRPC's status code for what doesn't exist.
const NOT_FOUND: &str = "5";

/// `ContainerStatusRequest` and `PodSandboxStatusRequest` are alike.
#[derive(Clone, PartialEq, Message)]
struct StatusRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<ContainerStatus>,
    /// In a verbose answer, JSON under the key `info`.
    #[prost(btree_map = "string, string", tag = "2")]
    info: Labels,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(btree_map = "string, string", tag = "12")]
    labels: Labels,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatus {
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(btree_map = "string, string", tag = "7")]
    labels: Labels,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

/// What containerd and CRI-O both put into a verbose answer.
#[derive(Deserialize)]
struct Info {
    #[serde(rename = "sandboxID")]
    sandbox: String,
    pid: u32,
}

/// Asks about a container and its pod.
pub(super) async fn inspect(socket: &Path, id: &str) -> Result<Told, Error> {
    let mut client = Client::connect(socket).await?;
    let question = StatusRequest {
        id: id.to_owned(),
        verbose: true,
    };
    let answer: ContainerStatusResponse = client.call("ContainerStatus", &question).await?;
    let status = answer.status.filter(|status| status.id == id);
    let status = status.ok_or_else(|| Error::Answer("it is of another container".to_owned()))?;
    let info = answer.info.get("info").map(String::as_str);
    // What is wrong isn't told in full: the text has the container's environment.
    let info: Info = serde_json::from_str(info.unwrap_or_default())
        .map_err(|_| Error::Answer("it doesn't tell pod and process".to_owned()))?;

    let question = StatusRequest {
        id: info.sandbox,
        verbose: false,
    };
    let answer: PodSandboxStatusResponse = client.call("PodSandboxStatus", &question).await?;
    let pod = answer.status.and_then(|status| {
        let metadata = status.metadata?;
        Some(Pod {
            uid: metadata.uid,
            name: metadata.name,
            namespace: metadata.namespace,
            service_account: None,
            labels: status.labels,
        })
    });
    Ok(Told {
        container: Container {
            labels: status.labels,
            pod: Some(pod.ok_or_else(|| Error::Answer("it doesn't tell the pod".to_owned()))?),
        },
        pid: info.pid,
    })
}

/// A connection to a runtime.
pub(super) struct Client<'a> {
    socket: &'a Path,
    sender: SendRequest<Full<Bytes>>,
}

impl<'a> Client<'a> {
    pub(super) async fn connect(socket: &'a Path) -> Result<Self, Error> {
        let stream = TokioIo::new(connect(socket).await?);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream)
                .await
                .map_err(|e| broken(socket, e))?;
        // Ends when the sender is dropped. Its errors reach the requests too.
        tokio::spawn(connection);
        Ok(Self { socket, sender })
    }

    /// One call of the runtime service.
    pub(super) async fn call<Q: Message, A: Message + Default>(
        &mut self,
        method: &str,
        question: &Q,
    ) -> Result<A, Error> {
        let uri = format!("http://localhost/runtime.v1.RuntimeService/{method}");
        let request = hyper::Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(frame(question)))
            .map_err(|e| broken(self.socket, e))?;
        let response = self.sender.send_request(request).await;
        let response = response.map_err(|e| broken(self.socket, e))?;
        // An answer without a message has its status among the headers.
        let early = response.headers().clone();
        let body = Limited::new(response.into_body(), MAX_ANSWER);
        let body = body.collect().await.map_err(|e| broken(self.socket, e))?;
        let field = |name| {
            let value = early.get(name);
            let value = value.or_else(|| body.trailers().and_then(|t| t.get(name)));
            value.and_then(|value| value.to_str().ok())
        };
        let (status, why) = (field("grpc-status"), field("grpc-message"));
        match (status, why.unwrap_or_default()) {
            (Some("0"), _) => unframe(&body.to_bytes()),
            (Some(NOT_FOUND), _) => Err(Error::NoSuchContainer(self.socket.to_owned())),
            (Some(status), why) => Err(Error::Answer(format!("{method}: status {status}, {why}"))),
            (None, _) => Err(Error::Answer(format!("{method}: no status of gRPC"))),
        }
    }
}

/// gRPC's frame: not compressed, the length, the message.
fn frame(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut out = vec![0];
    out.extend((message.len() as u32).to_be_bytes());
    out.extend(message);
    out.into()
}

fn unframe<A: Message + Default>(body: &[u8]) -> Result<A, Error> {
    let wrong = || Error::Answer("it isn't one message of gRPC".to_owned());
    let (head, message) = body.split_first_chunk::<5>().ok_or_else(wrong)?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if head[0] != 0 || length as usize != message.len() {
        return Err(wrong());
    }
    A::decode(message).map_err(|e| Error::Answer(e.to_string()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_survives_its_frame_and_half_a_frame_is_an_error() {
        let message = PodSandboxMetadata {
            name: "coder-0".into(),
            uid: "8f7d".into(),
            namespace: "agents".into(),
        };
        let framed = frame(&message);
        let back: PodSandboxMetadata = unframe(&framed).unwrap();
        assert_eq!(back, message);
        for end in 0..framed.len() {
            assert!(unframe::<PodSandboxMetadata>(&framed[..end]).is_err());
        }
        let mut compressed = framed.to_vec();
        compressed[0] = 1;
        assert!(unframe::<PodSandboxMetadata>(&compressed).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unframe::<ContainerStatusResponse>(&body);
            let mut framed = vec![0];
            framed.extend((body.len() as u32).to_be_bytes());
            framed.extend(body);
            let _ = unframe::<ContainerStatusResponse>(&framed);
            let _ = unframe::<PodSandboxStatusResponse>(&framed);
        }
    }
}
