//! Clients and servers of `cargo xtask bench kernel`, as small as they can be: what is measured is
//! the kernel's way, not theirs.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// Bytes of one write of a stream.
const CHUNK: usize = 128 << 10;

/// Takes whatever comes, until the process is ended.
pub(crate) fn sink(listen: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(listen).with_context(|| format!("bind {listen}"))?;
    for connection in listener.incoming() {
        let mut connection = connection?;
        thread::spawn(move || {
            let mut buffer = vec![0; CHUNK];
            // A connection that breaks is its client's loss alone.
            while connection.read(&mut buffer).is_ok_and(|n| n > 0) {}
        });
    }
    Ok(())
}

/// Connects and closes, one after the other; prints the median of a connect in nanoseconds.
pub(crate) fn connects(to: SocketAddr, count: usize) -> Result<()> {
    let mut took = (0..count)
        .map(|_| {
            let start = Instant::now();
            let connection = TcpStream::connect(to)?;
            let took = start.elapsed();
            // Without a TIME_WAIT for each: ports run out otherwise.
            socket_reset(&connection)?;
            Ok(took)
        })
        .collect::<io::Result<Vec<_>>>()
        .with_context(|| format!("connect to {to}"))?;
    took.sort_unstable();
    let median = took.get(count / 2).context("at least one connect")?;
    println!("{}", median.as_nanos());
    Ok(())
}

/// Has a close send RST.
fn socket_reset(connection: &TcpStream) -> io::Result<()> {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    nix::sys::socket::setsockopt(connection, nix::sys::socket::sockopt::Linger, &linger)?;
    Ok(())
}

/// Sends for some seconds; prints bytes a second.
pub(crate) fn stream(to: SocketAddr, seconds: u64) -> Result<()> {
    let mut connection = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
    let chunk = vec![0; CHUNK];
    let (start, mut sent) = (Instant::now(), 0_u64);
    while start.elapsed() < Duration::from_secs(seconds) {
        connection.write_all(&chunk)?;
        sent += CHUNK as u64;
    }
    println!("{:.0}", sent as f64 / start.elapsed().as_secs_f64());
    Ok(())
}
