//! More connections than Weir's map of origins holds: opened and dropped as fast as the kernel can, so
//! that the oldest are forgotten. A forgotten origin is a connection that Weir closes; whoever comes
//! after that is governed as before.

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial, is_slow},
    scenario::{Case, Scenario, governed},
};

/// More than 65,536; fewer where the machine is emulated: there Weir takes half a minute for a tenth of
/// them, and the last one comes behind all.
const MANY: usize = 70_000;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "exhaust-origins",
    "opens and drops more connections than any map holds, then asks",
    attack,
    &[Case::bridge(governed)],
)
.no_control("it is the plain case with many others before");

fn attack(target: &Target) -> Result<Outcome> {
    let address = target.v4.into();
    let many = if is_slow() { MANY / 35 } else { MANY };
    let mut held = Vec::with_capacity(512);
    for _ in 0..many {
        let socket = dial::socket(address, libc::IPPROTO_TCP)?;
        socket.set_nonblocking(true)?;
        // It is under way, or refused: both are well.
        let _ = socket.connect(&address.into());
        if held.len() == 512 {
            held.clear();
        }
        held.push(socket);
    }
    drop(held);
    let mut last = Outcome::Stopped("no try".to_owned());
    for _ in 0..20 {
        last = dial::ask(dial::socket(address, libc::IPPROTO_TCP)?, address);
        if matches!(last, Outcome::Reply(_)) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    Ok(last)
}
