// SPDX-License-Identifier: GPL-2.0-only

//! Network devices of any kind, as netconsole uses them: found by name or address, held, brought up, and registered with
//! netpoll.

use super::bindings;
use super::nic::Find;
use super::route::{self, NoRoute};
use core::ffi::{c_int, c_void, CStr};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use kernel::error::to_result;
use kernel::ffi::{c_ulong, c_ushort};
use kernel::prelude::*;

/// Longest name of a device, with a NUL behind it.
pub const NAME_LEN: usize = 16;

/// Drivers that hand frames on to somebody who may keep or change them.
const NOT_PHYSICAL: [&[u8]; 1] = [b"netdevsim"];

/// The lock over all network configuration, held.
pub struct Rtnl(bool);

impl Rtnl {
    /// Takes it. Process context; sleeps.
    pub fn lock() -> Self {
        // SAFETY: Process context.
        unsafe { bindings::rtnl_lock() };
        Self(true)
    }

    /// Gives it up while `f` runs.
    pub fn without(&mut self, f: impl FnOnce()) {
        // SAFETY: Held; process context.
        unsafe {
            bindings::rtnl_unlock();
            f();
            bindings::rtnl_lock();
        }
    }
}

impl Drop for Rtnl {
    fn drop(&mut self) {
        if self.0 {
            // SAFETY: Held.
            unsafe { bindings::rtnl_unlock() };
        }
    }
}

/// A device that is held: it may be taken down or out of the system, but its memory stays.
pub struct Device {
    netpoll: KBox<bindings::netpoll>,
    dev: *mut bindings::net_device,
    set_up: bool,
    closed: AtomicBool,
}

// SAFETY: What is done with the device is done under its locks; see the functions.
unsafe impl Send for Device {}
// SAFETY: As above.
unsafe impl Sync for Device {}

impl Device {
    /// Looks a device up in the network namespace of the running task, and holds it.
    pub fn find(rtnl: &Rtnl, what: Find<'_>) -> Result<Self> {
        // SAFETY: Under RTNL, where no device goes away.
        unsafe {
            let net = bindings::nd_current_net();
            let dev = match what {
                Find::Name(name) => bindings::__dev_get_by_name(net, name.as_char_ptr()),
                Find::Mac(mac) => bindings::dev_getbyhwaddr(net, bindings::ARPHRD_ETHER as c_ushort, mac.as_ptr()),
            };
            Self::hold(rtnl, dev)
        }
    }

    /// # Safety
    ///
    /// `dev` is null or a device that has been looked up under the same RTNL.
    unsafe fn hold(_: &Rtnl, dev: *mut bindings::net_device) -> Result<Self> {
        let mut netpoll: KBox<bindings::netpoll> = KBox::new(bindings::netpoll::default(), GFP_KERNEL)?;
        netpoll.name = c"netconsole".as_char_ptr();
        if dev.is_null() {
            return Err(ENODEV);
        }
        // SAFETY: By this function's contract; the tracker stays in its box.
        unsafe { bindings::nd_dev_hold(dev, &raw mut netpoll.dev_tracker) };
        Ok(Self { netpoll, dev, set_up: false, closed: AtomicBool::new(false) })
    }

    /// The device that the routing table of the running task's network namespace has for `peer`, held, and our address
    /// there, which is `source` if that is given.
    pub fn towards(rtnl: &Rtnl, peer: IpAddr, source: Option<IpAddr>) -> Result<(Self, IpAddr), NoRoute> {
        // SAFETY: The running task holds its namespace.
        let route = route::lookup_in(unsafe { bindings::nd_current_net() }, peer, source, 0)?;
        // SAFETY: Under RTNL.
        let dev = unsafe { bindings::__dev_get_by_index(bindings::nd_current_net(), route.ifindex) };
        // SAFETY: As above.
        let this = unsafe { Self::hold(rtnl, dev) }.map_err(|_| NoRoute::Unreachable)?;
        Ok((this, route.source))
    }

    /// Whether the routing table has this device for `peer`; also if it has none at the moment.
    pub fn is_on_route(&self, _: &Rtnl, peer: IpAddr, source: IpAddr) -> bool {
        // SAFETY: Held, and under RTNL, where it does not change its namespace.
        let (net, ifindex) = unsafe { (bindings::nd_dev_net(self.dev), (*self.dev).ifindex) };
        route::lookup_in(net, peer, Some(source), 0).map_or(true, |route| route.ifindex == ifindex)
    }

    /// The Ethernet address of the next hop on the way to `peer` through this device, as far as the kernel knows it; if
    /// it does not, it is asked to find out.
    pub fn next_hop(&self, _: &Rtnl, peer: IpAddr, source: IpAddr) -> Result<[u8; 6], NoRoute> {
        // SAFETY: Held, and under RTNL, where it does not change its namespace.
        let (net, ifindex) = unsafe { (bindings::nd_dev_net(self.dev), (*self.dev).ifindex) };
        let route = route::lookup_in(net, peer, Some(source), ifindex)?;
        route::neighbour(route.next_hop, self.dev)
    }

    /// Whether it belongs to a bond, a bridge or the like.
    pub fn has_master(&self, _: &Rtnl) -> bool {
        // SAFETY: Held, and under RTNL.
        unsafe { !bindings::netdev_master_upper_dev_get(self.dev).is_null() }
    }

    /// Whether it is up.
    pub fn is_running(&self) -> bool {
        // SAFETY: Held.
        unsafe { bindings::nd_dev_running(self.dev) }
    }

    /// Whether frames can be handed to the driver at all. Panic path.
    pub fn is_usable(&self) -> bool {
        // SAFETY: Held.
        unsafe { bindings::nd_dev_running(self.dev) && bindings::nd_dev_present(self.dev) }
    }

    /// Takes it up.
    pub fn open(&self, _: &Rtnl) -> Result {
        // SAFETY: Held, and under RTNL.
        to_result(unsafe { bindings::dev_open(self.dev, core::ptr::null_mut()) })
    }

    /// Waits until it has a carrier; false if that takes longer than netpoll's `carrier_timeout`. Process context,
    /// without RTNL.
    pub fn wait_for_carrier(&self) -> bool {
        // SAFETY: Held; sleeps.
        unsafe {
            for _ in 0..u64::from(bindings::netpoll_get_carrier_timeout()) * 1000 {
                if bindings::nd_dev_carrier(self.dev) {
                    return true;
                }
                bindings::msleep(1);
            }
            bindings::nd_dev_carrier(self.dev)
        }
    }

    /// The first address of its own, of the family of `peer`, and link-local only if `peer` is.
    pub fn local_address(&self, _: &Rtnl, peer: IpAddr) -> Option<IpAddr> {
        // SAFETY: Held, and under RTNL.
        unsafe {
            match peer {
                IpAddr::V4(_) => {
                    let mut address = 0;
                    bindings::nd_first_ip4(self.dev, &raw mut address)
                        .then(|| IpAddr::V4(Ipv4Addr::from(address.to_ne_bytes())))
                }
                IpAddr::V6(peer) => {
                    let mut address = bindings::in6_addr::default();
                    let [high, low, ..] = peer.octets();
                    let link_local = high == 0xfe && low & 0xc0 == 0x80;
                    bindings::nd_first_ip6(self.dev, link_local, &raw mut address)
                        .then(|| IpAddr::V6(Ipv6Addr::from(address.in6_u.u6_addr8)))
                }
            }
        }
    }

    /// Registers it with netpoll. Polls of the driver that have begun before may go on until a grace period has passed.
    pub fn set_up(&mut self, _: &Rtnl) -> Result {
        // SAFETY: Held, under RTNL; the netpoll stays in its box until `close`.
        to_result(unsafe { bindings::__netpoll_setup(&raw mut *self.netpoll, self.dev) })?;
        self.set_up = true;
        Ok(())
    }

    /// Waits until all that now reads under RCU has ended. Process context.
    pub fn settle() {
        // SAFETY: Process context.
        unsafe { bindings::synchronize_rcu() };
    }

    /// Whether it is still part of the system.
    pub fn is_registered(&self, _: &Rtnl) -> bool {
        // SAFETY: Held.
        unsafe { super::nic::registered(self.dev) }
    }

    /// Its name.
    pub fn name(&self, _: &Rtnl) -> [u8; NAME_LEN] {
        let mut name = [0; NAME_LEN];
        // SAFETY: Held; names change under RTNL.
        unsafe {
            for (to, from) in name.iter_mut().zip(&(*self.dev).name) {
                *to = *from;
            }
        }
        name
    }

    /// Its Ethernet address; six zeroes if it has none of that length. Any context.
    pub fn mac(&self) -> [u8; 6] {
        let mut mac = [0; 6];
        // SAFETY: Held. The address may be changed while it is read, as everywhere.
        unsafe {
            if usize::from((*self.dev).addr_len) >= mac.len() {
                core::ptr::copy_nonoverlapping((*self.dev).dev_addr, mac.as_mut_ptr(), mac.len());
            }
        }
        mac
    }

    /// Name of the driver of the device that it stands on.
    pub fn driver<'a>(&self, _: &'a Rtnl) -> Option<&'a CStr> {
        // SAFETY: Held, and under RTNL for as long as the name is used.
        unsafe { super::nic::driver(self.dev) }
    }

    /// Whether it is a network card, real or virtual, with a driver of the usual kind: frames that are kept may be given
    /// to it, and it gives them back.
    pub fn is_physical(&self, rtnl: &Rtnl) -> bool {
        let driver = self.driver(rtnl).is_some_and(|driver| !NOT_PHYSICAL.contains(&driver.to_bytes()));
        // SAFETY: Held, and under RTNL.
        driver && unsafe { bindings::nd_dev_is_ethernet(self.dev) && bindings::nd_dev_shares_tx_skbs(self.dev) }
    }

    /// Which one it is.
    pub fn id(&self) -> DeviceId {
        DeviceId(self.dev as usize)
    }

    /// For the rest of `sys`.
    pub(super) fn raw(&self) -> *mut bindings::net_device {
        self.dev
    }

    /// For the rest of `sys`: set up.
    pub(super) fn netpoll(&self) -> *mut bindings::netpoll {
        (&raw const *self.netpoll).cast_mut()
    }

    /// Gives it back: nobody may send through it any more. Once; what follows has no effect.
    pub fn close(&self, _: &Rtnl) {
        self.release();
    }

    /// The caller holds RTNL, or it has not been set up.
    fn release(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        // SAFETY: Held, and given back once.
        unsafe {
            if self.set_up {
                bindings::do_netpoll_cleanup(self.netpoll());
            } else {
                bindings::nd_dev_put(self.dev, &raw mut (*self.netpoll()).dev_tracker);
            }
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // What is set up is closed under RTNL; whoever holds that already has called `close`.
        let _rtnl = (self.set_up && !self.closed.load(Ordering::Acquire)).then(Rtnl::lock);
        self.release();
    }
}

/// Tells devices apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceId(usize);

/// What happened to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// It has been added to the system.
    Registered,
    /// It has another name.
    Renamed,
    /// It goes away.
    Unregistered,
    /// It is about to join a bond, a bridge or the like.
    Joining,
    /// It lets go of the devices below it.
    Releasing,
    /// Something else: state, address.
    Other,
}

/// A device that something happened to.
pub struct Changed<'a> {
    /// Which one.
    pub device: DeviceId,
    /// Its name now.
    pub name: &'a [u8; NAME_LEN],
    /// Its Ethernet address.
    pub mac: [u8; 6],
}

type OnDevice = fn(&Rtnl, Event, &Changed<'_>);

static ON_DEVICE: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static ON_NEIGHBOUR: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

static DEVICES: super::notifier::Block = super::notifier::Block::new(on_device, 0);
static NEIGHBOURS: super::notifier::Block = super::notifier::Block::new(on_neighbour, 0);

/// Registrations for events of devices and neighbours; dropping it takes them back.
pub struct Events(());

impl Events {
    /// `on_device` is called under RTNL, also for each device that there is already; `on_neighbour` in any context when a
    /// neighbour or a route may have changed.
    pub fn register(on_device: OnDevice, on_neighbour: fn()) -> Result<Self> {
        ON_DEVICE.store(on_device as *mut (), Ordering::Release);
        ON_NEIGHBOUR.store(on_neighbour as *mut (), Ordering::Release);
        // SAFETY: The blocks are static, and unregistered before the module goes.
        unsafe {
            to_result(bindings::register_netdevice_notifier(DEVICES.0.get()))?;
            to_result(bindings::register_netevent_notifier(NEIGHBOURS.0.get())).inspect_err(|_| {
                bindings::unregister_netdevice_notifier(DEVICES.0.get());
            })?;
        }
        Ok(Self(()))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: Registered.
        unsafe {
            bindings::unregister_netevent_notifier(NEIGHBOURS.0.get());
            bindings::unregister_netdevice_notifier(DEVICES.0.get());
        }
    }
}

const NOTIFY_DONE: c_int = 0;

/// # Safety
///
/// For the chain of device events alone: called under RTNL with the device in `info`.
unsafe extern "C" fn on_device(_: *mut bindings::notifier_block, event: c_ulong, info: *mut c_void) -> c_int {
    let call = ON_DEVICE.load(Ordering::Acquire);
    let event = match event as u32 {
        bindings::netdev_cmd_NETDEV_REGISTER => Event::Registered,
        bindings::netdev_cmd_NETDEV_CHANGENAME => Event::Renamed,
        bindings::netdev_cmd_NETDEV_UNREGISTER => Event::Unregistered,
        bindings::netdev_cmd_NETDEV_JOIN => Event::Joining,
        bindings::netdev_cmd_NETDEV_RELEASE => Event::Releasing,
        _ => Event::Other,
    };
    if !call.is_null() {
        // SAFETY: Stored from an `OnDevice`.
        let call: OnDevice = unsafe { core::mem::transmute(call) };
        // SAFETY: By this function's contract.
        let dev = unsafe { (*info.cast::<bindings::netdev_notifier_info>()).dev };
        let mut name = [0; NAME_LEN];
        let mut mac = [0; 6];
        // SAFETY: As above: under RTNL the device stays, and so does its name.
        unsafe {
            for (to, from) in name.iter_mut().zip(&(*dev).name) {
                *to = *from;
            }
            if usize::from((*dev).addr_len) >= mac.len() && !(*dev).dev_addr.is_null() {
                core::ptr::copy_nonoverlapping((*dev).dev_addr, mac.as_mut_ptr(), mac.len());
            }
        }
        // Held by whoever calls us.
        let rtnl = Rtnl(false);
        call(&rtnl, event, &Changed { device: DeviceId(dev as usize), name: &name, mac });
    }
    NOTIFY_DONE
}

/// # Safety
///
/// For the chain of network events alone; the arguments are not looked at.
unsafe extern "C" fn on_neighbour(_: *mut bindings::notifier_block, _: c_ulong, _: *mut c_void) -> c_int {
    let call = ON_NEIGHBOUR.load(Ordering::Acquire);
    if !call.is_null() {
        // SAFETY: Stored from a `fn()`.
        let call: fn() = unsafe { core::mem::transmute(call) };
        call();
    }
    NOTIFY_DONE
}
