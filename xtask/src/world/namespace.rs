//! A network namespace that lives exactly as long as its value (and the processes in it).
//!
//! Held by a file descriptor rather than a name under /run/netns, so that nothing is left behind
//! however the owner ends.

use std::{
    fs::File,
    io::Write as _,
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::{self, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace whose only interface is `lo`, up.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes one; `lo` gets `addresses` (in CIDR form) beside 127.0.0.1 and ::1.
    pub(super) fn new(addresses: &'static [&'static str]) -> Result<Self> {
        // A namespace belongs to a thread: this one makes it, fits it out, and ends.
        let made = thread::spawn(move || -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET).context("could not make a network namespace")?;
            ip(&["link", "set", "lo", "up"])?;
            for address in addresses {
                // No duplicate detection: the address is needed now, and nobody else is there.
                let nodad: &[_] = if address.contains(':') {
                    &["nodad"]
                } else {
                    &[]
                };
                ip(&[&["address", "add", address, "dev", "lo"], nodad].concat())?;
            }
            Ok(File::open("/proc/thread-self/ns/net")?)
        });
        let file = made
            .join()
            .map_err(|_| anyhow!("making a network namespace panicked"))??;
        Ok(Self { file })
    }

    /// Joins this namespace to `host`, as a container engine would: number `count` has the
    /// addresses 10.79.`count`.2 and fd79:`count`::2 on `eth0`, and the host as its router.
    pub(super) fn join(&self, host: &Self, count: u32, link: Link) -> Result<()> {
        let (own, name) = (self.path(), format!("wv{count}"));
        let own = own.display();
        // No duplicate detection: an address is needed now, and nobody else is there.
        let made = match link {
            Link::Veth => format!(
                "link add {name} type veth peer name eth0 netns {own}\n\
                 address add 10.79.{count}.1/24 dev {name}\n\
                 address add fd79:{count}::1/64 dev {name} nodad\n\
                 link set {name} up\n"
            ),
            // The host's end is a sibling on the same parent: no packet passes through a pair.
            Link::Macvlan => format!(
                "link add {name}p type veth peer name {name}q\n\
                 link set {name}p up\n\
                 link set {name}q up\n\
                 link add {name} link {name}p type macvlan mode bridge\n\
                 address add 10.79.{count}.1/24 dev {name}\n\
                 address add fd79:{count}::1/64 dev {name} nodad\n\
                 link set {name} up\n\
                 link add {name}c link {name}p type macvlan mode bridge\n\
                 link set {name}c netns {own} name eth0\n"
            ),
        };
        let fitted = format!(
            "link set eth0 up\n\
             address add 10.79.{count}.2/24 dev eth0\n\
             address add fd79:{count}::2/64 dev eth0 nodad\n\
             route add default via 10.79.{count}.1\n\
             route add ::/0 via fd79:{count}::1\n"
        );
        let (host, own) = (host.file.try_clone()?, self.file.try_clone()?);
        let both = thread::spawn(move || {
            batch(&host, &made)?;
            batch(&own, &fitted)
        });
        both.join()
            .map_err(|_| anyhow!("joining a network namespace panicked"))?
    }

    /// A path to enter it by, good while this value lives.
    #[must_use]
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd()).into()
    }
}

/// How a namespace is joined to its host.
#[derive(Clone, Copy, Debug)]
pub(super) enum Link {
    Veth,
    Macvlan,
}

/// Runs lines of `ip -batch` in a namespace, which this thread enters for good.
fn batch(namespace: &File, lines: &str) -> Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("could not run ip")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip: {}", error.trim());
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(args)
        .output()
        .context("could not run ip")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "ip {}: {}",
        args.join(" "),
        error.trim()
    );
    Ok(())
}
