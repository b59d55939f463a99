//! The perimeter: a classifier at the host's end of each veth that leads to an agent's own network
//! namespace.
//!
//! What an agent may have is redirected to loopback and never gets there, so each packet to a
//! protected endpoint that does was made by something that no other hook sees. What else passes is
//! said in [`super::outlets`]. The classifier stays as long as the device, even when no agent lives
//! behind it any more: a process that has left the slice may.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::netlink::{Device, Netlink};
use super::watch::coverage::Coverage;
use super::{kernel, pins};

/// The loopback device, in any namespace.
const LOOPBACK: u32 = 1;

/// Kinds of devices whose other end sees each packet that is sent.
const PAIRS: [&str; 2] = ["veth", "netkit"];

/// Kinds of devices that send to nothing but other devices of their namespace, unless they show that
/// what they send to is in another one (`IFLA_LINK_NETNSID`): pairs, what has others as its parts or
/// below it, and IP's own tunnels, of which the kernel may give each namespace one. Some that aren't
/// among them, and why:
///
/// - `wireguard` sends from the namespace that it was made in, and doesn't show which that is.
/// - `tun`, `macvtap` and `ppp` send to a process, which may be anywhere (slirp4netns, pasta).
/// - `ifb` sends what no classifier sees.
const INSIDE: [&str; 19] = [
    "veth", "netkit", "dummy", "bridge", "bond", "team", "vrf", "vlan", "macvlan", "ipvlan",
    "ipip", "sit", "gre", "gretap", "erspan", "vti", "ip6tnl", "ip6gre", "vti6",
];

/// How a classifier is put on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By a link of its own, before all others (Linux 6.6).
    Tcx,
    /// As a filter of the clsact qdisc.
    Clsact,
}

/// Finds the way that this kernel has, in a network namespace made for that.
pub(super) fn find_way(program: BorrowedFd<'_>) -> Result<Way, String> {
    let inside = || -> io::Result<Way> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        if kernel::attach_tcx(program, LOOPBACK).is_ok() {
            return Ok(Way::Tcx);
        }
        Netlink::open()?.classify(LOOPBACK, program)?;
        Ok(Way::Clsact)
    };
    let result = thread::scope(|scope| scope.spawn(inside).join());
    match result {
        Ok(result) => result.map_err(|error| format!("no classifier can be attached: {error}")),
        Err(_) => Err("the thread that tries it panicked".into()),
    }
}

/// The classifier, and where it is.
pub(super) struct Perimeter {
    program: OwnedFd,
    way: Way,
    pins: PathBuf,
    netlink: Netlink,
    /// By index, the links to the devices that have it.
    links: HashMap<u32, OwnedFd>,
    /// Indexes of devices that it could not be put on at the last attempt.
    failed: HashSet<u32>,
    /// Whether the last attempt to find out where it should be failed: said once, as is of a device.
    failing: bool,
}

impl Perimeter {
    /// Puts the new program where an earlier daemon's is, and forgets devices that are gone.
    pub(super) fn new(program: OwnedFd, way: Way, pins: PathBuf) -> io::Result<Self> {
        let mut perimeter = Self {
            program,
            way,
            pins,
            netlink: Netlink::open()?,
            links: HashMap::new(),
            failed: HashSet::new(),
            failing: false,
        };
        perimeter.take_over()?;
        Ok(perimeter)
    }

    /// Covers every device of the host that leads to one of these namespaces, given as their open
    /// `/proc/<pid>/ns/net`, and has not been covered yet. Whether it is everywhere then; if not, it is
    /// worth another attempt.
    pub(super) fn cover<'a>(
        &mut self,
        namespaces: impl Iterator<Item = (&'a File, &'a mut Around)>,
    ) -> bool {
        let mut namespaces: Vec<_> = namespaces.collect();
        match self.cover_all(&mut namespaces) {
            Ok(()) => {
                self.failing = false;
                self.failed.is_empty()
            }
            Err(error) => {
                // What can't be seen counts as open.
                for end in namespaces.iter_mut().flat_map(|(_, a)| &mut a.ends) {
                    end.is_covered = false;
                }
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::error!(%error, "the perimeter can't be put around agents' network namespaces");
                }
                false
            }
        }
    }

    fn cover_all(&mut self, namespaces: &mut [(&File, &mut Around)]) -> io::Result<()> {
        // First, as it has the kernel give each namespace that a device leads to a number.
        let devices = self.netlink.devices()?;
        self.forget_all_but(&devices)?;
        let failed_before = std::mem::take(&mut self.failed);
        for (namespace, around) in namespaces {
            if around.number.is_none() {
                around.number = self.netlink.namespace_id(namespace.as_fd())?;
            }
            around.ends.clear();
            for device in devices.iter().filter(|d| leads_to(d, around.number)) {
                let result = self.cover_device(device);
                let is_covered = result.is_ok();
                if let Err(error) = result
                    && self.failed.insert(device.index)
                    && !failed_before.contains(&device.index)
                {
                    let device = &device.name;
                    tracing::warn!(device, %error, "the perimeter can't be put on a device");
                }
                let device = device.clone();
                around.ends.push(End { device, is_covered });
            }
        }
        Ok(())
    }

    /// Pins again what was removed.
    pub(super) fn restore_pins(&self) {
        let links = self.links.iter();
        pins::restore(links.map(|(index, link)| (pin(&self.pins, *index), link)));
    }

    fn forget_all_but(&mut self, devices: &[Device]) -> io::Result<()> {
        let is_there = |index| devices.iter().any(|device| device.index == index);
        let pins = self.pins.clone();
        for (index, _link) in self.links.extract_if(|index, _| !is_there(*index)) {
            remove_pin(&pin(&pins, index))?;
        }
        Ok(())
    }

    fn cover_device(&mut self, device: &Device) -> io::Result<()> {
        let program = self.program.as_fd();
        match self.way {
            // Nothing tells whether it is there still; putting it there again changes nothing.
            Way::Clsact => return self.netlink.classify(device.index, program),
            Way::Tcx => {}
        }
        if let Some(link) = self.links.get(&device.index)
            && kernel::attached_device(link.as_fd())? == device.index
        {
            return Ok(());
        }
        let pin = pin(&self.pins, device.index);
        // What is pinned there was on a device that had this index before.
        remove_pin(&pin)?;
        let link = kernel::attach_tcx(program, device.index)?;
        kernel::pin(link.as_fd(), &pin)?;
        tracing::info!(device = device.name, "the perimeter is up");
        self.links.insert(device.index, link);
        Ok(())
    }

    /// Replaces the program in each pinned link whose device is there; clsact's filters, which nothing
    /// is pinned of, are replaced when their namespace is found again.
    fn take_over(&mut self) -> io::Result<()> {
        for entry in fs::read_dir(&self.pins)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let index = name.and_then(|name| name.strip_prefix(PIN)?.parse().ok());
            let Some(index) = index else { continue };
            let link = kernel::open_pinned(&path)?;
            if kernel::attached_device(link.as_fd())? == index {
                kernel::replace(link.as_fd(), self.program.as_fd())?;
                self.links.insert(index, link);
            } else {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// What there is around a namespace, as the host sees it.
#[derive(Default)]
pub(super) struct Around {
    /// What the host's namespace calls it, once something leads there.
    number: Option<i32>,
    /// The host's ends of what leads there.
    ends: Vec<End>,
}

struct End {
    device: Device,
    /// Whether the perimeter is on it.
    is_covered: bool,
}

impl Around {
    /// The indexes of the host's ends of what leads there.
    pub(super) fn devices(&self) -> impl Iterator<Item = u32> {
        self.ends.iter().map(|end| end.device.index)
    }

    /// Which devices of the namespace have the perimeter at their other end, and which lead out of it
    /// otherwise.
    pub(super) fn coverage(&self, inside: &[Device]) -> Coverage {
        let covered = self.ends.iter().filter(|end| end.is_covered);
        let covered: Vec<&Device> = covered.map(|end| &end.device).collect();
        let open = inside.iter().filter(|device| leads_out(device, &covered));
        Coverage {
            open: open.map(|device| device.name.clone()).collect(),
            covered: covered.iter().map(|device| device.name.clone()).collect(),
        }
    }
}

/// Whether nothing leads out of a namespace with these devices.
pub(super) fn is_isolated(inside: &[Device]) -> bool {
    !inside.iter().any(|device| leads_out(device, &[]))
}

/// What the pins of tcx links are called, before the device's index.
pub(super) const PIN: &str = "perimeter_";

fn pin(pins: &Path, index: u32) -> PathBuf {
    pins.join(format!("{PIN}{index}"))
}

fn remove_pin(pin: &Path) -> io::Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a device of the host is one end of a pair whose other is in the namespace with this
/// number.
fn leads_to(device: &Device, number: Option<i32>) -> bool {
    number.is_some() && device.peer_namespace == number && PAIRS.contains(&&*device.kind)
}

/// Whether a device of a namespace leads out of it, other than to one of these ends on the host. All do
/// of which it isn't known that they don't: hardware, what shows that it sends elsewhere, and what
/// shows nothing.
fn leads_out(device: &Device, ends: &[&Device]) -> bool {
    let stays_inside = device.index == LOOPBACK
        || (device.peer_namespace.is_none() && INSIDE.contains(&&*device.kind));
    let is_covered = PAIRS.contains(&&*device.kind)
        && ends
            .iter()
            .any(|end| Some(end.index) == device.peer && end.peer == Some(device.index));
    !stays_inside && !is_covered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, kind: &str, peer: Option<u32>, peer_namespace: Option<i32>) -> Device {
        Device {
            index,
            name: format!("{kind}{index}"),
            kind: kind.into(),
            peer_namespace,
            peer,
        }
    }

    #[test]
    fn only_pairs_that_end_on_the_host_are_covered() {
        let host = device(7, "veth", Some(2), Some(0));
        assert!(leads_to(&host, Some(0)));
        assert!(!leads_to(&host, Some(1)));
        assert!(!leads_to(&host, None));
        assert!(!leads_to(&device(8, "veth", Some(2), None), None));
        assert!(!leads_to(&device(9, "macvlan", Some(2), Some(0)), Some(0)));
        let ends = [&host];
        for (inside, out) in [
            (device(1, "", None, None), false),
            (device(2, "veth", Some(7), Some(0)), false),
            (device(3, "veth", Some(7), Some(0)), true),
            (device(2, "veth", Some(9), Some(5)), true),
            (device(4, "veth", Some(5), None), false),
            (device(5, "macvlan", Some(7), Some(0)), true),
            (device(5, "macvlan", Some(2), None), false),
            (device(6, "", None, None), true),
            (device(7, "tun", None, None), true),
            (device(7, "wireguard", None, None), true),
            (device(7, "ifb", None, None), true),
            (device(7, "one of tomorrow", None, None), true),
            (device(8, "bridge", None, None), false),
            (device(9, "sit", Some(0), None), false),
            (device(9, "sit", Some(0), Some(0)), true),
        ] {
            assert_eq!(leads_out(&inside, &ends), out, "{inside:?}");
            let alone = is_isolated(&[device(1, "", None, None), inside.clone()]);
            assert_eq!(alone, !leads_out(&inside, &[]), "{inside:?}");
        }
    }

    #[test]
    fn only_what_is_attached_covers() {
        let inside = [device(2, "veth", Some(7), Some(0))];
        let end = device(7, "veth", Some(2), Some(0));
        for is_covered in [true, false] {
            let around = Around {
                number: Some(0),
                ends: vec![End {
                    device: end.clone(),
                    is_covered,
                }],
            };
            assert_eq!(around.devices().collect::<Vec<_>>(), [7]);
            let coverage = around.coverage(&inside);
            assert_eq!(coverage.covered.is_empty(), !is_covered);
            assert_eq!(coverage.open.is_empty(), is_covered);
        }
    }
}
