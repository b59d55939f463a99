//! TCP Fast Open by `TCP_FASTOPEN_CONNECT`: `connect` returns at once without a packet, and the
//! first `write` opens the connection.

use crate::{
    attack::{Outcome, Target, dial},
    scenario::{Case, Scenario, governed},
    sys,
};

pub(super) const SCENARIO: Scenario = Scenario::new(
    "fastopen-connect",
    "puts the connection off until the first write (TCP_FASTOPEN_CONNECT)",
    attack,
    &[Case::bridge(governed), Case::host(governed)],
);

fn attack(target: &Target) -> anyhow::Result<Outcome> {
    Ok(dial::best(target.addresses(), |address| {
        let put_off = dial::socket(address, libc::IPPROTO_TCP).and_then(|socket| {
            let name = libc::TCP_FASTOPEN_CONNECT;
            sys::set_number(&socket, libc::IPPROTO_TCP, name, 1)?;
            Ok(socket)
        });
        match put_off {
            Ok(socket) => dial::ask(socket, address),
            Err(error) => Outcome::stopped("TCP_FASTOPEN_CONNECT", &error),
        }
    }))
}
