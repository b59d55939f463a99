//! Just enough of PostgreSQL's protocol to ask for the canary's word as a role that needs no
//! password: start-up packet and query in one flight, then whatever comes back.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use super::{Outcome, patience};
use crate::{stage::INTRUDER, sys};

/// The first and only thing that an attacker says.
pub(crate) fn flight() -> Vec<u8> {
    let mut parameters = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", INTRUDER, "database", "app"] {
        parameters.extend(text.as_bytes());
        parameters.push(0);
    }
    parameters.push(0);
    let mut bytes = length(&parameters);
    bytes.extend(parameters);
    let query = b"SELECT word FROM public.canary\0";
    bytes.push(b'Q');
    bytes.extend(length(query));
    bytes.extend(query);
    bytes
}

fn length(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    length.to_be_bytes().to_vec()
}

/// Whether nothing more is to be expected: the query is answered (the second ReadyForQuery), or
/// the session is refused.
pub(crate) fn is_complete(reply: &[u8]) -> bool {
    let mut rest = reply;
    let mut ready = 0;
    while let [kind, a, b, c, d, ..] = *rest {
        let length = u32::from_be_bytes([a, b, c, d]) as usize + 1;
        let Some(message) = rest.get(..length) else {
            return false;
        };
        ready += usize::from(kind == b'Z');
        let fatal = kind == b'E' && message.windows(6).any(|part| part == b"VFATAL");
        if ready == 2 || fatal {
            return true;
        }
        rest = &rest[length..];
    }
    false
}

/// Asks over a stream that is connected, and takes what comes.
pub(crate) fn ask(stream: TcpStream) -> Outcome {
    if let Err(error) = (&stream).write_all(&flight()) {
        return Outcome::stopped("write", &error);
    }
    listen(stream)
}

/// Takes what comes of a question that was asked already.
pub(crate) fn listen(stream: TcpStream) -> Outcome {
    listen_on(stream, sys::read_within)
}

/// The same for any descriptor that reads and writes bytes.
pub(crate) fn ask_on<S: AsFd + Read + Write>(mut stream: S) -> Outcome {
    if let Err(error) = stream.write_all(&flight()) {
        return Outcome::stopped("write", &error);
    }
    listen_on(stream, sys::read_within)
}

fn listen_on<S>(
    mut stream: S,
    read: impl Fn(&mut S, &mut [u8], Duration) -> io::Result<usize>,
) -> Outcome {
    // A session takes longer than a connection: Weir logs in first, on a machine that may have
    // other things to do.
    let deadline = Instant::now() + patience() * 6;
    let (mut reply, mut buffer) = (Vec::new(), [0; 4096]);
    while !is_complete(&reply) {
        let left = deadline.saturating_duration_since(Instant::now());
        match read(&mut stream, &mut buffer, left) {
            Ok(0) if reply.is_empty() => return Outcome::Stopped("closed".to_owned()),
            Ok(0) => break,
            Ok(count) => reply.extend_from_slice(&buffer[..count]),
            Err(error) if reply.is_empty() => return Outcome::stopped("read", &error),
            Err(_) => break,
        }
    }
    Outcome::Reply(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_at_the_second_ready_or_a_fatal_error() {
        let ready = [b'Z', 0, 0, 0, 5, b'I'];
        assert!(!is_complete(&ready));
        assert!(is_complete(&[ready, ready].concat()));
        assert!(!is_complete(&[ready, ready].concat()[..11]));
        let fatal = b"E\0\0\0\x0cVFATAL\0\0";
        assert!(is_complete(fatal));
        assert!(!is_complete(&[]));
    }
}
