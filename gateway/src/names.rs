//! Names (DNS) for agents that reach no resolver: their questions, wherever they sent them, arrive at
//! Weir's sockets in their own network namespace.
//!
//! Guarantees:
//! - a datastore's name has the addresses that Weir itself has resolved, which are those that the
//!   kernel redirects; other names are as the agent's egress says, and nothing else is told;
//! - no question leaves the host as the agent wrote it: a listed name is resolved as any program on the
//!   host would, and only its addresses come back;
//! - whoever asks is known by the socket, as for connections; nobody else is answered;
//! - what is told is on record before it leaves, and what can't be recorded isn't told (`journals`);
//! - an agent has so many answers a second, and so many questions open, and no more (`limits`).
//!
//! ```text
//!   datagram, connection -> Origin -> Asker -> Question -> turn -> Answer -> Told -> Recorded -> message
//! ```

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::timeout;

use crate::agents::Agents;
use crate::capture::{Origin, OriginalDst, Origins};
use crate::identity::Process;
use crate::policy_store;
use crate::record::{self, Recorder};

mod journals;
mod limits;
mod message;

use journals::{Asker, Journals};
use limits::Limits;
pub use message::Answer;
use message::{Question, Transport};

/// Where names are asked for.
pub const PORT: u16 = gateway_ebpf::DNS_PORT as u16;

/// How long a name may take to be looked up; a question takes twice as long at most.
const PATIENCE: Duration = Duration::from_secs(4);
/// The longest question. A name has 255 bytes.
const MAX_QUESTION: usize = 1232;
/// Questions of one connection.
const MAX_QUESTIONS: usize = 64;
/// How long a connection may be without a question.
const IDLE: Duration = Duration::from_secs(5);
/// After a failed receive, before the next.
const PAUSE: Duration = Duration::from_millis(50);

/// The addresses of datastores' names, in lower case.
pub type Datastores = HashMap<String, BTreeSet<IpAddr>>;

/// What an agent is told of a name that is no datastore's.
pub type Forward =
    Arc<dyn Fn(Arc<str>, String) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// Answers questions. Cloning shares what is known.
#[derive(Clone)]
pub struct Names(Arc<Shared>);

struct Shared {
    origins: Origins,
    agents: Agents,
    datastores: watch::Receiver<Arc<Datastores>>,
    forward: Forward,
    journals: Journals,
    limits: Limits,
}

impl Names {
    /// Answers for these agents from these names, and records what was asked. `policy` is what the
    /// record names as in force.
    #[must_use]
    pub fn new(
        origins: Origins,
        agents: Agents,
        datastores: watch::Receiver<Arc<Datastores>>,
        forward: Forward,
        (recorder, policy): (Recorder, policy_store::Handle),
    ) -> Self {
        Self(Arc::new(Shared {
            origins,
            agents,
            datastores,
            forward,
            journals: Journals::new(recorder, policy),
            limits: Limits::new(),
        }))
    }

    /// Ends the records of agents that ask no more, until the task is aborted.
    pub async fn tidy(self) {
        self.0.journals.tidy().await;
    }

    /// Ends all records. Nothing is told from here on.
    pub async fn close(&self) {
        self.0.journals.close().await;
    }

    /// Answers the datagrams that arrive at a socket, until the task is aborted.
    ///
    /// # Errors
    /// The socket can't be polled.
    pub async fn serve(self, socket: std::net::UdpSocket) -> io::Result<()> {
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let mut buffer = [0; MAX_QUESTION];
        loop {
            let (length, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "a question could not be received");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Some(origin) = self.origin(&socket, peer) else {
                continue;
            };
            // Whoever has too many open asks again.
            let Some(entered) = self.0.limits.enter(&origin.cgroup_path) else {
                continue;
            };
            let (names, socket) = (self.clone(), Arc::clone(&socket));
            let question = buffer[..length].to_vec();
            tokio::spawn(async move {
                let answering = async {
                    let (asker, _open) = names.admit(origin).await?;
                    names.answer(&asker, &question, Transport::Datagram).await
                };
                if let Ok(Some(answer)) = timeout(PATIENCE * 2, answering).await {
                    // Who has gone needs no answer.
                    let _ = socket.send_to(&answer, peer).await;
                }
                drop(entered);
            });
        }
    }

    /// Answers the questions of one connection.
    pub async fn converse(self, mut stream: TcpStream, origin: Origin) {
        let Some(_entered) = self.0.limits.enter(&origin.cgroup_path) else {
            return;
        };
        let Some((asker, _open)) = self.admit(origin).await else {
            return;
        };
        for _ in 0..MAX_QUESTIONS {
            let Ok(Ok(question)) = timeout(IDLE, read(&mut stream)).await else {
                return;
            };
            let Some(answer) = self.answer(&asker, &question, Transport::Stream).await else {
                return;
            };
            if !matches!(timeout(IDLE, write(&mut stream, &answer)).await, Ok(Ok(()))) {
                return;
            }
        }
    }

    fn origin(&self, socket: &UdpSocket, peer: SocketAddr) -> Option<Origin> {
        let origin = self.0.origins.of_datagram(socket, peer);
        origin
            .inspect_err(|miss| {
                tracing::debug!(
                    error = miss as &dyn std::error::Error,
                    "a datagram of which the kernel knows no origin is dropped"
                );
            })
            .ok()
    }

    /// Whose question it is; `None` if nobody's, or if it is one too many.
    async fn admit(&self, origin: Origin) -> Option<(Asker, OwnedSemaphorePermit)> {
        let process = Process {
            pid: origin.pid,
            uid: origin.uid,
            comm: origin.comm,
            exe: None,
        };
        let identity = self.0.agents.identify(&origin.cgroup_path, process).await;
        let identity = identity
            .inspect_err(|unknown| tracing::warn!(%unknown, "a question of nobody isn't answered"))
            .ok()?;
        let open = self.0.limits.admit(&identity.agent.name)?;
        let OriginalDst(resolver) = origin.dst;
        Some((Asker { identity, resolver }, open))
    }

    /// The answer to one message; `None` if it is no question.
    async fn answer(&self, asker: &Asker, message: &[u8], by: Transport) -> Option<Vec<u8>> {
        let question = Question::parse(message)?;
        let agent = &asker.identity.agent.name;
        self.0.limits.turn(agent).await;
        let looked_up = timeout(PATIENCE, self.look_up(agent, question.name())).await;
        let told = question.told(looked_up.unwrap_or(Answer::Failed));
        let process = &asker.identity.process;
        let entry = record::Question {
            at: journals::micros(),
            pid: process.pid,
            comm: &process.comm,
            name: question.name(),
            record_type: &question.record_type(),
            told: told.clone(),
        };
        let unanswered = self.0.limits.unanswered(agent);
        match self.0.journals.record(asker, &entry, unanswered).await {
            Some(recorded) => question.answer(&told, recorded, by),
            None => question.failure(by),
        }
    }

    async fn look_up(&self, agent: &Arc<str>, name: &str) -> Answer {
        let datastores = Arc::clone(&self.0.datastores.borrow());
        if let Some(addresses) = datastores.get(name) {
            return Answer::Addresses(addresses.iter().copied().collect());
        }
        if datastores.keys().any(|known| is_searched_for(known, name)) {
            return Answer::Nonexistent;
        }
        (self.0.forward)(Arc::clone(agent), name.to_owned()).await
    }
}

/// Whether `asked` is a name that is known with a domain of a search list behind it: a resolver tries
/// those first, and gives up at a refusal.
#[must_use]
pub fn is_searched_for(known: &str, asked: &str) -> bool {
    asked
        .strip_prefix(known)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// One message of a connection: its length and itself (RFC 1035, 4.2.2).
async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > MAX_QUESTION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend(message);
    stream.write_all(&whole).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_searched_name_has_a_domain_behind_it() {
        let known = "db.internal";
        assert!(is_searched_for(known, "db.internal.svc.cluster.local"));
        assert!(!is_searched_for(known, "db.internal"));
        assert!(!is_searched_for(known, "db.internals.svc"));
        assert!(!is_searched_for(known, "x.db.internal"));
    }
}
