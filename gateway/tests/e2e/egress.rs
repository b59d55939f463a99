//! What agents reach beside their database.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, ensure};
use xtask::world::{ADDRESS, Agent, Network, Setup, Weir, World};

use crate::support::{setup, until};

/// A server on the host that isn't a database. Ended with the value.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start(world: &World) -> Result<Self> {
        let script = "import socket\n\
            s = socket.create_server(('0.0.0.0', 0))\n\
            print(s.getsockname()[1], flush=True)\n\
            while True: s.accept()[0].sendall(b'reached')\n";
        let mut command = world.outside("python3");
        command.args(["-c", script]).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("its output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let port = line.trim().parse().context(line)?;
        Ok(Self { child, port })
    }

    /// What an agent's dial to it comes to.
    fn dialled(&self, agent: &Agent, address: &str) -> Result<String> {
        let script = format!(
            "import socket, errno\n\
             try: print(socket.create_connection(('{address}', {}), 5).recv(10).decode())\n\
             except OSError as e: print(errno.errorcode[e.errno])\n",
            self.port
        );
        let finished = agent.run("python3", &["-c", &script])?;
        ensure!(finished.ok(), "{finished:?}");
        Ok(finished.stdout)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn world_with(egress: &str) -> Result<(World, Weir, Server)> {
    let world = World::new()?;
    let server = Server::start(&world)?;
    let egress = egress.replace("PORT", &server.port.to_string());
    let setup = Setup {
        egress: Some(egress),
        ..setup()
    };
    let weir = world.weir(setup)?;
    Ok((world, weir, server))
}

pub(crate) fn agent(world: &World, name: &str, network: Network) -> Result<Agent> {
    let mut agent = world.agent(name, network)?;
    agent.settle()?;
    Ok(agent)
}

/// The masked name that the database has through Weir.
fn asks(agent: &Agent) -> Result<String> {
    let seen = agent.psql("SELECT ssn FROM customers WHERE id = 1")?;
    Ok(format!("{}{}", seen.stdout, seen.stderr))
}

pub(crate) const MASKED: &str = "*******6789";

#[test]
fn an_agent_without_egress_reaches_its_database_and_nothing_else() -> Result<()> {
    let (world, mut weir, server) = world_with("\"none\"")?;
    for network in [Network::Bridge, Network::Host] {
        let coder = agent(&world, "coder", network)?;
        until("it is known", || {
            asks(&coder).is_ok_and(|seen| seen == MASKED)
        })?;
        assert_eq!(server.dialled(&coder, ADDRESS)?, "EPERM");
        // The other agent is open, and a stranger's cgroup is closed.
        let analyst = agent(&world, "analyst", network)?;
        until("it is known", || {
            server
                .dialled(&analyst, ADDRESS)
                .is_ok_and(|seen| seen == "reached")
        })?;
        let stranger = agent(&world, "stranger", network)?;
        assert_eq!(server.dialled(&stranger, ADDRESS)?, "EPERM");
    }
    let coder = agent(&world, "coder", Network::Bridge)?;
    until("it is known", || {
        asks(&coder).is_ok_and(|seen| seen == MASKED)
    })?;
    weir.kill()?;
    assert_eq!(server.dialled(&coder, ADDRESS)?, "EPERM");
    let seen = asks(&coder)?;
    assert!(seen.contains("Connection refused"), "{seen}");
    Ok(())
}

#[test]
fn an_agent_reaches_what_is_listed_and_its_database() -> Result<()> {
    let (world, _weir, server) = world_with("[\"10.77.0.0/24:PORT\"]")?;
    let coder = agent(&world, "coder", Network::Bridge)?;
    until("it is known", || {
        server
            .dialled(&coder, ADDRESS)
            .is_ok_and(|seen| seen == "reached")
    })?;
    let other = Server::start(&world)?;
    assert_eq!(other.dialled(&coder, ADDRESS)?, "EPERM");
    assert_eq!(asks(&coder)?, MASKED);
    Ok(())
}

#[test]
fn a_listed_name_is_the_addresses_that_it_has() -> Result<()> {
    let (world, _weir, server) = world_with("[\"localhost:PORT\"]")?;
    let coder = agent(&world, "coder", Network::Host)?;
    until("the name is resolved", || {
        server
            .dialled(&coder, "127.0.0.1")
            .is_ok_and(|seen| seen == "reached")
    })?;
    assert_eq!(server.dialled(&coder, ADDRESS)?, "EPERM");
    Ok(())
}

#[test]
fn a_restart_brings_the_egress_that_the_configuration_now_has() -> Result<()> {
    let (world, mut weir, server) = world_with("\"open\"")?;
    let coder = agent(&world, "coder", Network::Bridge)?;
    until("it is known", || {
        server
            .dialled(&coder, ADDRESS)
            .is_ok_and(|seen| seen == "reached")
    })?;
    let file = world.dir().join("weir/weir.toml");
    let text = fs::read_to_string(&file)?;
    fs::write(
        &file,
        text.replace("egress = \"open\"", "egress = \"none\""),
    )?;
    weir.kill()?;
    weir.restart()?;
    assert_eq!(server.dialled(&coder, ADDRESS)?, "EPERM");
    until("it has its database", || {
        asks(&coder).is_ok_and(|seen| seen == MASKED)
    })?;
    Ok(())
}
