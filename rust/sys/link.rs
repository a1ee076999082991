// SPDX-License-Identifier: GPL-2.0-only

//! A device that datagrams are sent through, one after the other: by netpoll while all is well, and by frames made
//! beforehand, straight to the driver, when somebody who prints in an emergency or a panic has to send himself.
//!
//! | | waits for a transmit lock | when the ring is full |
//! |--|--|--|
//! | thread | as netpoll does | as netpoll does |
//! | emergency | for [`EMERGENCY_TRIES`] | leaves it to the thread |
//! | panic, other CPUs run | for [`BEFORE_STOP_TRIES`] | polls the driver; what does not go stays in printk's buffer |
//! | panic, alone | for [`AFTER_STOP_TRIES`] | polls the driver, runs its interrupt handler; what does not go is lost |
//!
//! While a dump has the device, what is printed is kept ([`Held`]) and sent afterwards. It cannot stay in printk's buffer:
//! the dump keeps other text off all consoles for a while, and with it everything that waits there.

use super::bindings;
use super::console::Urgency;
use super::netdev::{Device, Rtnl};
use super::tx::{self, Checksum, Sender, Tried};
use super::{clock, on_panic, peer, reap, system};
use crate::wire::frame::{Path, PreparedHeaders, MAX_HEADERS_LEN, MIN_FRAME_LEN};
use core::ffi::c_uint;
use kernel::prelude::*;
use kernel::sync::Arc;

const NET_XMIT_DROP: i32 = 1;
/// Frames made beforehand.
const POOL: usize = 64;
/// Those of them that are used with nobody else left: each is back before the next one goes, and a dump names every page
/// that changes while it lasts.
const ALONE_POOL: usize = 4;
/// Between two tries, in microseconds.
const PAUSE_US: u32 = 10;
/// An emergency, where another CPU has the lock.
const EMERGENCY_TRIES: u32 = 50;
/// A panic while the other CPUs run: they may need a moment to give a lock back.
const BEFORE_STOP_TRIES: u32 = 1_000;
/// A panic with nobody else left: until the NIC has sent what is in its ring.
const AFTER_STOP_TRIES: u32 = 10_000;
/// Frames that did not go, with nobody else left, after which each has one try only.
const GIVE_UP: u32 = 3;
/// Most frames of netpoll's that are sent before our own.
const STRANDED: u32 = 512;
/// How often a frame is looked for in the ring before the driver's interrupt handler is run.
const PATIENCE: u32 = 8;
/// Drivers whose poll and transmit functions share a lock that an interrupt on the same CPU must not meet.
const SHARED_LOCK: [&[u8]; 2] = [b"vmxnet3", b"gve"];

/// What became of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// It is on its way, or will be soon.
    Yes,
    /// The device does not take it.
    Dropped,
    /// There was no memory for it.
    NoMemory,
    /// Not here and now; the thread can.
    NotNow,
}

/// The device, and the count of what went through it.
pub struct Link {
    device: Arc<Device>,
    ident: u16,
    /// For the path that was used last.
    headers: Option<PreparedHeaders>,
    sender: Sender,
    /// The driver is one of [`SHARED_LOCK`].
    shared_lock: bool,
    /// The device is one that the pool comes back from.
    physical: bool,
    /// The driver's transmit function is running; found so by somebody else, it was interrupted for good.
    entered: bool,
    /// Times that this has been found.
    interrupted: u32,
    /// Frames that did not go although nobody else was left.
    lost: u32,
    prepared: bool,
    /// None while it is being sent.
    held: Option<Held>,
}

/// Datagrams that wait for the end of a dump, one behind the other, each after its length.
struct Held {
    bytes: KVec<u8>,
    len: usize,
}

/// Room for them: some ten long ones, or more than a hundred lines.
const HELD_ROOM: usize = 16 * 1024;

impl Held {
    fn new() -> Result<Self> {
        Ok(Self { bytes: KVec::from_elem(0, HELD_ROOM, GFP_KERNEL)?, len: 0 })
    }

    /// False if there is no room. Panic path.
    fn push(&mut self, datagram: &[u8]) -> bool {
        let Ok(len) = u16::try_from(datagram.len()) else { return false };
        let Some((head, rest)) = self.bytes.get_mut(self.len..).and_then(|free| free.split_at_mut_checked(2)) else {
            return false;
        };
        let Some(to) = rest.get_mut(..datagram.len()) else { return false };
        to.copy_from_slice(datagram);
        head.copy_from_slice(&len.to_be_bytes());
        self.len += 2 + datagram.len();
        true
    }

    /// Calls `f` with each, and forgets them. Panic path.
    fn drain(&mut self, mut f: impl FnMut(&[u8])) {
        let mut rest = self.bytes.get(..self.len).unwrap_or(&[]);
        while let Some(([high, low], tail)) = rest.split_first_chunk::<2>() {
            let len = usize::from(u16::from_be_bytes([*high, *low]));
            let Some((datagram, tail)) = tail.split_at_checked(len) else { break };
            f(datagram);
            rest = tail;
        }
        self.len = 0;
    }
}

impl Link {
    /// For a device that is set up, and datagrams of that length. Process context.
    pub fn new(device: Arc<Device>, max_len: usize, rtnl: &Rtnl) -> Result<Self> {
        let driver = device.driver(rtnl);
        Ok(Self {
            sender: Sender::new(device.raw(), MAX_HEADERS_LEN + max_len, POOL)?,
            shared_lock: driver.is_some_and(|driver| SHARED_LOCK.contains(&driver.to_bytes())),
            physical: device.is_physical(rtnl),
            device,
            ident: 0,
            headers: None,
            entered: false,
            interrupted: 0,
            lost: 0,
            prepared: false,
            held: Some(Held::new()?),
        })
    }

    /// Sends a datagram. Panic path; interrupts are off.
    pub fn send(&mut self, path: Path, payload: &[u8], urgency: Urgency) -> Sent {
        match urgency {
            Urgency::Thread => self.send_by_netpoll(path, payload),
            Urgency::Emergency => self.send_in_emergency(path, payload),
            Urgency::Panic => self.send_in_panic(path, payload),
        }
    }

    fn send_by_netpoll(&mut self, path: Path, payload: &[u8]) -> Sent {
        let dev = self.device.raw();
        self.ident = self.ident.wrapping_add(1);
        let Some(headers) = headers_for(&mut self.headers, path) else { return Sent::Dropped };
        let headers_len = headers.headers_len();
        let frame_len = headers_len + payload.len();
        // SAFETY: The device is held and set up; interrupts are off, as netpoll wants it. The buffer is ours until it
        // is given away, and has as much room as is asked for.
        unsafe {
            let skb = find(dev, frame_len as c_uint);
            if skb.is_null() {
                return Sent::NoMemory;
            }
            let frame = core::slice::from_raw_parts_mut((*skb).data, frame_len);
            if let Some(to) = frame.get_mut(headers_len..) {
                to.copy_from_slice(payload);
            }
            let Some(emitted) = headers.emit(frame, payload.len(), self.ident) else {
                bindings::nd_kfree_skb(skb);
                return Sent::Dropped;
            };
            let (ip, udp) = (emitted.ip as c_uint, emitted.udp as c_uint);
            if bindings::nd_netpoll_send(self.device.netpoll(), skb, ip, udp, path.local.is_ipv6()) == NET_XMIT_DROP {
                return Sent::Dropped;
            }
        }
        Sent::Yes
    }

    /// The machine may go on: nothing is risked that the thread would do as well. Panic path.
    fn send_in_emergency(&mut self, path: Path, payload: &[u8]) -> Sent {
        let dev = self.device.raw();
        if !self.device.is_usable() {
            return Sent::Dropped;
        }
        // SAFETY: The device is held.
        if !self.physical || system::in_nmi() || peer::claims(dev) || unsafe { reap::polls_here(dev) } {
            return Sent::NotNow;
        }
        if self.has_stranded() {
            // The thread's datagram queues up behind them.
            return Sent::NotNow;
        }
        if !self.write(path, payload) {
            return Sent::NotNow;
        }
        let _context = system::InDriver::enter(false);
        for _ in 0..EMERGENCY_TRIES {
            match self.offer() {
                Tried::Taken => return Sent::Yes,
                Tried::Never => break,
                Tried::Busy => clock::spin_us(PAUSE_US),
            }
        }
        self.sender.forget();
        Sent::NotNow
    }

    /// Panic path.
    fn send_in_panic(&mut self, path: Path, payload: &[u8]) -> Sent {
        let alone = on_panic::others_stopped();
        let dev = self.device.raw();
        if !self.device.is_usable() {
            return Sent::Dropped;
        }
        if peer::claims(dev) {
            let kept = alone && self.held.as_mut().is_some_and(|held| held.push(payload));
            return if kept { Sent::Yes } else { Sent::NotNow };
        }
        if let Some(mut held) = self.held.take() {
            held.drain(|datagram| _ = self.send_in_panic(path, datagram));
            self.held = Some(held);
        }
        let inside = system::in_nmi() || system::in_hardirq();
        // SAFETY: The device is held.
        let polls_here = inside && unsafe { reap::polls_here(dev) };
        if polls_here && (self.shared_lock || !alone) {
            return if alone { Sent::Dropped } else { Sent::NotNow };
        }
        // Devices on top of others are asked when nothing else is left.
        if !self.physical && !alone {
            return Sent::NotNow;
        }
        if self.entered {
            // Whoever was in there never goes on. Once more it is tried; what fails again and again is left.
            self.interrupted += 1;
            self.entered = false;
        }
        if self.interrupted > 2 {
            return Sent::Dropped;
        }
        if !alone && self.has_stranded() {
            // They go first, once that can be done.
            return Sent::NotNow;
        }
        let may_poll = alone || !system::in_nmi();
        let _context = system::InDriver::enter(true);
        if alone && !self.prepared {
            self.prepared = true;
            // Locks that nobody will ever give back.
            self.sender.take_over();
            self.sender.use_only(ALONE_POOL);
        }
        if alone {
            self.send_stranded();
        }
        let tries = if alone { self.tries_alone() } else { BEFORE_STOP_TRIES };
        let mut written = false;
        for step in 0..tries {
            written = written || self.write(path, payload);
            if written {
                match self.offer() {
                    Tried::Taken => {
                        self.lost = 0;
                        if alone {
                            self.drain_in_context(DRAIN_TRIES);
                        }
                        return Sent::Yes;
                    }
                    Tried::Never => break,
                    Tried::Busy => {}
                }
            }
            if may_poll {
                self.reap(step % PATIENCE == PATIENCE - 1);
            }
            clock::spin_us(PAUSE_US);
        }
        self.sender.forget();
        if alone {
            self.lost = self.lost.saturating_add(1);
            return Sent::Dropped;
        }
        Sent::NotNow
    }

    /// What changes when something is sent with nobody else left. Panic path.
    pub fn report(&self, memory: &mut peer::Memory) {
        self.sender.memory(ALONE_POOL, |start, len| memory.object(start, len));
        if let Some(held) = self.held.as_ref() {
            memory.value(held.bytes.as_slice());
        }
    }

    /// Waits until the driver has given back all frames, for 100 ms at most. Panic path, with the other CPUs stopped.
    pub fn drain(&mut self) {
        if self.device.is_usable() && !peer::claims(self.device.raw()) {
            let _context = system::InDriver::enter(true);
            self.send_stranded();
            self.drain_in_context(LAST_DRAIN_TRIES);
        }
    }

    /// Whether older lines wait in netpoll's own queue, for a work that never runs again in a panic. Panic path; interrupts are
    /// off.
    fn has_stranded(&self) -> bool {
        // SAFETY: The device is held; interrupts are off.
        unsafe { bindings::nd_netpoll_has_stranded(self.device.raw()) }
    }

    /// Sends what netpoll has put aside, because the driver was busy, for a work that never runs again
    /// (`net/core/netpoll.c`). Panic path, with the other CPUs stopped.
    fn send_stranded(&mut self) {
        let dev = self.device.raw();
        if !self.physical {
            // What was sent through it waits where it stands on. The lower ones go first: what is there is older.
            // SAFETY: The device is held.
            unsafe { reap::each_lower(dev, |lower| self.send_stranded_of(lower)) };
        }
        self.send_stranded_of(dev);
    }

    fn send_stranded_of(&mut self, dev: *mut bindings::net_device) {
        for _ in 0..STRANDED {
            // SAFETY: The device is held, or below one that is; nobody else is left.
            let skb = unsafe { bindings::nd_netpoll_stranded(dev) };
            if skb.is_null() {
                return;
            }
            let mut taken = false;
            for step in 0..self.tries_alone() {
                taken = self.inside(|_| tx::hand_over(dev, skb));
                if taken {
                    break;
                }
                self.reap(step % PATIENCE == PATIENCE - 1);
                clock::spin_us(PAUSE_US);
            }
            self.lost = if taken { 0 } else { self.lost.saturating_add(1) };
        }
    }

    /// How often a frame is offered with nobody else left.
    fn tries_alone(&self) -> u32 {
        if self.lost < GIVE_UP {
            AFTER_STOP_TRIES
        } else {
            1
        }
    }

    fn drain_in_context(&mut self, tries: u32) {
        // What a device on top of others was given does not come back: it is only seen to that the ones below have room.
        let tries = if self.physical { tries } else { tries.min(LOWER_TRIES) };
        for step in 0..tries {
            if self.physical && self.sender.is_drained() {
                return;
            }
            self.reap(step % PATIENCE == PATIENCE - 1);
            clock::spin_us(PAUSE_US);
        }
    }

    fn reap(&mut self, thoroughly: bool) {
        let dev = self.device.raw();
        // SAFETY: The device is held and set up; interrupts are off, and the caller has made the context.
        unsafe {
            let reap_one = |dev| {
                reap::poll(dev);
                if thoroughly {
                    reap::run_interrupt_handler(dev);
                }
            };
            if self.physical {
                reap_one(dev);
            } else {
                reap::each_lower(dev, reap_one);
            }
        }
    }

    fn offer(&mut self) -> Tried {
        self.inside(Sender::flush_anywhere)
    }

    /// Calls what calls the driver's transmit function.
    fn inside<R>(&mut self, call: impl FnOnce(&mut Sender) -> R) -> R {
        self.entered = true;
        let result = call(&mut self.sender);
        self.entered = false;
        result
    }

    /// Writes the frame into one of the pool. False if there is none at the moment.
    fn write(&mut self, path: Path, payload: &[u8]) -> bool {
        self.ident = self.ident.wrapping_add(1);
        let Some(headers) = headers_for(&mut self.headers, path) else { return false };
        let headers_len = headers.headers_len();
        let Some(mut slot) = self.sender.free() else { return false };
        let frame = slot.frame();
        let Some(to) = frame.get_mut(headers_len..headers_len + payload.len()) else { return false };
        to.copy_from_slice(payload);
        let Some(emitted) = headers.emit(frame, payload.len(), self.ident) else { return false };
        let mut len = emitted.len;
        if let Some(pad) = frame.get_mut(len..MIN_FRAME_LEN) {
            pad.fill(0);
            len = MIN_FRAME_LEN;
        }
        slot.commit(len, emitted.ip, emitted.udp, path.local.is_ipv6(), Checksum::Done);
        true
    }
}

/// After each frame of a panic, with nobody else left: the machine may restart at any moment. 2 ms.
const DRAIN_TRIES: u32 = 200;
/// The same for a device on top of others: twice the round that ends with the interrupt handler.
const LOWER_TRIES: u32 = 2 * PATIENCE;
/// Before a dump takes the device. 100 ms.
const LAST_DRAIN_TRIES: u32 = 10_000;

/// The headers for `path`, made anew where it is not that of the last datagram. None if its ends are of two families.
fn headers_for(known: &mut Option<PreparedHeaders>, path: Path) -> Option<&PreparedHeaders> {
    if known.as_ref().is_none_or(|known| *known.path() != path) {
        *known = PreparedHeaders::new(path);
    }
    known.as_ref()
}

/// A buffer with so many bytes of data; where there is no memory, the driver may have some to give back.
///
/// # Safety
///
/// `dev` is held and set up, and interrupts are off.
unsafe fn find(dev: *mut bindings::net_device, len: c_uint) -> *mut bindings::sk_buff {
    for _ in 0..10 {
        // SAFETY: By this function's contract.
        unsafe {
            let skb = bindings::nd_netpoll_skb(dev, len);
            if !skb.is_null() {
                return skb;
            }
            bindings::netpoll_poll_dev(dev);
        }
    }
    core::ptr::null_mut()
}
