// SPDX-License-Identifier: GPL-2.0-only

//! The way to the server: device, source address and next hop, as the kernel's own tables have them.

use super::bindings;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why there is no way at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoRoute {
    /// The routing table has no entry.
    Unreachable,
    /// No address of ours fits.
    NoSource,
    /// The neighbour's Ethernet address is not known (yet): the kernel has been asked to find out.
    Unresolved,
    /// Out of memory.
    NoMemory,
}

impl core::fmt::Display for NoRoute {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "no route to the server",
            Self::NoSource => "no source address for the server",
            Self::Unresolved => "the next hop's MAC address is not resolved yet",
            Self::NoMemory => "out of memory",
        })
    }
}

/// A way to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Index of the device it leaves by.
    pub ifindex: i32,
    /// Our address.
    pub source: IpAddr,
    /// The server itself or the router before it.
    pub next_hop: IpAddr,
}

/// Looks the server up in the initial network namespace. Process context.
///
/// `ifindex` 0 lets the table choose the device; `source` likewise.
pub fn lookup(server: IpAddr, source: Option<IpAddr>, ifindex: i32) -> Result<Route, NoRoute> {
    lookup_in(&raw mut bindings::init_net, server, source, ifindex)
}

/// The same in any network namespace. Process context; the caller holds the namespace.
pub(super) fn lookup_in(
    net: *mut bindings::net,
    server: IpAddr,
    source: Option<IpAddr>,
    ifindex: i32,
) -> Result<Route, NoRoute> {
    match server {
        IpAddr::V4(server) => lookup4(net, server, source, ifindex),
        IpAddr::V6(server) => lookup6(net, server, source, ifindex),
    }
}

fn be(addr: Ipv4Addr) -> u32 {
    u32::from_ne_bytes(addr.octets())
}

fn is_err<T>(ptr: *const T) -> bool {
    const MAX_ERRNO: usize = 4095;
    (ptr as usize) > usize::MAX - MAX_ERRNO
}

fn lookup4(net: *mut bindings::net, server: Ipv4Addr, source: Option<IpAddr>, ifindex: i32) -> Result<Route, NoRoute> {
    let mut flow = bindings::flowi4::default();
    flow.__fl_common.flowic_oif = ifindex;
    flow.__fl_common.flowic_proto = 17;
    flow.daddr = be(server);
    if let Some(IpAddr::V4(source)) = source {
        flow.saddr = be(source);
    }
    // SAFETY: The flow lives through the call; the route that comes back is ours until it is released.
    unsafe {
        let rt = bindings::ip_route_output_flow(net, &raw mut flow, core::ptr::null());
        if is_err(rt) {
            return Err(NoRoute::Unreachable);
        }
        let dst = &raw mut (*rt).dst;
        let ifindex = (*dst_dev(dst)).ifindex;
        let next_hop = bindings::nd_rt_nexthop(rt, be(server));
        bindings::dst_release(dst);
        let source = Ipv4Addr::from(flow.saddr.to_ne_bytes());
        if source.is_unspecified() {
            return Err(NoRoute::NoSource);
        }
        Ok(Route { ifindex, source: IpAddr::V4(source), next_hop: IpAddr::V4(Ipv4Addr::from(next_hop.to_ne_bytes())) })
    }
}

fn in6(addr: Ipv6Addr) -> bindings::in6_addr {
    let mut raw = bindings::in6_addr::default();
    raw.in6_u.u6_addr8 = addr.octets();
    raw
}

fn from_in6(raw: bindings::in6_addr) -> Ipv6Addr {
    // SAFETY: Every variant of the union is the same 16 bytes.
    Ipv6Addr::from(unsafe { raw.in6_u.u6_addr8 })
}

fn lookup6(net: *mut bindings::net, server: Ipv6Addr, source: Option<IpAddr>, ifindex: i32) -> Result<Route, NoRoute> {
    let mut flow = bindings::flowi6::default();
    flow.__fl_common.flowic_oif = ifindex;
    flow.__fl_common.flowic_proto = 17;
    flow.daddr = in6(server);
    if let Some(IpAddr::V6(source)) = source {
        flow.saddr = in6(source);
    }
    // SAFETY: As for IPv4.
    unsafe {
        let dst = bindings::ip6_route_output_flags(net, core::ptr::null(), &raw mut flow, 0);
        if is_err(dst) || (*dst).error != 0 {
            if !is_err(dst) {
                bindings::dst_release(dst);
            }
            return Err(NoRoute::Unreachable);
        }
        let ifindex = (*dst_dev(dst)).ifindex;
        let next_hop = *bindings::nd_rt6_nexthop(dst.cast(), &raw const flow.daddr);
        let mut chosen = flow.saddr;
        if from_in6(chosen).is_unspecified() {
            let error = bindings::ipv6_dev_get_saddr(net, dst_dev(dst), &raw const flow.daddr, 0, &raw mut chosen);
            if error != 0 {
                bindings::dst_release(dst);
                return Err(NoRoute::NoSource);
            }
        }
        bindings::dst_release(dst);
        Ok(Route { ifindex, source: IpAddr::V6(from_in6(chosen)), next_hop: IpAddr::V6(from_in6(next_hop)) })
    }
}

/// # Safety
///
/// The caller holds the route.
unsafe fn dst_dev(dst: *mut bindings::dst_entry) -> *mut bindings::net_device {
    // SAFETY: By this function's contract; every variant of the union is the same pointer.
    unsafe { (*dst).__bindgen_anon_1.dev }
}

/// The Ethernet address of a neighbour; asks the kernel to resolve it, or to confirm it if it has grown old.
///
/// Process context; `dev` is held by the caller.
pub(super) fn neighbour(addr: IpAddr, dev: *mut bindings::net_device) -> Result<[u8; 6], NoRoute> {
    // SAFETY: The device is held; the entry that comes back is ours until it is released.
    unsafe {
        let neigh = match addr {
            IpAddr::V4(addr) => bindings::nd_neigh4(be(addr), dev),
            IpAddr::V6(addr) => bindings::nd_neigh6(&in6(addr), dev),
        };
        if neigh.is_null() || is_err(neigh) {
            return Err(NoRoute::NoMemory);
        }
        bindings::nd_neigh_kick(neigh);
        let mut mac = [0u8; bindings::MAX_ADDR_LEN as usize];
        let valid = bindings::nd_neigh_valid(neigh);
        if valid {
            bindings::nd_neigh_mac(neigh, mac.as_mut_ptr().cast());
        }
        bindings::nd_neigh_release(neigh);
        match mac.first_chunk::<6>() {
            Some(mac) if valid => Ok(*mac),
            _ => Err(NoRoute::Unresolved),
        }
    }
}
