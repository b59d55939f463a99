//! A database on this host, under all the names that it has there.

use std::process::Command;

use crate::stage::{self, Daemon, Stage, host_ip};
use crate::{SERVER, TRY, wait_until};

/// An address, a route or a device of the host's, for a test's time.
struct OnHost(String);

impl OnHost {
    /// `what` is what `ip` shall add, with "add" in its place.
    fn new(what: &str) -> Self {
        host_ip(what);
        Self(what.replace(" add ", " del "))
    }
}

impl Drop for OnHost {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(self.0.split(' ')).status();
    }
}

#[test]
fn a_database_on_this_host_is_itself_under_each_of_its_addresses() {
    let stage = Stage::new();
    let own = format!("10.79.{}.1", stage::number());
    let mapped = format!("::ffff:{own}");
    let _own = OnHost::new(&format!("address add {own}/32 dev lo"));
    let device = format!("wkt{}", std::process::id());
    let _device = OnHost::new(&format!("link add {device} type veth peer name {device}p"));
    host_ip(&format!("link set {device} up"));
    host_ip(&format!("link set {device}p up"));
    host_ip(&format!("-6 address add fe80::79/64 dev {device} nodad"));
    let scoped = format!("fe80::79%{device}");
    let server = stage.server_on_host(EVERYWHERE, "::", "0");
    let protected = format!("127.0.0.1:{}", server.port);
    let daemon = Daemon::start(&stage, &[&protected]);
    for (family, name) in [
        ("AF_INET", "127.0.0.1"),
        ("AF_INET", "127.200.0.9"),
        ("AF_INET", "0.0.0.0"),
        ("AF_INET", &*own),
        ("AF_INET6", "::1"),
        ("AF_INET6", "::"),
        ("AF_INET6", "::ffff:0.0.0.0"),
        ("AF_INET6", "::ffff:127.0.0.1"),
        ("AF_INET6", &*mapped),
        ("AF_INET6", &*scoped),
    ] {
        let arguments = [family, name, &server.port, "tcp"];
        let outside = stage.outsider_on_host(TRY, &arguments);
        assert_eq!(outside.output(), "real", "{name} is a name of the server");
        assert_eq!(
            stage.agent_on_host(TRY, &arguments).output(),
            "weir",
            "{name}"
        );
        let origin = daemon.accepted().origin.unwrap();
        assert_eq!(origin.dst.0, protected.parse().unwrap(), "{name}");
    }
}

/// As SERVER, for both families.
const EVERYWHERE: &str = r#"
import socket, sys
s = socket.create_server((sys.argv[1], int(sys.argv[2])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=100)
print('ready', s.getsockname()[1], flush=True)
while True:
    c, _ = s.accept()
    c.sendall(b'real')
    c.close()
"#;

#[test]
fn an_address_that_the_host_gets_later_is_no_way_to_its_database() {
    let stage = Stage::new();
    let server = stage.server_on_host(EVERYWHERE, "::", "0");
    let _daemon = Daemon::start(&stage, &[&format!("127.0.0.1:{}", server.port)]);
    let attempt = |name: &str| {
        let arguments = ["AF_INET", name, &server.port, "tcp"];
        stage.agent_on_host(TRY, &arguments).output()
    };
    let new = format!("10.79.{}.2", stage::number());
    let _new = OnHost::new(&format!("address add {new}/32 dev lo"));
    assert_ne!(attempt(&new), "real");
    wait_until(|| attempt(&new) == "weir");
    // One that no list of addresses has.
    let routed = format!("10.80.{}.5", stage::number());
    let _route = OnHost::new(&format!("route add local {routed}/32 dev lo"));
    let arguments = ["AF_INET", &*routed, &server.port, "tcp"];
    assert_eq!(stage.outsider_on_host(TRY, &arguments).output(), "real");
    assert_eq!(attempt(&routed), "ETIMEDOUT");
}

#[test]
fn another_namespaces_loopback_is_its_own() {
    let stage = Stage::new();
    let own = stage.server(SERVER, "127.0.0.1", "0");
    // As if the host's database listened at that port.
    let _daemon = Daemon::start(&stage, &[&format!("[::1]:{}", own.port)]);
    assert_eq!(
        stage.attempt("AF_INET", "127.0.0.1", &own.port, "tcp"),
        "real"
    );
    assert_eq!(stage.attempt("AF_INET6", "::1", &own.port, "tcp"), "weir");
}

#[test]
fn a_link_local_address_is_the_same_on_each_interface() {
    let stage = Stage::new();
    stage.ip(&["-6", "address", "add", "fe80::77/64", "dev", "lo", "nodad"]);
    let _daemon = Daemon::start(&stage, &["[fe80::77]:5432"]);
    assert_eq!(
        stage.attempt("AF_INET6", "fe80::77%lo", "5432", "tcp"),
        "weir"
    );
}
