//! The soak's client, as it runs inside an agent: dials, and knows what the answer must be.
//!
//! Most connections ask for a database that nobody offers, under a name that no other connection has:
//! the refusal repeats it, and Weir records it with the agent that it takes the client for. Some are
//! whole sessions, with one query whose answer each agent's policy masks in its own way.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

/// Connections at a time.
const AT_ONCE: u64 = 2;
/// One in so many is a whole session.
const WHOLE: u64 = 20;
/// Longer than any daemon takes to come back.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who dials, and how often.
#[derive(clap::Args)]
pub(crate) struct Args {
    to: SocketAddr,
    /// The agent's name.
    name: String,
    count: u64,
    /// What its query must answer.
    answer: String,
}

/// What came of the attempts so far.
#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    right: AtomicU64,
    whole: AtomicU64,
    /// The connection stood, and ended without an answer.
    cut: AtomicU64,
    refused: AtomicU64,
    wrong: AtomicU64,
}

/// Dials. Each hundredth of the way, and at the end, prints the counts in one line; before it, what was
/// wrong.
pub(crate) fn run(args: &Args) -> Result<()> {
    let (counts, printing) = (Counts::default(), Mutex::new(()));
    let say = |text: &str| {
        let _whole_lines = printing.lock().unwrap_or_else(PoisonError::into_inner);
        println!("{text}");
    };
    let dial = || {
        loop {
            let number = counts.begun.fetch_add(1, Relaxed);
            if number >= args.count {
                return;
            }
            if let Err(wrong) = counts.attempt(args, number) {
                say(&format!("wrong {number}: {wrong:?}"));
            }
            if number.is_multiple_of((args.count / 100).max(1)) {
                say(&counts.line());
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(dial);
        }
    });
    say(&counts.line());
    Ok(())
}

impl Counts {
    fn line(&self) -> String {
        let all = [
            &self.right,
            &self.whole,
            &self.cut,
            &self.refused,
            &self.wrong,
        ];
        let all = all.map(|count| count.load(Relaxed).to_string());
        format!("counts {}", all.join(" "))
    }

    /// One connection. An error is an answer that it must not get.
    fn attempt(&self, args: &Args, number: u64) -> Result<(), String> {
        let is_whole = number.is_multiple_of(WHOLE);
        let result = TcpStream::connect(args.to).and_then(|tcp| {
            if is_whole {
                whole(tcp, args)
            } else {
                cheap(tcp, args, number)
            }
        });
        let count = match &result {
            Ok(Ok(())) if is_whole => &self.whole,
            Ok(Ok(())) => &self.right,
            Ok(Err(_)) => &self.wrong,
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused => &self.refused,
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                    &self.cut
                }
                // A denied connect, a wait without an end: neither is to happen.
                _ => &self.wrong,
            },
        };
        count.fetch_add(1, Relaxed);
        match result {
            Ok(answer) => answer,
            Err(error) if std::ptr::eq(count, &self.wrong) => Err(error.to_string()),
            Err(_) => Ok(()),
        }
    }
}

type Answer = Result<(), String>;

/// Asks for a database that isn't offered, and whether the refusal is for this connection.
fn cheap(mut tcp: TcpStream, args: &Args, number: u64) -> io::Result<Answer> {
    let database = format!("{}-{number}", args.name);
    begin(&mut tcp, &args.name, &database)?;
    let (kind, body) = message(&mut tcp)?;
    if is_shutdown(kind, &body) {
        return Err(ErrorKind::ConnectionReset.into());
    }
    let expected = format!("Mdatabase \"{database}\" is not offered to agents");
    let told = body
        .split(|byte| *byte == 0)
        .any(|field| field == expected.as_bytes());
    Ok(if kind == b'E' && told {
        Ok(())
    } else {
        Err(lossy(kind, &body))
    })
}

/// A session with one query.
fn whole(mut tcp: TcpStream, args: &Args) -> io::Result<Answer> {
    begin(&mut tcp, &args.name, "app")?;
    let mut value = None;
    loop {
        let (kind, body) = message(&mut tcp)?;
        match kind {
            _ if is_shutdown(kind, &body) => return Err(ErrorKind::ConnectionReset.into()),
            b'E' => return Ok(Err(lossy(kind, &body))),
            b'D' => value = body.get(6..).map(<[u8]>::to_vec),
            b'Z' => match value {
                None => {
                    let sql = b"SELECT ssn FROM customers WHERE id = 1\0";
                    send(&mut tcp, b"Q", sql)?;
                    value = Some(Vec::new());
                }
                Some(value) if value == args.answer.as_bytes() => break,
                Some(value) => return Ok(Err(lossy(b'D', &value))),
            },
            _ => {}
        }
    }
    send(&mut tcp, b"X", b"")?;
    // Whether the end arrives in order is no matter of this session's answer.
    let _ = tcp.read(&mut [0]);
    Ok(Ok(()))
}

/// The daemon is going down, or can't serve while it does.
fn is_shutdown(kind: u8, body: &[u8]) -> bool {
    let mut fields = body.split(|byte| *byte == 0);
    kind == b'E' && fields.any(|field| field == b"C57P01")
}

fn begin(tcp: &mut TcpStream, user: &str, database: &str) -> io::Result<()> {
    tcp.set_read_timeout(Some(PATIENCE))?;
    let mut body = 0x3_0000_u32.to_be_bytes().to_vec();
    for text in ["user", user, "database", database, ""] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    send(tcp, b"", &body)
}

fn send(tcp: &mut TcpStream, kind: &[u8], body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len() + 4).map_err(io::Error::other)?;
    tcp.write_all(&[kind, &length.to_be_bytes(), body].concat())
}

fn message(tcp: &mut TcpStream) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    tcp.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let mut body = vec![
        0;
        (u32::from_be_bytes(length) as usize)
            .saturating_sub(4)
            .min(1 << 16)
    ];
    tcp.read_exact(&mut body)?;
    Ok((kind, body))
}

fn lossy(kind: u8, body: &[u8]) -> String {
    format!("{}{}", char::from(kind), String::from_utf8_lossy(body))
}

/// What one client has printed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Told {
    /// Refusals that were for the connection that got them.
    pub(crate) right: u64,
    /// Sessions with the right answer.
    pub(crate) whole: u64,
    pub(crate) cut: u64,
    pub(crate) refused: u64,
    pub(crate) wrong: u64,
}

impl Told {
    /// The last counts of a client's output.
    pub(crate) fn last(output: &str) -> Result<Self> {
        let line = output
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("counts "));
        let Some(line) = line else {
            return Ok(Self::default());
        };
        let mut all = line.split(' ').map(str::parse::<u64>);
        let mut next = || all.next().context("five counts")?.context("a count");
        Ok(Self {
            right: next()?,
            whole: next()?,
            cut: next()?,
            refused: next()?,
            wrong: next()?,
        })
    }

    pub(crate) fn all(&self) -> u64 {
        self.right + self.whole + self.cut + self.refused + self.wrong
    }
}

impl std::ops::Add for Told {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            right: self.right + other.right,
            whole: self.whole + other.whole,
            cut: self.cut + other.cut,
            refused: self.refused + other.refused,
            wrong: self.wrong + other.wrong,
        }
    }
}
