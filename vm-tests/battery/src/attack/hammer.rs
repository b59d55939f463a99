//! A client that never rests: dials, asks, and dials again, and counts what came of it. What must hold
//! at every moment is tried with it, whatever happens outside meanwhile.

use std::{
    collections::BTreeMap,
    io::{self, Read as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};

use super::{Outcome, Target, dial};
use crate::judge::Seen;

/// What came of many dials.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Tally {
    /// Sessions that Weir judged.
    pub(crate) governed: u64,
    /// Dials that ended in nothing.
    pub(crate) refused: u64,
    /// Dials that reached the database past Weir.
    pub(crate) bypassed: u64,
    /// When this program started, since 1970.
    pub(crate) started: Duration,
    /// From this program's start to the first connection that was accepted.
    pub(crate) first: Duration,
}

/// The client's life: until its standard input ends.
pub(crate) fn main() -> Result<()> {
    let start = Instant::now();
    let target = Target::from_env()?;
    let address = target.v4.into();
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    thread::spawn(move || {
        // However it ends, it is the end.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        seen.store(true, Ordering::Relaxed);
    });
    let started = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let mut tally = Tally {
        started,
        ..Tally::default()
    };
    let mut said = false;
    while !over.load(Ordering::Relaxed) {
        let socket = dial::socket(address, libc::IPPROTO_TCP)?;
        let outcome = match dial::connect(&socket, address) {
            Err(error) => Outcome::stopped("connect", &error),
            Ok(()) => {
                if tally.first.is_zero() {
                    tally.first = start.elapsed();
                }
                super::pg::ask(dial::stream(socket))
            }
        };
        match Seen::of(&outcome, "") {
            Seen::Governed => tally.governed += 1,
            Seen::Bypass(_) => tally.bypassed += 1,
            _ => tally.refused += 1,
        }
        if !said && tally.governed > 0 {
            println!("governed");
            said = true;
        }
    }
    println!("{}", tally.line());
    Ok(())
}

impl Tally {
    fn line(&self) -> String {
        format!(
            "governed={} refused={} bypassed={} started={} first={}",
            self.governed,
            self.refused,
            self.bypassed,
            self.started.as_micros(),
            self.first.as_micros()
        )
    }

    /// Reads what a client said last.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let fields: BTreeMap<_, _> = line
            .split(' ')
            .filter_map(|field| field.split_once('='))
            .collect();
        let field = |name| -> Result<u64> {
            let value = fields.get(name);
            let value = value.with_context(|| format!("no {name} in {line:?}"))?;
            Ok(value.parse()?)
        };
        Ok(Self {
            governed: field("governed")?,
            refused: field("refused")?,
            bypassed: field("bypassed")?,
            started: Duration::from_micros(field("started")?),
            first: Duration::from_micros(field("first")?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_counted_is_what_is_read() {
        let tally = Tally {
            governed: 7,
            refused: 1,
            bypassed: 0,
            started: Duration::from_micros(987_654_321),
            first: Duration::from_micros(1234),
        };
        assert_eq!(Tally::parse(&tally.line()).unwrap(), tally);
        assert!(Tally::parse("governed").is_err());
    }
}
