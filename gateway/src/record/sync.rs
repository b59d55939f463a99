//! Group commit: a few threads bring journals to the disk for all sessions.
//!
//! Sessions queue their file and wait. Each session has a file of its own, so that what can be
//! shared is the file system's own commit: `fdatasync`s that run at the same time share it, those
//! that run one after the other each wait for the disk. Hence several threads and not one.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use tokio::sync::oneshot;

/// Files that are synced at the same time. More sessions than this wait for each other, which
/// they would do at the disk anyway.
const THREADS: usize = 16;

/// One journal to bring to the disk.
struct Job {
    file: Arc<File>,
    /// Its directory, where the file's own entry has to get there too.
    dir: Option<Arc<File>>,
    done: oneshot::Sender<io::Result<()>>,
}

/// The way to the sync threads, which end when the last of these is dropped.
#[derive(Debug, Clone)]
pub(super) struct Syncer(mpsc::Sender<Job>);

/// The result of a [`Syncer::sync`]; an error of the channel means that the threads are gone.
pub(super) type Synced = oneshot::Receiver<io::Result<()>>;

impl Syncer {
    pub(super) fn start() -> io::Result<Syncer> {
        let (jobs, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new()
                .name("weir-sync".into())
                .spawn(move || run(&queue))?;
        }
        Ok(Syncer(jobs))
    }

    /// Queues a file that was written, and with `dir` the directory that holds it.
    pub(super) fn sync(&self, file: Arc<File>, dir: Option<Arc<File>>) -> Synced {
        let (done, synced) = oneshot::channel();
        // If the threads are gone, the job drops `done`, which the receiver sees.
        let _ = self.0.send(Job { file, dir, done });
        synced
    }
}

fn run(queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        // Released before the disk is waited for: one thread waits for a job, the others sync.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { file, dir, done }) = job else {
            return;
        };
        let result = std::iter::once(file)
            .chain(dir)
            .try_for_each(|file| file.sync_data());
        // A session that no longer waits has ended.
        let _ = done.send(result);
    }
}
