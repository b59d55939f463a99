//! The control socket: how the command line asks a running daemon.
//!
//! HTTP and JSON over a unix socket in the run directory, mode 0660 and of group `weir` where that
//! group exists. Every request's peer is checked by the kernel's word too: root, the daemon's own
//! user, or a member of the group. It only tells and reloads; nothing here decides or approves.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/sessions/open` | a list of [`OpenSession`] |
//! | `GET /v1/agents` | [`Agents`] |
//! | `POST /v1/reload` | 202: the policy files are being looked at; `status` tells the outcome |

use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use nix::unistd::{Gid, Group, Uid, User, geteuid, getgrouplist};
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

mod agents;
mod client;

pub use agents::{AgentStatus, Agents, Members};
pub use client::{Client, Error};

/// The group whose members may ask.
const GROUP: &str = "weir";

/// What a daemon says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The daemon's process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// The policy in force.
    pub policy: PolicyStatus,
    /// The datastores, in the configuration's order.
    pub datastores: Vec<DatastoreStatus>,
    /// The agents' names.
    pub agents: Vec<String>,
    /// The network namespaces in which it listens.
    pub namespaces: Vec<NamespaceStatus>,
    /// Hooks that this host lacks.
    pub gaps: Vec<GapStatus>,
    /// Connections since the start that spoke to a database past Weir, and were ended.
    pub bypass_attempts: u64,
    /// Sessions that are open now.
    pub open_sessions: u64,
    /// Sessions that were opened since the start.
    pub sessions_opened: u64,
    /// Connections since the start that were refused a session, those of unknown agents included.
    pub sessions_refused: u64,
    /// Statements since the start that were allowed.
    pub statements_allowed: u64,
    /// Statements since the start that were denied.
    pub statements_denied: u64,
}

/// The policy in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Its SHA-256 in hex.
    pub sha256: String,
    /// From 1, one more with each policy that comes into force.
    pub generation: u64,
    /// How many rules it has.
    pub rules: usize,
    /// Whether as a whole it is only observed.
    pub observed: bool,
    /// What is wrong with the files as they are now; the policy in force is then an older one.
    pub problem: Option<String>,
    /// What rules in force say of agents, groups, datastores and columns that don't exist, each with
    /// its place.
    pub warnings: Vec<String>,
}

impl From<crate::policy_store::Status> for PolicyStatus {
    fn from(status: crate::policy_store::Status) -> Self {
        let crate::policy_store::Status {
            generation,
            sha256,
            rules,
            observed,
            problem,
        } = status;
        Self {
            sha256,
            generation,
            rules,
            observed,
            problem,
            warnings: Vec::new(),
        }
    }
}

/// A datastore, as the daemon sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreStatus {
    /// Its name.
    pub name: String,
    /// The addresses that are redirected, as `address:port`.
    pub endpoints: Vec<String>,
    /// How many relations the catalog has; `None` while there is no catalog.
    pub relations: Option<usize>,
    /// Why the last look at it failed: at a host's name, to log in, or to read the catalog. `None`
    /// once it works again.
    pub problem: Option<String>,
}

/// A network namespace in which agents are served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceStatus {
    /// The namespace's cookie (`SO_NETNS_COOKIE`).
    pub id: u64,
    /// How many listeners there are in it.
    pub listeners: usize,
    /// The host's ends of its devices that have the perimeter.
    pub perimeter: Vec<String>,
    /// Its devices that lead out past the perimeter.
    pub open: Vec<String>,
}

/// A hook that the host lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GapStatus {
    /// Its name, as `require` has it.
    pub hook: String,
    /// Why it isn't there.
    pub why: String,
    /// What the host would have to have.
    pub needs: String,
    /// What isn't closed without it.
    pub consequence: String,
}

/// A session that is open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Its id, which `weir replay` takes.
    pub id: String,
    /// The agent.
    pub agent: String,
    /// The datastore.
    pub datastore: String,
    /// The database.
    pub database: String,
    /// The process that connected.
    pub pid: u32,
    /// Seconds since it was opened.
    pub age_seconds: u64,
}

/// What the daemon answers with.
#[derive(Clone)]
pub struct Handle {
    /// Makes [`Status`].
    pub status: Arc<dyn Fn() -> Status + Send + Sync>,
    /// Lists the open sessions.
    pub sessions: Arc<dyn Fn() -> Vec<OpenSession> + Send + Sync>,
    /// Looks at who is governed.
    pub agents: Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Agents> + Send>> + Send + Sync>,
    /// Has the policy files looked at; doesn't wait for it.
    pub reload: Arc<dyn Fn() + Send + Sync>,
}

/// Opens the socket at `path`; makes its directory. The socket of a daemon that has died is
/// replaced, that of one that lives is an error ([`io::ErrorKind::AddrInUse`]).
///
/// Needs tokio's runtime, as the listener belongs to it.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)?;
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let what = format!("{} is there and is no socket", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            let what = format!("another daemon listens on {}", path.display());
            return Err(io::Error::new(io::ErrorKind::AddrInUse, what));
        }
        _ => {}
    }
    // Made elsewhere: there is no moment in which it is there with other permissions. Under the same
    // name, as the kernel knows a socket by the one that it was bound to.
    let nursery = path.with_extension(format!("{}.tmp", std::process::id()));
    let temporary = nursery.join(path.file_name().unwrap_or_default());
    match std::fs::remove_dir_all(&nursery) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    std::fs::DirBuilder::new().mode(0o700).create(&nursery)?;
    let listener = UnixListener::bind(&temporary)?;
    std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o600))?;
    if let Some(gid) = group() {
        chown(&temporary, None, Some(gid.as_raw()))?;
        std::fs::set_permissions(&temporary, PermissionsExt::from_mode(0o660))?;
    }
    std::fs::rename(&temporary, path)?;
    std::fs::remove_dir(&nursery)?;
    Ok(listener)
}

/// Answers until `shutdown` is done, and then ends what is being answered.
pub async fn serve(
    listener: UnixListener,
    handle: Handle,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let app = Router::new()
        .route(
            "/v1/status",
            get(|State(h): State<Handle>| async move { Json((h.status)()) }),
        )
        .route(
            "/v1/sessions/open",
            get(|State(h): State<Handle>| async move { Json((h.sessions)()) }),
        )
        .route(
            "/v1/agents",
            get(|State(h): State<Handle>| async move { Json((h.agents)().await) }),
        )
        .route("/v1/reload", post(reload))
        .layer(middleware::from_fn(only_operators))
        .with_state(handle)
        .into_make_service_with_connect_info::<Peer>();
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown)
        .await
}

async fn reload(State(handle): State<Handle>) -> StatusCode {
    (handle.reload)();
    StatusCode::ACCEPTED
}

/// Who is at the other end; `None` if the kernel doesn't say.
#[derive(Clone, Copy)]
struct Peer(Option<(Uid, Gid)>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let peer = stream.io().peer_cred();
        Self(
            peer.ok()
                .map(|c| (Uid::from_raw(c.uid()), Gid::from_raw(c.gid()))),
        )
    }
}

async fn only_operators(
    ConnectInfo(Peer(peer)): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if peer.is_some_and(|(uid, gid)| may_ask(uid, gid, group())) {
        return next.run(request).await;
    }
    tracing::warn!(
        ?peer,
        "control socket: refused a peer that is neither root nor of group weir"
    );
    (
        StatusCode::FORBIDDEN,
        "only root and members of group weir may ask",
    )
        .into_response()
}

fn may_ask(uid: Uid, gid: Gid, group: Option<Gid>) -> bool {
    uid.is_root()
        || uid == geteuid()
        || group.is_some_and(|group| gid == group || is_member(uid, gid, group))
}

/// Whether the user is a member by the user database. The kernel's word has the first group only,
/// and the socket's permissions have judged the others already.
fn is_member(uid: Uid, gid: Gid, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(uid) else {
        return false;
    };
    let Ok(name) = std::ffi::CString::new(user.name) else {
        return false;
    };
    getgrouplist(&name, gid).is_ok_and(|groups| groups.contains(&group))
}

fn group() -> Option<Gid> {
    Group::from_name(GROUP)
        .ok()
        .flatten()
        .map(|group| group.gid)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    fn handle(reloads: &Arc<AtomicUsize>) -> Handle {
        let reloads = Arc::clone(reloads);
        Handle {
            status: Arc::new(|| Status {
                pid: 42,
                version: "1".into(),
                ..Status::default()
            }),
            sessions: Arc::new(|| {
                vec![OpenSession {
                    id: "a".into(),
                    ..OpenSession::default()
                }]
            }),
            agents: Arc::new(|| {
                let agents = Agents {
                    truncated: true,
                    ..Agents::default()
                };
                Box::pin(async move { agents })
            }),
            reload: Arc::new(move || {
                reloads.fetch_add(1, Ordering::SeqCst);
            }),
        }
    }

    #[test]
    fn a_client_gets_what_the_daemon_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/weir.sock");
        let reloads = Arc::new(AtomicUsize::new(0));
        block_on(async {
            let listener = bind(&path).unwrap();
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let server = tokio::spawn(serve(listener, handle(&reloads), async {
                let _ = stopped.await;
            }));
            let client = Client::new(&path);
            assert_eq!(client.status().await.unwrap().pid, 42);
            assert_eq!(client.open_sessions().await.unwrap()[0].id, "a");
            assert!(client.agents().await.unwrap().truncated);
            client.reload().await.unwrap();
            assert_eq!(reloads.load(Ordering::SeqCst), 1);
            stop.send(()).unwrap();
            server.await.unwrap().unwrap();
        });
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o007,
            0
        );
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[test]
    fn a_daemon_that_is_not_there_is_told_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weir.sock");
        let status = || block_on(Client::new(&path).status());
        assert!(
            matches!(status(), Err(Error::NotRunning { .. })),
            "no socket"
        );
        block_on(async { drop(bind(&path).unwrap()) });
        assert!(
            matches!(status(), Err(Error::NotRunning { .. })),
            "a dead daemon's socket"
        );
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced_and_a_living_ones_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weir.sock");
        block_on(async {
            drop(bind(&path).unwrap());
            let living = bind(&path).unwrap();
            assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            drop(living);
        });
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(block_on(async { bind(&path) }).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn only_root_the_daemons_user_and_the_group_may_ask() {
        let (group, other) = (Gid::from_raw(4_000_001), Gid::from_raw(4_000_002));
        let stranger = Uid::from_raw(4_000_001);
        assert!(may_ask(Uid::from_raw(0), other, None));
        assert!(may_ask(geteuid(), other, None));
        assert!(may_ask(stranger, group, Some(group)));
        assert!(!may_ask(stranger, other, Some(group)));
        assert!(!may_ask(stranger, other, None));
    }

    #[test]
    fn nonsense_for_an_answer_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weir.sock");
        block_on(async {
            use tokio::io::AsyncWriteExt;
            let listener = bind(&path).unwrap();
            tokio::spawn(async move {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]")
                    .await
                    .unwrap();
                std::future::pending::<()>().await;
            });
            assert!(matches!(
                Client::new(&path).status().await,
                Err(Error::Answer { .. })
            ));
        });
    }
}
