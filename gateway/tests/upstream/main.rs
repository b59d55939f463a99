//! Weir's way upstream against a real PostgreSQL, and against servers that are none.
//!
//! Needs PostgreSQL's server programs and root, which becomes `postgres` to run them.

mod server;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use weir::credential::{self, Source};
use weir::doctor::{Check, Status};
use weir::upstream::{
    AuthPolicy, Connected, Connection, Error, Login, Startup, Step, Target, Tls, TlsMode, cancel,
    connect,
};

use server::{Postgres, postgres};

const PASSWORD: &str = "correct horse: ' \\ ü";

fn target(user: &str, password: Source, tls: TlsMode) -> Target {
    Target {
        server_name: None,
        tls: Tls::new(&tls).expect("TLS settings"),
        login: Login {
            user: user.to_owned(),
            password,
            allow: AuthPolicy::default(),
        },
        connect_timeout: Duration::from_secs(10),
    }
}

/// A password file; tests that need different ones give each its own directory.
fn secret(dir: &Path, password: &str) -> Source {
    let path = dir.join("password");
    fs::write(&path, format!("{password}\n")).expect("password");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
    Source::File { path }
}

/// Runs to the end, within a time that is more than enough.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let bounded = async { tokio::time::timeout(Duration::from_secs(60), future).await };
    runtime
        .expect("a runtime")
        .block_on(bounded)
        .expect("it ends")
}

fn open(server: &Postgres, target: &Target) -> Result<Vec<weir::upstream::Row>, Error> {
    block_on(async {
        let mut connection = Connection::open(target, server.address, "postgres").await?;
        let rows = connection
            .query("SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            .await;
        connection.close().await;
        rows
    })
}

fn row(values: &[&str]) -> Vec<weir::upstream::Row> {
    vec![values.iter().map(|v| Some((*v).to_owned())).collect()]
}

#[track_caller]
fn server_says(error: &Error, sqlstate: &str) {
    assert_eq!(error.sqlstate(), Some(sqlstate), "{error:?}");
}

// --- logging in --------------------------------------------------------------------------------

#[test]
fn scram_logs_in_without_tls() {
    let server = postgres();
    let target = server.target("scram", TlsMode::Disable);
    assert_eq!(open(&server, &target).unwrap(), row(&["scram", "f"]));
}

#[test]
fn scram_logs_in_over_tls() {
    let server = postgres();
    let target = server.target("tlsonly", TlsMode::Require);
    assert_eq!(open(&server, &target).unwrap(), row(&["tlsonly", "t"]));
    let target = server.target("tlsonly", server.verify_full());
    assert_eq!(open(&server, &target).unwrap(), row(&["tlsonly", "t"]));
}

#[test]
fn a_server_that_asks_for_nothing_is_fine() {
    let server = postgres();
    let mut target = server.target("postgres", TlsMode::Disable);
    // It must not even be fetched.
    target.login.password = Source::Env {
        variable: "WEIR_TEST_SURELY_NOT_SET".into(),
    };
    assert_eq!(open(&server, &target).unwrap(), row(&["postgres", "f"]));
}

#[track_caller]
fn is_not_allowed(server: &Postgres, target: &Target) {
    let error = open(server, target).expect_err("this way in is not allowed");
    assert!(matches!(error, Error::AuthNotAllowed(_)), "{error:?}");
}

#[test]
fn md5_logs_in_only_where_it_is_allowed() {
    let server = postgres();
    let mut target = server.target("md5", TlsMode::Disable);
    is_not_allowed(&server, &target);
    target.login.allow.md5 = true;
    assert_eq!(open(&server, &target).unwrap(), row(&["md5", "f"]));
}

#[test]
fn cleartext_logs_in_only_where_it_is_allowed() {
    let server = postgres();
    let mut target = server.target("cleartext", TlsMode::Disable);
    target.login.allow.md5 = true;
    is_not_allowed(&server, &target);
    target.login.allow.cleartext = true;
    assert_eq!(open(&server, &target).unwrap(), row(&["cleartext", "f"]));
}

#[test]
fn a_wrong_password_is_told_to_the_client_without_a_trace_of_the_login() {
    let server = postgres();
    let dir = tempfile::tempdir().unwrap();
    let mut target = server.target("scram", TlsMode::Disable);
    target.login.password = secret(dir.path(), "wrong");
    let error = open(&server, &target).unwrap_err();
    server_says(&error, "28P01");
    let told = error.for_client("appdb");
    assert_eq!(told.sqlstate, "28000");
    assert_eq!(told.message, "Weir could not log in to datastore appdb");
}

#[test]
fn a_password_that_cannot_be_had_is_an_error_of_the_credential() {
    let server = postgres();
    let mut target = server.target("scram", TlsMode::Disable);
    target.login.password = Source::File {
        path: "/nonexistent/password".into(),
    };
    let error = open(&server, &target).unwrap_err();
    assert!(
        matches!(error, Error::Credential(credential::Error::Read { .. })),
        "{error:?}"
    );
}

#[test]
fn an_unknown_database_is_told_as_such() {
    let server = postgres();
    let target = server.target("scram", TlsMode::Disable);
    let error = block_on(Connection::open(&target, server.address, "nope")).unwrap_err();
    server_says(&error, "3D000");
    assert_eq!(
        error.for_client("appdb").message,
        "database \"nope\" does not exist"
    );
}

#[test]
fn a_role_with_settings_under_which_text_reads_differently_is_refused() {
    let server = postgres();
    let target = server.target("odd", TlsMode::Disable);
    let error = open(&server, &target).unwrap_err();
    reads_differently(&error, "standard_conforming_strings");
}

#[test]
fn a_database_of_another_encoding_is_refused() {
    let server = postgres();
    let target = server.target("scram", TlsMode::Disable);
    let error = block_on(Connection::open(&target, server.address, "latin1")).unwrap_err();
    reads_differently(&error, "server_encoding");
    assert_eq!(error.for_client("appdb").sqlstate, "57P03");
}

#[track_caller]
fn reads_differently(error: &Error, setting: &str) {
    let found = match error {
        Error::Setting { name, .. } => Some(*name),
        _ => None,
    };
    assert_eq!(found, Some(setting), "{error:?}");
}

// --- TLS ---------------------------------------------------------------------------------------

#[test]
fn verify_full_takes_the_name_that_it_is_told() {
    let server = postgres();
    let mut target = server.target("scram", server.verify_full());
    target.server_name = Some("db.internal".into());
    assert_eq!(open(&server, &target).unwrap(), row(&["scram", "t"]));
}

#[test]
fn verify_full_refuses_a_wrong_name_and_a_wrong_authority() {
    let server = postgres();
    let mut target = server.target("scram", server.verify_full());
    target.server_name = Some("other.internal".into());
    let error = open(&server, &target).unwrap_err();
    assert!(matches!(error, Error::Tls(_)), "{error:?}");

    let other = TlsMode::VerifyFull {
        ca: server.dir.path().join("other.pem"),
    };
    let error = open(&server, &server.target("scram", other)).unwrap_err();
    assert!(matches!(error, Error::Tls(_)), "{error:?}");
    assert_eq!(error.for_client("appdb").sqlstate, "57P03");
}

/// Somebody in the middle who can end the TLS connection (`require` verifies nothing) and speaks
/// TLS to the server: the channel binding must show that these are two connections.
#[test]
fn scram_over_tls_is_bound_to_the_servers_certificate() {
    let server = postgres();
    let mut target = server.target("scram", TlsMode::Require);
    target.server_name = Some("db.internal".into());
    let dir = tempfile::tempdir().unwrap();
    let authority = weir::tls::Authority::open_or_create(dir.path()).unwrap();
    let config = authority
        .server_config(&["db.internal".to_owned()])
        .unwrap();
    let error = block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay = relay(listener, config, server.verify_full(), server.address);
        let startup = startup();
        tokio::select! {
            opened = connect(&target, address, &startup) => opened.map(drop).unwrap_err(),
            () = relay => unreachable!("the relay ends first"),
        }
    });
    let Error::Server { sqlstate, message } = &error else {
        panic!("{error:?}")
    };
    assert_eq!(sqlstate, "28000");
    assert!(message.contains("channel binding"), "{message}");
}

async fn relay(
    listener: TcpListener,
    config: Arc<rustls::ServerConfig>,
    towards_server: TlsMode,
    server: SocketAddr,
) {
    let mut ssl_request = [0; 8];
    let (mut client, _) = listener.accept().await.expect("a client");
    client
        .read_exact(&mut ssl_request)
        .await
        .expect("SSLRequest");
    client.write_all(b"S").await.expect("answer");
    let mut client = tokio_rustls::TlsAcceptor::from(config)
        .accept(client)
        .await
        .expect("handshake");

    let TlsMode::VerifyFull { ca } = towards_server else {
        unreachable!("see the caller")
    };
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(ca).expect("authority") {
        roots.add(root.expect("certificate")).expect("root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut upstream = tokio::net::TcpStream::connect(server)
        .await
        .expect("server");
    upstream.write_all(&ssl_request).await.expect("SSLRequest");
    upstream.read_exact(&mut [0]).await.expect("answer");
    let name = server.ip().into();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut upstream = connector.connect(name, upstream).await.expect("handshake");
    // Ends with an error when the client hangs up, which is what this test is about.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
    std::future::pending().await
}

// --- sessions ----------------------------------------------------------------------------------

fn startup() -> Startup<'static> {
    let parameters = vec![("application_name".to_owned(), "weir test".to_owned())];
    Startup {
        database: "postgres",
        parameters,
    }
}

#[test]
fn a_session_begins_with_its_settings_its_key_and_nothing_left_over() {
    let server = postgres();
    let target = server.target("scram", TlsMode::Require);
    let connected = block_on(connect(&target, server.address, &startup())).unwrap();
    let Connected {
        stream,
        parameters,
        key,
        leftover,
    } = connected;
    let parameter = |name: &str| {
        parameters
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
            .unwrap_or_default()
    };
    assert_eq!(parameter("application_name"), "weir test");
    assert_eq!(parameter("client_encoding"), "UTF8");
    assert!(parameter("server_version").starts_with(|c: char| c.is_ascii_digit()));
    assert_eq!(key.expect("a key").secret.len(), 4);
    assert!(leftover.is_empty());
    assert!(stream.is_tls());
    assert!(stream.tcp().nodelay().unwrap());
}

#[test]
fn a_running_statement_can_be_cancelled() {
    let server = postgres();
    for tls in [TlsMode::Disable, TlsMode::Require] {
        let target = server.target("scram", tls);
        let began = Instant::now();
        let answer = block_on(async {
            let connected = connect(&target, server.address, &startup()).await.unwrap();
            let Connected {
                mut stream, key, ..
            } = connected;
            stream
                .write_all(b"Q\0\0\0\x18SELECT pg_sleep(30)\0")
                .await
                .unwrap();
            stream.flush().await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
            cancel(&target, server.address, &key.unwrap())
                .await
                .unwrap();
            let mut answer = vec![0; 4096];
            let mut read = 0;
            while !answer[..read].windows(6).any(|w| w == b"C57014") {
                let n = stream.read(&mut answer[read..]).await.unwrap();
                assert_ne!(n, 0, "the session ended");
                read += n;
            }
            answer
        });
        assert!(!answer.is_empty());
        assert!(began.elapsed() < Duration::from_secs(15));
    }
}

#[test]
fn queries_give_rows_and_survive_the_servers_errors() {
    let server = postgres();
    let target = server.target("scram", TlsMode::Disable);
    block_on(async {
        let mut connection = Connection::open(&target, server.address, "postgres")
            .await
            .unwrap();
        let rows = connection.query("SELECT 1, NULL, '', 'ü'").await.unwrap();
        assert_eq!(
            rows,
            [vec![
                Some("1".to_owned()),
                None,
                Some(String::new()),
                Some("ü".to_owned())
            ]]
        );
        assert_eq!(connection.query("").await.unwrap(), Vec::<Vec<_>>::new());
        let error = connection.query("SELECT 1/0").await.unwrap_err();
        server_says(&error, "22012");
        let rows = connection
            .query("SELECT g FROM generate_series(1, 20000) g")
            .await
            .unwrap();
        assert_eq!(rows.len(), 20_000);
        assert_eq!(rows[19_999], [Some("20000".to_owned())]);
        assert!(connection.parameter("server_version").is_some());
        assert!(!connection.is_tls());
    });
}

#[test]
fn a_session_whose_query_was_dropped_is_not_used_again() {
    let server = postgres();
    let target = server.target("scram", TlsMode::Disable);
    block_on(async {
        let mut connection = Connection::open(&target, server.address, "postgres")
            .await
            .unwrap();
        let slow = connection.query("SELECT pg_sleep(5)");
        assert!(
            tokio::time::timeout(Duration::from_millis(200), slow)
                .await
                .is_err()
        );
        let error = connection.query("SELECT 1").await.unwrap_err();
        assert!(matches!(error, Error::Broken), "{error:?}");
    });
}

#[test]
fn copy_is_nothing_that_weirs_own_client_takes() {
    let server = postgres();
    let target = server.target("scram", TlsMode::Disable);
    block_on(async {
        let mut connection = Connection::open(&target, server.address, "postgres")
            .await
            .unwrap();
        let error = connection
            .query("COPY (SELECT 1) TO STDOUT")
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Protocol {
                    step: Step::Query,
                    ..
                }
            ),
            "{error:?}"
        );
        let error = connection.query("SELECT 1").await.unwrap_err();
        assert!(matches!(error, Error::Broken), "{error:?}");
    });
}

// --- weir doctor -------------------------------------------------------------------------------

/// What the doctor says of a datastore with this role and password.
fn doctor(server: &Postgres, role: &str, password: &str) -> Check {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let Source::File { path } = secret(dir.path(), password) else {
        unreachable!("a password file")
    };
    let (host, password) = (server.address, path.display());
    let config = format!(
        "[datastore.appdb]\n\
         protocol = \"postgres\"\n\
         hosts = [\"{host}\"]\n\
         tls = {{ mode = \"disable\" }}\n\
         databases = [\"postgres\"]\n\
         login = {{ user = \"{role}\", password = {{ file = \"{password}\" }} }}\n\
         [agent.coder]\n\
         match = {{ cgroup = \"weir-agents.slice/coder-*\" }}\n"
    );
    let file = dir.path().join("weir.toml");
    fs::write(&file, config).expect("configuration");
    let name = format!("datastore appdb at {host}");
    let checks = block_on(weir::doctor::examine(&file));
    checks
        .into_iter()
        .find(|check| check.name == name)
        .expect("the datastore is looked at")
}

#[test]
fn the_doctor_logs_in_and_says_what_is_wrong_with_a_log_in() {
    let server = postgres();
    let check = doctor(&server, "scram", PASSWORD);
    assert_eq!(check.status, Status::Ok, "{check:?}");
    assert!(
        check
            .detail
            .starts_with("logged in as scram to postgres, PostgreSQL "),
        "{check:?}"
    );

    let check = doctor(&server, "postgres", PASSWORD);
    assert_eq!(check.status, Status::Warn, "{check:?}");
    assert!(check.detail.contains("superuser"), "{check:?}");

    let check = doctor(&server, "scram", "wrong");
    assert_eq!(check.status, Status::Fail, "{check:?}");
    assert!(check.fix.expect("a fix").contains("pg_hba.conf"));

    let check = doctor(&server, "odd", PASSWORD);
    assert_eq!(check.status, Status::Fail, "{check:?}");
    assert_eq!(
        check.fix.expect("a fix"),
        "ALTER ROLE odd SET standard_conforming_strings = 'on'"
    );
}
