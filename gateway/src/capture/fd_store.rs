//! Listeners that outlive the daemon: systemd's FD store keeps them over a restart, with the clients
//! that wait in their backlogs, and passes them to the next daemon.
//!
//! Without a service manager that has such a store all of this does nothing: then a client is refused
//! until the next daemon listens. The store may keep a listener that LISTENERS hasn't, never the
//! other way round for longer than a crash takes: the next daemon sets right what a crash has left.
//! See `FileDescriptorStoreMax=` in systemd.service(5), and sd_notify(3).

use std::collections::BTreeMap;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use sd_notify::NotifyState;
use socket2::{Socket, Type};

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
    let listeners = opened.listeners.iter().map(AsFd::as_fd);
    let questions = opened.questions.iter().map(AsFd::as_fd);
    let fds: Vec<_> = listeners.chain(questions).collect();
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

/// What a namespace's listeners are called in the store: all of them, so that they go together.
fn name(cookie: u64, port: u16) -> String {
    format!("listener-{cookie}-{port}")
}

/// The listeners that were kept under a name, if they are what the name says.
fn recognise(kept: &str, fds: Vec<OwnedFd>) -> io::Result<Opened> {
    let foreign = || io::Error::other("it isn't a listener of this name");
    let (mut listeners, mut questions) = (Vec::new(), Vec::new());
    let mut place = None;
    for fd in fds {
        let socket = Socket::from(fd);
        let cookie = kernel::netns_cookie(socket.as_fd())?;
        let address = socket.local_addr()?.as_socket().ok_or_else(foreign)?;
        if !address.ip().is_loopback() || name(cookie, address.port()) != kept {
            return Err(foreign());
        }
        socket.set_nonblocking(true)?;
        place = Some((cookie, address.port()));
        match socket.r#type()? {
            Type::STREAM if socket.is_listener()? => listeners.push(TcpListener::from(socket)),
            Type::DGRAM => questions.push(UdpSocket::from(socket)),
            _ => return Err(foreign()),
        }
    }
    let (cookie, port) = place.ok_or_else(foreign)?;
    if listeners.len() != questions.len() {
        return Err(io::Error::other("a part of it isn't there"));
    }
    Ok(Opened {
        cookie,
        port,
        listeners,
        questions,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening(address: &str) -> (TcpListener, UdpSocket) {
        // The port of one may be taken for the other.
        loop {
            let listener = TcpListener::bind(address).unwrap();
            if let Ok(questions) = UdpSocket::bind(listener.local_addr().unwrap()) {
                return (listener, questions);
            }
        }
    }

    fn copies(sockets: &[&dyn AsFd]) -> Vec<OwnedFd> {
        let copy = |socket: &&dyn AsFd| socket.as_fd().try_clone_to_owned().unwrap();
        sockets.iter().map(copy).collect()
    }

    #[test]
    fn listeners_are_recognised_by_what_they_are_and_not_only_by_name() {
        let (v4, questions) = listening("127.0.0.1:0");
        let cookie = kernel::netns_cookie(v4.as_fd()).unwrap();
        let port = v4.local_addr().unwrap().port();
        let own = name(cookie, port);

        let opened = recognise(&own, copies(&[&v4, &questions])).unwrap();
        assert_eq!((opened.cookie, opened.port), (cookie, port));
        assert_eq!((opened.listeners.len(), opened.questions.len()), (1, 1));

        let elsewhere = name(cookie + 1, port);
        assert!(recognise(&elsewhere, copies(&[&v4, &questions])).is_err());
        let (stranger, _) = listening("127.0.0.1:0");
        assert!(recognise(&own, copies(&[&v4, &questions, &stranger])).is_err());
        assert!(recognise(&own, copies(&[&v4])).is_err());
        assert!(recognise(&own, copies(&[&questions])).is_err());
        let (wildcard, questions) = listening("0.0.0.0:0");
        let port = wildcard.local_addr().unwrap().port();
        assert!(recognise(&name(cookie, port), copies(&[&wildcard, &questions])).is_err());
        assert!(recognise("stored", Vec::new()).is_err());
    }
}
