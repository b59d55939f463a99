//! Names: what agents that reach no resolver are told, by glibc's resolver and by sockets of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use xtask::world::{ADDRESS, ADDRESS6, Agent, Network, Setup, Weir, World};

use crate::egress::{MASKED, Server, agent};
use crate::support::{setup, until};

/// A resolver that nobody has.
const RESOLVER: &str = "192.0.2.53";

/// Replaces a file for this thread and all that it starts.
fn replace(file: &str, by: &Path) -> Result<()> {
    let what = || format!("{file} can't be replaced");
    mount(Some(by), file, None::<&str>, MsFlags::MS_BIND, None::<&str>).with_context(what)
}

/// A host whose own resolver knows a database's name and another's, and an agent's files that name a
/// resolver which doesn't exist.
pub(crate) struct Stage {
    files: tempfile::TempDir,
    server: Server,
    pub(crate) weir: Weir,
    pub(crate) world: World,
}

impl Stage {
    fn new(egress: Option<&str>) -> Result<Self> {
        Self::with(egress, |_, setup| Ok(setup))
    }

    /// The same with changes to the daemon's setup.
    pub(crate) fn with(
        egress: Option<&str>,
        change: impl FnOnce(&World, Setup) -> Result<Setup>,
    ) -> Result<Self> {
        let files = tempfile::tempdir()?;
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = files.path().join(name);
            fs::write(&path, text)?;
            Ok(path)
        };
        let hosts = format!(
            "127.0.0.1 localhost\n{ADDRESS} db.prod.internal api.example.com\n\
             {ADDRESS6} db.prod.internal\n"
        );
        let hosts = write("hosts", &hosts)?;
        write("agent-hosts", "127.0.0.1 localhost\n")?;
        let resolvers = format!(
            "nameserver {RESOLVER}\nnameserver 2001:db8::53\nsearch svc.example\n\
             options timeout:2 attempts:1\n"
        );
        let resolvers = write("resolv.conf", &resolvers)?;
        let switch = write("nsswitch.conf", "hosts: files dns\n")?;

        // The daemon and the agents are started by this thread.
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        replace("/etc/hosts", &hosts)?;
        replace("/etc/resolv.conf", &resolvers)?;
        replace("/etc/nsswitch.conf", &switch)?;

        let world = World::new()?;
        let server = Server::start(&world)?;
        let mut setup = Setup {
            egress: egress.map(|egress| egress.replace("PORT", &server.port.to_string())),
            ..setup()
        };
        setup.hosts = vec!["db.prod.internal:5432".into()];
        let weir = world.weir(change(&world, setup)?)?;
        Ok(Self {
            files,
            server,
            weir,
            world,
        })
    }

    /// Runs a program as an agent, whose `/etc/hosts` knows nobody.
    pub(crate) fn run(
        &self,
        agent: &Agent,
        variables: &[(&str, &str)],
        program: &[&str],
    ) -> Result<String> {
        let mut inner = agent.command("timeout");
        inner
            .arg("60")
            .args(program)
            .envs(variables.iter().copied());
        let mut outer = Command::new("unshare");
        let script = r#"mount --bind "$0" /etc/hosts && exec "$@""#;
        outer.args(["--mount", "sh", "-c", script]);
        outer.arg(self.files.path().join("agent-hosts"));
        outer.arg(inner.get_program()).args(inner.get_args());
        outer.env_clear();
        for (name, value) in inner.get_envs() {
            if let Some(value) = value {
                outer.env(name, value);
            }
        }
        outer.current_dir(agent.home());
        let output = outer.output()?;
        Ok(format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .trim()
        .to_owned())
    }

    /// The addresses that glibc finds, sorted; nothing if it finds none.
    pub(crate) fn resolved(&self, agent: &Agent, name: &str, options: &str) -> Result<Vec<String>> {
        let seen = self.run(
            agent,
            &[("RES_OPTIONS", options)],
            &["getent", "ahosts", name],
        )?;
        let addresses = seen
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        let mut addresses: Vec<String> = addresses.map(str::to_owned).collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }

    pub(crate) fn psql(&self, agent: &Agent) -> Result<String> {
        let ask = "SELECT ssn FROM customers WHERE id = 1";
        let by_name = [("PGHOST", "db.prod.internal")];
        self.run(agent, &by_name, &["psql", "-X", "-At", "-c", ask])
    }
}

#[test]
fn a_database_is_reached_by_its_name_from_a_namespace_with_only_lo() -> Result<()> {
    let stage = Stage::new(None)?;
    let coder = agent(&stage.world, "coder", Network::OnlyLo)?;
    assert_eq!(stage.psql(&coder)?, MASKED);
    for options in ["timeout:2", "use-vc", "edns0", "single-request", "ndots:5"] {
        let seen = stage.resolved(&coder, "db.prod.internal", options)?;
        assert_eq!(seen, [ADDRESS, ADDRESS6], "{options}");
        let other = stage.resolved(&coder, "api.example.com", options)?;
        assert!(other.is_empty(), "{options}: {other:?}");
    }
    Ok(())
}

#[test]
fn without_egress_a_name_is_told_if_it_is_a_datastores() -> Result<()> {
    let stage = Stage::new(Some("\"none\""))?;
    for network in [Network::Bridge, Network::Host] {
        let coder = agent(&stage.world, "coder", network)?;
        until("it is known", || {
            stage.psql(&coder).is_ok_and(|seen| seen == MASKED)
        })?;
        for options in ["timeout:2", "use-vc"] {
            let seen = stage.resolved(&coder, "db.prod.internal", options)?;
            assert_eq!(seen, [ADDRESS, ADDRESS6]);
            assert!(
                stage
                    .resolved(&coder, "api.example.com", options)?
                    .is_empty()
            );
        }
    }
    Ok(())
}

#[test]
fn a_listed_name_is_told_and_reached_and_none_below_it() -> Result<()> {
    let stage = Stage::new(Some("[\"api.example.com:PORT\"]"))?;
    let coder = agent(&stage.world, "coder", Network::Bridge)?;
    until("it is known", || {
        stage.psql(&coder).is_ok_and(|seen| seen == MASKED)
    })?;
    assert_eq!(stage.resolved(&coder, "API.example.com", "")?, [ADDRESS]);
    for name in [
        "tunnel.api.example.com",
        "example.com",
        "api.example.com.evil.example",
    ] {
        assert!(stage.resolved(&coder, name, "")?.is_empty(), "{name}");
    }
    let script = "import socket, sys\n\
        print(socket.create_connection(('api.example.com', int(sys.argv[1])), 5).recv(10).decode())";
    let port = stage.server.port.to_string();
    let seen = stage.run(&coder, &[], &["python3", "-c", script, &port])?;
    assert_eq!(seen, "reached");
    Ok(())
}

/// Asks by sockets of its own, and says who answers what.
const ASK: &str = r#"
import socket, struct, sys
def message(name, kind):
    labels = b''.join(bytes([len(label)]) + label for label in name)
    return struct.pack('!6H', 77, 0x100, 1, 0, 0, 0) + labels + struct.pack('!BHH', 0, kind, 1)
def told(answer):
    number, flags, _, answers = struct.unpack('!4H', answer[:8])
    return number, flags & 15, answers
db = (b'db', b'prod', b'internal')
V4, V6 = ('192.0.2.53', 53), ('2001:db8::53', 53)
for family, server in ((socket.AF_INET, V4), (socket.AF_INET6, V6), (socket.AF_INET6, ('::ffff:192.0.2.53', 53))):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(5)
    s.sendto(message(db, 1), server)
    answer, source = s.recvfrom(2000)
    print(*told(answer), *source[:2])
    c = socket.socket(family, socket.SOCK_DGRAM)
    c.settimeout(5)
    c.connect(server)
    c.send(message(db, 28))
    answer, source = c.recvfrom(2000)
    print(*told(answer), *source[:2], *c.getpeername()[:2])
def ask(name, kind):
    s.sendto(message(name, kind), server)
    return told(s.recv(2000))
print(*ask((b'api', b'example', b'com'), 1))
print(*ask((b'x', b'db', b'prod', b'internal'), 1))
print(*ask(db + (b'svc', b'example'), 1))
print(*ask(db, 16))
print(*ask((b'a\nERROR forged', b'\x1b[2J\xff'), 1))
t = socket.create_connection(V4, 5)
for _ in range(2):
    t.sendall(struct.pack('!H', len(message(db, 1))) + message(db, 1))
    length = struct.unpack('!H', t.recv(2, socket.MSG_WAITALL))[0]
    print(*told(t.recv(length, socket.MSG_WAITALL)), *t.getpeername())
# What is no question isn't answered, and does no harm.
s.settimeout(0.3)
for junk in (b'', b'x', bytes(12), message(db, 1)[:-3], bytes(4000)):
    try:
        s.sendto(junk, server)
        print('answered', s.recv(100))
    except TimeoutError: pass
s.settimeout(5)
print(*ask(db, 1))
"#;

#[test]
fn every_kind_of_socket_is_answered_by_whom_it_asked() -> Result<()> {
    let stage = Stage::new(Some("\"none\""))?;
    let coder = agent(&stage.world, "coder", Network::Bridge)?;
    until("it is known", || {
        stage.psql(&coder).is_ok_and(|seen| seen == MASKED)
    })?;
    let seen = stage.run(&coder, &[], &["python3", "-c", ASK])?;
    let expected = "77 0 1 192.0.2.53 53\n\
        77 0 1 192.0.2.53 53 192.0.2.53 53\n\
        77 0 1 2001:db8::53 53\n\
        77 0 1 2001:db8::53 53 2001:db8::53 53\n\
        77 0 1 ::ffff:192.0.2.53 53\n\
        77 0 1 ::ffff:192.0.2.53 53 ::ffff:192.0.2.53 53\n\
        77 5 0\n77 5 0\n77 3 0\n77 0 0\n77 5 0\n\
        77 0 1 192.0.2.53 53\n77 0 1 192.0.2.53 53\n77 0 1";
    assert_eq!(seen, expected);
    Ok(())
}

#[test]
fn a_question_never_leaves_the_host() -> Result<()> {
    let stage = Stage::new(Some("\"none\""))?;
    let script = "import socket\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        s.bind(('10.77.0.1', 53))\n\
        print('ready', flush=True)\n\
        while True: print(s.recv(2000), flush=True)\n";
    let heard = stage.world.dir().join("heard");
    let mut resolver = stage.world.outside("python3");
    resolver
        .args(["-c", script])
        .stdout(fs::File::create(&heard)?);
    let mut resolver = resolver.spawn()?;
    until("the resolver is there", || {
        fs::read_to_string(&heard).is_ok_and(|text| text.contains("ready"))
    })?;
    let ask = "import socket\n\
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n\
        s.settimeout(5)\n\
        s.sendto(b'MMxxxxxxxxxx', ('10.77.0.1', 53))\n\
        q = bytes([0,7,1,0,0,1,0,0,0,0,0,0]) + bytes([6]) + b'secret' + bytes([0,0,16,0,1])\n\
        s.sendto(q, ('10.77.0.1', 53))\n\
        print(s.recv(2000)[3] & 15)\n";
    let coder = agent(&stage.world, "coder", Network::Bridge)?;
    until("it is known", || {
        stage.psql(&coder).is_ok_and(|seen| seen == MASKED)
    })?;
    let seen = stage.run(&coder, &[], &["python3", "-c", ask])?;
    let ended = resolver.kill().and_then(|()| resolver.wait());
    assert_eq!(seen, "5");
    assert_eq!(fs::read_to_string(&heard)?, "ready\n");
    ended?;
    Ok(())
}
