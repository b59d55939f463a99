//! Listeners that outlive the daemon: systemd's FD store keeps them over a restart, with the clients
//! that wait in their backlogs, and passes them to the next daemon.
//!
//! Without a service manager that has such a store all of this does nothing: then a client is refused
//! until the next daemon listens. The store may keep a listener that LISTENERS hasn't, never the
//! other way round for longer than a crash takes: the next daemon sets right what a crash has left.
//! See `FileDescriptorStoreMax=` in systemd.service(5), and sd_notify(3).

use std::collections::BTreeMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};

use sd_notify::NotifyState;
use socket2::Socket;

use super::kernel;
use super::netns::Opened;

/// What an earlier daemon left.
#[derive(Default)]
pub struct Inherited(pub(super) Vec<Opened>);

impl Inherited {
    /// Takes what the service manager passed to this process, once: before anything is started that
    /// would inherit it too. What isn't a listener of ours is closed.
    #[must_use]
    pub fn take() -> Self {
        let passed = kernel::passed_descriptors().unwrap_or_else(|error| {
            tracing::warn!(%error, "what the service manager has kept can't be used");
            Vec::new()
        });
        let mut by_name: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        for (fd, name) in passed {
            by_name.entry(name).or_default().push(fd);
        }
        let usable = by_name.into_iter().filter_map(|(name, fds)| {
            let opened = recognise(&name, fds);
            if let Err(error) = &opened {
                tracing::warn!(name, %error, "a descriptor that the service manager has kept is closed");
                remove(&name);
            }
            opened.ok()
        });
        Self(usable.collect())
    }
}

/// Has the service manager keep a namespace's listeners.
pub(super) fn keep(opened: &Opened) {
    let name = name(opened.cookie, opened.port);
    let fds: Vec<_> = opened.listeners.iter().map(AsFd::as_fd).collect();
    let message = [NotifyState::FdStore, NotifyState::FdName(&name)];
    if let Err(error) = sd_notify::notify_with_fds(&message, &fds) {
        tracing::warn!(name, %error, "a listener can't be kept over a restart");
    }
}

/// Has the service manager close them.
pub(super) fn forget(cookie: u64, port: u16) {
    remove(&name(cookie, port));
}

fn remove(name: &str) {
    let message = [NotifyState::FdStoreRemove, NotifyState::FdName(name)];
    if let Err(error) = sd_notify::notify(&message) {
        tracing::warn!(name, %error, "the service manager keeps a listener that nobody needs");
    }
}

/// What a namespace's listeners are called in the store: both of them, so that they go together.
fn name(cookie: u64, port: u16) -> String {
    format!("listener-{cookie}-{port}")
}

/// The listeners that were kept under a name, if they are what the name says.
fn recognise(kept: &str, fds: Vec<OwnedFd>) -> io::Result<Opened> {
    let foreign = || io::Error::other("it isn't a listener of this name");
    let mut listeners = Vec::new();
    for fd in fds {
        let socket = Socket::from(fd);
        let cookie = kernel::netns_cookie(socket.as_fd())?;
        let address = socket.local_addr()?.as_socket().ok_or_else(foreign)?;
        let ours = address.ip().is_loopback() && name(cookie, address.port()) == kept;
        if !ours || !socket.is_listener()? {
            return Err(foreign());
        }
        socket.set_nonblocking(true)?;
        listeners.push((cookie, address.port(), TcpListener::from(socket)));
    }
    let &(cookie, port, _) = listeners.first().ok_or_else(foreign)?;
    Ok(Opened {
        cookie,
        port,
        listeners: listeners.into_iter().map(|(.., socket)| socket).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fds(sockets: Vec<TcpListener>) -> Vec<OwnedFd> {
        sockets.into_iter().map(OwnedFd::from).collect()
    }

    #[test]
    fn listeners_are_recognised_by_what_they_are_and_not_only_by_name() {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let cookie = kernel::netns_cookie(v4.as_fd()).unwrap();
        let port = v4.local_addr().unwrap().port();
        let v6 = TcpListener::bind(("::1", port)).unwrap();
        let own = name(cookie, port);

        let copies = vec![v4.try_clone().unwrap(), v6];
        let opened = recognise(&own, fds(copies)).unwrap();
        assert_eq!((opened.cookie, opened.port), (cookie, port));
        assert_eq!(opened.listeners.len(), 2);

        let elsewhere = name(cookie + 1, port);
        assert!(recognise(&elsewhere, fds(vec![v4.try_clone().unwrap()])).is_err());
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(recognise(&own, fds(vec![v4, stranger])).is_err());
        let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = datagrams.local_addr().unwrap().port();
        assert!(recognise(&name(cookie, port), vec![datagrams.into()]).is_err());
        let wildcard = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = wildcard.local_addr().unwrap().port();
        assert!(recognise(&name(cookie, port), fds(vec![wildcard])).is_err());
        assert!(recognise("stored", Vec::new()).is_err());
    }
}
