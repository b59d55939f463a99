//! Weir's own control socket, mounted into the container: who may speak to it can approve what is
//! held. The daemon's connect hook refuses it to agents.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
};

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, patience},
    container::MOUNTED,
    kernel::Kernel,
    scenario::{Case, Expect, Scenario},
    stage::{Prop, Stage},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "weir-socket",
    "speaks to Weir's control socket, mounted into the container",
    attack,
    &[Case::bridge(expect)],
)
.with(run_folder);

fn expect(kernel: &Kernel) -> Expect {
    if kernel.sees_unix_connects() {
        Expect::Blocked
    } else {
        Expect::Gap("Weir's control socket, mounted")
    }
}

fn run_folder(stage: &Stage) -> Result<Prop> {
    Ok(Prop {
        mounted: Some(stage.world.dir().join("weir/run")),
        ..Prop::default()
    })
}

fn attack(_: &Target) -> Result<Outcome> {
    let mut stream = match UnixStream::connect(format!("{MOUNTED}/weir.sock")) {
        Ok(stream) => stream,
        Err(error) => return Ok(Outcome::stopped("connect", &error)),
    };
    stream.set_read_timeout(Some(patience() * 2))?;
    stream.write_all(b"GET /status HTTP/1.1\r\nhost: weir\r\nconnection: close\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Ok(if answer.starts_with("HTTP/1.1") {
        Outcome::Won(format!("Weir answered {answer:?}"))
    } else {
        Outcome::Reply(answer.into_bytes())
    })
}
