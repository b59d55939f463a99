//! The database's unix socket, which a careless operator has mounted into the container.

use std::os::unix::{net::UnixStream};

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, pg},
    container::{MOUNTED},
    kernel::Kernel,
    scenario::{Case, Expect, Scenario},
    stage::{Prop, Stage},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "unix-path",
    "dials the database's unix socket, which an operator has mounted",
    attack,
    &[Case::bridge(expect)],
)
.with(mounted);

fn expect(kernel: &Kernel) -> Expect {
    if kernel.sees_unix_connects() {
        Expect::Blocked
    } else {
        Expect::Gap("a database's unix socket, mounted")
    }
}

pub(super) fn mounted(stage: &Stage) -> Result<Prop> {
    Ok(Prop {
        mounted: Some(stage.world.dir().join("pg")),
        ..Prop::default()
    })
}

fn attack(_: &Target) -> Result<Outcome> {
    let path = format!("{MOUNTED}/.s.PGSQL.5432");
    Ok(match UnixStream::connect(path) {
        Ok(stream) => pg::ask_on(stream),
        Err(error) => Outcome::stopped("connect", &error),
    })
}
