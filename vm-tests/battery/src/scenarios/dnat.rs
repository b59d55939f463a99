//! Address translation in the attacker's own network namespace (NET_ADMIN): it dials an address that
//! is nobody's, and its own rules turn the packets to the database, after every hook on `connect`.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Caps, Case, Place, Scenario, blocked},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "dnat",
    "dials a decoy that its own firewall rules turn into the database",
    attack,
    &[
        Case::new(Place::Bridge, Caps::And(&["net_admin"]), blocked),
        Case::new(Place::Macvlan, Caps::And(&["net_admin"]), blocked),
        Case::new(Place::Host, Caps::And(&["net_admin"]), blocked),
    ],
);

fn attack(target: &Target) -> Result<Outcome> {
    nft(&format!(
        "table ip battery {{ chain out {{ type nat hook output priority -100; \
         ip daddr 10.99.1.1 tcp dport 9999 dnat to {}; }}\n}}",
        target.v4
    ))?;
    let decoy = "10.99.1.1:9999".parse()?;
    let outcome = dial::ask(dial::socket(decoy, libc::IPPROTO_TCP)?, decoy);
    // In the host's network the rules would stay.
    nft("delete table ip battery")?;
    Ok(outcome)
}

/// Runs `nft` on a script.
pub(super) fn nft(script: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "nft: {}", error.trim());
    Ok(())
}
