//! The attacker's side: what it knows, how it asks the database, and what it tells.

pub(crate) mod dial;
pub(crate) mod door;
pub(crate) mod hammer;
pub(crate) mod link;
pub(crate) mod packet;
pub(crate) mod pg;

use std::{
    env, fmt,
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use xtask::world::{ADDRESS, ADDRESS6, PORT};

use crate::{
    scenarios,
    stage::{CANARY, SECOND_PORT},
};

/// What an attacker knows: the address and port, and whatever its scenario put there.
pub(crate) struct Target {
    /// The database's IPv4 address.
    pub(crate) v4: SocketAddrV4,
    /// The database's IPv6 address.
    pub(crate) v6: SocketAddrV6,
    /// An endpoint of the same datastore at which nobody listens by itself.
    pub(crate) second: SocketAddrV4,
    /// Its own number, part of its addresses.
    count: u32,
    /// Whether its network is the host's.
    pub(crate) on_host: bool,
    /// The host's own address, where that isn't the database's.
    host: Option<Ipv4Addr>,
}

/// What came of it, as far as the attacker can tell.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// Somebody answered.
    Reply(Vec<u8>),
    /// It got hold of something that isn't the database, and that nobody may get hold of.
    Won(String),
    /// Nobody did; where it ended.
    Stopped(String),
    /// This kernel lacks what the attack needs.
    Absent(String),
}

impl Target {
    fn from_env() -> Result<Self> {
        let v6: Ipv6Addr = ADDRESS6.parse()?;
        Ok(Self {
            v4: SocketAddrV4::new(ADDRESS.parse()?, PORT),
            v6: SocketAddrV6::new(v6, PORT, 0, 0),
            second: SocketAddrV4::new(ADDRESS.parse()?, SECOND_PORT),
            count: variable("BATTERY_COUNT")?.parse()?,
            on_host: variable("BATTERY_PLACE")? == "Host",
            host: env::var("BATTERY_OWN")
                .ok()
                .map(|own| own.parse())
                .transpose()?,
        })
    }

    /// The database's IPv4 address as an IPv6 socket names it.
    pub(crate) fn mapped(&self) -> SocketAddrV6 {
        SocketAddrV6::new(self.v4.ip().to_ipv6_mapped(), self.v4.port(), 0, 0)
    }

    /// The attacker's own address.
    pub(crate) fn own_v4(&self) -> Ipv4Addr {
        if self.on_host {
            return self.host.unwrap_or(*self.v4.ip());
        }
        let count = u8::try_from(self.count).unwrap_or_default();
        Ipv4Addr::new(10, 79, count, 2)
    }

    /// The attacker's own IPv6 address.
    pub(crate) fn own_v6(&self) -> Ipv6Addr {
        if self.on_host {
            return *self.v6.ip();
        }
        // The number is written in decimal digits there, as in IPv4.
        let text = format!("fd79:{}::2", self.count);
        text.parse().unwrap_or(Ipv6Addr::UNSPECIFIED)
    }

    /// A port for connections of its own making: the database doesn't know yet that those of
    /// earlier attackers are over.
    pub(crate) fn fresh_port(&self) -> u16 {
        40_000 + u16::try_from(self.count).unwrap_or_default()
    }

    /// The router's address.
    pub(crate) fn router(&self) -> Ipv4Addr {
        let [a, b, c, _] = self.own_v4().octets();
        Ipv4Addr::new(a, b, c, 1)
    }

    /// The router's IPv6 address.
    pub(crate) fn router_v6(&self) -> Ipv6Addr {
        let [a, b, c, d, e, f, g, _] = self.own_v6().segments();
        Ipv6Addr::new(a, b, c, d, e, f, g, 1)
    }

    /// All ways to name the database.
    pub(crate) fn addresses(&self) -> [SocketAddr; 3] {
        [self.v4.into(), self.v6.into(), self.mapped().into()]
    }
}

impl Outcome {
    /// What an error of the system ends in.
    pub(crate) fn stopped(what: &str, error: &impl fmt::Display) -> Self {
        Self::Stopped(format!("{what}: {error}"))
    }

    /// Whether this is what the attacker wants: the canary's word.
    pub(crate) fn is_success(&self) -> bool {
        let word = CANARY.as_bytes();
        match self {
            Self::Reply(bytes) => bytes.windows(word.len()).any(|part| part == word),
            Self::Won(_) => true,
            Self::Stopped(_) | Self::Absent(_) => false,
        }
    }

    /// The line that [`Outcome::parse`] reads.
    fn line(&self) -> String {
        match self {
            Self::Reply(bytes) => {
                let hex = bytes.iter().map(|byte| format!("{byte:02x}"));
                format!("reply {}", hex.collect::<String>())
            }
            Self::Won(what) => format!("won {}", what.replace('\n', " ")),
            Self::Stopped(how) => format!("stopped {}", how.replace('\n', " ")),
            Self::Absent(what) => format!("absent {}", what.replace('\n', " ")),
        }
    }

    /// Reads what an attacker said.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        Ok(match kind {
            "reply" => {
                let pairs = rest.as_bytes().chunks(2).map(std::str::from_utf8);
                let byte =
                    |pair: Result<&str, _>| -> Result<u8> { Ok(u8::from_str_radix(pair?, 16)?) };
                Self::Reply(pairs.map(byte).collect::<Result<_>>()?)
            }
            "won" => Self::Won(rest.to_owned()),
            "stopped" => Self::Stopped(rest.to_owned()),
            "absent" => Self::Absent(rest.to_owned()),
            _ => bail!("an attacker said {line:?}"),
        })
    }
}

/// The attacker's life.
pub(crate) fn main(name: &str) -> Result<()> {
    let scenario = scenarios::ALL.iter().find(|scenario| scenario.name == name);
    let scenario = scenario.with_context(|| format!("there is no scenario {name:?}"))?;
    let target = Target::from_env()?;
    if env::var_os("BATTERY_AGENT").is_some() && !scenario.at_once {
        settle(&target);
    }
    let outcome = (scenario.attack)(&target);
    let outcome = outcome.unwrap_or_else(|error| Outcome::Stopped(format!("{error:#}")));
    println!("{}", outcome.line());
    Ok(())
}

/// Tries one attack after the other, each in a process of its own, and waits for a line in between.
pub(crate) fn each(names: &[String]) -> Result<()> {
    let mut lines = io::stdin().lines();
    for (number, name) in names.iter().enumerate() {
        if number > 0 && lines.next().transpose()?.is_none() {
            bail!("nobody wants more");
        }
        let mut attack = Command::new(env::current_exe()?);
        attack.args(["attack", name]).status()?;
    }
    Ok(())
}

/// Waits until Weir has noticed the attacker's network: before that every connect to the database is
/// refused. What an attacker can do in that time has scenarios of its own.
fn settle(target: &Target) {
    let start = Instant::now();
    let address = target.v4.into();
    while start.elapsed() < patience() * 4 {
        let dialled = dial::socket(address, libc::IPPROTO_TCP)
            .and_then(|socket| dial::connect(&socket, address));
        match dialled {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            _ => break,
        }
        thread::sleep(patience() / 100);
    }
    // The perimeter comes right after the listener.
    thread::sleep(patience() / 20);
}

/// Tells the outside that it may act, and waits until it has.
pub(crate) fn ready() -> Result<()> {
    println!("ready");
    io::stdout().flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// What a scenario's prop left for the attacker.
pub(crate) fn variable(name: &str) -> Result<String> {
    env::var(name).with_context(|| format!("{name} isn't set"))
}

/// How long a connection that nobody answers is waited for. An emulated machine is ten times as
/// slow, and says so.
pub(crate) fn patience() -> Duration {
    Duration::from_millis(if is_slow() { 2000 } else { 500 })
}

/// Whether this is an emulated machine.
pub(crate) fn is_slow() -> bool {
    env::var_os("BATTERY_SLOW").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_attacker_says_is_what_is_read() {
        for outcome in [
            Outcome::Reply(vec![0, 9, 255]),
            Outcome::Reply(Vec::new()),
            Outcome::Stopped("connect: no".to_owned()),
            Outcome::Absent("SCTP".to_owned()),
            Outcome::Won("a file".to_owned()),
        ] {
            assert_eq!(Outcome::parse(&outcome.line()).unwrap(), outcome);
        }
        assert!(Outcome::parse("reply zz").is_err());
        assert!(Outcome::parse("hello").is_err());
    }
}
