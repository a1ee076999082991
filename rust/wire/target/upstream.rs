// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The target string of `netconsole=` exactly as upstream's module takes it (`drivers/net/netconsole.c`,
//! `alloc_param_target()` and `netconsole_parser_cmdline()`):
//! `[+][r][src-port]@[src-ip]/[dev or dev-mac],[tgt-port]@<tgt-ip>/[tgt-mac]`.
//!
//! It differs from [`Target`](super::Target) in what it lets pass: the separators are looked for one after the other, a
//! field that is empty keeps its default, and what a number or an address is, the kernel's own functions say
//! ([`Elements`]).

use core::net::IpAddr;

/// Reads the fields as the kernel does.
pub trait Elements {
    /// A port: `kstrtou16()`, base 10.
    fn port(&self, text: &[u8]) -> Option<u16>;
    /// An address: `in4_pton()`, else `in6_pton()`.
    fn ip(&self, text: &[u8]) -> Option<IpAddr>;
    /// An Ethernet address: `mac_pton()`.
    fn mac(&self, text: &[u8]) -> Option<[u8; 6]>;
}

/// Which device to send from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Device<'a> {
    /// The one with this name, which may be longer than a device's name can be: upstream cuts it.
    Name(&'a [u8]),
    /// The one with this Ethernet address.
    Mac([u8; 6]),
}

/// What a string says; what it leaves out is None.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parsed<'a> {
    /// `+`: the extended format.
    pub extended: bool,
    /// `r`: the kernel's release before each record.
    pub release: bool,
    /// Our UDP port.
    pub local_port: Option<u16>,
    /// Our address.
    pub local: Option<IpAddr>,
    /// The device.
    pub device: Option<Device<'a>>,
    /// The other end's UDP port.
    pub remote_port: Option<u16>,
    /// The other end's address.
    pub remote: IpAddr,
    /// Ethernet address to send to.
    pub remote_mac: Option<[u8; 6]>,
}

/// Why a string is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused<'a> {
    /// `r` without `+`.
    ReleaseWithoutExtended,
    /// The rest cannot be read from here on.
    At(&'a [u8]),
}

/// Reads the string of one target.
///
/// # Errors
///
/// [`Refused`]: upstream skips such a target.
pub fn parse<'a>(text: &'a [u8], elements: &impl Elements) -> Result<Parsed<'a>, Refused<'a>> {
    let (extended, text) = strip(text, b'+');
    let (release, rest) = strip(text, b'r');
    if release && !extended {
        return Err(Refused::ReleaseWithoutExtended);
    }
    let (text, rest) = field(rest, b'@')?;
    let local_port = optional(text, |text| elements.port(text))?;
    let (text, rest) = field(rest, b'/')?;
    let local = optional(text, |text| elements.ip(text))?;
    let (text, rest) = field(rest, b',')?;
    let device = optional(text, |text| device(text, elements))?;
    let (text, rest) = field(rest, b'@')?;
    let remote_port = optional(text, |text| elements.port(text))?;
    // Nothing at all is no address here.
    let (text, rest) = field(rest, b'/')?;
    let remote = elements.ip(text).ok_or(Refused::At(text))?;
    if local.is_some_and(|local| local.is_ipv6() != remote.is_ipv6()) {
        return Err(Refused::At(text));
    }
    let remote_mac = optional(rest, |text| elements.mac(text))?;
    Ok(Parsed { extended, release, local_port, local, device, remote_port, remote, remote_mac })
}

fn strip(text: &[u8], prefix: u8) -> (bool, &[u8]) {
    match text.split_first() {
        Some((first, rest)) if *first == prefix => (true, rest),
        _ => (false, text),
    }
}

/// The field before the separator, and what follows that.
fn field(text: &[u8], separator: u8) -> Result<(&[u8], &[u8]), Refused<'_>> {
    let place = text.iter().position(|byte| *byte == separator);
    let parts = place.and_then(|place| text.split_at_checked(place));
    parts.and_then(|(field, rest)| Some((field, rest.get(1..)?))).ok_or(Refused::At(text))
}

/// An empty field keeps its default.
fn optional<'a, T>(field: &'a [u8], read: impl Fn(&'a [u8]) -> Option<T>) -> Result<Option<T>, Refused<'a>> {
    if field.is_empty() {
        return Ok(None);
    }
    read(field).map(Some).ok_or(Refused::At(field))
}

fn device<'a>(text: &'a [u8], elements: &impl Elements) -> Option<Device<'a>> {
    if text.contains(&b':') {
        elements.mac(text).map(Device::Mac)
    } else {
        Some(Device::Name(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::str;

    /// Near enough to the kernel's functions.
    struct Std;

    impl Elements for Std {
        fn port(&self, text: &[u8]) -> Option<u16> {
            str::from_utf8(text).ok()?.parse().ok()
        }
        fn ip(&self, text: &[u8]) -> Option<IpAddr> {
            str::from_utf8(text).ok()?.parse().ok()
        }
        fn mac(&self, text: &[u8]) -> Option<[u8; 6]> {
            super::super::mac(str::from_utf8(text.get(..17)?).ok()?).map(|mac| mac.0)
        }
    }

    const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn nothing_but(remote: IpAddr) -> Parsed<'static> {
        Parsed {
            extended: false,
            release: false,
            local_port: None,
            local: None,
            device: None,
            remote_port: None,
            remote,
            remote_mac: None,
        }
    }

    #[test]
    fn everything_given() {
        assert_eq!(
            parse(b"+r6665@10.0.0.2/eth1,6666@10.0.0.1/00:11:22:33:44:55", &Std),
            Ok(Parsed {
                extended: true,
                release: true,
                local_port: Some(6665),
                local: Some("10.0.0.2".parse().unwrap()),
                device: Some(Device::Name(b"eth1")),
                remote_port: Some(6666),
                remote: REMOTE,
                remote_mac: Some([0, 0x11, 0x22, 0x33, 0x44, 0x55]),
            })
        );
    }

    #[test]
    fn what_is_empty_keeps_its_default() {
        assert_eq!(parse(b"@/,@10.0.0.1/", &Std), Ok(nothing_but(REMOTE)));
        let v6 = IpAddr::V6(Ipv6Addr::LOCALHOST);
        assert_eq!(parse(b"+@/,@::1/", &Std), Ok(Parsed { extended: true, ..nothing_but(v6) }));
    }

    #[test]
    fn a_device_may_be_an_address() {
        let mac = Some(Device::Mac([0, 0x11, 0x22, 0x33, 0x44, 0x55]));
        let parsed = parse(b"@/00:11:22:33:44:55,@10.0.0.1/", &Std);
        assert_eq!(parsed, Ok(Parsed { device: mac, ..nothing_but(REMOTE) }));
    }

    #[test]
    fn where_it_ends() {
        for (text, at) in [
            ("", ""),
            ("@", ""),
            ("+", ""),
            ("6665", "6665"),
            ("x@/,@10.0.0.1/", "x"),
            ("@10.0.0.2", "10.0.0.2"),
            ("@nowhere/,@10.0.0.1/", "nowhere"),
            ("@/eth0", "eth0"),
            ("@/0:1,@10.0.0.1/", "0:1"),
            ("@/,6666", "6666"),
            ("@/,y@10.0.0.1/", "y"),
            ("@/,@10.0.0.1", "10.0.0.1"),
            ("@/,@/", ""),
            ("@fd00::2/,@10.0.0.1/", "10.0.0.1"),
            ("@/,@10.0.0.1/0:1", "0:1"),
        ] {
            assert_eq!(parse(text.as_bytes(), &Std), Err(Refused::At(at.as_bytes())), "{text}");
        }
        assert_eq!(parse(b"r@/,@10.0.0.1/", &Std), Err(Refused::ReleaseWithoutExtended));
    }
}
