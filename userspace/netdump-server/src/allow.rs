// SPDX-License-Identifier: GPL-2.0-or-later
//! A list of networks: which addresses may do a thing.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// One network: an address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    addr: IpAddr,
    prefix: u8,
}

/// Networks in the form `10.0.0.0/8, fd00::/8, 192.0.2.7`. The empty list holds no address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList(Vec<Network>);

impl AllowList {
    /// Whether some network of the list holds the address.
    pub fn holds(&self, addr: IpAddr) -> bool {
        self.0.iter().any(|network| network.holds(addr))
    }
}

impl Network {
    fn holds(&self, addr: IpAddr) -> bool {
        let (a, b) = match (self.addr, addr) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (u128::from(a.to_bits()) << 96, u128::from(b.to_bits()) << 96),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits(), b.to_bits()),
            _ => return false,
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        (a ^ b) & mask == 0
    }
}

impl FromStr for AllowList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split([',', ' ']).filter(|part| !part.is_empty());
        parts.map(parse_network).collect::<Result<_, _>>().map(AllowList)
    }
}

fn parse_network(text: &str) -> Result<Network, String> {
    let bad = || format!("`{text}` is not an address or address/bits");
    let (addr, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
    let addr: IpAddr = addr.parse().map_err(|_| bad())?;
    let most = if addr.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => most,
        Some(p) if p.bytes().all(|b| b.is_ascii_digit()) => p.parse().ok().filter(|p| *p <= most).ok_or_else(bad)?,
        Some(_) => return Err(bad()),
    };
    Ok(Network { addr, prefix })
}

impl fmt::Display for AllowList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}/{}", network.addr, network.prefix)?;
        }
        Ok(())
    }
}

/// An IPv4 address that came in through an IPv6 socket, as the IPv4 address that it is.
pub fn canonical(addr: Ipv6Addr) -> IpAddr {
    IpAddr::V6(addr).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_decide() {
        let list: AllowList = "10.1.0.0/16, fd00::/8 192.0.2.7".parse().unwrap();
        for yes in ["10.1.255.3", "fdff::1", "192.0.2.7"] {
            assert!(list.holds(yes.parse().unwrap()), "{yes}");
        }
        for no in ["10.2.0.1", "fe80::1", "192.0.2.8", "::ffff:10.1.0.1"] {
            assert!(!list.holds(no.parse().unwrap()), "{no}");
        }
        assert!("0.0.0.0/0".parse::<AllowList>().unwrap().holds("8.8.8.8".parse().unwrap()));
        assert!("::/0".parse::<AllowList>().unwrap().holds("::1".parse().unwrap()));
        assert!(!AllowList::default().holds("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["10.0.0.0/33", "x", "10.0.0.0/", "10.0.0.0/+8", "::/129", "10.0.0.0/8/8"] {
            assert!(text.parse::<AllowList>().is_err(), "{text}");
        }
    }
}
