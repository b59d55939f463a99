//! Where a datastore is: a name or an address, and a port.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use rustls::pki_types::DnsName;

/// An endpoint of a datastore.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A host name in lower case and a port, to be resolved again and again.
    Name(String, u16),
    /// An address; never a v4-mapped one.
    Addr(SocketAddr),
}

impl Host {
    /// Reads `name:port`, `10.0.3.7:5432` or `[fd00::1]:5432`.
    pub(super) fn parse(text: &str) -> Result<Self, Refused> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !port.contains(']') => (host, port),
            _ => {
                return Err(refused(
                    format!("host {text:?} has no port"),
                    "write name:port, 10.0.3.7:5432 or [fd00::1]:5432",
                ));
            }
        };
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|p| *p != 0)
            .ok_or_else(|| {
                refused(
                    format!("{port:?} is not a port"),
                    "a number from 1 to 65535",
                )
            })?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let address = match bracketed {
            Some(v6) => v6.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6),
            None => host.parse::<IpAddr>().ok().filter(IpAddr::is_ipv4),
        };
        match address.map(|a| a.to_canonical()) {
            Some(a) if a.is_unspecified() || a.is_multicast() => Err(refused(
                format!("{a} is no address of a server"),
                "use the server's own address",
            )),
            Some(a) => Ok(Host::Addr(SocketAddr::new(a, port))),
            None if host.contains(':') && bracketed.is_none() => Err(refused(
                format!("host {text:?} is ambiguous"),
                "put an IPv6 address in brackets: [fd00::1]:5432",
            )),
            None => match DnsName::try_from(host) {
                Ok(name) => Ok(Host::Name(name.as_ref().to_ascii_lowercase(), port)),
                Err(_) => Err(refused(
                    format!("{host:?} is neither a host name nor an address"),
                    "write name:port, 10.0.3.7:5432 or [fd00::1]:5432",
                )),
            },
        }
    }

    /// The name or the address alone.
    pub(super) fn without_port(&self) -> String {
        match self {
            Self::Name(name, _) => name.clone(),
            Self::Addr(address) => address.ip().to_string(),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Addr(address) => address.fmt(f),
        }
    }
}

/// Why a text isn't what it should be.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) message: String,
    pub(super) help: &'static str,
}

pub(super) fn refused(message: String, help: &'static str) -> Refused {
    Refused { message, help }
}
