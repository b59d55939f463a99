//! A process makes a socket, and is moved into the slice before it connects. The socket still belongs
//! to the cgroup in which it was made.

use std::{fs, thread, time::Duration};

use anyhow::{Context as _, Result};

use crate::{
    attack::{Outcome, Target, dial, ready},
    container::Contained,
    kernel::Kernel,
    scenario::{Caps, Case, Expect, Place, Scenario, blocked},
    stage::Stage,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "made-before",
    "makes a socket, is moved into the slice, and connects",
    attack,
    &[
        Case::bridge(blocked),
        Case::new(Place::Macvlan, Caps::Docker, gap),
        Case::host(gap),
    ],
)
.starts_outside()
.meanwhile(move_in);

pub(super) fn gap(_: &Kernel) -> Expect {
    Expect::Gap("a socket older than its process's place in the slice")
}

/// Makes the attacker an agent, and gives Weir a moment to notice its network.
pub(super) fn move_in(stage: &Stage, contained: &Contained) -> Result<()> {
    let cgroup = stage.slice().join("coder-moved-in");
    fs::create_dir_all(&cgroup)?;
    for pid in contained.pids()? {
        let moved = fs::write(cgroup.join("cgroup.procs"), &pid);
        moved.with_context(|| format!("process {pid} can't be moved"))?;
    }
    thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn attack(target: &Target) -> Result<Outcome> {
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    ready()?;
    Ok(dial::ask(socket, address))
}
