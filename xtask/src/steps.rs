//! Progress for people: what is being done, how far it is, how long it took; what the programs
//! in between write is kept in a log and shown only if they fail.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use crate::cache;

/// A run of numbered steps.
#[derive(Debug)]
pub struct Steps {
    name: &'static str,
    done: usize,
    total: usize,
}

impl Steps {
    /// `total` steps of the command `name`.
    #[must_use]
    pub fn new(name: &'static str, total: usize) -> Self {
        Self {
            name,
            done: 0,
            total,
        }
    }

    /// Announces the next step, does it, and says how long it took.
    pub fn step<T>(&mut self, what: &str, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.done += 1;
        let mark = format!("[{}/{}]", self.done, self.total);
        println!("{mark} {what}");
        let start = Instant::now();
        let value = act().with_context(|| what.to_owned())?;
        println!("{mark} done in {:.1} s", start.elapsed().as_secs_f64());
        Ok(value)
    }

    /// A step that is a program: quiet, its output logged, shown if it fails.
    pub fn quietly(&mut self, what: &str, command: &mut Command) -> Result<()> {
        let log = self.log()?;
        self.step(what, || {
            let file = File::create(&log)?;
            command
                .stdin(Stdio::null())
                .stdout(file.try_clone()?)
                .stderr(file);
            let status = command
                .status()
                .with_context(|| format!("could not run {command:?}"))?;
            if !status.success() {
                std::io::stderr().write_all(&fs::read(&log)?)?;
                bail!("{status} (this output is also in {})", log.display());
            }
            Ok(())
        })
    }

    /// A step that is a program whose output is what the reader wants to see.
    pub fn openly(&mut self, what: &str, command: &mut Command) -> Result<()> {
        self.step(what, || {
            let status = command
                .status()
                .with_context(|| format!("could not run {command:?}"))?;
            if !status.success() {
                bail!("{status}");
            }
            Ok(())
        })
    }

    fn log(&self) -> Result<PathBuf> {
        let folder = cache::target().join("xtask");
        fs::create_dir_all(&folder)?;
        Ok(folder.join(format!("{}-{}.log", self.name, self.done + 1)))
    }
}

/// Does `work` for each of these, two at a time, beginning with the first. What each came to is in the
/// same order.
pub fn two_at_once<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let waiting = Mutex::new(items.iter().enumerate());
    let next = || {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.next()
    };
    let run = || std::iter::from_fn(|| next().map(|(place, item)| (place, work(item))));
    let mut done: Vec<_> = thread::scope(|scope| {
        let workers = [(); 2].map(|()| scope.spawn(|| run().collect::<Vec<_>>()));
        workers
            .into_iter()
            .flat_map(|worker| worker.join().expect("a worker doesn't panic"))
            .collect()
    });
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

/// Cargo, as the one that runs us, in the environment that it was started in.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Of the package that it runs. Build scripts may watch them: ring's does, so that TLS and all
    // that stands on it would be built again each time a task follows a plain `cargo build`.
    let ours = std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| is_of_our_package(&name.to_string_lossy()));
    for name in ours {
        command.env_remove(name);
    }
    command.current_dir(cache::root());
    command
}

/// Whether `cargo run` has set a variable to tell a program of its own package.
fn is_of_our_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn two_at_once_are_two_and_give_what_each_came_to_in_order() {
        let both = Barrier::new(2);
        let doubled = two_at_once(&[1, 2, 3, 4], |number| {
            // One alone would wait here for ever.
            both.wait();
            number * 2
        });
        assert_eq!(doubled, [2, 4, 6, 8]);
    }
}
