//! One session, from Origin to digest: the only file that knows the whole order.
//!
//! ```text
//!   Accepted -> greet -> options -> (catalog, upstream log-in) -> journal -> relay -> close
//! ```
//!
//! Every way out answers the client with a proper error where the protocol allows one, and closes
//! the journal with the reason. A session that can't be recorded doesn't open.
//!
//! `relay` runs two halves as one task on one thread: `requests` takes what the client sends,
//! judges, records and forwards it; `responses` takes what the server sends, masks, counts and
//! records it. `queue` is what they agree on: what the server still owes. `link` is all they share.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

mod apart;
mod buffer;
mod catalogs;
mod directory;
mod judging;
mod leave;
mod link;
mod options;
mod queue;
mod relay;
mod requests;
mod responses;
mod rows;
mod statement;
mod stored;
mod tally;
#[cfg(test)]
mod tests;

pub use catalogs::Catalogs;
pub use directory::{Directory, OpenSession};
pub use judging::Who;
pub use link::{Error, Results};
pub use tally::{Counts, Tally};

use crate::causes::chain;
use crate::identity::{Identity, Unknown};
use crate::policy::Deny;
use crate::policy_store::Active;
use crate::preflight;
use crate::record::{self, CloseReason, Entry, Recorder, SessionId, SessionJournal, SessionOpen};
use crate::startup::{self, Client, ClientTls, Hello};
use crate::upstream::{self, Target};
use crate::wire::{Reply, Startup, TxStatus};
use directory::ServerSession;
use judging::Judging;
use link::{End, now};
use options::{Refusal, Wanted};

/// How long a client may take for its start-up, TLS included.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last words to a client may take.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// A datastore, as sessions need it.
#[derive(Debug)]
pub struct Datastore {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// How it is dialled and logged in to.
    pub target: Arc<Target>,
    /// The databases that clients may name.
    pub databases: Vec<String>,
    /// TLS on the agents' side.
    pub client_tls: ClientTls,
}

/// What all sessions share.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Journals.
    pub recorder: Recorder,
    /// How much of results they hold.
    pub results: Results,
    /// The policy that holds.
    pub policy: watch::Receiver<Arc<Active>>,
    /// Snapshots of catalogs.
    pub catalogs: Catalogs,
    /// The sessions that are open.
    pub directory: Directory,
    /// True once the daemon is going down.
    pub drain: watch::Receiver<bool>,
}

/// A connection, and what the kernel says of it.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub tcp: TcpStream,
    /// Which agent it is, or why that isn't known.
    pub identity: Result<Identity, Unknown>,
    /// What would let it get round Weir, and whether it is refused for that.
    pub preflight: preflight::Outcome,
    /// Where it wanted to go.
    pub destination: SocketAddr,
    /// The datastore there.
    pub datastore: Arc<Datastore>,
}

/// A client that has said what it wants.
struct Greeted {
    client: Client,
    startup: Startup,
    identity: Identity,
    preflight: preflight::Outcome,
    destination: SocketAddr,
    datastore: Arc<Datastore>,
}

/// Serves a connection to its end. Never fails: what goes wrong is told to the client, recorded,
/// and logged here.
pub async fn serve(accepted: Accepted, environment: &Environment, tally: &Arc<Tally>) {
    let Accepted {
        tcp,
        identity,
        preflight,
        destination,
        datastore,
    } = accepted;
    // A statement's answer is one write; waiting for more would only delay it.
    let _ = tcp.set_nodelay(true);
    let greeted = tokio::time::timeout(START_TIMEOUT, startup::greet(tcp, &datastore.client_tls));
    let hello = match greeted.await {
        Ok(Ok(hello)) => hello,
        Ok(Err(error)) => {
            tally.refused();
            tracing::warn!(%destination, error = &error as &dyn std::error::Error, "start-up failed");
            return refuse_start(error).await;
        }
        Err(_) => {
            tally.refused();
            tracing::warn!(%destination, "start-up took longer than {START_TIMEOUT:?}");
            return;
        }
    };
    match (hello, identity) {
        (Hello::Session { client, startup }, Ok(identity)) => {
            let greeted = Greeted {
                client,
                startup,
                identity,
                preflight,
                destination,
                datastore,
            };
            open(greeted, environment, tally).await;
        }
        (Hello::Session { client, .. }, Err(unknown)) => {
            tally.refused();
            tracing::warn!(%destination, error = &unknown as &dyn std::error::Error, "unknown agent");
            goodbye(client, "28000", "Weir knows no agent for this process").await;
        }
        (
            Hello::Cancel {
                client,
                pid,
                secret,
            },
            Ok(identity),
        ) => {
            environment
                .directory
                .request(&identity.agent.name, pid, &secret)
                .await;
            farewell(client, &[]).await;
        }
        (Hello::Cancel { .. }, Err(_)) => tally.refused(),
    }
}

/// From the StartupMessage to the relay.
async fn open(greeted: Greeted, environment: &Environment, tally: &Arc<Tally>) {
    let mut record = SessionOpen {
        policy: hex(&environment.policy.borrow().policy.sha256),
        ..opening_record(&greeted)
    };
    let prepared = prepare(&greeted, environment).await;
    if let Ok((_, connected, _)) = &prepared {
        record.upstream = Some(record::Upstream {
            address: greeted.destination.to_string(),
            user: greeted.datastore.target.login.user.clone(),
            tls: connected.stream.is_tls().then(|| "TLS".to_owned()),
        });
    }
    let journal = match begin_journal(environment, &record, &greeted).await {
        Ok(journal) => journal,
        Err(error) => {
            tally.refused();
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "a session can't be recorded"
            );
            let reason = "Weir can't record this session, so it doesn't open";
            return goodbye(greeted.client, "57P03", reason).await;
        }
    };
    match prepared {
        Ok((wanted, connected, followed)) => {
            let _open = tally.open();
            let session = Session {
                greeted,
                wanted,
                connected,
                followed,
                journal,
            };
            session.run(environment, tally).await;
        }
        Err(refusal) => {
            tally.refused();
            tracing::warn!(
                agent = &*record.agent,
                datastore = &*record.datastore,
                reason = refusal.message,
                "session refused"
            );
            close(journal, CloseReason::Refused(refusal.message.clone())).await;
            goodbye(greeted.client, refusal.sqlstate, &refusal.message).await;
        }
    }
}

type Prepared = (Wanted, upstream::Connected, catalogs::Followed);

/// What a session needs before it opens; anything missing refuses it.
async fn prepare(greeted: &Greeted, environment: &Environment) -> Result<Prepared, Refusal> {
    let datastore = &greeted.datastore;
    if let Some(refusal) = &greeted.preflight.refusal {
        return Err(Refusal {
            sqlstate: "28000",
            message: refusal.clone(),
        });
    }
    let wanted = options::check(&greeted.startup, &datastore.databases)?;
    let startup = upstream::Startup {
        database: &wanted.database,
        parameters: wanted.parameters.clone(),
    };
    let at = (greeted.destination, wanted.database.as_str());
    let (connected, followed) = tokio::join!(
        upstream::connect(&datastore.target, greeted.destination, &startup),
        environment
            .catalogs
            .of(&datastore.name, &datastore.target, at),
    );
    let outcome = connected.as_ref().map(|_| ());
    let told = (wanted.database.as_str(), outcome);
    environment
        .catalogs
        .logged_in(&datastore.name, &datastore.target, told);
    let connected = connected.map_err(|error| {
        tracing::error!(
            datastore = &*datastore.name,
            error = &error as &dyn std::error::Error,
            "no connection to the database"
        );
        let told = error.for_client(&datastore.name);
        Refusal {
            sqlstate: told.sqlstate,
            message: told.message,
        }
    })?;
    let followed = followed.map_err(|error| {
        tracing::error!(
            datastore = &*datastore.name,
            error = &error as &dyn std::error::Error,
            "no catalog"
        );
        Refusal {
            sqlstate: "57P03",
            message: format!(
                "Weir can't read the catalog of datastore \"{}\"",
                datastore.name
            ),
        }
    })?;
    Ok((wanted, connected, followed))
}

async fn begin_journal(
    environment: &Environment,
    record: &SessionOpen,
    greeted: &Greeted,
) -> Result<SessionJournal, record::Error> {
    let mut journal = environment.recorder.session(record)?;
    for text in notes(greeted) {
        let (at, (kind, text)) = (record.at, &text);
        journal.append(&Entry::Note { at, kind, text });
    }
    let _recorded = journal.write()?.durable().await?;
    Ok(journal)
}

/// What is worth keeping of who this is, each with its kind.
fn notes(greeted: &Greeted) -> Vec<(&'static str, String)> {
    let findings = greeted.preflight.findings.iter();
    let mut notes: Vec<_> = findings.map(|f| ("preflight", f.what.clone())).collect();
    if let Some(pod) = &greeted.identity.pod {
        let account = pod.service_account.as_deref().unwrap_or("not known");
        let text = format!(
            "{}/{}, uid {}, service account {account}",
            pod.namespace, pod.name, pod.uid
        );
        notes.push(("pod", text));
    }
    notes
}

/// A session that is about to begin.
struct Session {
    greeted: Greeted,
    wanted: Wanted,
    connected: upstream::Connected,
    followed: catalogs::Followed,
    journal: SessionJournal,
}

impl Session {
    async fn run(self, environment: &Environment, tally: &Arc<Tally>) {
        let Self {
            greeted,
            wanted,
            connected,
            followed,
            journal,
        } = self;
        let Greeted {
            mut client,
            startup,
            identity,
            preflight: _,
            destination,
            datastore,
        } = greeted;
        let at = connected.key.map(|key| ServerSession {
            target: Arc::clone(&datastore.target),
            address: destination,
            key,
        });
        let version = startup.version.spoken();
        let agent = Arc::clone(&identity.agent.name);
        let open = OpenSession {
            id: journal.id(),
            agent: Arc::clone(&agent),
            datastore: Arc::clone(&datastore.name),
            database: wanted.database.clone(),
            pid: identity.process.pid,
            since: Instant::now(),
        };
        let key = match environment.directory.register(open, at, version.minor) {
            Ok(key) => key,
            Err(error) => {
                close(journal, CloseReason::Internal(error.to_string())).await;
                return goodbye(client, "57P03", "Weir has no randomness for a cancel key").await;
            }
        };
        let hello = hello_bytes(&startup, &wanted, &connected.parameters, &key);
        if client.write_all(&hello).await.is_err() || client.flush().await.is_err() {
            return close(journal, CloseReason::ClientLost).await;
        }
        let who = Who {
            agent,
            groups: Arc::clone(&identity.agent.groups),
            datastore: Arc::clone(&datastore.name),
        };
        let parts = relay::Parts {
            client,
            upstream: connected.stream,
            leftover: connected.leftover,
            journal,
            judging: Judging::new(
                who,
                environment.policy.clone(),
                (followed.catalog, followed.refresh),
                !wanted.sets_search_path,
            ),
            results: environment.results,
            tally: Arc::clone(tally),
        };
        let left = relay::run(parts, &key, environment.drain.clone()).await;
        end(left, &key).await;
    }
}

/// Says goodbye on both sides and closes the journal.
async fn end(left: relay::Left<Client, upstream::Stream>, key: &directory::Key) {
    let relay::Left {
        end,
        client,
        mut upstream,
        journal,
        busy,
        torn,
    } = left;
    if busy {
        leave::cancelled(&mut upstream, key).await;
    } else {
        let _ = upstream.shutdown().await;
    }
    let reason = match &end {
        Ok(End::ClientQuit) => CloseReason::ClientQuit,
        Ok(End::ClientLost) | Err(Error::ClientIo(_)) => CloseReason::ClientLost,
        Ok(End::UpstreamLost) | Err(Error::UpstreamIo(_)) => CloseReason::UpstreamLost,
        Ok(End::Drained) => CloseReason::Drained,
        Err(error @ (Error::Client(_) | Error::ClientSequence(_))) => {
            CloseReason::ProtocolError(chain(error))
        }
        Err(error) => CloseReason::Internal(chain(error)),
    };
    if let Err(error) = &end {
        tracing::warn!(session = %journal.id(), error = error as &dyn std::error::Error, "session ended");
    }
    close(journal, reason).await;
    if torn {
        return;
    }
    match end {
        Ok(End::Drained) => goodbye(client, "57P01", "Weir is shutting down").await,
        Ok(End::UpstreamLost) | Err(Error::UpstreamIo(_)) => {
            goodbye(client, "57P03", "the database ended the connection").await;
        }
        Ok(End::ClientQuit | End::ClientLost) | Err(Error::ClientIo(_)) => {}
        Err(error) => goodbye(client, "57P03", error.for_client()).await,
    }
}

/// Tells a client whose start-up can't be served, where that can be told.
async fn refuse_start(error: startup::Error) {
    match error {
        startup::Error::TlsRequired(client) => {
            let reason = "this datastore takes only TLS connections (sslmode=require)";
            goodbye(*client, "28000", reason).await;
        }
        startup::Error::Version(client, version) => {
            let (major, minor) = (version.major, version.minor);
            let reason =
                format!("protocol {major}.{minor} isn't supported: Weir speaks 3.0 and 3.2");
            goodbye(*client, "0A000", &reason).await;
        }
        _ => {}
    }
}

/// Tells a client why its session ends, if it still listens.
async fn goodbye(client: Client, sqlstate: &str, message: &str) {
    let mut out = Vec::new();
    Reply {
        sqlstate,
        message,
        hint: None,
    }
    .fatal(&mut out);
    farewell(client, &out).await;
}

/// Says the last words, and that nothing follows: in TLS a close without that looks like an attack.
async fn farewell(mut client: Client, words: &[u8]) {
    let said = async {
        client.write_all(words).await?;
        client.shutdown().await
    };
    // It may have gone already, or not be reading.
    let _ = tokio::time::timeout(GOODBYE_TIMEOUT, said).await;
}

async fn close(journal: SessionJournal, reason: CloseReason) {
    let id = journal.id();
    if let Err(error) = journal.close(now(), reason).await {
        tracing::error!(session = %id, error = &error as &dyn std::error::Error,
            "the end of a session could not be recorded");
    }
}

/// What a client gets once it is in: no password was asked for, and none was looked at.
fn hello_bytes(
    startup: &Startup,
    wanted: &Wanted,
    parameters: &[(String, String)],
    key: &directory::Key,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    let spoken = startup.version.spoken();
    if spoken != startup.version || !wanted.unknown_options.is_empty() {
        let unknown: Vec<&str> = wanted.unknown_options.iter().map(String::as_str).collect();
        Reply::negotiate(&mut out, spoken.minor, &unknown);
    }
    Reply::authentication_ok(&mut out);
    for (name, value) in parameters {
        Reply::parameter_status(&mut out, name, value);
    }
    Reply::backend_key(&mut out, key.pid, &key.secret);
    Reply::ready(&mut out, TxStatus::Idle);
    out
}

fn opening_record(greeted: &Greeted) -> SessionOpen {
    let Greeted {
        client,
        startup,
        identity,
        preflight: _,
        destination,
        datastore,
    } = greeted;
    let claimed = |name| startup.parameter(name).unwrap_or_default().to_owned();
    SessionOpen {
        id: SessionId::now(),
        at: now(),
        agent: Arc::clone(&identity.agent.name),
        groups: identity.agent.groups.to_vec(),
        datastore: Arc::clone(&datastore.name),
        destination: destination.to_string(),
        cgroup: identity.cgroup.clone(),
        container: identity.container.clone(),
        pid: identity.process.pid,
        uid: identity.process.uid,
        comm: identity.process.comm.clone(),
        exe: identity
            .process
            .exe
            .as_ref()
            .map(|exe| exe.display().to_string()),
        claimed_user: claimed("user"),
        database: claimed("database"),
        parameters: startup.parameters.clone(),
        client_tls: client.tls_version().map(str::to_owned),
        upstream: None,
        policy: String::new(),
        weir: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
            let _ = write!(out, "{b:02x}");
            out
        })
}

/// A denial as the client gets it.
fn denial(deny: &Deny) -> Reply<'_> {
    Reply {
        sqlstate: deny.sqlstate,
        message: &deny.message,
        hint: deny.hint.as_deref(),
    }
}
