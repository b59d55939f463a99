//! Work for a build that counts: what a release is then optimised for (`cargo xtask release`).

use std::{path::Path, time::Duration};

use anyhow::Result;
use xtask::world::{Network, World};

use super::{
    measure_once,
    subject::{Running, Subject},
    workload::{self, Kind, Workload},
};

/// Has the programs in `binaries` do what they are for. Each writes its counts when it ends.
///
/// Statements are what has to be quick for all, and bulk is loops that count themselves to the top
/// in no time: it gets a fraction of their time, or it would be all that the compiler cares for.
pub(crate) fn train(binaries: &Path) -> Result<()> {
    let world = World::new()?;
    let agent = world.agent("coder", Network::OnlyLo)?;
    for subject in [Subject::WeirFull, Subject::WeirDigest, Subject::Relay] {
        for workload in &workload::ALL {
            let Some(seconds) = seconds(workload) else {
                continue;
            };
            println!("      {:40} {subject}", workload.name);
            let running = Running::start(subject, &world, &agent, binaries)?;
            measure_once(workload, Duration::from_secs(seconds), &world, &running)?;
        }
    }
    Ok(())
}

/// How long a workload is worked on; `None` for one that shows nothing new.
fn seconds(workload: &Workload) -> Option<u64> {
    match workload.kind {
        Kind::Point { clients: 1, .. } | Kind::CopyOut => None,
        Kind::Point { .. } => Some(5),
        Kind::Rows { .. } | Kind::Connect => Some(1),
    }
}
