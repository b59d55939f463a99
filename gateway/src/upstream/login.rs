//! From the `StartupMessage` to the first `ReadyForQuery`: Weir logs in with its own credential.
//!
//! Every message has its one place; anything else ends the attempt. Above all a server can't skip
//! the end of SCRAM, in which it proves that it knows the password's verifier.

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{
    ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256,
};
use tokio::io::AsyncWriteExt;
use zeroize::Zeroizing;

use super::error::{Error, Step};
use super::frames::{Body, Frames, error_response};
use super::stream::Stream;
use super::{BackendKey, Login, Startup, tls};

/// Protocol 3.0. Nothing of 3.2 is needed upstream: only Weir sees the server's cancel key.
const VERSION: i32 = 3 << 16;
/// The longest message of a log-in, in bytes.
const MAX_MESSAGE: usize = 1 << 20;
/// The most settings a server may report; PostgreSQL 18 reports 15.
const MAX_PARAMETERS: usize = 256;
/// Keys are 4 bytes in protocol 3.0, and up to 256 in 3.2.
const KEY_LENGTHS: std::ops::RangeInclusive<usize> = 4..=256;

/// What a server told about the new session.
#[derive(Default)]
pub(super) struct Session {
    pub(super) parameters: Vec<(String, String)>,
    pub(super) key: Option<BackendKey>,
    pub(super) leftover: Vec<u8>,
}

/// Sends the start-up message and authenticates. The frames go on to [`ready`].
pub(super) async fn authenticate(
    stream: &mut Stream,
    login: &Login,
    startup: &Startup<'_>,
) -> Result<Frames, Error> {
    send(stream, &startup_message(&login.user, startup)?).await?;
    let mut frames = Frames::new(MAX_MESSAGE);
    let mut negotiated = false;
    loop {
        match next(stream, &mut frames).await? {
            Message::Ok => return Ok(frames),
            // The server offers an older minor version than 3.0, or doesn't know an option:
            // neither says anything here, where 3.0 was asked for without options.
            Message::Negotiate if !negotiated => negotiated = true,
            Message::Cleartext if !login.allow.cleartext => {
                return Err(Error::AuthNotAllowed("a cleartext password"));
            }
            Message::Md5(_) if !login.allow.md5 => {
                return Err(Error::AuthNotAllowed("an MD5 password"));
            }
            Message::Cleartext => {
                let secret = login.password.fetch().await?;
                send(stream, &password_message(secret.expose(), b"\0")).await?;
                break;
            }
            Message::Md5(salt) => {
                let secret = login.password.fetch().await?;
                let hash = Zeroizing::new(md5_hash(login.user.as_bytes(), secret.expose(), salt));
                send(stream, &password_message(hash.as_bytes(), b"\0")).await?;
                break;
            }
            Message::Sasl(mechanisms) => {
                scram(stream, &mut frames, login, &mechanisms).await?;
                break;
            }
            _ => return Err(unexpected()),
        }
    }
    match next(stream, &mut frames).await? {
        Message::Ok => Ok(frames),
        _ => Err(unexpected()),
    }
}

/// Collects what the server tells, up to its first `ReadyForQuery`.
pub(super) async fn ready(stream: &mut Stream, mut frames: Frames) -> Result<Session, Error> {
    let mut session = Session::default();
    let malformed = |what| Error::Protocol {
        step: Step::Ready,
        what,
    };
    loop {
        let (tag, body) = frames.next(stream, Step::Ready).await?;
        match tag {
            b'S' => {
                let (name, value) =
                    parameter(body).ok_or_else(|| malformed("malformed ParameterStatus"))?;
                session.parameters.retain(|(n, _)| *n != name);
                session.parameters.push((name, value));
                if session.parameters.len() > MAX_PARAMETERS {
                    return Err(malformed("too many settings"));
                }
            }
            b'K' if session.key.is_none() => {
                let key = backend_key(body).ok_or_else(|| malformed("malformed BackendKeyData"))?;
                session.key = Some(key);
            }
            b'N' => {}
            b'E' => return Err(error_response(body, Step::Ready)),
            b'Z' if body == b"I" => break,
            _ => return Err(malformed("unexpected message before ReadyForQuery")),
        }
    }
    check_settings(&session.parameters)?;
    session.leftover = frames.leftover();
    Ok(session)
}

/// Statements are analysed as UTF-8 in which a backslash is a backslash. A role or a database may
/// have its own settings; one under which the server reads differently isn't usable. In a database of
/// another encoding it folds letters beyond ASCII and cuts long names elsewhere, so that a name could
/// mean another object to it than to Weir.
fn check_settings(parameters: &[(String, String)]) -> Result<(), Error> {
    for (name, wanted) in [
        ("standard_conforming_strings", "on"),
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
    ] {
        let value = parameters
            .iter()
            .find(|(n, _)| n == name)
            .map_or("", |(_, v)| v);
        if value != wanted {
            return Err(Error::Setting {
                name,
                value: value.to_owned(),
                wanted,
            });
        }
    }
    Ok(())
}

/// The SCRAM exchange, up to and including the server's proof.
async fn scram(
    stream: &mut Stream,
    frames: &mut Frames,
    login: &Login,
    mechanisms: &[String],
) -> Result<(), Error> {
    let (mechanism, binding) = mechanism(mechanisms, tls::channel_binding(stream))?;
    let secret = login.password.fetch().await?;
    let mut scram = ScramSha256::new(secret.expose(), binding);
    drop(secret);

    let first = scram.message();
    let length = i32::try_from(first.len()).map_err(|_| unexpected())?;
    let mut initial = Vec::from(mechanism);
    initial.push(0);
    initial.extend(length.to_be_bytes());
    send(stream, &password_message(&initial, first)).await?;

    let Message::SaslContinue(challenge) = next(stream, frames).await? else {
        return Err(unexpected());
    };
    // The server chooses how many rounds of hashing this takes (4,096 by default are some
    // milliseconds): other sessions on this thread must not wait for it.
    let scram = tokio::task::spawn_blocking(move || scram.update(&challenge).map(|()| scram)).await;
    let mut scram = scram
        .map_err(|e| Error::Scram(e.into()))?
        .map_err(Error::Scram)?;
    send(stream, &password_message(scram.message(), b"")).await?;

    let Message::SaslFinal(proof) = next(stream, frames).await? else {
        return Err(unexpected());
    };
    scram.finish(&proof).map_err(Error::Scram)
}

/// With a channel binding wherever both sides can: it shows that the server which checks the
/// password is the one that ends the TLS connection.
fn mechanism(
    offered: &[String],
    binding: Option<Vec<u8>>,
) -> Result<(&'static str, ChannelBinding), Error> {
    let offers = |m: &str| offered.iter().any(|o| o == m);
    match binding {
        Some(binding) if offers(SCRAM_SHA_256_PLUS) => Ok((
            SCRAM_SHA_256_PLUS,
            ChannelBinding::tls_server_end_point(binding),
        )),
        // "The server can't": a server that did offer it, to us unseen, will refuse.
        Some(_) if offers(SCRAM_SHA_256) => Ok((SCRAM_SHA_256, ChannelBinding::unrequested())),
        None if offers(SCRAM_SHA_256) => Ok((SCRAM_SHA_256, ChannelBinding::unsupported())),
        _ => Err(Error::AuthUnsupported(format!(
            "SASL {}",
            offered.join(", ")
        ))),
    }
}

/// A message of the authentication.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    Sasl(Vec<String>),
    SaslContinue(Vec<u8>),
    SaslFinal(Vec<u8>),
    Negotiate,
}

async fn next(stream: &mut Stream, frames: &mut Frames) -> Result<Message, Error> {
    match frames.next(stream, Step::Auth).await? {
        (b'R', body) => authentication(body),
        (b'E', body) => Err(error_response(body, Step::Auth)),
        (b'v', _) => Ok(Message::Negotiate),
        _ => Err(unexpected()),
    }
}

fn authentication(body: &[u8]) -> Result<Message, Error> {
    let malformed = || Error::Protocol {
        step: Step::Auth,
        what: "malformed authentication request",
    };
    let mut body = Body(body);
    let code = body.i32().ok_or_else(malformed)?;
    let message = match code {
        0 => Message::Ok,
        3 => Message::Cleartext,
        5 => {
            let salt = body.bytes(4).and_then(|salt| salt.try_into().ok());
            Message::Md5(salt.ok_or_else(malformed)?)
        }
        10 => Message::Sasl(mechanisms(&mut body).ok_or_else(malformed)?),
        11 => Message::SaslContinue(body.bytes(body.0.len()).unwrap_or_default().to_vec()),
        12 => Message::SaslFinal(body.bytes(body.0.len()).unwrap_or_default().to_vec()),
        _ => return Err(Error::AuthUnsupported(format!("code {code}"))),
    };
    if body.is_empty() {
        Ok(message)
    } else {
        Err(malformed())
    }
}

fn mechanisms(body: &mut Body<'_>) -> Option<Vec<String>> {
    let mut names = Vec::new();
    loop {
        match body.cstr()? {
            [] => return Some(names),
            name => names.push(std::str::from_utf8(name).ok()?.to_owned()),
        }
    }
}

fn parameter(body: &[u8]) -> Option<(String, String)> {
    let mut body = Body(body);
    let mut text = || std::str::from_utf8(body.cstr()?).ok().map(str::to_owned);
    let pair = (text()?, text()?);
    body.is_empty().then_some(pair)
}

fn backend_key(body: &[u8]) -> Option<BackendKey> {
    let mut body = Body(body);
    let pid = body.i32()?;
    KEY_LENGTHS.contains(&body.0.len()).then(|| BackendKey {
        pid,
        secret: body.0.to_vec(),
    })
}

fn startup_message(user: &str, startup: &Startup<'_>) -> Result<Vec<u8>, Error> {
    let mut message = vec![0; 4];
    message.extend(VERSION.to_be_bytes());
    let fixed = [
        ("user", user),
        ("database", startup.database),
        ("client_encoding", "UTF8"),
    ];
    let asked = startup
        .parameters
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()));
    for (i, (name, value)) in fixed.into_iter().chain(asked).enumerate() {
        let reserved = ["user", "database", "replication", "client_encoding"].contains(&name)
            || name.starts_with("_pq_.")
            || name.is_empty();
        if (i >= fixed.len() && reserved) || name.contains('\0') || value.contains('\0') {
            return Err(Error::Parameter(name.to_owned()));
        }
        for text in [name, value] {
            message.extend(text.as_bytes());
            message.push(0);
        }
    }
    message.push(0);
    let length = i32::try_from(message.len()).map_err(|_| Error::Parameter("too long".into()))?;
    message[..4].copy_from_slice(&length.to_be_bytes());
    Ok(message)
}

/// A `p` message. It may hold the password, so its memory is wiped.
fn password_message(head: &[u8], tail: &[u8]) -> Zeroizing<Vec<u8>> {
    let length = 4 + head.len() + tail.len();
    let mut message = Zeroizing::new(Vec::with_capacity(1 + length));
    message.push(b'p');
    // Secrets are at most 16 KiB and SCRAM's messages smaller, so this always fits.
    message.extend((length as u32).to_be_bytes());
    message.extend(head);
    message.extend(tail);
    message
}

async fn send(stream: &mut Stream, message: &[u8]) -> Result<(), Error> {
    let failed = |e| Error::Io(Step::Auth, e);
    stream.write_all(message).await.map_err(failed)?;
    stream.flush().await.map_err(failed)
}

fn unexpected() -> Error {
    Error::Protocol {
        step: Step::Auth,
        what: "unexpected message",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn channel_binding_is_used_whenever_both_sides_can() {
        let pick = |offered: &[&str], binding| {
            mechanism(&names(offered), binding)
                .map(|(m, _)| m)
                .map_err(|e| e.to_string())
        };
        let hash = Some(vec![1; 32]);
        assert_eq!(
            pick(&[SCRAM_SHA_256_PLUS, SCRAM_SHA_256], hash.clone()).unwrap(),
            SCRAM_SHA_256_PLUS
        );
        assert_eq!(pick(&[SCRAM_SHA_256], hash.clone()).unwrap(), SCRAM_SHA_256);
        assert_eq!(
            pick(&[SCRAM_SHA_256_PLUS, SCRAM_SHA_256], None).unwrap(),
            SCRAM_SHA_256
        );
        assert!(pick(&[SCRAM_SHA_256_PLUS], None).is_err());
        assert!(pick(&["OAUTHBEARER"], hash).is_err());
    }

    #[test]
    fn a_client_cannot_set_who_weir_is_or_how_it_speaks() {
        for name in [
            "user",
            "database",
            "replication",
            "client_encoding",
            "_pq_.x",
            "",
            "a\0b",
        ] {
            let startup = Startup {
                database: "app",
                parameters: vec![(name.to_owned(), "x".to_owned())],
            };
            assert!(
                matches!(startup_message("weir", &startup), Err(Error::Parameter(_))),
                "{name:?}"
            );
        }
        let startup = Startup {
            database: "a\0b",
            parameters: vec![],
        };
        assert!(startup_message("weir", &startup).is_err());
    }

    #[test]
    fn the_startup_message_is_what_the_protocol_says() {
        let startup = Startup {
            database: "app",
            parameters: vec![("DateStyle".into(), "ISO".into())],
        };
        let message = startup_message("weir", &startup).unwrap();
        let text = b"user\0weir\0database\0app\0client_encoding\0UTF8\0DateStyle\0ISO\0\0";
        assert_eq!(&message[..8], [0, 0, 0, text.len() as u8 + 8, 0, 3, 0, 0]);
        assert_eq!(&message[8..], text);
    }

    #[test]
    fn sessions_that_read_text_differently_are_refused() {
        let with = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs
                .iter()
                .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                .collect();
            check_settings(&pairs)
        };
        let right = [
            ("standard_conforming_strings", "on"),
            ("client_encoding", "UTF8"),
            ("server_encoding", "UTF8"),
        ];
        assert!(with(&right).is_ok());
        for (at, wrong) in ["off", "SQL_ASCII", "LATIN1"].into_iter().enumerate() {
            let mut one_wrong = right;
            one_wrong[at].1 = wrong;
            assert!(with(&one_wrong).is_err(), "{one_wrong:?}");
            let without: Vec<_> = right.into_iter().filter(|r| *r != right[at]).collect();
            assert!(with(&without).is_err(), "{without:?}");
        }
    }

    #[test]
    fn authentication_requests_with_a_wrong_length_are_refused() {
        for body in [
            &b""[..],
            b"\0\0\0",
            b"\0\0\0\0x",
            b"\0\0\0\x03x",
            b"\0\0\0\x05abc",
            b"\0\0\0\x05abcde",
            b"\0\0\0\x0aSCRAM-SHA-256\0",
            b"\0\0\0\x0aSCRAM-SHA-256\0\0x",
        ] {
            assert!(
                matches!(authentication(body), Err(Error::Protocol { .. })),
                "{body:?}"
            );
        }
        assert_eq!(
            authentication(b"\0\0\0\x05abcd").unwrap(),
            Message::Md5(*b"abcd")
        );
        assert!(matches!(
            authentication(b"\0\0\0\x07"),
            Err(Error::AuthUnsupported(_))
        ));
    }

    proptest! {
        #[test]
        fn no_message_of_a_server_panics(body in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = authentication(&body);
            let _ = parameter(&body);
            let _ = backend_key(&body);
        }
    }
}
