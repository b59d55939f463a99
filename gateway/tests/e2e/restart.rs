//! Weir is killed, drained, and replaced by a changed one, while an agent that has a route to the
//! database dials it in a tight loop: no connection passes unjudged at any moment.

use std::{
    collections::{BTreeSet, HashMap},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xtask::world::{Agent, Network, Process, Settings, Setup, Weir, World};

use crate::support::{client_in_background, python, script, setup, until};

/// How long there is no daemon each time.
const GAP: Duration = Duration::from_millis(400);

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn without_a_service_manager_an_agent_is_refused_while_there_is_no_daemon() -> Result<()> {
    let seen = dial_through_restarts(false)?;
    assert!(seen.outcomes.contains_key("refused"), "{seen:?}");
    Ok(())
}

#[test]
fn with_an_fd_store_an_agent_waits_while_there_is_no_daemon() -> Result<()> {
    let seen = dial_through_restarts(true)?;
    assert!(!seen.outcomes.contains_key("refused"), "{seen:?}");
    let slowest = seen.slowest.context("somebody was answered")?;
    assert!(slowest >= GAP, "nobody waited: {seen:?}");
    Ok(())
}

#[test]
fn what_the_fd_store_keeps_goes_with_the_agents_namespace() -> Result<()> {
    let world = World::new()?;
    let mut weir = world.weir(Setup {
        managed: true,
        ..setup()
    })?;
    let mut agent = world.agent("coder", Network::OnlyLo)?;
    agent.settle()?;
    // For connections and for questions, at both loopback addresses.
    until("the listeners are kept", || weir.stored().len() == 4)?;
    let kept = weir.stored();
    assert!(kept.iter().all(|name| *name == kept[0]), "{kept:?}");

    // The next daemon has the same ones.
    weir.kill()?;
    weir.restart()?;
    assert_eq!(weir.stored(), kept);
    let namespaces = |weir: &Weir| -> Result<usize> {
        let status: Value = serde_json::from_str(&weir.cli(&["status", "--json"])?.stdout)?;
        Ok(status["namespaces"].as_array().context("a list")?.len())
    };
    assert_eq!(namespaces(&weir)?, 1);

    // One whose agents go while there is no daemon isn't kept by the next.
    weir.kill()?;
    drop(agent);
    weir.restart()?;
    until("the listeners are let go", || weir.stored().is_empty())?;
    until("the namespace is down", || {
        namespaces(&weir).is_ok_and(|count| count == 0)
    })?;

    let told = weir.told();
    assert_eq!(told.matches("READY=1").count(), 3, "{told}");
    let ended = weir.drain(Duration::from_secs(20))?;
    assert!(ended.success() && weir.told().contains("STOPPING=1"));
    Ok(())
}

/// What came of all attempts.
#[derive(Debug)]
struct Seen {
    /// How often each outcome.
    outcomes: HashMap<String, usize>,
    /// The longest that anybody waited who was answered.
    slowest: Option<Duration>,
}

fn dial_through_restarts(managed: bool) -> Result<Seen> {
    let world = World::with(&Settings {
        extra: "log_connections = on".to_owned(),
        hba: "host all all all trust".to_owned(),
        ..Settings::default()
    })?;
    let stranger = world.stranger("stranger", Network::Bridge)?;
    let control = Dialler::start(&world, &stranger, "stranger", 1)?;
    assert_eq!(control.wait()?.len(), 1);
    assert_eq!(
        arrivals(&world),
        1,
        "the control doesn't reach the database"
    );

    let setup = Setup { managed, ..setup() };
    let (changed, divisions) = changed_binary(&setup.binary, world.dir())?;
    let mut weir = world.weir(setup)?;
    let mut agent = world.agent("coder", Network::Bridge)?;
    agent.settle()?;
    let diallers = [
        Dialler::start(&world, &agent, "one", 1_000_000)?,
        Dialler::start(&world, &agent, "two", 1_000_000)?,
    ];
    let goes_on = || {
        let before: Vec<usize> = diallers.iter().map(Dialler::answered).collect();
        until("sessions are served", || {
            let mut both = diallers.iter().zip(&before);
            both.all(|(dialler, before)| dialler.answered() > before + 20)
        })
    };

    // Each time with a session that is open, and long.
    let mut long = Vec::new();
    goes_on()?;
    let before = programs(&weir)?;
    for how in [How::Kill, How::Drain, How::Kill, How::Drain] {
        goes_on()?;
        if long.len() == 2 {
            weir.replace_binary(changed.clone());
        }
        let mut session = client_in_background(&agent, "repeat.py", &["SELECT id FROM orders"])?;
        session.until_says("running", MINUTE)?;
        match how {
            How::Kill => weir.kill()?,
            How::Drain => ensure!(weir.drain(Duration::from_secs(20))?.success(), "no drain"),
        }
        session.wait(MINUTE)?;
        long.push((session, how));
        thread::sleep(GAP);
        weir.restart()?;
    }
    goes_on()?;
    let after = programs(&weir)?;
    assert_eq!(before.len(), after.len());
    let replaced = before.difference(&after).count();
    assert_eq!(replaced, divisions, "{before:?} {after:?}");

    let mut all = Vec::new();
    for dialler in diallers {
        all.extend(dialler.end()?);
    }
    assert_eq!(
        arrivals(&world),
        1,
        "an agent reached the database past Weir"
    );
    check_journal(&weir, &all, &long)?;
    tally(&all)
}

/// How many connections the database has had from agents' networks.
fn arrivals(world: &World) -> usize {
    let log = world.postgres().log();
    log.matches("connection received: host=10.79.").count()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    Kill,
    Drain,
}

/// Each session that was answered is on record, and so are those that were cut.
fn check_journal(weir: &Weir, all: &[Attempt], long: &[(Process, How)]) -> Result<()> {
    let verified = weir.cli(&["audit", "verify", "--all"])?;
    assert!(verified.ok(), "{verified:?}");
    // The index follows the journals a moment later.
    let mut sessions = Vec::new();
    let answered = || all.iter().filter(|attempt| attempt.is_answered());
    until("each answered session is on record", || {
        sessions = listed(weir).unwrap_or_default();
        let users: BTreeSet<_> = sessions
            .iter()
            .map(|s| s["claimed_user"].as_str())
            .collect();
        answered().all(|attempt| users.contains(&Some(&attempt.user)))
    })?;
    assert!(sessions.iter().all(|session| session["agent"] == "coder"));

    // Listed from the last to the first.
    let of_long = sessions
        .iter()
        .rev()
        .filter(|s| s["claimed_user"] == "alice");
    let states: Vec<&str> = of_long.filter_map(|s| s["state"].as_str()).collect();
    let expected: Vec<&str> = long
        .iter()
        .map(|(_, how)| match how {
            How::Kill => "cut",
            How::Drain => "closed",
        })
        .collect();
    assert_eq!(states, expected);
    Ok(())
}

/// All sessions that Weir knows of.
fn listed(weir: &Weir) -> Result<Vec<Value>> {
    let listed = weir.cli(&["sessions", "--json", "--limit", "1000000"])?;
    let lines = listed.stdout.lines();
    Ok(lines.map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn tally(all: &[Attempt]) -> Result<Seen> {
    let mut outcomes = HashMap::new();
    for attempt in all {
        *outcomes.entry(attempt.outcome.clone()).or_insert(0) += 1;
        // 57P01 is what a session is told that is open when the daemon is drained.
        let shut = ["refused", "cut", "57P01"].contains(&&*attempt.outcome);
        ensure!(
            attempt.is_answered() || shut,
            "no way to fail closed: {attempt:?}"
        );
    }
    let answered = all.iter().filter(|attempt| attempt.is_answered());
    Ok(Seen {
        outcomes,
        slowest: answered.map(|attempt| attempt.took).max(),
    })
}

/// A client that dials until it is told to end.
struct Dialler {
    process: Process,
    flag: PathBuf,
}

/// What came of one attempt.
#[derive(Debug)]
struct Attempt {
    outcome: String,
    user: String,
    took: Duration,
}

impl Attempt {
    /// As Weir answers: masked.
    fn is_answered(&self) -> bool {
        self.outcome == "*******6789"
    }
}

impl Dialler {
    fn start(world: &World, agent: &Agent, name: &str, most: u32) -> Result<Self> {
        let flag = world.dir().join(format!("{name}-ends"));
        let (flag_text, most) = (flag.display().to_string(), most.to_string());
        let arguments = ["-B", &script("dial.py"), name, &flag_text, &most];
        let process = agent.start(&python(), &arguments)?;
        Ok(Self { process, flag })
    }

    fn answered(&self) -> usize {
        self.process.output().matches("*******6789").count()
    }

    fn end(self) -> Result<Vec<Attempt>> {
        fs::write(&self.flag, "")?;
        self.wait()
    }

    /// Waits for its own end.
    fn wait(mut self) -> Result<Vec<Attempt>> {
        let status = self.process.wait(MINUTE)?;
        let output = self.process.output();
        ensure!(status.success(), "{status}: {output}");
        let attempts = output
            .lines()
            .map(|line| attempt(line).with_context(|| line.to_owned()));
        attempts.collect()
    }
}

fn attempt(line: &str) -> Option<Attempt> {
    let mut words = line.split(' ').map(str::to_owned);
    Some(Attempt {
        outcome: words.next()?,
        user: words.next()?,
        took: Duration::from_millis(words.next()?.parse().ok()?),
    })
}

/// A copy of the binary with other eBPF programs: those that look at the clock, each once, divide by a
/// second that is a nanosecond longer. Also gives how many.
fn changed_binary(binary: &Path, dir: &Path) -> Result<(PathBuf, usize)> {
    let mut bytes = fs::read(binary)?;
    // BPF_ALU64 | BPF_DIV | BPF_K, any register, no offset, a billion.
    let is_division = |code: &[u8]| code[0] == 0x37 && code[2..] == *b"\0\0\x00\xca\x9a\x3b";
    let places: Vec<usize> = bytes
        .windows(8)
        .enumerate()
        .filter_map(|(place, code)| is_division(code).then_some(place))
        .collect();
    ensure!(!places.is_empty(), "no program divides by a second");
    places.iter().for_each(|place| bytes[place + 4] += 1);
    let path = dir.join("weir-changed");
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok((path, places.len()))
}

/// The tags of the programs that are attached by links which the daemon holds: a digest of their
/// instructions.
fn programs(weir: &Weir) -> Result<BTreeSet<String>> {
    let dir = format!("/proc/{}/fdinfo", weir.process().pid());
    let mut tags = BTreeSet::new();
    for entry in fs::read_dir(dir)?.flatten() {
        // What is closed meanwhile is no link.
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        if field("link_type:").is_some() {
            tags.extend(field("prog_tag:").map(|tag| tag.trim().to_owned()));
        }
    }
    ensure!(!tags.is_empty(), "the daemon holds no link");
    Ok(tags)
}
