// SPDX-License-Identifier: GPL-2.0-only

//! A frame out and its answer in, while the machine is well: out through the driver as in a panic, past the network stack, and
//! in before any firewall, as in a panic. Process context, but for what the kernel calls.

use super::bindings;
use super::nic::{self, NotUsable};
use super::rx;
use super::tx::{Sender, Slot};
use super::{clock, system};
use core::cell::UnsafeCell;
use core::ffi::c_int;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use kernel::prelude::*;

/// Bytes of an answer that are looked at, from its Ethernet header on.
pub const MAX_HEARD: usize = 384;
/// The driver is tried so often, 10 µs apart.
const TRIES: u32 = 100;
/// `ETH_P_IP` and `ETH_P_IPV6` of `if_ether.h`.
const ETHERTYPES: [u16; 2] = [0x0800, 0x86dd];

/// Whether a frame may be the answer, by a first look. Softirq context, on several CPUs at a time.
pub type Look = fn(&[u8], bool) -> bool;

struct Hook(UnsafeCell<bindings::packet_type>);

// SAFETY: Written only while it is not registered; while it is, only the network stack touches it.
unsafe impl Sync for Hook {}

static HOOK: Hook = Hook(UnsafeCell::new(
    // SAFETY: All zeroes are no function and null pointers.
    unsafe { core::mem::zeroed() },
));
static LOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static HEARD_CALL: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// One frame that may be the answer.
struct Cell {
    state: AtomicU32,
    frame: UnsafeCell<[u8; MAX_HEARD]>,
    len: AtomicU32,
    trusted: AtomicU32,
    at: AtomicU64,
}

const EMPTY: u32 = 0;
const BUSY: u32 = 1;
const FULL: u32 = 2;

// SAFETY: The frame is written by whoever made it BUSY from EMPTY, and read by whoever finds it FULL, which is process context
// under the module's mutex.
unsafe impl Sync for Cell {}

static HEARD: Cell = Cell {
    state: AtomicU32::new(EMPTY),
    frame: UnsafeCell::new([0; MAX_HEARD]),
    len: AtomicU32::new(0),
    trusted: AtomicU32::new(0),
    at: AtomicU64::new(0),
};

/// Listens for answers for as long as it lives. One exists at a time.
pub struct Listening(());

/// A frame that may be the answer.
pub struct Heard {
    frame: [u8; MAX_HEARD],
    len: usize,
    /// Whether its UDP checksum need not be looked at.
    pub checksum_trusted: bool,
    /// When it came, by [`clock::monotonic`].
    pub at: u64,
}

impl Heard {
    /// From its Ethernet header on.
    pub fn frame(&self) -> &[u8] {
        self.frame.get(..self.len).unwrap_or(&[])
    }
}

impl Listening {
    /// Begins. `look` chooses among all packets of the address family, `heard` is called after one was chosen, in softirq
    /// context. The caller holds what is there once.
    pub fn start(ipv6: bool, look: Look, heard: fn()) -> Self {
        LOOK.store(look as *mut (), Ordering::Release);
        HEARD_CALL.store(heard as *mut (), Ordering::Release);
        HEARD.state.store(EMPTY, Ordering::Release);
        let [v4, v6] = ETHERTYPES;
        // SAFETY: It is not registered: there is one `Listening`, whose drop waits until nobody looks at it.
        unsafe {
            let hook = HOOK.0.get();
            (*hook).type_ = (if ipv6 { v6 } else { v4 }).to_be();
            (*hook).func = Some(hear);
            bindings::dev_add_pack(hook);
        }
        Self(())
    }

    /// What was heard since, if anything.
    pub fn take(&mut self) -> Option<Heard> {
        if HEARD.state.load(Ordering::Acquire) != FULL {
            return None;
        }
        // SAFETY: FULL: nobody writes to it until it is EMPTY, and we are its one reader (`&mut self`).
        let frame = unsafe { *HEARD.frame.get() };
        let heard = Heard {
            frame,
            len: HEARD.len.load(Ordering::Relaxed) as usize,
            checksum_trusted: HEARD.trusted.load(Ordering::Relaxed) != 0,
            at: HEARD.at.load(Ordering::Relaxed),
        };
        HEARD.state.store(EMPTY, Ordering::Release);
        Some(heard)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // SAFETY: Registered by `start`. Waits until no CPU is in `hear`.
        unsafe { bindings::dev_remove_pack(HOOK.0.get()) };
    }
}

/// # Safety
///
/// For the network stack alone: `skb` is a packet of which we have a reference.
unsafe extern "C" fn hear(
    skb: *mut bindings::sk_buff,
    _: *mut bindings::net_device,
    _: *mut bindings::packet_type,
    _: *mut bindings::net_device,
) -> c_int {
    let mut frame = [0; MAX_HEARD];
    // SAFETY: By this function's contract it is a live packet, which is only read, and then given back.
    let (len, trusted) = unsafe {
        let len = rx::copy(skb, &mut frame);
        let trusted = rx::checksum_trusted(skb);
        // Not `kfree_skb`, which drop monitors take for a loss.
        bindings::napi_consume_skb(skb, 0);
        (len, trusted)
    };
    let look = LOOK.load(Ordering::Acquire);
    // SAFETY: Stored by `start`, before it was registered, from a `Look`.
    let look: Look = unsafe { core::mem::transmute(look) };
    if look(frame.get(..len).unwrap_or(&[]), trusted)
        && HEARD.state.compare_exchange(EMPTY, BUSY, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    {
        // SAFETY: We made it BUSY.
        unsafe { *HEARD.frame.get() = frame };
        HEARD.len.store(len as u32, Ordering::Relaxed);
        HEARD.trusted.store(u32::from(trusted), Ordering::Relaxed);
        HEARD.at.store(clock::monotonic(), Ordering::Relaxed);
        HEARD.state.store(FULL, Ordering::Release);
        let call = HEARD_CALL.load(Ordering::Acquire);
        // SAFETY: Stored by `start` from a `fn()`.
        let call: fn() = unsafe { core::mem::transmute(call) };
        call();
    }
    0
}

/// Sends one frame through device `ifindex` as a dump does. `write` fills a buffer for it, and is told whether the NIC computes
/// checksums; it says false if it cannot. Whether the driver took it.
pub fn send(
    ifindex: i32,
    frame_len: usize,
    ipv6: bool,
    write: impl FnOnce(Slot<'_>, bool) -> bool,
) -> Result<bool, NotUsable> {
    nic::with_usable(ifindex, |dev| {
        let mut sender = Sender::new(dev, frame_len, 1).map_err(|_| NotUsable::NoMemory)?;
        let offload = sender.offloads_checksum(ipv6);
        let Some(slot) = sender.free() else { return Ok(false) };
        if !write(slot, offload) {
            return Ok(false);
        }
        for _ in 0..TRIES {
            let sent = system::without_softirqs(|| sender.flush());
            if sent {
                return Ok(true);
            }
            clock::spin_us(10);
        }
        Ok(false)
    })
}
