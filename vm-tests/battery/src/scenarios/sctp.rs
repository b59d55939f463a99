//! SCTP, which has streams and ports as TCP does, and no connect hook.

use anyhow::Result;
use xtask::world::{ADDRESS, PORT};

use crate::{
    attack::{Outcome, Target, dial, pg},
    kernel::Kernel,
    props,
    scenario::{Case, Expect, Scenario},
    stage::{Prop, Stage},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "sctp",
    "dials the database's endpoint by SCTP, where somebody leads it on",
    attack,
    &[Case::bridge(where_it_exists), Case::host(where_it_exists)],
)
.with(relay);

fn where_it_exists(kernel: &Kernel) -> Expect {
    if kernel.has(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP) {
        Expect::Blocked
    } else {
        Expect::Absent
    }
}

fn relay(stage: &Stage) -> Result<Prop> {
    if where_it_exists(&stage.kernel) == Expect::Absent {
        return Ok(Prop::default());
    }
    let listen = format!("{ADDRESS}:{PORT}");
    props::one(stage, &["stream", &libc::IPPROTO_SCTP.to_string(), &listen])
}

fn attack(target: &Target) -> Result<Outcome> {
    let address = target.v4.into();
    let socket = match dial::socket(address, libc::IPPROTO_SCTP) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
            return Ok(Outcome::Absent("SCTP".to_owned()));
        }
        other => other?,
    };
    Ok(match dial::connect(&socket, address) {
        Ok(()) => {
            socket.set_nonblocking(false)?;
            pg::ask_on(socket)
        }
        Err(error) => Outcome::stopped("connect", &error),
    })
}
