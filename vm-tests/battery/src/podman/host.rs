//! The machine: the database behind a wire, Weir as systemd runs it, and the image that podman makes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use xtask::world::{ADDRESS, ADDRESS6, PORT, World};

use crate::stage;

/// The host's own address on the wire to the database.
pub(super) const HOST: &str = "10.76.0.2";
/// The agents' image.
pub(super) const IMAGE: &str = "localhost/agent";
/// Its files, which `cargo xtask vm-test` has put there.
const FILES: &str = "/srv/agent";
const POLICY: &str = include_str!("policy.toml");
const CONFIGURATION: &str = include_str!("weir.toml");
/// What an emulated machine takes at most to start a unit.
const LIMIT: Duration = Duration::from_secs(60);
/// The bridges: one for those whom nothing governs, one for agents.
const BRIDGES: [u8; 2] = [OUTSIDE, AGENTS];
pub(super) const OUTSIDE: u8 = 1;
pub(super) const AGENTS: u8 = 2;

/// A machine with Weir.
pub(super) struct Host {
    pub(super) world: World,
}

impl Host {
    pub(super) fn new() -> Result<Self> {
        // It takes as long as all the rest.
        let image = thread::spawn(image);
        let world = stage::database()?;
        wire(&world)?;
        for number in BRIDGES {
            let (v4, v6) = (
                format!("10.79.{number}.0/24"),
                format!("fd79:{number}::/64"),
            );
            let name = format!("agents{number}");
            let network = ["network", "create", "--disable-dns", "--ipv6"];
            let subnets = ["--subnet", &v4, "--subnet", &v6, &name];
            run("podman", &[&network[..], &subnets].concat())?;
        }
        for place in ["/etc/weir/policies", "/etc/tmpfiles.d"] {
            fs::create_dir_all(place)?;
        }
        let hosts = format!("{ADDRESS}:{PORT}\", \"[{ADDRESS6}]:{PORT}");
        fs::write(
            "/etc/weir/weir.toml",
            CONFIGURATION.replace("HOSTS", &hosts),
        )?;
        fs::write("/etc/weir/policies/policy.toml", POLICY)?;
        fs::write("/etc/weir/password", "upstream-secret")?;
        fs::set_permissions("/etc/weir/password", fs::Permissions::from_mode(0o600))?;
        let host = Self { world };
        // Started by its socket, it would take an emulated machine longer than Weir waits.
        let unit = [
            "--quiet",
            "--unit=podman-api",
            "podman",
            "system",
            "service",
            "--time=0",
        ];
        run("systemd-run", &unit)?;
        run("systemctl", &["start", "weir-agents.slice"])?;
        host.systemctl(&["start", "weir.service"])?;
        let made = image
            .join()
            .map_err(|_| anyhow!("making the image panicked"))?;
        made.context("the agents' image")?;
        Ok(host)
    }

    /// Runs systemctl; an error comes with what Weir said last.
    pub(super) fn systemctl(&self, args: &[&str]) -> Result<()> {
        run("systemctl", args).with_context(|| self.journal())
    }

    /// What Weir said last.
    pub(super) fn journal(&self) -> String {
        let args = ["--unit=weir", "--lines=60", "--output=cat", "--no-pager"];
        output("journalctl", &args).unwrap_or_else(|error| format!("{error:#}"))
    }

    /// When a perimeter went up last, since 1970.
    pub(super) fn perimeter_up(&self) -> Result<Duration> {
        let args = ["--unit=weir", "--grep=perimeter is up", "--lines=1"];
        let format = ["--output=short-unix", "--no-pager", "--quiet"];
        let line = output("journalctl", &[&args[..], &format].concat())?;
        let time = line.split(' ').next().context("a line has a time")?;
        Ok(Duration::from_secs_f64(time.parse()?))
    }

    /// The daemon's process.
    pub(super) fn daemon(&self) -> Result<u32> {
        let pid = output("systemctl", &["show", "--value", "-p", "MainPID", "weir"])?;
        Ok(pid.trim().parse()?)
    }

    /// Waits until another daemon than `earlier` serves.
    pub(super) fn until_served_anew(&self, earlier: u32) -> Result<()> {
        let start = Instant::now();
        while self.daemon()? == earlier || run("weir", &["status"]).is_err() {
            ensure!(start.elapsed() < LIMIT, "no new daemon: {}", self.journal());
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// The database's machine is another network namespace at the end of a veth.
fn wire(world: &World) -> Result<()> {
    let there = format!(
        "set -e
        ip link add wire type veth peer name database netns 1
        ip address add 10.76.0.1/24 dev wire
        ip address add fd76::1/64 dev wire nodad
        ip link set wire up
        ip route add default via {HOST}
        ip route add ::/0 via fd76::2"
    );
    let status = world.outside("sh").args(["-c", &there]).status()?;
    ensure!(status.success(), "the database's end: {status}");
    let here = format!(
        "set -e
        ip link set lo up
        ip address add {HOST}/24 dev database
        ip address add fd76::2/64 dev database nodad
        ip link set database up
        ip route add {ADDRESS} via 10.76.0.1
        ip route add {ADDRESS6} via fd76::1
        echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
    );
    run("sh", &["-c", &here]).map(drop)
}

/// Makes the agents' image of files: there is no registry.
fn image() -> Result<()> {
    let archive = "/var/tmp/agent.tar";
    run("busybox", &["tar", "-C", FILES, "-cf", archive, "."])?;
    let path = "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin";
    run(
        "podman",
        &["import", "--quiet", "--change", path, archive, IMAGE],
    )?;
    Ok(fs::remove_file(Path::new(archive))?)
}

/// Runs a program to its end, which must be a good one.
pub(super) fn run(program: &str, args: &[&str]) -> Result<()> {
    output(program, args).map(drop)
}

fn output(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .with_context(|| format!("could not run {program}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    let line = args.join(" ");
    ensure!(
        output.status.success(),
        "{program} {line}: {}",
        error.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
