//! Who won: by what came back to the attacker, and by what the database saw.

use std::{
    thread,
    time::{Duration, Instant},
};

use xtask::world::Postgres;

use crate::{
    attack::Outcome,
    scenario::Expect,
    stage::{CANARY, INTRUDER, MASKED, WEIR},
};

const AUTHORIZED: &str = "connection authorized: user=";

/// What came of an attack.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Seen {
    /// Weir's answer, with its mask.
    Governed,
    /// Nothing from the database; how it was stopped.
    Blocked(String),
    /// The database was reached past Weir; how that is known.
    Bypass(String),
    /// This kernel doesn't have what the attack needs.
    Absent(String),
    /// The attacker itself failed.
    Broken(String),
}

impl Seen {
    /// Judges an attack's outcome, with the database's log of its time.
    pub(crate) fn of(outcome: &Outcome, log: &str) -> Self {
        if let Some(evidence) = evidence(log) {
            return Self::Bypass(evidence);
        }
        match outcome {
            Outcome::Reply(bytes) if contains(bytes, CANARY) => {
                Self::Bypass("the canary's word".to_owned())
            }
            Outcome::Reply(bytes) if contains(bytes, MASKED) => Self::Governed,
            Outcome::Reply(bytes) => Self::Blocked(format!("answered {:?}", printable(bytes))),
            Outcome::Won(what) => Self::Bypass(what.clone()),
            Outcome::Stopped(how) => Self::Blocked(how.clone()),
            Outcome::Absent(what) => Self::Absent(what.clone()),
        }
    }

    /// Whether this is what had to come of it.
    pub(crate) fn is(&self, expect: Expect) -> bool {
        matches!(
            (self, expect),
            (Self::Governed, Expect::Governed)
                | (Self::Blocked(_), Expect::Blocked)
                | (Self::Bypass(_), Expect::Gap(_))
                | (Self::Absent(_), Expect::Absent)
        )
    }

    /// One word for the table.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Governed => "governed",
            Self::Blocked(_) => "blocked",
            Self::Bypass(_) => "BYPASS",
            Self::Absent(_) => "absent",
            Self::Broken(_) => "broken",
        }
    }

    /// The rest of the story.
    pub(crate) fn detail(&self) -> &str {
        match self {
            Self::Governed => "",
            Self::Blocked(text) | Self::Bypass(text) | Self::Absent(text) | Self::Broken(text) => {
                text
            }
        }
    }
}

/// A connection in the database's log that isn't Weir's: one that logged in as the intruder, or one
/// that came over a network and didn't log in as Weir.
fn evidence(log: &str) -> Option<String> {
    let weir = format!("{AUTHORIZED}{WEIR} ");
    let foreign = || foreign(log, &weir).map(|entry| format!("the database says: {entry}"));
    intrusion(log).or_else(foreign)
}

/// A connection in the database's log that logged in as the intruder.
pub(crate) fn intrusion(log: &str) -> Option<String> {
    let intruder = format!("{AUTHORIZED}{INTRUDER} ");
    let mut entries = entries(log).filter(|(_, entry)| entry.starts_with(&intruder));
    let (_, entry) = entries.next()?;
    Some(format!("the database says: {entry}"))
}

/// How long Weir may take to log in.
const LOGIN_SETTLES: Duration = Duration::from_secs(2);

/// How long the database may take to write its log.
const LOG_SETTLES: Duration = Duration::from_millis(100);

/// The database's log behind its first `before` bytes, once it says how those who came were received.
pub(crate) fn settled(postgres: &Postgres, before: usize) -> String {
    thread::sleep(LOG_SETTLES);
    let log = || {
        let log = postgres.log();
        log.get(before..).unwrap_or_default().to_owned()
    };
    let start = Instant::now();
    while is_unsettled(&log()) && start.elapsed() < LOGIN_SETTLES {
        thread::sleep(LOG_SETTLES);
    }
    log()
}

/// Whether a connection over a network hasn't logged in yet: Weir's own looks so for a moment.
fn is_unsettled(log: &str) -> bool {
    foreign(log, AUTHORIZED).is_some()
}

/// A connection over a network without such an entry.
fn foreign<'a>(log: &'a str, login: &str) -> Option<&'a str> {
    let mut foreign = entries(log).filter(|(pid, entry)| {
        entry.starts_with("connection received: ")
            && !entry.contains("host=[local]")
            && !entries(log).any(|(other, entry)| other == *pid && entry.starts_with(login))
    });
    foreign.next().map(|(_, entry)| entry)
}

/// The log's entries with the process that each is of.
fn entries(log: &str) -> impl Iterator<Item = (&str, &str)> {
    log.lines().filter_map(|line| {
        let (pid, rest) = line.split_once(' ')?;
        Some((pid, rest.split_once("LOG:  ")?.1))
    })
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|part| part == text.as_bytes())
}

fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let kept = text.chars().filter(|c| c.is_ascii_graphic() || *c == ' ');
    kept.take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Outcome {
        Outcome::Reply(text.as_bytes().to_vec())
    }

    #[test]
    fn the_canarys_word_is_a_bypass_and_its_mask_is_not() {
        assert_eq!(Seen::of(&reply(CANARY), "").word(), "BYPASS");
        assert_eq!(Seen::of(&reply("********live"), ""), Seen::Governed);
        assert_eq!(Seen::of(&reply("no"), "").word(), "blocked");
    }

    #[test]
    fn a_connection_that_is_not_weirs_is_a_bypass_whatever_the_attacker_saw() {
        let received = "7 LOG:  connection received: host=10.79.0.2 port=1\n";
        let stopped = Outcome::Stopped("timed out".to_owned());
        assert_eq!(Seen::of(&stopped, received).word(), "BYPASS");
        let weirs = "7 LOG:  connection authorized: user=weir_agents database=app\n";
        assert_eq!(
            Seen::of(&stopped, &[received, weirs].concat()).word(),
            "blocked"
        );
        let local = "8 LOG:  connection received: host=[local]\n";
        assert_eq!(Seen::of(&stopped, local).word(), "blocked");
        let intruder = "8 LOG:  connection authorized: user=intruder database=app\n";
        let log = [local, intruder].concat();
        assert_eq!(Seen::of(&reply("********live"), &log).word(), "BYPASS");
    }

    #[test]
    fn a_gap_that_is_closed_is_not_what_the_table_says() {
        let gap = Expect::Gap("x");
        assert!(Seen::Bypass(String::new()).is(gap));
        assert!(!Seen::Blocked(String::new()).is(gap));
        assert!(!Seen::Bypass(String::new()).is(Expect::Blocked));
        assert!(!Seen::Blocked(String::new()).is(Expect::Governed));
    }
}
