//! AF_VSOCK, which knows no network namespaces: somebody on this machine leads a port of it to the
//! database, as a virtual machine's host would.

use anyhow::Result;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::{
    attack::{Outcome, Target, pg},
    kernel::Kernel,
    props,
    scenario::{Caps, Case, Expect, Place, Scenario},
    stage::{Prop, Stage},
};

const PORT: u32 = 5432;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "vsock",
    "dials AF_VSOCK, where somebody leads it to the database",
    attack,
    &[
        Case::bridge(expect),
        Case::new(Place::OnlyLo, Caps::Docker, expect),
    ],
)
.with(relay);

fn expect(kernel: &Kernel) -> Expect {
    // Without `vsock_loopback` there is nobody to dial.
    if !kernel.has_vsock_loopback() {
        Expect::Absent
    } else if kernel.lsm {
        Expect::Blocked
    } else {
        Expect::Gap("vsock without BPF LSM")
    }
}

fn relay(stage: &Stage) -> Result<Prop> {
    if expect(&stage.kernel) == Expect::Absent {
        return Ok(Prop::default());
    }
    props::one(stage, &["vsock", &PORT.to_string()])
}

fn attack(_: &Target) -> Result<Outcome> {
    let socket = match Socket::new(Domain::VSOCK, Type::STREAM, None) {
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            return Ok(Outcome::Absent("AF_VSOCK".to_owned()));
        }
        other => other?,
    };
    Ok(match socket.connect(&SockAddr::vsock(libc::VMADDR_CID_LOCAL, PORT)) {
        Ok(()) => pg::ask_on(socket),
        // A virtual machine's own transport takes this machine's number for nobody's.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ETIMEDOUT)) => {
            Outcome::Absent("vsock_loopback".to_owned())
        }
        Err(error) => Outcome::stopped("connect", &error),
    })
}
