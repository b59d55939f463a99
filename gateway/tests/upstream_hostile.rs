//! Servers that are none: whatever answers, Weir ends the attempt with an error, in time.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use weir::credential::Source;
use weir::upstream::{
    AuthPolicy, Connected, Error, Login, Startup, Step, Target, Tls, TlsMode, connect,
};

const LIMIT: Duration = Duration::from_millis(1500);

fn target(tls: &TlsMode) -> Target {
    Target {
        server_name: None,
        tls: Tls::new(tls).expect("TLS settings"),
        login: Login {
            user: "weir".into(),
            // Any variable that is set will do as a password.
            password: Source::Env {
                variable: "CARGO_PKG_NAME".into(),
            },
            allow: AuthPolicy::default(),
        },
        connect_timeout: LIMIT,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Connects to a server that sends one answer for each message it gets, and then nothing more.
fn against(tls: &TlsMode, answers: &[&[u8]]) -> Result<Connected, Error> {
    let target = target(tls);
    block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("loopback works");
        let address = listener.local_addr().expect("an address");
        let startup = Startup {
            database: "app",
            parameters: vec![],
        };
        let server = async {
            let (mut client, _) = listener.accept().await.expect("loopback works");
            let mut buf = [0; 4096];
            for answer in answers {
                if client.read(&mut buf).await.expect("loopback works") == 0 {
                    break;
                }
                client.write_all(answer).await.expect("loopback works");
            }
            // Held open, silent.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = connect(&target, address, &startup) => result,
            () = server => unreachable!("the server never ends"),
        }
    })
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend((body.len() as u32 + 4).to_be_bytes());
    message.extend(body);
    message
}

#[track_caller]
fn violates(answers: &[&[u8]], step: Step) {
    let error = against(&TlsMode::Disable, answers).expect_err("it must be refused");
    assert!(
        matches!(error, Error::Protocol { step: s, .. } if s == step),
        "{error:?}"
    );
    assert_eq!(error.for_client("appdb").sqlstate, "57P03");
}

const OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
const SASL: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";

fn settings() -> Vec<u8> {
    [
        message(b'S', b"client_encoding\0UTF8\0"),
        message(b'S', b"server_encoding\0UTF8\0"),
        message(b'S', b"standard_conforming_strings\0on\0"),
    ]
    .concat()
}

#[test]
fn the_orderly_minimum_is_a_session() {
    let bytes = [OK, &settings(), b"Z\0\0\0\x05I"].concat();
    let connected = against(&TlsMode::Disable, &[&bytes]).unwrap();
    assert!(connected.key.is_none() && connected.leftover.is_empty());
    // An older minor version offered, and a notification right behind ReadyForQuery.
    let negotiate = message(b'v', &[0, 0, 0, 0, 0, 0, 0, 0]);
    let bytes = [&negotiate, OK, &settings(), b"Z\0\0\0\x05I", b"A\0\0"].concat();
    assert_eq!(
        against(&TlsMode::Disable, &[&bytes]).unwrap().leftover,
        b"A\0\0"
    );
}

#[test]
fn garbage_and_impossible_lengths_are_protocol_errors() {
    violates(&[b"HTTP/1.1 400 Bad Request\r\n\r\n"], Step::Auth);
    violates(&[b"R\0\0\0\x03"], Step::Auth);
    violates(&[b"R\xff\xff\xff\xff"], Step::Auth);
    violates(&[b"R\x7f\xff\xff\xff"], Step::Auth);
    violates(&[&[OK, b"S\0\x20\0\0"].concat()], Step::Ready);
}

#[test]
fn messages_out_of_their_place_are_protocol_errors() {
    violates(&[b"Z\0\0\0\x05I"], Step::Auth);
    violates(&[&[OK, OK].concat()], Step::Ready);
    violates(&[&[OK, b"Z\0\0\0\x05T"].concat()], Step::Ready);
    violates(&[&[OK, &message(b'D', b"\0\0")[..]].concat()], Step::Ready);
    let key = message(b'K', b"\0\0\0\x01abcd");
    violates(&[&[OK, &key[..], &key[..]].concat()], Step::Ready);
    violates(
        &[&[OK, &message(b'K', b"\0\0\0\x01abc")[..]].concat()],
        Step::Ready,
    );
    let negotiate = message(b'v', &[0; 8]);
    violates(&[&negotiate.repeat(2)], Step::Auth);
}

#[test]
fn a_server_cannot_skip_its_proof_of_knowing_the_password() {
    violates(&[SASL, OK], Step::Auth);
    let proof = message(b'R', b"\0\0\0\x0cv=AAAA");
    violates(&[SASL, &proof], Step::Auth);
    // A challenge that isn't for this client's nonce.
    let challenge = message(b'R', b"\0\0\0\x0br=forged,s=AAAA,i=4096");
    let error = against(&TlsMode::Disable, &[SASL, &challenge]).unwrap_err();
    assert!(matches!(error, Error::Scram(_)), "{error:?}");
    assert_eq!(error.for_client("appdb").sqlstate, "28000");
}

#[test]
fn ways_to_log_in_that_are_not_known_are_named() {
    let kerberos = message(b'R', &[0, 0, 0, 7]);
    let error = against(&TlsMode::Disable, &[&kerberos]).unwrap_err();
    assert!(matches!(error, Error::AuthUnsupported(_)), "{error:?}");
}

#[test]
fn a_session_without_the_settings_that_judging_needs_is_refused() {
    let bytes = [OK, b"Z\0\0\0\x05I"].concat();
    let error = against(&TlsMode::Disable, &[&bytes]).unwrap_err();
    assert!(matches!(error, Error::Setting { .. }), "{error:?}");
}

#[test]
fn settings_without_end_are_refused() {
    let many: Vec<u8> = (0..1000)
        .flat_map(|i| message(b'S', format!("s{i}\0x\0").as_bytes()))
        .collect();
    violates(&[&[OK, &many].concat()], Step::Ready);
}

#[test]
fn plain_bytes_behind_the_answer_to_sslrequest_never_count() {
    let session = [OK, &settings(), b"Z\0\0\0\x05I"].concat();
    let error = against(&TlsMode::Require, &[&[b"S", &session[..]].concat()]).unwrap_err();
    assert!(matches!(error, Error::Tls(_)), "{error:?}");
}

#[test]
fn tls_that_is_wanted_is_never_given_up() {
    let error = against(&TlsMode::Require, &[b"N", &[OK].concat()]).unwrap_err();
    assert!(matches!(error, Error::TlsRefused), "{error:?}");
    let old = against(&TlsMode::Require, &[b"E\0\0\0\x20Mhello\0"]).unwrap_err();
    assert!(
        matches!(
            old,
            Error::Protocol {
                step: Step::Tls,
                ..
            }
        ),
        "{old:?}"
    );
}

#[test]
fn a_server_that_says_nothing_is_given_up_in_time() {
    for (tls, step) in [
        (TlsMode::Disable, Step::Auth),
        (TlsMode::Require, Step::Tls),
    ] {
        let began = Instant::now();
        let error = against(&tls, &[]).unwrap_err();
        assert!(
            matches!(error, Error::Timeout { step: s, .. } if s == step),
            "{error:?}"
        );
        assert!(began.elapsed() < 3 * LIMIT);
    }
}

#[test]
fn a_server_that_drips_is_given_up_in_time() {
    let target = target(&TlsMode::Disable);
    let began = Instant::now();
    let error = block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let startup = Startup {
            database: "app",
            parameters: vec![],
        };
        let server = async {
            let (mut client, _) = listener.accept().await.unwrap();
            client.write_all(OK).await.unwrap();
            loop {
                client.write_all(&message(b'N', b"\0")).await.unwrap();
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::select! {
            result = connect(&target, address, &startup) => result.map(drop).unwrap_err(),
            () = server => unreachable!("the server never ends"),
        }
    });
    assert!(
        matches!(
            error,
            Error::Timeout {
                step: Step::Ready,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(began.elapsed() < 3 * LIMIT);
}

#[test]
fn a_closed_port_is_told_at_once() {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let startup = Startup {
        database: "app",
        parameters: vec![],
    };
    let error = block_on(connect(&target(&TlsMode::Disable), address, &startup)).unwrap_err();
    assert!(matches!(error, Error::Io(Step::Dial, _)), "{error:?}");
    let told = error.for_client("appdb");
    assert_eq!(
        (told.sqlstate, &*told.message),
        ("57P03", "Weir cannot reach datastore appdb")
    );
}

#[test]
fn a_black_hole_is_given_up_in_time() {
    // A listener whose queue is full: the kernel drops what comes on top of it.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener
        .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
        .unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let queued = std::net::TcpStream::connect(address.as_socket().unwrap()).unwrap();

    let startup = Startup {
        database: "app",
        parameters: vec![],
    };
    let began = Instant::now();
    let target = target(&TlsMode::Disable);
    let dial = connect(&target, address.as_socket().unwrap(), &startup);
    let error = block_on(dial).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Timeout {
                step: Step::Dial,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(began.elapsed() < 3 * LIMIT);
    drop(queued);
}
