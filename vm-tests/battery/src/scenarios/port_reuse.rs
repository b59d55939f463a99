//! One source port, used again and again by threads that race: some for the database, some for a
//! listener of the attacker's own, some cut off at once. An origin that stays behind would be somebody
//! else's.

use std::{
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    attack::{Outcome, Target, dial, patience},
    scenario::{Case, Scenario, governed},
};

/// How long they race.
const RACE: Duration = Duration::from_secs(1);
const PORT: u16 = 7100;

pub(super) const SCENARIO: Scenario = Scenario::new(
    "port-reuse",
    "races for one source port, with some connections cut off at once",
    attack,
    &[Case::bridge(governed)],
);

fn attack(target: &Target) -> Result<Outcome> {
    let own = TcpListener::bind("127.0.0.1:0")?;
    let decoy = own.local_addr()?;
    thread::spawn(move || own.incoming().for_each(drop));
    let database = target.v4.into();
    let start = Instant::now();
    let racers = [(), ()].map(|()| {
        thread::spawn(move || {
            while start.elapsed() < RACE {
                // Who comes too late for the port tries again.
                drop(cut_off(database, decoy));
            }
        })
    });
    let mut last = Outcome::Stopped("never had the port".to_owned());
    // Some time longer than the others, so that it has the port in the end.
    while start.elapsed() < RACE + patience() * 3 {
        let outcome = bound(database).map(|socket| dial::ask(socket, database));
        let Ok(outcome) = outcome else {
            continue;
        };
        if outcome.is_success() {
            return Ok(outcome);
        }
        let governed = matches!(outcome, Outcome::Reply(_));
        last = outcome;
        if governed && start.elapsed() > RACE {
            break;
        }
    }
    racers.into_iter().for_each(|racer| drop(racer.join()));
    Ok(last)
}

/// A socket with the port that all want. Its end resets the connection, so that the port is free.
fn bound(to: SocketAddr) -> std::io::Result<socket2::Socket> {
    let socket = dial::socket(to, libc::IPPROTO_TCP)?;
    socket.set_reuse_address(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], PORT)).into())?;
    Ok(socket)
}

/// Begins a connection to each, and ends it in the middle.
fn cut_off(database: SocketAddr, decoy: SocketAddr) -> std::io::Result<()> {
    for address in [database, decoy] {
        let socket = bound(address)?;
        socket.set_nonblocking(true)?;
        // Under way is all that it shall be.
        let _ = socket.connect(&address.into());
        thread::yield_now();
    }
    Ok(())
}
