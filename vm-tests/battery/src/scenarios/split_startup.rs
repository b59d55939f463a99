//! The start-up packet in pieces of one byte, so that who looks at the first segment alone sees
//! nothing. At a listed endpoint Weir reads it whole.

use std::{io::Write as _, net::TcpStream, thread, time::Duration};

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial, pg},
    scenario::{Case, Scenario, governed},
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "split-startup",
    "sends its start-up packet byte by byte",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> Result<Outcome> {
    let address = target.v4.into();
    let socket = dial::socket(address, libc::IPPROTO_TCP)?;
    dial::connect(&socket, address)?;
    ask_in_pieces(dial::stream(socket))
}

/// Asks, the first bytes one by one.
pub(super) fn ask_in_pieces(mut stream: TcpStream) -> Result<Outcome> {
    stream.set_nodelay(true)?;
    let flight = pg::flight();
    let (first, rest) = flight.split_at(9);
    for byte in first {
        stream.write_all(&[*byte])?;
        thread::sleep(Duration::from_millis(5));
    }
    stream.write_all(rest)?;
    Ok(pg::listen(stream))
}
