//! UDP-Lite, a protocol of its own with UDP's ports. (Linux 6.19 has it no more.)

use std::io::Read as _;

use anyhow::Result;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use xtask::world::{ADDRESS, PORT};

use crate::{
    attack::{Outcome, Target, patience, pg},
    kernel::Kernel,
    props,
    scenario::{Case, Expect, Scenario},
    stage::{Prop, Stage},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "udplite",
    "sends UDP-Lite datagrams to the database's endpoint, where somebody leads them on",
    attack,
    &[Case::bridge(where_it_exists), Case::host(where_it_exists)],
)
.with(relay);

fn where_it_exists(kernel: &Kernel) -> Expect {
    if kernel.has(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE) {
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
    props::one(stage, &["datagram", &libc::IPPROTO_UDPLITE.to_string(), &listen])
}

fn attack(target: &Target) -> Result<Outcome> {
    let protocol = Some(Protocol::from(libc::IPPROTO_UDPLITE));
    let mut socket = match Socket::new(Domain::IPV4, Type::DGRAM, protocol) {
        Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => {
            return Ok(Outcome::Absent("UDP-Lite".to_owned()));
        }
        other => other?,
    };
    socket.set_read_timeout(Some(patience() * 2))?;
    socket.send_to(&pg::flight(), &SockAddr::from(target.v4))?;
    let mut reply = vec![0; 65536];
    let count = socket.read(&mut reply)?;
    reply.truncate(count);
    Ok(Outcome::Reply(reply))
}
