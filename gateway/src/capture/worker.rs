//! Threads that wait for the kernel, and end before their owner is gone.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A thread. Dropping this stops it, and joins it but for [`Worker::unjoined`].
pub(super) struct Worker {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts a thread; its body has to return soon after [`Stop::wait`] has said so.
    pub(super) fn spawn(name: &str, body: impl FnOnce(Stop) + Send + 'static) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let thread = thread::Builder::new()
            .name(name.into())
            .spawn(move || body(Stop(reader)))?;
        Ok(Self {
            stop: Some(writer),
            thread: Some(thread),
        })
    }

    /// One whose end nobody waits for: what it does in one go can take as long as an agent wants.
    pub(super) fn unjoined(mut self) -> Self {
        self.thread = None;
        self
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it has panicked, that was reported when it did.
            let _ = thread.join();
        }
    }
}

/// The thread's side.
pub(super) struct Stop(PipeReader);

impl Stop {
    /// Waits until one of `fds` is readable, or the time is over. False when the thread has to end.
    pub(super) fn wait(&self, fds: &[BorrowedFd<'_>], timeout: PollTimeout) -> bool {
        let own = std::iter::once(self.0.as_fd());
        let mut polled: Vec<PollFd<'_>> = own
            .chain(fds.iter().copied())
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        // EINTR only means that the caller's loop turns once more.
        let _ = poll(&mut polled, timeout);
        polled[0].revents().is_none_or(|events| events.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn dropping_a_worker_waits_for_its_end() {
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let (quiet, _open) = io::pipe().unwrap();
        let worker = Worker::spawn("test", move |stop| {
            while stop.wait(&[quiet.as_fd()], PollTimeout::NONE) {}
            flag.store(true, Ordering::SeqCst);
        });
        drop(worker.unwrap());
        assert!(ended.load(Ordering::SeqCst));
    }

    #[test]
    fn an_unjoined_worker_is_told_to_stop_and_not_waited_for() {
        let (busy, free) = std::sync::mpsc::channel::<()>();
        let (ended, end) = std::sync::mpsc::channel();
        let (quiet, _open) = io::pipe().unwrap();
        let worker = Worker::spawn("test", move |stop| {
            let _ = free.recv();
            while stop.wait(&[quiet.as_fd()], PollTimeout::NONE) {}
            ended.send(()).unwrap();
        });
        // Would wait for ever if it joined.
        drop(worker.unwrap().unjoined());
        drop(busy);
        assert_eq!(end.recv_timeout(std::time::Duration::from_secs(60)), Ok(()));
    }
}
