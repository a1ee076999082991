// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The target string of `netdump=`, in the form that netconsole made known:
//! `[src-port]@[src-ip]/[dev],[tgt-port]@<tgt-ip>/[tgt-mac]`.
//!
//! Where upstream's netconsole accepts something, so does this: a MAC address in place of the device name, IPv6, a
//! trailing newline. What is left out is for the caller to find: ports have defaults, the device and the source
//! address follow from the route, the MAC from the neighbour table.

pub mod upstream;

use super::frame::MacAddr;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Longest device name, in bytes (the kernel's IFNAMSIZ without the closing NUL).
pub const MAX_DEVICE_NAME: usize = 15;

/// Which device to send from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device<'a> {
    /// The one with this name.
    Name(&'a str),
    /// The one with this Ethernet address, whatever its name.
    Mac(MacAddr),
}

/// A parsed target string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target<'a> {
    /// Our UDP port.
    pub local_port: Option<u16>,
    /// Our IP address.
    pub local: Option<IpAddr>,
    /// The device to send from.
    pub device: Option<Device<'a>>,
    /// The server's UDP port.
    pub remote_port: Option<u16>,
    /// The server's IP address.
    pub remote: IpAddr,
    /// Ethernet address of the next hop.
    pub remote_mac: Option<MacAddr>,
}

/// What is wrong with a target string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetError {
    /// A separator (`@`, `/` or `,`) is missing.
    Separator(char),
    /// The source port is no number from 1 to 65535.
    LocalPort,
    /// The source address is no IP address.
    LocalAddress,
    /// The device name is too long or has characters that no device name has.
    Device,
    /// The target port is no number from 1 to 65535.
    RemotePort,
    /// The target address is missing or no IP address.
    RemoteAddress,
    /// The target's MAC address is not six hexadecimal bytes with colons.
    RemoteMac,
    /// One address is IPv4 and the other IPv6.
    Family,
}

impl core::fmt::Display for TargetError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Separator(c) => write!(f, "'{c}' is missing; the form is [port]@[ip]/[dev],[port]@<ip>/[mac]"),
            Self::LocalPort => f.write_str("the source port is not a number from 1 to 65535"),
            Self::LocalAddress => f.write_str("the source address is not an IP address"),
            Self::Device => f.write_str("not a device name"),
            Self::RemotePort => f.write_str("the target port is not a number from 1 to 65535"),
            Self::RemoteAddress => f.write_str("the target address is not an IP address"),
            Self::RemoteMac => f.write_str("the target MAC is not six hexadecimal bytes with colons"),
            Self::Family => f.write_str("source and target address are of different families"),
        }
    }
}

impl<'a> Target<'a> {
    /// Reads a target string.
    pub fn parse(text: &'a str) -> Result<Self, TargetError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let (local_port, rest) = cut(text, '@')?;
        let (local, rest) = cut(rest, '/')?;
        let (device, rest) = cut(rest, ',')?;
        let (remote_port, rest) = cut(rest, '@')?;
        // The closing slash may be missing together with the MAC, as upstream allows.
        let (remote, remote_mac) = rest.split_once('/').unwrap_or((rest, ""));

        let target = Self {
            local_port: optional(local_port, port, TargetError::LocalPort)?,
            local: optional(local, address, TargetError::LocalAddress)?,
            device: optional(device, parse_device, TargetError::Device)?,
            remote_port: optional(remote_port, port, TargetError::RemotePort)?,
            remote: address(remote).ok_or(TargetError::RemoteAddress)?,
            remote_mac: optional(remote_mac, mac, TargetError::RemoteMac)?,
        };
        match target.local {
            Some(local) if local.is_ipv4() != target.remote.is_ipv4() => Err(TargetError::Family),
            _ => Ok(target),
        }
    }
}

fn cut(text: &str, at: char) -> Result<(&str, &str), TargetError> {
    text.split_once(at).ok_or(TargetError::Separator(at))
}

fn optional<'a, T>(
    text: &'a str,
    read: impl Fn(&'a str) -> Option<T>,
    error: TargetError,
) -> Result<Option<T>, TargetError> {
    if text.is_empty() {
        return Ok(None);
    }
    read(text).map(Some).ok_or(error)
}

fn port(text: &str) -> Option<u16> {
    // `parse` would also take a leading plus sign.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

fn address(text: &str) -> Option<IpAddr> {
    // Not `IpAddr::from_str`: this says which families are meant, and each is tried once.
    match text.parse::<Ipv4Addr>() {
        Ok(v4) => Some(IpAddr::V4(v4)),
        Err(_) => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
    }
}

fn parse_device(text: &str) -> Option<Device<'_>> {
    if text.contains(':') {
        return mac(text).map(Device::Mac);
    }
    let fits = text.len() <= MAX_DEVICE_NAME && text != "." && text != "..";
    let clean = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    (fits && clean).then_some(Device::Name(text))
}

/// Reads an Ethernet address: six pairs of hexadecimal digits with colons between them.
pub fn mac(text: &str) -> Option<MacAddr> {
    let mut bytes = [0u8; 6];
    let mut rest = Some(text);
    for byte in &mut bytes {
        // Not `split`: what it compiles to has a panic in it, if one that cannot be reached.
        let text = rest?;
        let (part, tail) = text.split_once(':').map_or((text, None), |(part, tail)| (part, Some(tail)));
        if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(part, 16).ok()?;
        rest = tail;
    }
    rest.is_none().then_some(MacAddr(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_given() {
        let target = Target::parse("6000@10.0.0.2/eth1,6001@10.0.0.1/00:11:22:33:44:ff\n").unwrap();
        assert_eq!(
            target,
            Target {
                local_port: Some(6000),
                local: Some("10.0.0.2".parse().unwrap()),
                device: Some(Device::Name("eth1")),
                remote_port: Some(6001),
                remote: "10.0.0.1".parse().unwrap(),
                remote_mac: Some(MacAddr([0, 0x11, 0x22, 0x33, 0x44, 0xff])),
            }
        );
    }

    #[test]
    fn only_the_server_is_needed() {
        for text in ["@/,@10.0.0.1/", "@/,@10.0.0.1"] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.remote, "10.0.0.1".parse::<IpAddr>().unwrap());
            assert_eq!((target.local_port, target.local, target.device), (None, None, None));
            assert_eq!((target.remote_port, target.remote_mac), (None, None));
        }
    }

    #[test]
    fn ipv6_and_a_device_by_mac() {
        let target = Target::parse("@fd00::2/52:54:00:12:34:56,@fd00::1/").unwrap();
        assert_eq!(target.local, Some("fd00::2".parse().unwrap()));
        assert_eq!(target.device, Some(Device::Mac(MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        use TargetError::*;
        for (text, error) in [
            ("", Separator('@')),
            ("@10.0.0.2", Separator('/')),
            ("@10.0.0.2/eth0", Separator(',')),
            ("@10.0.0.2/eth0,6666", Separator('@')),
            ("x@/,@10.0.0.1/", LocalPort),
            ("0@/,@10.0.0.1/", LocalPort),
            ("65536@/,@10.0.0.1/", LocalPort),
            ("+5@/,@10.0.0.1/", LocalPort),
            ("@10.0.0/,@10.0.0.1/", LocalAddress),
            ("@/a-name-that-is-too-long,@10.0.0.1/", Device),
            ("@/et h0,@10.0.0.1/", Device),
            ("@/52:54:00,@10.0.0.1/", Device),
            ("@/,-1@10.0.0.1/", RemotePort),
            ("@/,@/", RemoteAddress),
            ("@/,@server/", RemoteAddress),
            ("@/,@10.0.0.1/00:11:22:33:44", RemoteMac),
            ("@/,@10.0.0.1/00:11:22:33:44:55:66", RemoteMac),
            ("@/,@10.0.0.1/0:11:22:33:44:55", RemoteMac),
            ("@10.0.0.2/,@fd00::1/", Family),
        ] {
            assert_eq!(Target::parse(text), Err(error), "{text}");
        }
    }
}
