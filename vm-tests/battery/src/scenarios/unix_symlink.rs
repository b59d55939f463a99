//! The mounted unix socket again, by a name of the attacker's own making: a symbolic link. The connect
//! hook sees the name; only the LSM's sees the socket.

use std::os::unix::{fs::symlink, net::UnixStream};

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, pg},
    container::{HOME, MOUNTED},
    kernel::Kernel,
    scenario::{Case, Expect, Scenario},
    scenarios::unix_path::mounted,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "unix-symlink",
    "dials the mounted unix socket by a symbolic link of its own",
    attack,
    &[Case::bridge(expect)],
)
.with(mounted);

fn expect(kernel: &Kernel) -> Expect {
    if kernel.lsm {
        Expect::Blocked
    } else {
        Expect::Gap("a database's unix socket by another name")
    }
}


fn attack(_: &Target) -> Result<Outcome> {
    let path = format!("{HOME}/innocent");
    symlink(format!("{MOUNTED}/.s.PGSQL.5432"), &path)?;
    Ok(match UnixStream::connect(path) {
        Ok(stream) => pg::ask_on(stream),
        Err(error) => Outcome::stopped("connect", &error),
    })
}
