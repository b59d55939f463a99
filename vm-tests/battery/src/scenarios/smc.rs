//! AF_SMC: shared memory between machines, which falls back to TCP where the other side has none. The
//! TCP connection is then the kernel's own work.

use anyhow::Result;
use socket2::{Domain, Socket, Type};

use crate::{
    attack::{Outcome, Target, dial, pg},
    kernel::Kernel,
    scenario::{Case, Expect, Scenario},
};

const AF_SMC: i32 = 43;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "smc",
    "dials by AF_SMC, which falls back to TCP",
    attack,
    &[Case::bridge(where_it_exists), Case::host(where_it_exists)],
);

fn where_it_exists(kernel: &Kernel) -> Expect {
    if kernel.has(AF_SMC, libc::SOCK_STREAM, 0) {
        Expect::Blocked
    } else {
        Expect::Absent
    }
}

fn attack(target: &Target) -> Result<Outcome> {
    let socket = match Socket::new(Domain::from(AF_SMC), Type::STREAM, None) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            return Ok(Outcome::Absent("AF_SMC".to_owned()));
        }
        other => other?,
    };
    // It takes ordinary addresses.
    Ok(match dial::connect(&socket, target.v4.into()) {
        Ok(()) => {
            socket.set_nonblocking(false)?;
            pg::ask_on(socket)
        }
        Err(error) => Outcome::stopped("connect", &error),
    })
}
