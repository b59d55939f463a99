//! A second path of a multipath connection (NET_ADMIN): the first leads to an accomplice and is
//! nobody's business, the second, which the kernel itself dials, to the database. Whether the
//! database would take it or not, its connect is refused.

use std::{fs, io, net::Ipv4Addr, thread};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};
use xtask::world::ADDRESS;

use crate::{
    attack::{Outcome, Target, dial, patience},
    props,
    scenario::{Caps, Case, Place, Scenario, blocked},
    stage::{Prop, Stage},
    sys,
};

const PORT: u16 = 5998;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "mptcp-subflow",
    "has the kernel dial the database as the second path of a connection to elsewhere",
    attack,
    &[Case::new(Place::Bridge, Caps::And(&["net_admin"]), blocked)],
)
.with(accomplice);

fn accomplice(stage: &Stage) -> Result<Prop> {
    let listen = format!("{ADDRESS}:{PORT}");
    props::one(stage, &["stream", &dial::MPTCP.to_string(), &listen])
}

fn attack(target: &Target) -> Result<Outcome> {
    // Paths are then the business of whoever asks for them, not of the kernel.
    fs::write("/proc/sys/net/mptcp/pm_type", "1")?;
    let address = (*target.v4.ip(), PORT).into();
    let first = dial::socket(address, dial::MPTCP)?;
    dial::connect(&first, address)?;
    // There are no second paths before something has gone over the first.
    first.send(&[0])?;
    thread::sleep(patience() / 5);
    let token = sys::mptcp_token(&first)?;
    Ok(match second_path(target, token) {
        Ok(()) => Outcome::Won("the kernel dialled the database".to_owned()),
        Err(error) => Outcome::stopped("second path", &error),
    })
}

/// Asks the kernel's path manager, by generic netlink, for one more path of a connection.
fn second_path(target: &Target, token: u32) -> Result<()> {
    // `linux/mptcp.h`
    const SUBFLOW_CREATE: u8 = 10;
    const HERE: u16 = 1;
    const TOKEN: u16 = 4;
    const THERE: u16 = 6;
    let netlink = Netlink::open()?;
    let family = netlink.family(b"mptcp_pm\0")?;
    let here = end_of_path(target.own_v4(), 1, 0);
    let there = end_of_path(*target.v4.ip(), 0, target.v4.port());
    let attributes = [
        attribute(TOKEN, &token.to_ne_bytes()),
        attribute(HERE | NESTED, &here),
        attribute(THERE | NESTED, &there),
    ];
    netlink.ask(
        family,
        SUBFLOW_CREATE,
        REQUEST | ACKNOWLEDGE,
        &attributes.concat(),
    )?;
    Ok(())
}

/// An address as the path manager takes it: family, number of the path, address, port.
fn end_of_path(address: Ipv4Addr, number: u8, port: u16) -> Vec<u8> {
    let family = u16::try_from(libc::AF_INET).unwrap_or(0);
    let mut attributes = attribute(1, &family.to_ne_bytes());
    if number != 0 {
        attributes.extend(attribute(2, &[number]));
    }
    attributes.extend(attribute(3, &address.octets()));
    if port != 0 {
        attributes.extend(attribute(5, &port.to_ne_bytes()));
    }
    attributes
}

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// A netlink attribute, padded to words.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(0);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// `NLM_F_REQUEST` and `NLM_F_ACK`: a command that answers by itself acknowledges nothing.
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;

/// A generic netlink socket.
struct Netlink(Socket);

impl Netlink {
    const HEADER: usize = 16;

    fn open() -> io::Result<Self> {
        let (domain, protocol) = (Domain::from(libc::AF_NETLINK), Protocol::from(libc::NETLINK_GENERIC));
        Socket::new(domain, Type::RAW, Some(protocol)).map(Self)
    }

    /// The number of a family of commands.
    fn family(&self, name: &[u8]) -> Result<u16> {
        const CONTROL: u16 = 16;
        const GET_FAMILY: u8 = 3;
        let answer = self.ask(CONTROL, GET_FAMILY, REQUEST, &attribute(2, name))?;
        // Its first attributes are the name and the number.
        let mut rest = answer.get(Self::HEADER + 4..).unwrap_or_default();
        while let [a, b, c, d, ..] = *rest {
            let length = usize::from(u16::from_ne_bytes([a, b]));
            if u16::from_ne_bytes([c, d]) == 1 {
                let number = rest.get(4..6).context("a number has two bytes")?;
                return Ok(u16::from_ne_bytes([number[0], number[1]]));
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        anyhow::bail!("the kernel has no such family")
    }

    /// Sends a command, and takes the one answer; an error is the kernel's.
    fn ask(&self, family: u16, command: u8, flags: u16, attributes: &[u8]) -> io::Result<Vec<u8>> {
        const ERROR: u16 = 2;
        let length = u32::try_from(Self::HEADER + 4 + attributes.len()).unwrap_or(0);
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(family.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([command, 1, 0, 0]);
        message.extend(attributes);
        self.0.send(&message)?;
        let mut answer = vec![0; 8192];
        let count = sys::read_within(&mut &self.0, &mut answer, patience())?;
        answer.truncate(count);
        if answer.get(4..6) == Some(&ERROR.to_ne_bytes()[..]) {
            let code = answer.get(16..20).and_then(|code| code.try_into().ok());
            let code = i32::from_ne_bytes(code.unwrap_or_default());
            if code != 0 {
                return Err(io::Error::from_raw_os_error(-code));
            }
        }
        Ok(answer)
    }
}
