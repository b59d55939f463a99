//! The attacker makes a user namespace of its own, in which it has every capability, and a network
//! namespace in that. It is as empty as any, and there Weir listens too: the attacker gets a session.

use std::{fs, time::Instant};

use anyhow::Result;
use nix::sched::{CloneFlags, unshare};

use crate::{
    attack::{Outcome, Target, dial, patience},
    kernel::Kernel,
    scenario::{Case, Expect, Scenario},
    scenarios::tun::ip,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "nested-namespaces",
    "makes a user and a network namespace of its own",
    attack,
    &[Case::bridge(expect), Case::host(expect)],
)
.no_control("an empty network leads nowhere for anybody");

fn expect(kernel: &Kernel) -> Expect {
    if kernel.restricts_user_namespaces() {
        Expect::Blocked
    } else {
        Expect::Governed
    }
}

fn attack(target: &Target) -> Result<Outcome> {
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    // Root there, so that the programs it runs keep their capabilities.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", "0 0 1")?;
    fs::write("/proc/self/gid_map", "0 0 1")?;
    ip("link set lo up")?;
    let (start, address) = (Instant::now(), target.v4.into());
    loop {
        let outcome = dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address);
        // Until the listener is there, a connect is refused.
        if matches!(outcome, Outcome::Reply(_)) || start.elapsed() > patience() * 3 {
            return Ok(outcome);
        }
    }
}
