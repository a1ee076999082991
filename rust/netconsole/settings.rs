// SPDX-License-Identifier: GPL-2.0-only

//! What the administrator wants of a target: the values behind the attributes, with upstream's defaults.

use super::sys::netdev::NAME_LEN;
use super::sys::params;
use super::sys::text;
use super::wire::target::upstream::{self, Elements, Parsed};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use kernel::prelude::*;

/// What a target speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Upstream's netconsole, basic or extended.
    Netconsole,
    /// The classic protocol's log packets, to netdump-server.
    Netlog,
    /// Syslog.
    Syslog,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Netconsole, Self::Netlog, Self::Syslog];

    /// As the attribute `type` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Netconsole => "netconsole",
            Self::Netlog => "netlog",
            Self::Syslog => "syslog",
        }
    }

    /// What targets from the module's parameters are called, with a number behind it.
    pub fn parameter_name(self) -> &'static str {
        match self {
            Self::Netconsole => "cmdline",
            Self::Netlog | Self::Syslog => self.name(),
        }
    }

    fn local_port(self) -> u16 {
        match self {
            Self::Netconsole => 6665,
            Self::Netlog => 6664,
            Self::Syslog => 514,
        }
    }

    fn remote_port(self) -> u16 {
        match self {
            Self::Netconsole | Self::Netlog => 6666,
            Self::Syslog => 514,
        }
    }
}

/// How a syslog target writes a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SyslogFormat {
    /// `<5> ` and the line, as the original netdump did.
    Classic,
    /// RFC 5424, with the record's own priority and time.
    Rfc5424,
}

impl SyslogFormat {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Classic, Self::Rfc5424];

    /// As the attribute and the parameter `syslog_format` have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Rfc5424 => "rfc5424",
        }
    }

    /// What the module's parameter says.
    pub fn from_parameters() -> Result<Self> {
        let given = params::get().syslog_format.to_bytes();
        let given = given.strip_suffix(b"\n").unwrap_or(given);
        Self::ALL.into_iter().find(|format| format.name().as_bytes() == given).ok_or_else(|| {
            pr_err!("syslog_format={}: neither 'classic' nor 'rfc5424'\n", text::Lossy(given));
            EINVAL
        })
    }
}

/// Both addresses of a target. There is one flag for both, as upstream has it: an address of the other family that was
/// written before is then read as one of this family.
#[derive(Clone, Copy)]
pub struct Addresses {
    ipv6: bool,
    local: [u8; 16],
    remote: [u8; 16],
}

impl Addresses {
    const NONE: Self = Self { ipv6: false, local: [0; 16], remote: [0; 16] };

    fn read(&self, bytes: [u8; 16]) -> IpAddr {
        let [a, b, c, d, ..] = bytes;
        if self.ipv6 {
            IpAddr::V6(Ipv6Addr::from(bytes))
        } else {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        }
    }

    fn write(to: &mut [u8; 16], address: IpAddr) {
        match address {
            IpAddr::V4(v4) => to.iter_mut().zip(v4.octets()).for_each(|(to, from)| *to = from),
            IpAddr::V6(v6) => *to = v6.octets(),
        }
    }

    /// Our address; unspecified if it is to be found.
    pub fn local(&self) -> IpAddr {
        self.read(self.local)
    }

    /// The other end's.
    pub fn remote(&self) -> IpAddr {
        self.read(self.remote)
    }

    /// Sets ours, and with it the family.
    pub fn set_local(&mut self, address: IpAddr) {
        Self::write(&mut self.local, address);
        self.ipv6 = address.is_ipv6();
    }

    /// Sets the other end's, and with it the family.
    pub fn set_remote(&mut self, address: IpAddr) {
        Self::write(&mut self.remote, address);
        self.ipv6 = address.is_ipv6();
    }
}

/// The name of a device, with NULs behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DeviceName(pub [u8; NAME_LEN]);

impl DeviceName {
    /// None at all.
    pub const NONE: Self = Self([0; NAME_LEN]);

    /// The first 15 bytes of `text`.
    pub fn cut(text: &[u8]) -> Self {
        let mut name = [0; NAME_LEN];
        for (to, from) in name.iter_mut().zip(text).take(NAME_LEN - 1) {
            *to = *from;
        }
        Self(name)
    }

    /// Without the NULs.
    pub fn bytes(&self) -> &[u8] {
        let len = self.0.iter().position(|byte| *byte == 0).unwrap_or(NAME_LEN);
        self.0.get(..len).unwrap_or(&[])
    }
}

/// The values behind a target's attributes.
#[derive(Clone, Copy)]
pub struct Settings {
    pub kind: Kind,
    pub syslog_format: SyslogFormat,
    pub extended: bool,
    pub release: bool,
    /// None: as the kind of the target has it.
    pub local_port: Option<u16>,
    /// None: as the kind of the target has it.
    pub remote_port: Option<u16>,
    pub addresses: Addresses,
    /// None: as the kind of the target has it.
    pub device: Option<DeviceName>,
    /// The device may also be bound by its address.
    pub device_mac: [u8; 6],
    /// None: to be found.
    pub remote_mac: Option<[u8; 6]>,
}

/// The address of everybody.
pub const BROADCAST: [u8; 6] = [0xff; 6];

impl Settings {
    /// Of a target that has just been made.
    pub fn new(kind: Kind, syslog_format: SyslogFormat) -> Self {
        Self {
            kind,
            syslog_format,
            extended: false,
            release: false,
            local_port: None,
            remote_port: None,
            addresses: Addresses::NONE,
            device: None,
            device_mac: [0; 6],
            remote_mac: None,
        }
    }

    /// Of a target from a module parameter. None, and a message, if the string cannot be read.
    pub fn parse(string: &[u8], kind: Kind, syslog_format: SyslogFormat) -> Option<Self> {
        let parsed = match upstream::parse(string, &Kernel) {
            Ok(parsed) if kind != Kind::Netconsole && parsed.extended => {
                pr_err!("{}: the format is not to be chosen, '+' is for netconsole= alone\n", kind.name());
                return None;
            }
            Ok(parsed) => parsed,
            Err(upstream::Refused::ReleaseWithoutExtended) => {
                pr_err!("Netconsole configuration error. Release feature requires extended log message\n");
                return None;
            }
            Err(upstream::Refused::At(at)) => {
                pr_info!("netconsole: couldn't parse config at '{}'!\n", text::Lossy(at));
                return None;
            }
        };
        Some(Self::from_parsed(&parsed, kind, syslog_format))
    }

    fn from_parsed(parsed: &Parsed<'_>, kind: Kind, syslog_format: SyslogFormat) -> Self {
        let mut settings = Self::new(kind, syslog_format);
        settings.extended = parsed.extended;
        settings.release = parsed.release;
        settings.local_port = parsed.local_port;
        settings.remote_port = parsed.remote_port;
        settings.remote_mac = parsed.remote_mac;
        if let Some(local) = parsed.local {
            settings.addresses.set_local(local);
        }
        settings.addresses.set_remote(parsed.remote);
        match parsed.device {
            None => {}
            Some(upstream::Device::Name(name)) => {
                settings.device = Some(DeviceName::cut(name));
                settings.device_mac = BROADCAST;
            }
            Some(upstream::Device::Mac(mac)) => {
                settings.device = Some(DeviceName::NONE);
                settings.device_mac = mac;
            }
        }
        settings
    }

    /// Our port.
    pub fn local_port(&self) -> u16 {
        self.local_port.unwrap_or(self.kind.local_port())
    }

    /// The other end's port.
    pub fn remote_port(&self) -> u16 {
        self.remote_port.unwrap_or(self.kind.remote_port())
    }

    /// The device's name: empty if it is bound by its address, or follows from the route.
    pub fn device(&self) -> DeviceName {
        self.device.unwrap_or(match self.kind {
            Kind::Netconsole => DeviceName::cut(b"eth0"),
            Kind::Netlog | Kind::Syslog => DeviceName::NONE,
        })
    }

    /// Whether the device follows from the route.
    pub fn is_routed(&self) -> bool {
        self.kind != Kind::Netconsole && self.device() == DeviceName::NONE && self.bound_by_mac().is_none()
    }

    /// The device's address, if that is what binds it.
    pub fn bound_by_mac(&self) -> Option<[u8; 6]> {
        let [first, ..] = self.device_mac;
        (first & 1 == 0 && self.device_mac != [0; 6]).then_some(self.device_mac)
    }

    /// Whether a device that has come is the one.
    pub fn is_device(&self, name: &[u8; NAME_LEN], mac: [u8; 6]) -> bool {
        match self.bound_by_mac() {
            Some(bound) => bound == mac,
            None => self.device().0 == *name,
        }
    }

    /// Prints them as upstream does before it begins.
    pub fn print(&self) {
        let family = if self.addresses.ipv6 { "IPv6" } else { "IPv4" };
        pr_info!("netconsole: local port {}\n", self.local_port());
        pr_info!("netconsole: local {} address {}\n", family, text::ShowIp(self.addresses.local()));
        pr_info!("netconsole: interface name '{}'\n", text::Lossy(self.device().bytes()));
        pr_info!("netconsole: local ethernet address '{}'\n", ShowMac(self.device_mac));
        pr_info!("netconsole: remote port {}\n", self.remote_port());
        pr_info!("netconsole: remote {} address {}\n", family, text::ShowIp(self.addresses.remote()));
        pr_info!("netconsole: remote ethernet address {}\n", ShowMac(self.remote_mac.unwrap_or(BROADCAST)));
    }

    /// What its device is called in messages.
    pub fn show_device(&self) -> ShowDevice<'_> {
        ShowDevice(self)
    }
}

/// The kernel's own way to read numbers and addresses.
struct Kernel;

impl Elements for Kernel {
    fn port(&self, field: &[u8]) -> Option<u16> {
        if matches!(field.first(), Some(b' ' | b'\t')) {
            pr_info!("netconsole: warning: whitespace is not allowed\n");
        }
        text::decimal16(text::Terminated::new(field).get()).ok()
    }

    fn ip(&self, field: &[u8]) -> Option<IpAddr> {
        text::ip(text::Terminated::new(field).get())
    }

    fn mac(&self, field: &[u8]) -> Option<[u8; 6]> {
        text::mac(text::Terminated::new(field).get())
    }
}

/// An Ethernet address, for people.
pub struct ShowMac(pub [u8; 6]);

impl core::fmt::Display for ShowMac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&super::wire::frame::MacAddr(self.0), f)
    }
}

/// A device's name, or its address if it has no name here.
pub struct ShowDevice<'a>(&'a Settings);

impl core::fmt::Display for ShowDevice<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let name = self.0.device();
        if name == DeviceName::NONE {
            core::fmt::Display::fmt(&ShowMac(self.0.device_mac), f)
        } else {
            core::fmt::Display::fmt(&text::Lossy(name.bytes()), f)
        }
    }
}

impl kernel::fmt::Display for ShowMac {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl kernel::fmt::Display for ShowDevice<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
