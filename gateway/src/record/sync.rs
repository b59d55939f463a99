//! Group commit: one thread brings journals to the disk for all sessions.
//!
//! Sessions queue their file and wait; the thread takes all that is queued at once, so that while
//! one `fdatasync` runs the next group gathers, and a file that is queued twice is synced once.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, mpsc};

use tokio::sync::oneshot;

/// One journal to bring to the disk.
struct Job {
    file: Arc<File>,
    /// Its directory, where the file's own entry has to get there too.
    dir: Option<Arc<File>>,
    done: oneshot::Sender<io::Result<()>>,
}

/// The way to the sync thread, which ends when the last of these is dropped.
#[derive(Debug, Clone)]
pub(super) struct Syncer(mpsc::Sender<Job>);

/// The result of a [`Syncer::sync`]; an error of the channel means that the thread is gone.
pub(super) type Synced = oneshot::Receiver<io::Result<()>>;

impl Syncer {
    pub(super) fn start() -> io::Result<Syncer> {
        let (jobs, queue) = mpsc::channel();
        std::thread::Builder::new()
            .name("weir-sync".into())
            .spawn(move || run(&queue))?;
        Ok(Syncer(jobs))
    }

    /// Queues a file that was written, and with `dir` the directory that holds it.
    pub(super) fn sync(&self, file: Arc<File>, dir: Option<Arc<File>>) -> Synced {
        let (done, synced) = oneshot::channel();
        // If the thread is gone, the job drops `done`, which the receiver sees.
        let _ = self.0.send(Job { file, dir, done });
        synced
    }
}

fn run(queue: &mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        let group: Vec<Job> = std::iter::once(first).chain(queue.try_iter()).collect();
        sync_group(group);
    }
}

fn sync_group(group: Vec<Job>) {
    // Results by file, so that each is synced once. By address: each is held in the group.
    let mut results: HashMap<*const File, Result<(), Option<i32>>> = HashMap::new();
    for job in &group {
        for file in std::iter::once(&job.file).chain(&job.dir) {
            results
                .entry(Arc::as_ptr(file))
                .or_insert_with(|| file.sync_data().map_err(|e| e.raw_os_error()));
        }
    }
    for job in group {
        let result = std::iter::once(&job.file)
            .chain(&job.dir)
            .try_for_each(|file| results[&Arc::as_ptr(file)])
            .map_err(|code| {
                code.map_or_else(|| io::ErrorKind::Other.into(), io::Error::from_raw_os_error)
            });
        // A session that no longer waits has ended.
        let _ = job.done.send(result);
    }
}
