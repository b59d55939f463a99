//! What agents in containers may do, and what holds while Weir and they come and go.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use xtask::world::World;

use super::{
    container::{Container, Network, Parent},
    host::{AGENTS, Host, run},
};
use crate::{
    attack::hammer::Tally,
    judge::{self, Seen},
    report,
    scenario::Expect,
};

/// One thing that must hold.
pub(super) struct Check {
    pub(super) name: &'static str,
    pub(super) expect: Expect,
    pub(super) run: fn(&Host) -> Result<Seen>,
}

const BRIDGE: Network = Network::Bridge(AGENTS);

pub(super) const ALL: &[Check] = &[
    governed("psql none", |host| {
        psql(host, Parent::Coder, Network::None, &NAMED)
    }),
    governed("psql bridge", |host| psql(host, Parent::Coder, BRIDGE, &[])),
    governed("psql host-net_raw", |host| {
        psql(host, Parent::Coder, Network::Host, &["--cap-drop=NET_RAW"])
    }),
    governed("psql by label", |host| {
        psql(host, Parent::Labelled, Network::None, &[])
    }),
    blocked("preflight host", host_with_raw),
    governed("first connect", first_connect),
    governed("container made again", made_again),
    blocked("slice stopped", slice_stopped),
    governed("restart and kill -9", dialling_through),
    blocked("weir stopped", stopped),
];

const fn governed(name: &'static str, run: fn(&Host) -> Result<Seen>) -> Check {
    let expect = Expect::Governed;
    Check { name, expect, run }
}

const fn blocked(name: &'static str, run: fn(&Host) -> Result<Seen>) -> Check {
    let expect = Expect::Blocked;
    Check { name, expect, run }
}

/// Reads a social security number and drops the table, if it is let.
fn psql(host: &Host, parent: Parent, network: Network, options: &[&str]) -> Result<Seen> {
    const SQL: &str = "SELECT ssn FROM customers WHERE id = 1";
    let container = Container::new(parent, network).with(options);
    let output = container.output(&shell(&format!(
        "sleep 1; exec psql -X -q -At -v VERBOSITY=verbose -c '{SQL}' -c 'DROP TABLE orders'"
    )))?;
    let (rows, errors) = (text(&output.stdout), text(&output.stderr));
    // It is there still, with what is in it.
    let orders = host
        .world
        .postgres()
        .sql("SELECT count(*) > 0 FROM orders")?;
    Ok(match rows.trim() {
        "123-45-6789" => Seen::Bypass("the number itself".to_owned()),
        "*******6789" if errors.contains("42501") && orders.trim() == "t" => Seen::Governed,
        rows => Seen::Blocked(format!("{rows:?}, {}", errors.trim())),
    })
}

/// The host's network with all that Docker gives is refused before anything is asked.
fn host_with_raw(host: &Host) -> Result<Seen> {
    let seen = psql(host, Parent::Coder, Network::Host, &[])?;
    if let Seen::Blocked(how) = &seen {
        let why = "it has CAP_NET_RAW in the host's network";
        ensure!(how.contains(why), "refused: {how}");
    }
    Ok(seen)
}

/// How long a container's first program waits for the listener.
fn first_connect(host: &Host) -> Result<Seen> {
    let container = Container::new(Parent::Coder, BRIDGE);
    let mut client = container.start(&["battery", "hammer"])?;
    client.line()?;
    client.close();
    let tally = Tally::parse(&client.line()?)?;
    client.end()?;
    let perimeter = host.perimeter_up()?;
    report::note(&format!(
        "from the container's first instruction to the first connect {:.1} ms, to the perimeter {:.1} ms",
        tally.first.as_secs_f64() * 1000.0,
        (perimeter.as_secs_f64() - tally.started.as_secs_f64()) * 1000.0
    ));
    ensure!(
        tally.bypassed == 0 && tally.first < LISTENER,
        "the first connect was accepted after {:?}",
        tally.first
    );
    Ok(Seen::Governed)
}

/// 20 ms on a machine; this is an emulated one.
const LISTENER: Duration = Duration::from_millis(200);

/// A container was removed, and one of the same name comes.
fn made_again(host: &Host) -> Result<Seen> {
    psql(host, Parent::Coder, Network::None, &NAMED)
}

const NAMED: [&str; 1] = ["--name=again"];

/// Stopping the slice would remove the cgroup, and with it all programs: systemd refuses.
fn slice_stopped(_: &Host) -> Result<Seen> {
    Ok(match run("systemctl", &["stop", "weir-agents.slice"]) {
        Ok(()) => Seen::Bypass("the slice was stopped".to_owned()),
        Err(error) => Seen::Blocked(format!("{error:#}")),
    })
}

/// A client dials in a tight loop while systemd restarts Weir, and while it is killed.
fn dialling_through(host: &Host) -> Result<Seen> {
    let before = log(&host.world).len();
    let container = Container::new(Parent::Coder, BRIDGE);
    let mut client = container.start(&["battery", "hammer"])?;
    let said = client.line()?;
    ensure!(said == "governed", "the client said {said:?}");
    for act in [
        &["restart", "weir.service"][..],
        // Not those of its cgroup: systemd reads their list, which fails once the first is gone.
        &["kill", "--kill-whom=main", "--signal=KILL", "weir.service"],
    ] {
        let daemon = host.daemon()?;
        host.systemctl(act)?;
        host.until_served_anew(daemon)?;
        // Some dials more.
        thread::sleep(Duration::from_secs(2));
    }
    client.close();
    let tally = Tally::parse(&client.line()?)?;
    client.end()?;
    report::note(&format!("{tally:?}"));
    if tally.bypassed > 0 {
        return Ok(Seen::Bypass(format!("{} dials", tally.bypassed)));
    }
    ensure!(tally.governed > 1, "only one session: {tally:?}");
    // A connection of Weir's that its end cut off before it could log in is nobody's.
    let settled = judge::settled(host.world.postgres(), before);
    Ok(match judge::intrusion(&settled) {
        Some(evidence) => Seen::Bypass(evidence),
        None => Seen::Governed,
    })
}

/// While Weir is stopped there is no database; somebody outside has it.
fn stopped(host: &Host) -> Result<Seen> {
    host.systemctl(&["stop", "weir.service"])?;
    let agent = psql(host, Parent::Coder, Network::None, &[])?;
    let outsider = Container::new(Parent::Outside, Network::Host);
    let query = "PGUSER=intruder psql -X -q -At -c 'SELECT word FROM canary'";
    let output = outsider.output(&shell(query))?;
    ensure!(
        text(&output.stdout).trim() == crate::stage::CANARY,
        "somebody outside: {}",
        text(&output.stderr)
    );
    host.systemctl(&["start", "weir.service"])?;
    Ok(agent)
}

fn log(world: &World) -> String {
    world.postgres().log()
}

fn shell(line: &str) -> [&str; 3] {
    ["sh", "-c", line]
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
