//! `egress`: what an agent may reach beside the datastores.

use std::net::{IpAddr, Ipv6Addr};

use rustls::pki_types::DnsName;

use super::host::{Refused, refused};
use crate::capture::Network;

const EXAMPLES: &str = "for example \"10.0.0.0/8:443\", \"2001:db8::/32\", \"[fd00::1]:53\", \"api.example.com:443\" or \"*:53\"";

/// What an agent may reach beside the datastores.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Egress {
    /// Everything.
    #[default]
    Open,
    /// This; with an empty list, nothing but its own loopback.
    Only(Vec<Listed>),
}

/// One thing that may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Where.
    pub place: Place,
    /// At which port; `None` for all.
    pub port: Option<u16>,
}

/// Where something is that may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// All addresses of a network.
    Network(Network),
    /// All addresses that a host name has had; in lower case.
    Name(String),
}

impl Listed {
    /// Reads an address, a network or a name, with a port or without, or `*` with a port.
    pub(super) fn parse(text: &str) -> Result<Self, Refused> {
        let (place, port) = split(text)?;
        let port = match port {
            None => None,
            Some(port) => Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
                refused(
                    format!("{port:?} is not a port"),
                    "a number from 1 to 65535",
                )
            })?),
        };
        let place = match place {
            "*" if port.is_none() => {
                return Err(refused(
                    "this lists everything".into(),
                    "egress = \"open\" says so",
                ));
            }
            "*" => Place::Network(Network::ALL),
            place => parse_place(place)?,
        };
        Ok(Self { place, port })
    }
}

/// The place and the port of an entry. Only brackets part an IPv6 address from a port.
fn split(text: &str) -> Result<(&str, Option<&str>), Refused> {
    if let Some(rest) = text.strip_prefix('[') {
        let (place, port) = rest
            .split_once(']')
            .ok_or_else(|| refused(format!("{text:?} has no closing bracket"), EXAMPLES))?;
        return match (place.contains(':'), port.strip_prefix(':')) {
            (true, Some(port)) => Ok((place, Some(port))),
            _ => Err(refused(
                format!("{text:?} is no IPv6 address with a port"),
                EXAMPLES,
            )),
        };
    }
    refuse_bare_port(text)?;
    match text.split_once(':') {
        Some((_, port)) if port.contains(':') => Ok((text, None)),
        Some((place, port)) => Ok((place, Some(port))),
        None => Ok((text, None)),
    }
}

/// Refuses an IPv6 address that ends in what could be its port, as `hosts` does: taken as an address
/// it would open all ports of another host than the one that was meant.
fn refuse_bare_port(text: &str) -> Result<(), Refused> {
    let Some((address, port)) = text.rsplit_once(':') else {
        return Ok(());
    };
    if address.parse::<Ipv6Addr>().is_err() || !port.parse::<u16>().is_ok_and(|port| port != 0) {
        return Ok(());
    }
    let mut message = format!("{text:?} is ambiguous: write \"[{address}]:{port}\" to mean a port");
    if text.parse::<Ipv6Addr>().is_ok() {
        message.push_str(&format!(", or \"{text}/128\" to mean an address"));
    }
    Err(refused(
        message,
        "only brackets part an IPv6 address from a port",
    ))
}

fn parse_place(text: &str) -> Result<Place, Refused> {
    if let Some((address, length)) = text.split_once('/') {
        let address = address.parse::<IpAddr>().ok();
        let network = address.zip(length.parse().ok());
        let (address, length): (IpAddr, u8) =
            network.ok_or_else(|| refused(format!("{text:?} is no network"), EXAMPLES))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if length > most {
            return Err(refused(
                format!("{text:?} is no network: its length is above {most}"),
                "the length counts bits: an IPv4 address has 32, an IPv6 address 128",
            ));
        }
        return Network::new(address, length)
            .map(Place::Network)
            .ok_or_else(|| {
                refused(
                    format!("{text:?} is no network: its address has bits beyond its length"),
                    "10.1.2.3 is in 10.0.0.0/8, and alone it is 10.1.2.3",
                )
            });
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Place::Network(Network::host(address)));
    }
    if text.starts_with("*.") {
        return Err(refused(
            "names are listed one by one".into(),
            "whoever serves the names below a domain could be told anything by asking for them",
        ));
    }
    match DnsName::try_from(text) {
        // The last label of a host name isn't a number (RFC 1123); `10.0.0` was meant otherwise.
        Ok(name) if !ends_in_number(text) => Ok(Place::Name(name.as_ref().to_ascii_lowercase())),
        _ => Err(refused(
            format!("{text:?} is neither an address, a network nor a host name"),
            EXAMPLES,
        )),
    }
}

fn ends_in_number(name: &str) -> bool {
    let last = name.trim_end_matches('.').rsplit('.').next();
    last.is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(address: &str, length: u8, port: Option<u16>) -> Listed {
        let place = Network::new(address.parse().unwrap(), length).unwrap();
        Listed {
            place: Place::Network(place),
            port,
        }
    }

    fn name(name: &str, port: Option<u16>) -> Listed {
        let place = Place::Name(name.into());
        Listed { place, port }
    }

    #[test]
    fn networks_addresses_and_names_are_read_with_and_without_ports() {
        for (text, meant) in [
            ("10.0.0.0/8:443", network("10.0.0.0", 8, Some(443))),
            ("10.0.0.0/8", network("10.0.0.0", 8, None)),
            ("0.0.0.0/0", network("0.0.0.0", 0, None)),
            ("10.1.2.3", network("10.1.2.3", 32, None)),
            ("10.1.2.3:53", network("10.1.2.3", 32, Some(53))),
            ("2001:db8::/32", network("2001:db8::", 32, None)),
            ("[2001:db8::/32]:443", network("2001:db8::", 32, Some(443))),
            ("fd00::1", network("fd00::1", 128, None)),
            ("fd00::1:22/128", network("fd00::1:22", 128, None)),
            ("[fd00::1:22]:53", network("fd00::1:22", 128, Some(53))),
            ("fd00::1:abcd", network("fd00::1:abcd", 128, None)),
            ("1:2:3:4:5:6:7:8", network("1:2:3:4:5:6:7:8", 128, None)),
            ("[fd00::1]:53", network("fd00::1", 128, Some(53))),
            ("::ffff:10.1.2.3", network("10.1.2.3", 32, None)),
            ("*:53", network("::", 0, Some(53))),
            ("API.example.com:443", name("api.example.com", Some(443))),
            ("api.example.com", name("api.example.com", None)),
        ] {
            let read = Listed::parse(text).unwrap_or_else(|e| panic!("{text}: {}", e.message));
            assert_eq!(read, meant, "{text}");
        }
    }

    #[test]
    fn what_could_be_meant_otherwise_is_refused() {
        for (text, why) in [
            ("*", "lists everything"),
            ("*.example.com", "one by one"),
            ("10.0.0.1/8", "bits beyond"),
            ("10.0.0.0/33", "its length is above 32"),
            ("2001:db8::/129", "its length is above 128"),
            (
                "fd00::1:22",
                r#"write "[fd00::1]:22" to mean a port, or "fd00::1:22/128""#,
            ),
            ("::1:443", "ambiguous"),
            ("2001:db8::5:99999", "neither"),
            ("10.0.0", "neither"),
            ("10.0.0.256", "neither"),
            ("fd00::1/x", "no network"),
            ("[10.0.0.1]:53", "no IPv6"),
            ("[fd00::1]", "no IPv6"),
            ("[fd00::1:53", "bracket"),
            ("api.example.com:0", "not a port"),
            ("api.example.com:https", "not a port"),
            ("api example", "neither"),
            ("", "neither"),
        ] {
            let refused = Listed::parse(text).err();
            let message = refused.map(|refused| refused.message);
            assert!(
                message
                    .as_ref()
                    .is_some_and(|message| message.contains(why)),
                "{text}: {message:?}"
            );
        }
    }
}
