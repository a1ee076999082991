// SPDX-License-Identifier: GPL-2.0-only

//! A network device that is kept ready for a dump.

use super::bindings;
use super::claim;
use super::reap;
use super::route::{self, NoRoute};
use super::rx::{Received, Receiver, Taken};
use super::stop_cpus::Attempt;
use super::tx::{Sender, POOL};
use super::volatile::Changed;
use core::ffi::CStr;
use core::net::IpAddr;
use kernel::ffi::c_ushort;
use kernel::prelude::*;

/// Drivers that cannot be polled in a panic: tried, they stall (their interrupt handler does what NAPI should).
const UNSUITABLE: [&[u8]; 6] = [b"8139cp", b"8139too", b"pcnet32", b"tulip", b"ne2k-pci", b"veth"];

/// Frames longer than this take several pages each …
const JUMBO: usize = 3000;
/// … and there are fewer of them.
const JUMBO_POOL: usize = 128;

/// Why a device cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotUsable {
    /// There is none of that name, address or number.
    Missing,
    /// It is down, or detached.
    Down,
    /// It has no carrier.
    NoCarrier,
    /// It is not a physical Ethernet device.
    NotPhysical,
    /// Its driver has no NAPI to poll.
    NoNapi,
    /// Its driver is known not to work without interrupts.
    Driver,
    /// The driver refused netpoll.
    Netpoll(i32),
    /// Out of memory.
    NoMemory,
}

impl core::fmt::Display for NotUsable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Missing => f.write_str("no such network device"),
            Self::Down => f.write_str("the network device is down"),
            Self::NoCarrier => f.write_str("the network device has no carrier"),
            Self::NotPhysical => f.write_str("not a physical Ethernet device; name the device below it"),
            Self::NoNapi => f.write_str("the network driver has no NAPI"),
            Self::Driver => f.write_str("the network driver cannot be polled in a panic"),
            Self::Netpoll(error) => write!(f, "the network driver refuses netpoll (error {error})"),
            Self::NoMemory => f.write_str("out of memory"),
        }
    }
}

/// How to find a device.
#[derive(Clone, Copy)]
pub enum Find<'a> {
    /// By name.
    Name(&'a CStr),
    /// By Ethernet address.
    Mac([u8; 6]),
}

/// The device's number. Process context.
pub fn find(what: Find<'_>) -> Result<i32, NotUsable> {
    // SAFETY: Under RTNL, where no device goes away.
    unsafe {
        bindings::rtnl_lock();
        let net = &raw mut bindings::init_net;
        let dev = match what {
            Find::Name(name) => bindings::__dev_get_by_name(net, name.as_char_ptr()),
            Find::Mac(mac) => bindings::dev_getbyhwaddr(net, bindings::ARPHRD_ETHER as c_ushort, mac.as_ptr()),
        };
        let index = if dev.is_null() { Err(NotUsable::Missing) } else { Ok((*dev).ifindex) };
        bindings::rtnl_unlock();
        index
    }
}

/// What a device is called at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    name: [u8; 16],
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The longest packet that it sends, bytes.
    pub mtu: u32,
}

impl Identity {
    /// # Safety
    ///
    /// The caller holds RTNL, and `dev` is a registered Ethernet device.
    unsafe fn read(dev: *mut bindings::net_device) -> Self {
        // SAFETY: As below.
        let mut identity = Self { name: [0; 16], mac: [0; 6], mtu: unsafe { (*dev).mtu } };
        // SAFETY: Under RTNL neither name nor address changes; an Ethernet address is as long as `mac`.
        unsafe {
            for (to, from) in identity.name.iter_mut().zip(&(*dev).name) {
                *to = *from;
            }
            core::ptr::copy_nonoverlapping((*dev).dev_addr, identity.mac.as_mut_ptr(), identity.mac.len());
        }
        identity
    }

    /// Its name.
    pub fn name(&self) -> &str {
        CStr::from_bytes_until_nul(&self.name).ok().and_then(|name| name.to_str().ok()).unwrap_or("?")
    }
}

/// Whether device `ifindex` can be used now, and what it is called. Process context.
pub fn probe(ifindex: i32) -> Result<Identity, NotUsable> {
    // SAFETY: Under RTNL.
    unsafe {
        bindings::rtnl_lock();
        let result = usable(ifindex).map(|dev| Identity::read(dev));
        bindings::rtnl_unlock();
        result
    }
}

/// Calls `f` with device `ifindex`, if a dump could go through it; it stays while that runs. Process context.
pub(super) fn with_usable<R>(
    ifindex: i32,
    f: impl FnOnce(*mut bindings::net_device) -> Result<R, NotUsable>,
) -> Result<R, NotUsable> {
    // SAFETY: Under RTNL, where no device goes away.
    unsafe {
        bindings::rtnl_lock();
        let result = usable(ifindex).and_then(f);
        bindings::rtnl_unlock();
        result
    }
}

/// The Ethernet address of a neighbour on device `ifindex`; see [`route::neighbour`]. Process context.
pub fn neighbour(ifindex: i32, addr: IpAddr) -> Result<[u8; 6], NoRoute> {
    // SAFETY: Under RTNL.
    unsafe {
        bindings::rtnl_lock();
        let dev = bindings::__dev_get_by_index(&raw mut bindings::init_net, ifindex);
        let result = if dev.is_null() { Err(NoRoute::Unreachable) } else { route::neighbour(addr, dev) };
        bindings::rtnl_unlock();
        result
    }
}

/// A device that is held, registered with netpoll, and has all buffers for sending and receiving.
pub struct Nic {
    netpoll: KBox<bindings::netpoll>,
    receiver: Receiver,
    sender: Sender,
}

// SAFETY: The device is held until drop; see `Receiver` for who uses it when.
unsafe impl Send for Nic {}

impl Nic {
    /// The device's name. Panic path.
    pub fn name(&self) -> &CStr {
        // SAFETY: The device is held, and nobody renames it any more.
        let name = unsafe { &(*self.dev()).name };
        CStr::from_bytes_until_nul(name).unwrap_or(c"")
    }

    /// Its driver's name, if it has one. Panic path.
    pub fn driver(&self) -> &'static CStr {
        // SAFETY: The device is held, and with it its driver.
        unsafe {
            let name = bindings::nd_dev_driver(self.dev());
            if name.is_null() {
                c""
            } else {
                CStr::from_char_ptr(name)
            }
        }
    }
}

/// Netpoll's hold on a device, until the rest is built.
struct Hold(KBox<bindings::netpoll>);

impl Nic {
    /// Gets device `ifindex` ready. Process context; sleeps.
    ///
    /// Being registered with netpoll is what makes NAPI keep `poll_owner` up to date, by which the panic path knows
    /// whether a poll function was running when its CPU stopped.
    pub fn arm(ifindex: i32, frame_len: usize) -> Result<Self, NotUsable> {
        let mut netpoll: KBox<bindings::netpoll> =
            KBox::new(bindings::netpoll::default(), GFP_KERNEL).map_err(|_| NotUsable::NoMemory)?;
        netpoll.name = c"netdump".as_char_ptr();
        // SAFETY: Under RTNL; the device is held before RTNL is given up.
        let dev = unsafe {
            bindings::rtnl_lock();
            let result = set_up(&mut netpoll, ifindex);
            bindings::rtnl_unlock();
            result?
        };
        let hold = Hold(netpoll);
        // Polls that began before netpoll was registered do not keep `poll_owner`; they end within this.
        // SAFETY: Process context.
        unsafe { bindings::synchronize_rcu() };
        let receiver = Receiver::new(dev).map_err(|_| NotUsable::NoMemory)?;
        let sender = Sender::new(dev, frame_len, if frame_len > JUMBO { JUMBO_POOL } else { POOL })
            .map_err(|_| NotUsable::NoMemory)?;
        Ok(Self { netpoll: hold.release(), receiver, sender })
    }

    fn dev(&self) -> *mut bindings::net_device {
        self.netpoll.dev
    }

    /// Brings the NIC to rest while the other CPUs still run; whether it is. Receiving and sending may each take half of
    /// the attempt's time. Panic path, before the stop.
    pub fn quiesce(&mut self, attempt: Attempt) -> bool {
        claim::hold(self.dev());
        let half = Attempt { limit_us: attempt.limit_us / 2, ..attempt };
        let receiving = self.receiver.quiesce(half);
        // In this order: a poll function may be waiting for a transmit lock, and must not wait for us.
        if !receiving && !attempt.last {
            return false;
        }
        let sending = self.sender.quiesce(half);
        receiving && sending
    }

    /// Lets somebody else send until the dump begins, if there is somebody. Panic path, after the stop.
    pub fn after_stop(&mut self) {
        if claim::has_users() {
            self.sender.let_go();
            self.receiver.let_go();
            claim::release();
        }
    }

    /// Whether the driver takes and brings frames: nobody tells us of a device that goes down just now. Panic path.
    pub fn is_up(&self) -> bool {
        // SAFETY: The device is held.
        unsafe { bindings::nd_dev_running(self.dev()) && bindings::nd_dev_present(self.dev()) }
    }

    /// Takes the NIC over. Panic path, after the stop.
    pub fn take_over(&mut self) -> Taken {
        claim::take(self.dev());
        self.sender.take_over();
        self.receiver.take_over()
    }

    /// The last thing before the first frame, once [`Nic::report`] has been written. Panic path, in softirq context.
    pub fn donate(&mut self) {
        self.receiver.donate();
    }

    /// Polls for frames and for transmit completions. Panic path, in softirq context.
    pub fn poll(&mut self) {
        let sender = &self.sender;
        self.receiver.poll(|napi| sender.may_poll(napi));
    }

    /// Does what a stalled transmitter may need: polls every NAPI, then asks the driver to do its interrupt
    /// handler's work. Panic path, in softirq context.
    pub fn unstall(&mut self) {
        let sender = &self.sender;
        self.receiver.poll_all(|napi| sender.may_poll(napi));
        // SAFETY: Held; interrupts are off, and the other CPUs are stopped.
        unsafe { reap::run_interrupt_handler(self.dev()) };
    }

    /// The next frame that was received. Panic path.
    pub fn receive(&mut self) -> Option<Received> {
        self.receiver.next()
    }

    /// Sends. Panic path.
    pub fn sender(&mut self) -> &mut Sender {
        &mut self.sender
    }

    /// Receive frames that found no room.
    pub fn dropped(&self) -> u32 {
        self.receiver.dropped()
    }

    /// Puts back what was changed in the device and the stack. Panic path.
    pub fn give_back(&mut self) {
        self.receiver.give_back();
        claim::release();
    }

    /// Reports what using the NIC changes. Panic path.
    pub fn report(&self, changed: &mut Changed) {
        self.receiver.report(changed);
        self.sender.report(changed);
    }
}

impl Hold {
    fn release(mut self) -> KBox<bindings::netpoll> {
        // SAFETY: `self` is forgotten right away, so that the box has one owner.
        let netpoll = unsafe { core::ptr::read(&raw mut self.0) };
        core::mem::forget(self);
        netpoll
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // SAFETY: Set up; takes RTNL and puts the device.
        unsafe { bindings::netpoll_cleanup(&raw mut *self.0) };
    }
}

impl Drop for Nic {
    fn drop(&mut self) {
        // SAFETY: As above. The sender's and receiver's own drops do not touch the device.
        unsafe { bindings::netpoll_cleanup(&raw mut *self.netpoll) };
    }
}

/// # Safety
///
/// The caller holds RTNL or `dev`.
pub(super) unsafe fn registered(dev: *mut bindings::net_device) -> bool {
    // SAFETY: By this function's contract.
    unsafe { u32::from((*dev).reg_state) == bindings::netdev_reg_state_NETREG_REGISTERED }
}

/// The device, if a dump can go through it.
///
/// # Safety
///
/// The caller holds RTNL; the device lives as long as that.
unsafe fn usable(ifindex: i32) -> Result<*mut bindings::net_device, NotUsable> {
    // SAFETY: RTNL keeps the device.
    unsafe {
        let dev = bindings::__dev_get_by_index(&raw mut bindings::init_net, ifindex);
        if dev.is_null() || !registered(dev) {
            return Err(NotUsable::Missing);
        }
        if !bindings::nd_dev_is_ethernet(dev) || !bindings::nd_dev_shares_tx_skbs(dev) {
            return Err(NotUsable::NotPhysical);
        }
        if !bindings::nd_dev_running(dev) || !bindings::nd_dev_present(dev) {
            return Err(NotUsable::Down);
        }
        if !bindings::nd_dev_carrier(dev) {
            return Err(NotUsable::NoCarrier);
        }
        if (*dev).napi_list.next == &raw mut (*dev).napi_list {
            return Err(NotUsable::NoNapi);
        }
        if driver(dev).is_some_and(|name| UNSUITABLE.contains(&name.to_bytes())) {
            return Err(NotUsable::Driver);
        }
        Ok(dev)
    }
}

/// Registers the device with netpoll; it is then held through `netpoll`.
///
/// # Safety
///
/// The caller holds RTNL, and `netpoll` stays where it is until `netpoll_cleanup()`.
unsafe fn set_up(netpoll: &mut bindings::netpoll, ifindex: i32) -> Result<*mut bindings::net_device, NotUsable> {
    // SAFETY: RTNL keeps the device; the tracker lives in the box that `netpoll` stands in.
    unsafe {
        let dev = usable(ifindex)?;
        bindings::nd_dev_hold(dev, &raw mut netpoll.dev_tracker);
        match bindings::__netpoll_setup(&raw mut *netpoll, dev) {
            0 => Ok(dev),
            error => {
                bindings::nd_dev_put(dev, &raw mut netpoll.dev_tracker);
                Err(NotUsable::Netpoll(error))
            }
        }
    }
}

/// # Safety
///
/// The caller holds RTNL for as long as it uses the name, and `dev` is registered.
pub(super) unsafe fn driver<'a>(dev: *mut bindings::net_device) -> Option<&'a CStr> {
    // SAFETY: Under RTNL a registered device keeps its parent, and a bound parent its driver.
    unsafe {
        let driver = (*dev).dev.parent.as_ref()?.driver.as_ref()?;
        (!driver.name.is_null()).then(|| CStr::from_char_ptr(driver.name))
    }
}
