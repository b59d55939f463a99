//! The bare relay that Weir is measured against: bytes from one socket to the other, nothing else.
//!
//! It has Weir's shape, so that the difference is what Weir does and not how it is run: one
//! thread accepts, and hands each connection in turn to one of as many current-thread runtimes as
//! there are cores, where it stays.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    process, thread,
};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal};
use tokio::{
    net::TcpStream as Stream,
    runtime::Builder,
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::LocalSet,
};

/// Relays connections to `listen` until SIGTERM.
pub(crate) fn run(listen: SocketAddr, upstream: SocketAddr) -> Result<()> {
    exit_at_sigterm()?;
    let listener = TcpListener::bind(listen).with_context(|| format!("bind {listen}"))?;
    let cores = thread::available_parallelism()?.get();
    let workers: Vec<_> = (0..cores).map(|_| worker(upstream)).collect();
    for (connection, worker) in listener.incoming().zip(workers.iter().cycle()) {
        worker.send(connection?).context("a worker is gone")?;
    }
    Ok(())
}

/// Has the process end as one that is done: a build that counts then writes what it counted.
fn exit_at_sigterm() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    // Before there is any other thread: they inherit it.
    signals.thread_block()?;
    thread::spawn(move || {
        if signals.wait().is_ok() {
            process::exit(0);
        }
    });
    Ok(())
}

/// Starts a thread that relays what it is sent.
fn worker(upstream: SocketAddr) -> UnboundedSender<TcpStream> {
    let (sender, mut connections) = unbounded_channel();
    thread::spawn(move || -> io::Result<()> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        LocalSet::new().block_on(&runtime, async {
            while let Some(connection) = connections.recv().await {
                // A connection that breaks is its client's loss alone.
                tokio::task::spawn_local(relay(connection, upstream));
            }
        });
        Ok(())
    });
    sender
}

async fn relay(client: TcpStream, upstream: SocketAddr) -> io::Result<()> {
    client.set_nonblocking(true)?;
    let mut client = Stream::from_std(client)?;
    let mut upstream = Stream::connect(upstream).await?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut client, &mut upstream)
        .await
        .map(drop)
}
