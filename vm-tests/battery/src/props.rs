//! Things that stand outside of a container while an attack runs: what an operator, a careless
//! neighbour or an accomplice beside the database would have there. Each is a process of its own in
//! the host's network, and nothing governs it.

use std::{
    io::{self, IoSlice, Read, Write as _},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, AsRawFd as _},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::{
    signal::Signal,
    socket::{ControlMessage, MsgFlags, sendmsg},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use xtask::world::{ADDRESS, Process};

use crate::{
    attack::{dial, pg},
    container::Contained,
    scenario::Place,
    stage::{Prop, SECOND_PORT, Stage},
    sys,
};

/// What an accomplice is told.
#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum Role {
    /// Leads each connection of a stream socket to the database
    Stream {
        /// Protocol number
        protocol: i32,
        listen: SocketAddr,
        database: PathBuf,
    },
    /// The same, but for each connection's first byte
    Unwrap {
        listen: SocketAddr,
        database: PathBuf,
    },
    /// The same as `stream`, in a cipher that nobody between knows
    Relay {
        listen: SocketAddr,
        database: PathBuf,
    },
    /// Answers each datagram with what the database says to it
    Datagram {
        protocol: i32,
        listen: SocketAddr,
        database: PathBuf,
    },
    /// The same as `stream`, for processes and machines that share this kernel's AF_VSOCK
    Vsock { port: u32, database: PathBuf },
    /// Dials from an endpoint of the database into the container, and leads that to the database
    DialIn {
        from: SocketAddr,
        to: SocketAddr,
        database: PathBuf,
    },
    /// Hands a socket through a door, connected to an address or not yet
    Hand {
        door: PathBuf,
        #[arg(long)]
        connected: Option<SocketAddr>,
    },
}

/// An accomplice that stays for as long as the case.
pub(crate) fn stay(stage: &Stage, args: &[&str]) -> Result<Process> {
    let mut command = stage.world.outside(std::env::current_exe()?);
    command.arg("accomplice").args(args);
    if matches!(
        args.first(),
        Some(&"stream" | &"unwrap" | &"relay" | &"datagram" | &"vsock" | &"dial-in")
    ) {
        command.arg(database(stage));
    }
    let log = stage.world.dir().join("accomplice.log");
    // What an earlier one said is no sign of this one's readiness.
    let _ = std::fs::remove_file(&log);
    let mut process = Process::start("an accomplice", command, &log, Signal::SIGKILL)?;
    process.until_says("ready", Duration::from_secs(10))?;
    Ok(process)
}

/// A prop that is one accomplice.
pub(crate) fn one(stage: &Stage, args: &[&str]) -> Result<Prop> {
    Ok(Prop {
        process: Some(stay(stage, args)?),
        ..Prop::default()
    })
}

/// Dials a container's `port` from the datastore's second endpoint, again and again.
pub(crate) fn dial_in(stage: &Stage, contained: &Contained, port: u16) -> Result<Process> {
    let address = match contained.place {
        Place::Host => ADDRESS.to_owned(),
        _ => format!("10.79.{}.2", contained.agent.count()),
    };
    let (from, to) = (
        format!("{ADDRESS}:{SECOND_PORT}"),
        format!("{address}:{port}"),
    );
    stay(stage, &["dial-in", &from, &to])
}

/// Hands a socket to an attacker that listens at its door, from the host's network or from the
/// attacker's own, and waits until that is done.
pub(crate) fn hand(
    stage: &Stage,
    contained: &Contained,
    inside: bool,
    connected: Option<SocketAddr>,
) -> Result<()> {
    let program = std::env::current_exe()?;
    let mut command = if inside {
        let pids = contained.pids()?;
        let pid = pids.first().context("the attacker lives")?;
        let mut command = Command::new("nsenter");
        command
            .args([&format!("--net=/proc/{pid}/ns/net"), "--"])
            .arg(program);
        command
    } else {
        stage.world.outside(program)
    };
    command
        .args(["accomplice", "hand"])
        .arg(contained.agent.home().join("door"));
    if let Some(address) = connected {
        command.args(["--connected", &address.to_string()]);
    }
    let output = command.output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "handing over: {}", error.trim());
    Ok(())
}

fn database(stage: &Stage) -> PathBuf {
    stage.world.dir().join("pg/.s.PGSQL.5432")
}

/// The accomplice's life.
pub(crate) fn main(role: &Role) -> Result<()> {
    match role {
        Role::Stream {
            protocol,
            listen,
            database,
        } => serve(&bound(*listen, *protocol)?, database, 0),
        Role::Unwrap { listen, database } => {
            serve(&bound(*listen, libc::IPPROTO_TCP)?, database, 1)
        }
        Role::Relay { listen, database } => relay(*listen, database),
        Role::Vsock { port, database } => {
            let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
            socket.bind(&SockAddr::vsock(libc::VMADDR_CID_ANY, *port))?;
            serve(&socket, database, 0)
        }
        Role::Datagram {
            protocol,
            listen,
            database,
        } => datagrams(*protocol, *listen, database),
        Role::DialIn { from, to, database } => dial_again(*from, *to, database),
        Role::Hand { door, connected } => hand_over(door, *connected),
    }
}

fn bound(listen: SocketAddr, protocol: i32) -> Result<Socket> {
    let socket = dial::socket(listen, protocol)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(listen))?;
    Ok(socket)
}

/// Leads each connection to the database, without its first bytes.
fn serve(socket: &Socket, database: &Path, skipped: usize) -> Result<()> {
    socket.listen(16)?;
    println!("ready");
    loop {
        let (client, _) = socket.accept()?;
        let database = database.to_owned();
        thread::spawn(move || lead(&client, &database, skipped));
    }
}

/// Takes a question to the database, without its first bytes, and its answer back. Only then does the
/// database see anybody.
fn lead(mut client: &Socket, database: &Path, skipped: usize) -> io::Result<()> {
    let mut question = vec![0; 4096];
    let count = client.read(&mut question)?;
    let first = question.get(skipped..count).unwrap_or_default();
    if first.is_empty() {
        return Ok(());
    }
    let mut upstream = UnixStream::connect(database)?;
    upstream.write_all(first)?;
    let (mut back, mut away) = (upstream.try_clone()?, client.try_clone()?);
    let rest = thread::spawn(move || io::copy(&mut away, &mut upstream));
    io::copy(&mut back, &mut client)?;
    drop(rest);
    Ok(())
}

/// What a relay and an attacker have agreed on: no byte looks like what it is.
pub(crate) fn cipher(bytes: &mut [u8]) {
    bytes.iter_mut().for_each(|byte| *byte ^= 0x5a);
}

fn relay(listen: SocketAddr, database: &Path) -> Result<()> {
    let listener = TcpListener::bind(listen)?;
    println!("ready");
    loop {
        let (mut client, _) = listener.accept()?;
        let mut question = vec![0; 4096];
        let count = client.read(&mut question)?;
        cipher(&mut question);
        let mut upstream = UnixStream::connect(database)?;
        upstream.write_all(question.get(..count).unwrap_or_default())?;
        let (mut reply, mut part) = (Vec::new(), [0; 4096]);
        while !pg::is_complete(&reply) {
            let count = sys::read_within(&mut upstream, &mut part, Duration::from_secs(5))?;
            ensure!(count > 0, "the database hung up");
            reply.extend_from_slice(&part[..count]);
        }
        cipher(&mut reply);
        client.write_all(&reply)?;
    }
}

fn datagrams(protocol: i32, listen: SocketAddr, database: &Path) -> Result<()> {
    let domain = Domain::for_address(listen);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::from(protocol)))?;
    socket.bind(&SockAddr::from(listen))?;
    println!("ready");
    loop {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let (_, from) = socket.recv_from(&mut buffer)?;
        // Which question it was doesn't matter: there is only one.
        let mut upstream = UnixStream::connect(database)?;
        upstream.write_all(&pg::flight())?;
        let (mut reply, mut part) = (Vec::new(), [0; 4096]);
        while !pg::is_complete(&reply) {
            let count = sys::read_within(&mut upstream, &mut part, Duration::from_secs(5))?;
            ensure!(count > 0, "the database hung up");
            reply.extend_from_slice(&part[..count]);
        }
        socket.send_to(&reply, &from)?;
    }
}

fn dial_again(from: SocketAddr, to: SocketAddr, database: &Path) -> Result<()> {
    println!("ready");
    let start = Instant::now();
    // The container may not listen yet; and a simultaneous open takes two who try.
    while start.elapsed() < Duration::from_secs(30) {
        let socket = dial::socket(to, libc::IPPROTO_TCP)?;
        socket.set_reuse_address(true)?;
        socket.set_linger(Some(Duration::ZERO))?;
        socket.bind(&SockAddr::from(from))?;
        if socket
            .connect_timeout(&SockAddr::from(to), Duration::from_millis(500))
            .is_ok()
        {
            // It hangs up when it is done, and is dialled again until this is ended.
            let _ = lead(&socket, database, 0);
        }
        thread::yield_now();
    }
    Ok(())
}

fn hand_over(door: &Path, connected: Option<SocketAddr>) -> Result<()> {
    let socket = match connected {
        Some(address) => Socket::from(TcpStream::connect(address)?),
        None => dial::socket(SocketAddr::new(IpAddr::from([0; 4]), 0), libc::IPPROTO_TCP)?,
    };
    let door = UnixStream::connect(door)?;
    let fds = [socket.as_fd().as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let data = [IoSlice::new(b"x")];
    sendmsg::<()>(door.as_raw_fd(), &data, &rights, MsgFlags::empty(), None)?;
    Ok(())
}
