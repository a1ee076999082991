// SPDX-License-Identifier: GPL-2.0-only

//! Transmitting without the network stack, from a pool made beforehand.
//!
//! `netpoll_send_skb()` is not used: after one full queue it hands everything to a workqueue, which never runs again
//! (`net/core/netpoll.c`). Frames go straight to the driver, as pktgen does it: one extra reference is kept on each
//! buffer, so that the driver's free only lowers a count and no allocator is involved.

use super::bindings;
use super::stop_cpus::Attempt;
use super::volatile::Changed;
use core::ffi::{c_int, c_uint, c_void};
use kernel::prelude::*;

/// Buffers for a device that does not give them back: a panic has hardly more lines, and they take some 1 MiB.
const ONCE_POOL: usize = 512;
/// Buffers in the pool of a dump: a burst and a half.
pub const POOL: usize = 96;
/// Most transmit queues that are looked at.
const MAX_QUEUES: usize = 64;
const NETDEV_TX_OK: i32 = 0;

/// A transmit queue's lock at the time of the stop.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lock {
    /// We held it, so that nobody else did.
    Ours,
    /// It could not be had; perhaps a stopped CPU holds it for ever.
    Unknown,
}

/// Sends frames on one device.
pub struct Sender {
    dev: *mut bindings::net_device,
    skbs: KVec<*mut bindings::sk_buff>,
    /// How many of them are used.
    used: usize,
    next: usize,
    headroom: u32,
    frame_len: usize,
    pending: Option<*mut bindings::sk_buff>,
    /// The frame after that one.
    behind: Option<*mut bindings::sk_buff>,
    locks: [Lock; MAX_QUEUES],
    queue: u16,
    /// The device may not be given a buffer that we keep: each is used once, and of [`ONCE_POOL`].
    once: bool,
    /// Frames that the driver took.
    sent: u64,
    /// Times that the driver had no room.
    full: u64,
}

// SAFETY: See `Receiver`.
unsafe impl Send for Sender {}

/// What became of an attempt to send.
#[allow(dead_code)] // netconsole.ko's
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tried {
    /// The driver has the frame.
    Taken,
    /// It may take it in a moment.
    Busy,
    /// It will not as long as this goes on: this very CPU was interrupted while it held every queue's lock.
    Never,
}

/// What the NIC is to do about a frame's checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing.
    Done,
    /// Sum from this offset on, where the UDP header stands, to the end.
    Offload(usize),
}

impl Sender {
    /// Makes the pool. Process context; `dev` is held by the caller for the sender's life.
    pub(super) fn new(dev: *mut bindings::net_device, frame_len: usize, pool: usize) -> Result<Self> {
        // SAFETY: The device is held.
        let room = unsafe { bindings::nd_dev_room(dev) };
        let headroom = room.next_multiple_of(64) + 64;
        // SAFETY: The device is held.
        let once = !unsafe { bindings::nd_dev_shares_tx_skbs(dev) };
        let pool = if once { pool.max(ONCE_POOL) } else { pool };
        let mut sender = Self {
            dev,
            skbs: KVec::with_capacity(pool, GFP_KERNEL)?,
            used: pool,
            next: 0,
            headroom,
            frame_len,
            pending: None,
            behind: None,
            locks: [Lock::Unknown; MAX_QUEUES],
            queue: 0,
            once,
            sent: 0,
            full: 0,
        };
        // A device that cannot reach all memory has its frames copied to where it can, slot after slot of a large area
        // (swiotlb): slower, and no true picture of that area. Memory below 16 MiB every device reaches.
        // SAFETY: The device is held.
        let low = !unsafe { bindings::nd_dev_reaches_all_memory(dev) };
        for _ in 0..pool {
            let size = headroom + frame_len as u32 + room;
            // SAFETY: Process context.
            let mut skb = unsafe { bindings::nd_alloc_skb(size, low) };
            if skb.is_null() && low {
                // SAFETY: Process context.
                skb = unsafe { bindings::nd_alloc_skb(size, false) };
            }
            if skb.is_null() {
                return Err(ENOMEM);
            }
            sender.skbs.push(skb, GFP_KERNEL)?;
        }
        Ok(sender)
    }

    fn queues(&self) -> usize {
        queues(self.dev)
    }

    fn txq(&self, index: usize) -> *mut bindings::netdev_queue {
        txq(self.dev, index)
    }

    /// Takes every queue's lock that can be had within the attempt's time, while the other CPUs still run, and keeps
    /// those that it has already. Whether it has all but those that this very CPU held when it panicked. Panic path,
    /// before the stop.
    ///
    /// They are held for microseconds, but a hypervisor may keep the CPU that holds one waiting.
    pub(super) fn quiesce(&mut self, attempt: Attempt) -> bool {
        let this = super::system::cpu() as c_int;
        let mut left = attempt.limit_us / 10;
        let mut all = true;
        for index in 0..self.queues() {
            let txq = self.txq(index);
            let Some(lock) = self.locks.get_mut(index) else { break };
            while *lock == Lock::Unknown {
                // SAFETY: Tries; interrupts are off.
                if unsafe { bindings::nd_tx_trylock(self.dev, txq) } {
                    *lock = Lock::Ours;
                    break;
                }
                // SAFETY: Reads a word of a held device's queue.
                if unsafe { (&raw const (*txq).xmit_lock_owner).read_volatile() } == this {
                    break;
                } else if left == 0 || attempt.is_over() {
                    all = false;
                    break;
                } else {
                    left -= 1;
                    super::clock::spin_us(10);
                }
            }
        }
        all
    }

    /// Frees the locks that were taken before the stop. Panic path, after the stop.
    pub(super) fn let_go(&mut self) {
        for index in 0..self.queues() {
            let txq = self.txq(index);
            if let Some(lock @ Lock::Ours) = self.locks.get_mut(index) {
                *lock = Lock::Unknown;
                // SAFETY: Nobody else runs; see `take_over`.
                unsafe { bindings::nd_tx_lock_forget(txq) };
            }
        }
    }

    /// Frees the locks that were taken before the stop and chooses a queue. Panic path, after the stop.
    ///
    /// If none is free, the first one is used all the same: the panic came from inside the driver, or a CPU was
    /// stopped there. It may work, and without it there is no dump.
    pub(super) fn take_over(&mut self) {
        let mut chosen = None;
        for index in 0..self.queues() {
            let txq = self.txq(index);
            if self.locks.get(index) == Some(&Lock::Ours) {
                // CPUs that queued up behind us are stopped and stay in the lock's queue: it can only be made anew.
                // SAFETY: Nobody else runs.
                unsafe { bindings::nd_tx_lock_forget(txq) };
            }
            // A CPU that was stopped within netif_tx_lock(), in a watchdog or a reset, leaves its mark.
            // SAFETY: As above.
            unsafe { bindings::nd_txq_thaw(txq) };
            let free = lock_is_free(self.dev, txq);
            // SAFETY: Reads the queue's state.
            let stopped = unsafe { bindings::nd_txq_stopped(txq) };
            // A queue that is merely full empties; one that is locked for ever does not.
            if free && (chosen.is_none() || !stopped) {
                chosen = match chosen {
                    Some((_, false)) => chosen,
                    _ => Some((index, stopped)),
                };
            }
        }
        self.queue = chosen.map_or(0, |(index, _)| index as u16);
        if chosen.is_none() {
            // SAFETY: Nobody else runs, so nobody will ever give it back.
            unsafe { bindings::nd_tx_lock_reinit(self.txq(0)) };
        }
    }

    /// See [`may_poll`].
    pub(super) fn may_poll(&self, napi: *mut bindings::napi_struct) -> bool {
        may_poll(self.dev, napi)
    }

    /// Whether the NIC computes UDP checksums.
    pub fn offloads_checksum(&self, ipv6: bool) -> bool {
        // SAFETY: The device is held.
        unsafe { bindings::nd_features_checksum(self.dev, ipv6) }
    }

    /// A free buffer to write a frame into: its index and room. None while the NIC has them all. Panic path.
    pub fn free(&mut self) -> Option<Slot<'_>> {
        let count = self.skbs.len().min(self.used);
        for step in 0..count {
            let at = (self.next + step) % count;
            let Some(skb) = self.skbs.get(at).copied() else { continue };
            // SAFETY: Ours.
            if self.pending != Some(skb) && self.behind != Some(skb) && unsafe { bindings::nd_skb_users(skb) } == 1 {
                self.next = (at + 1) % count;
                return Some(Slot { sender: self, skb });
            }
            // They come back in the order in which they went: the oldest being busy means that all are.
            if step >= 8 {
                return None;
            }
        }
        None
    }

    /// Sends all frames that are pending. False if the driver does not take them now. Panic path.
    pub fn flush(&mut self) -> bool {
        while self.pending.is_some() {
            if !self.send(self.behind.is_some()) {
                return false;
            }
        }
        true
    }

    /// Sends the pending frame if another one is pending behind it: the NIC is told of the two together. False if the driver
    /// does not take it now. Panic path.
    pub fn advance(&mut self) -> bool {
        self.behind.is_none() || self.send(true)
    }

    /// `more` says that another frame follows at once, so that the NIC need not be told yet: it has to be there already, or
    /// the NIC might not hear of this one for a long time.
    fn send(&mut self, more: bool) -> bool {
        let Some(skb) = self.pending else { return true };
        let txq = self.txq(usize::from(self.queue));
        let Some(taken) = start(self.dev, txq, skb, more, !self.once) else { return false };
        if taken {
            self.pending = self.behind.take();
            if self.once {
                self.skbs.retain(|kept| *kept != skb);
            }
            self.sent += 1;
        } else {
            self.full += 1;
        }
        taken
    }

    /// Sends the frame that is pending through the first queue that takes it. Panic path.
    #[allow(dead_code)] // netconsole.ko's
    pub(super) fn flush_anywhere(&mut self) -> Tried {
        let this = super::system::cpu() as c_int;
        let count = self.queues();
        let mut tried = Tried::Never;
        for step in 0..count {
            let queue = (usize::from(self.queue) + step) % count;
            let txq = self.txq(queue);
            // SAFETY: Reads a word of a held device's queue.
            if unsafe { (&raw const (*txq).xmit_lock_owner).read_volatile() } == this {
                continue;
            }
            tried = Tried::Busy;
            let before = core::mem::replace(&mut self.queue, queue as u16);
            if let Some(skb) = self.pending {
                // SAFETY: Ours.
                unsafe { bindings::nd_skb_set_queue(skb, queue as u16) };
            }
            if self.flush() {
                return Tried::Taken;
            }
            self.queue = before;
        }
        tried
    }

    /// Forgets the frame that is pending. Panic path.
    #[allow(dead_code)] // netconsole.ko's
    pub(super) fn forget(&mut self) {
        self.pending = None;
        self.behind = None;
    }

    /// Whether the driver has none of the buffers any more. Panic path.
    #[allow(dead_code)] // netconsole.ko's
    pub(super) fn is_drained(&self) -> bool {
        // SAFETY: Ours.
        self.skbs.iter().all(|skb| unsafe { bindings::nd_skb_users(*skb) } == 1)
    }

    /// From now on only the first so many buffers are used. Panic path.
    #[allow(dead_code)] // netconsole.ko's
    pub(super) fn use_only(&mut self, count: usize) {
        self.used = count;
        self.next = 0;
    }

    /// What changes when the first so many buffers are used at a time. Panic path.
    pub(super) fn memory(&self, count: usize, mut add: impl FnMut(*const c_void, usize)) {
        let count = if self.once { self.skbs.len() } else { count };
        for skb in self.skbs.iter().take(count) {
            // SAFETY: Ours; addresses only.
            unsafe {
                add((*skb).cast(), size_of::<bindings::sk_buff>());
                add((**skb).head.cast(), (**skb).end as usize + bindings::nd_skb_shared_info_len() as usize);
            }
        }
    }

    /// Frames sent, and how often the driver had no room.
    pub fn counts(&self) -> (u64, u64) {
        (self.sent, self.full)
    }

    /// Reports the pool. Panic path.
    pub fn report(&self, changed: &mut Changed) {
        self.memory(usize::MAX, |start, len| changed.object(start, len, "pool"));
        changed.object(self.skbs.as_ptr().cast(), self.skbs.capacity() * size_of::<*const u8>(), "state");
    }
}

fn queues(dev: *mut bindings::net_device) -> usize {
    // SAFETY: The device is held.
    (unsafe { (*dev).real_num_tx_queues } as usize).min(MAX_QUEUES)
}

fn txq(dev: *mut bindings::net_device, index: usize) -> *mut bindings::netdev_queue {
    // SAFETY: `index` is below the number of queues (see the callers).
    unsafe { bindings::nd_txq(dev, index as c_uint) }
}

fn lock_is_free(dev: *mut bindings::net_device, txq: *mut bindings::netdev_queue) -> bool {
    // SAFETY: Tries, and gives back what it got.
    unsafe {
        let free = bindings::nd_tx_trylock(dev, txq);
        if free {
            bindings::nd_tx_unlock(dev, txq);
        }
        free
    }
}

/// Whether a NAPI of a held device may be polled: one that reaps a transmit queue takes that queue's lock, and would wait
/// for ever if a stopped CPU holds it (virtio_net, `virtnet_poll_tx`). Panic path.
pub(super) fn may_poll(dev: *mut bindings::net_device, napi: *mut bindings::napi_struct) -> bool {
    (0..queues(dev)).all(|index| {
        let txq = txq(dev, index);
        // SAFETY: Reads a pointer of a held device's queue.
        let reaps = unsafe { (*txq).napi == napi };
        !reaps || lock_is_free(dev, txq)
    })
}

/// Gives the driver a buffer, and keeps a reference to it if asked to. Whether the driver takes it; None if the queue's lock
/// cannot be had. Panic path.
fn start(
    dev: *mut bindings::net_device,
    txq: *mut bindings::netdev_queue,
    skb: *mut bindings::sk_buff,
    more: bool,
    keep: bool,
) -> Option<bool> {
    // SAFETY: The device is held, or below one that is; the buffer is complete and the caller's to give. The queue's lock is
    // held around the driver's function, as it expects. The extra reference is what the driver frees.
    unsafe {
        if !bindings::nd_tx_trylock(dev, txq) {
            return None;
        }
        let mut taken = false;
        if !bindings::nd_txq_stopped(txq) {
            if keep {
                bindings::nd_skb_get(skb);
            }
            taken = bindings::nd_start_xmit(skb, dev, txq, more) == NETDEV_TX_OK;
            if !taken && keep {
                bindings::nd_skb_put_ref(skb);
            }
        }
        bindings::nd_tx_unlock(dev, txq);
        Some(taken)
    }
}

/// Gives a held device a buffer of somebody else's, who has made it complete and has no more use for it. False if no queue
/// takes it now. Panic path, with the other CPUs stopped.
#[allow(dead_code)] // netconsole.ko's
pub(super) fn hand_over(dev: *mut bindings::net_device, skb: *mut bindings::sk_buff) -> bool {
    (0..queues(dev)).any(|index| {
        // SAFETY: Nobody else has the buffer.
        unsafe { bindings::nd_skb_set_queue(skb, index as u16) };
        start(dev, txq(dev, index), skb, false, false) == Some(true)
    })
}

impl Drop for Sender {
    fn drop(&mut self) {
        for skb in self.skbs.iter() {
            // SAFETY: The pool's own reference; a driver that still has one frees the buffer later.
            unsafe { bindings::nd_kfree_skb(*skb) };
        }
    }
}

/// A free buffer.
pub struct Slot<'a> {
    sender: &'a mut Sender,
    skb: *mut bindings::sk_buff,
}

impl Slot<'_> {
    /// Where the frame goes, from its first byte on.
    pub fn frame(&mut self) -> &mut [u8] {
        // SAFETY: The buffer is ours alone (one reference) and has that much room behind the headroom.
        unsafe {
            bindings::nd_skb_rewind(self.skb, self.sender.headroom);
            core::slice::from_raw_parts_mut((*self.skb).data, self.sender.frame_len)
        }
    }

    /// Makes the first `len` bytes a pending frame. Of those before, one may still be pending. Panic path.
    pub fn commit(self, len: usize, ip: usize, udp: usize, ipv6: bool, checksum: Checksum) {
        let Self { sender, skb } = self;
        let len = len.min(sender.frame_len);
        // SAFETY: As in `frame`; the offsets lie inside the frame that was written.
        unsafe {
            bindings::nd_skb_rewind(skb, sender.headroom);
            bindings::skb_put(skb, len as c_uint);
            (*skb).__bindgen_anon_1.__bindgen_anon_1.__bindgen_anon_1.dev = sender.dev;
            bindings::nd_skb_offsets(skb, ip as c_uint, udp as c_uint, ipv6, sender.queue);
            if let Checksum::Offload(start) = checksum {
                bindings::nd_skb_checksum_partial(skb, start as c_uint);
            }
        }
        match sender.pending {
            Some(_) => sender.behind = Some(skb),
            None => sender.pending = Some(skb),
        }
    }
}
