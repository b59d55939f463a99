//! The battery on a machine with systemd, where Weir is a unit and agents are podman's containers.
//!
//! ```text
//!   Host         the database's machine behind a veth, weir.service, the agents' image and networks
//!   Container    one `podman run`: a slice, a network, capabilities
//!   checks       what an agent may do, and what holds while Weir restarts
//!   rounds       scenarios of the other batteries, many in one container: starting one takes seconds
//! ```
//!
//! The network, the cgroup and the capabilities are those that podman and crun make, not ours.

mod checks;
mod container;
mod host;
mod rounds;

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use self::host::Host;
use crate::{guest, judge::Seen, kernel::Kernel, report, scenario::Expect};

/// How one case ended.
struct Verdict {
    name: String,
    expect: Expect,
    seen: Seen,
    time: Duration,
}

/// Runs everything, or what one of the filters has in its name.
pub(crate) fn run() -> Result<()> {
    guest::load_modules()?;
    let filters = fs::read_to_string(guest::FILTER)?;
    let wanted = |name: &str| {
        let mut filters = filters.lines().peekable();
        filters.peek().is_none() || filters.any(|filter| name.contains(filter))
    };
    let kernel = Kernel::running()?;
    let checks: Vec<_> = checks::ALL.iter().filter(|c| wanted(c.name)).collect();
    let rounds = rounds::chosen(&wanted);
    let cases = checks.len()
        + rounds
            .iter()
            .map(|round| round.attacks.len())
            .sum::<usize>();
    report::begin(&kernel.release, cases);
    let mut failed = 0;
    let mut tell = |verdict: Verdict| {
        failed += usize::from(!verdict.seen.is(verdict.expect));
        report::case(&verdict.name, verdict.expect, &verdict.seen, verdict.time);
    };
    let host = Host::new()?;
    for check in checks {
        let start = Instant::now();
        let seen = (check.run)(&host);
        let seen = seen.unwrap_or_else(|error| Seen::Broken(format!("{error:#}")));
        let (name, expect) = (format!("podman: {}", check.name), check.expect);
        let time = start.elapsed();
        tell(Verdict {
            name,
            expect,
            seen,
            time,
        });
    }
    for round in rounds {
        rounds::run(&host, &round, &kernel, &mut tell);
    }
    if failed > 0 {
        println!("{}", host.journal());
    }
    report::end(failed);
    ensure!(failed == 0, "{failed} of {cases} are not as they should be");
    Ok(())
}
