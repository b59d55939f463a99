//! Netlink, and what the daemon asks of rtnetlink: which device leads to which namespace, to have a
//! classifier put on one, and to be told when devices or addresses change.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    socket,
};

/// `RTMGRP_LINK` of `linux/rtnetlink.h`: devices come, go and change.
pub(super) const LINKS: u32 = 0x1;
/// `RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`: addresses come and go.
pub(super) const ADDRESSES: u32 = 0x110;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;

pub(super) const REQUEST: u16 = 0x1;
pub(super) const ACKNOWLEDGE: u16 = 0x4;
const REPLACE: u16 = 0x100;
const EXCLUSIVE: u16 = 0x200;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;

/// `NLM_F_DUMP_INTR`, in an answer: it may lack something, as what it lists has changed meanwhile.
const INTERRUPTED: u16 = 0x10;

/// How often a list is asked for until it comes whole.
const TRIES: usize = 16;

/// How many changes are read at a time.
const DRAINED: usize = 256;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_LINK_NETNSID: u16 = 37;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;

const TC_H_CLSACT: u32 = 0xffff_fff1;
const TC_H_INGRESS: u32 = 0xffff_fff2;
const ETH_P_ALL: u16 = 3;

const HEADER: usize = 16;
/// `struct ifinfomsg`'s size.
const IFINFO: usize = 16;
/// The size of `struct rtgenmsg`, padded.
const GENERIC: usize = 4;

/// A network device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
    /// `veth`, `macvlan`, ...; empty for hardware.
    pub(super) kind: String,
    /// What this namespace calls the one that the device's other end is in, if that is another.
    pub(super) peer_namespace: Option<i32>,
    /// The index of the other end, there.
    pub(super) peer: Option<u32>,
}

/// Asks for a list until no change interrupts it, and not for ever: whoever can make devices must not
/// keep the daemon from all else. A list that may lack something is none.
fn until_whole<T>(mut ask: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..TRIES {
        match ask() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            asked => return asked,
        }
    }
    Err(io::Error::other("the devices change while they are listed"))
}

/// A socket to rtnetlink, or to another part of the kernel, in the namespace of the thread that opens
/// it.
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        Self::of(SockProtocol::NetlinkRoute)
    }

    /// A socket to a part of the kernel.
    pub(super) fn of(part: SockProtocol) -> io::Result<Self> {
        Self::with_groups(part, 0, SockFlag::SOCK_CLOEXEC)
    }

    /// A socket that only tells that something of `groups` has happened. It doesn't block.
    pub(super) fn listen(groups: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Self::with_groups(SockProtocol::NetlinkRoute, groups, flags)
    }

    fn with_groups(part: SockProtocol, groups: u32, flags: SockFlag) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, part)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self(fd))
    }

    /// Forgets what has been told so far, and says whether it was anything: whoever was woken looks at
    /// everything anyway.
    pub(super) fn drain(&self) -> bool {
        let mut buffer = [0; 8192];
        // An overrun (ENOBUFS) means that there was more than room for it.
        let mut is_told = || {
            matches!(
                recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()),
                Ok(1..) | Err(Errno::ENOBUFS)
            )
        };
        // More can come as fast as this goes: then it is told again.
        (0..DRAINED).take_while(|_| is_told()).count() > 0
    }

    /// All devices of the namespace. Has the kernel number the namespaces that they lead to.
    pub(super) fn devices(&self) -> io::Result<Vec<Device>> {
        let request = Message::new(RTM_GETLINK, REQUEST | DUMP, &[0; IFINFO]);
        until_whole(|| {
            let mut devices = Vec::new();
            self.ask(&request, |kind, body| {
                if kind == RTM_NEWLINK {
                    devices.extend(device(body));
                }
            })?;
            Ok(devices)
        })
    }

    /// What this namespace calls another one; `None` if nothing here leads to it.
    pub(super) fn namespace_id(&self, namespace: BorrowedFd<'_>) -> io::Result<Option<i32>> {
        let mut request = Message::new(RTM_GETNSID, REQUEST | ACKNOWLEDGE, &[0; GENERIC]);
        request.attribute(NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes());
        let mut found = None;
        self.ask(&request, |kind, body| {
            if kind == RTM_NEWNSID {
                let id = attributes(body.get(GENERIC..).unwrap_or_default())
                    .find(|(kind, _)| *kind == NETNSA_NSID)
                    .and_then(|(_, value)| Some(i32::from_ne_bytes(*value.first_chunk()?)));
                found = id.filter(|id| *id >= 0);
            }
        })?;
        Ok(found)
    }

    /// Makes a program the first classifier of what arrives at a device, in place of the one that an
    /// earlier daemon has put there.
    pub(super) fn classify(&self, device: u32, program: BorrowedFd<'_>) -> io::Result<()> {
        let flags = REQUEST | ACKNOWLEDGE | CREATE;
        let mut qdisc = Message::new(
            RTM_NEWQDISC,
            flags | EXCLUSIVE,
            &tcmsg(device, 0xffff_0000, TC_H_CLSACT, 0),
        );
        qdisc.attribute(TCA_KIND, b"clsact\0");
        match self.ask(&qdisc, |_, _| {}) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let priority_and_protocol = 1 << 16 | u32::from(ETH_P_ALL.to_be());
        let mut filter = Message::new(
            RTM_NEWTFILTER,
            flags | REPLACE,
            &tcmsg(device, 1, TC_H_INGRESS, priority_and_protocol),
        );
        filter.attribute(TCA_KIND, b"bpf\0");
        let mut options = Vec::new();
        push_attribute(&mut options, TCA_BPF_FD, &program.as_raw_fd().to_ne_bytes());
        push_attribute(&mut options, TCA_BPF_NAME, b"weir_perimeter\0");
        push_attribute(
            &mut options,
            TCA_BPF_FLAGS,
            &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes(),
        );
        filter.attribute(TCA_OPTIONS, &options);
        self.ask(&filter, |_, _| {})
    }

    /// Sends a request, and hands each answer's type and body to `answer`. What was listed while it
    /// changed is told (`Interrupted`) once all is there.
    pub(super) fn ask(
        &self,
        request: &Message,
        mut answer: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        // What is left of the answers to a request that failed.
        while recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).is_ok() {}
        send(self.0.as_raw_fd(), &request.0, MsgFlags::empty())?;
        let mut interrupted = false;
        loop {
            let length = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = message(rest) {
                interrupted |= is_interrupted(rest);
                match kind {
                    NLMSG_DONE if interrupted => return Err(io::ErrorKind::Interrupted.into()),
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => return acknowledged(body),
                    _ => answer(kind, body),
                }
                rest = next;
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A request, with its length up to date.
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // Sequence and port: one question at a time, so they tell nothing.
        bytes.extend([0; 8]);
        bytes.extend(body);
        let mut message = Self(bytes);
        message.measure();
        message
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        push_attribute(&mut self.0, kind, value);
        self.measure();
    }

    fn measure(&mut self) {
        let length = (self.0.len() as u32).to_ne_bytes();
        self.0[..4].copy_from_slice(&length);
    }
}

/// `struct tcmsg`.
fn tcmsg(device: u32, handle: u32, parent: u32, info: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    let words = [0, device, handle, parent, info];
    for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *place = word.to_ne_bytes();
    }
    bytes
}

fn push_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// The first message's type and body, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// Whether the first message says that its list may not be whole.
fn is_interrupted(bytes: &[u8]) -> bool {
    let flags = bytes.get(6..).and_then(|flags| flags.first_chunk());
    flags.is_some_and(|flags| u16::from_ne_bytes(*flags) & INTERRUPTED != 0)
}

/// An error message's code; 0 is the acknowledgement.
fn acknowledged(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Types and values of a list of attributes, as far as it is whole.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        // The upper bits say how to read it; the numbers here are known without.
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The device of an RTM_NEWLINK.
fn device(body: &[u8]) -> Option<Device> {
    let mut device = Device {
        index: u32::from_ne_bytes(*body.get(4..)?.first_chunk()?),
        name: String::new(),
        kind: String::new(),
        peer_namespace: None,
        peer: None,
    };
    for (kind, value) in attributes(body.get(IFINFO..)?) {
        let word = value.first_chunk().copied();
        match kind {
            IFLA_IFNAME => device.name = text(value),
            IFLA_LINK => device.peer = word.map(u32::from_ne_bytes),
            IFLA_LINK_NETNSID => device.peer_namespace = word.map(i32::from_ne_bytes),
            IFLA_LINKINFO => {
                let mut inner = attributes(value);
                let found = inner.find(|(kind, _)| *kind == IFLA_INFO_KIND);
                device.kind = found.map(|(_, kind)| text(kind)).unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(device)
}

fn text(value: &[u8]) -> String {
    let end = value
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_loopback_device_is_among_the_devices() {
        let devices = Netlink::open().unwrap().devices().unwrap();
        let loopback = devices.iter().find(|device| device.index == 1).unwrap();
        assert_eq!((&*loopback.name, &*loopback.kind), ("lo", ""));
        assert_eq!(loopback.peer_namespace, None);
    }

    #[test]
    fn a_list_that_never_comes_whole_is_an_error() {
        let mut asked = 0;
        let mut changing = |until: usize| {
            asked = 0;
            until_whole(|| {
                asked += 1;
                match asked {
                    n if n < until => Err(io::ErrorKind::Interrupted.into()),
                    n => Ok(n),
                }
            })
        };
        assert_eq!(changing(TRIES).expect("the last try is whole"), TRIES);
        let error = changing(usize::MAX).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the devices change while they are listed"
        );
        assert_eq!(asked, TRIES);
        let denied = until_whole(|| Err::<(), _>(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(denied.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }

    #[test]
    fn a_device_is_read_with_its_other_end() {
        let mut body = vec![0; IFINFO];
        body[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        push_attribute(&mut body, IFLA_IFNAME, b"veth0\0");
        let mut info = Vec::new();
        push_attribute(&mut info, IFLA_INFO_KIND, b"veth");
        push_attribute(&mut body, IFLA_LINKINFO, &info);
        push_attribute(&mut body, IFLA_LINK, &2_u32.to_ne_bytes());
        push_attribute(&mut body, IFLA_LINK_NETNSID, &3_i32.to_ne_bytes());
        let expected = Device {
            index: 7,
            name: "veth0".into(),
            kind: "veth".into(),
            peer_namespace: Some(3),
            peer: Some(2),
        };
        assert_eq!(device(&body), Some(expected));
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_reader_panic(bytes in any::<Vec<u8>>()) {
            let mut rest = &bytes[..];
            while let Some((_, body, next)) = message(rest) {
                let _ = device(body);
                prop_assert!(next.len() < rest.len());
                rest = next;
            }
        }
    }
}
