// SPDX-License-Identifier: GPL-2.0-only

//! Receiving without the network stack.
//!
//! Once the other CPUs are stopped, the device's NAPI poll functions are called directly, and what they hand up is
//! caught before it reaches the stack, in two nets (`net/core/gro.c`, `net/core/dev.c`):
//!
//! * With GRO switched off on the device and the batch limit raised, `napi_gro_receive()` only appends to the NAPI's
//!   list of normal packets. It is emptied after each poll.
//! * Drivers that call `netif_receive_skb()` instead are caught by an `rx_handler`; what sits in front of it (taps,
//!   XDP, tc, RPS) is disconnected.
//!
//! Everything that is changed for this is remembered and put back when the dump ends.

use super::bindings;
use super::stop_cpus::Attempt;
use super::volatile::{Changed, PAGE_SIZE};
#[cfg(CONFIG_RPS)]
use core::ffi::c_uint;
use core::ffi::{c_int, c_void};
use core::mem::ManuallyDrop;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use kernel::prelude::*;

const SCHED: usize = 1 << bindings::NAPI_STATE_SCHED;
const DISABLE: usize = 1 << bindings::NAPI_STATE_DISABLE;
const NPSVC: usize = 1 << bindings::NAPI_STATE_NPSVC;
const IN_BUSY_POLL: usize = 1 << bindings::NAPI_STATE_IN_BUSY_POLL;

/// Most NAPIs of one device that are used.
const MAX_NAPIS: usize = 256;
/// Most received frames that wait to be looked at; the rest is dropped, as a NIC would.
const MAX_FRAMES: usize = 512;
/// Most receive queues whose steering is switched off.
#[cfg(CONFIG_RPS)]
const MAX_RX_QUEUES: usize = 256;
/// Buffers that are given to this CPU's cache at the take-over (it holds up to 128), so that the driver need not ask
/// the allocator for the first ones and ours come back to it afterwards.
const SPARES: usize = 64;
/// Bytes of a spare's data: the allocator's smallest kind.
const SPARE_LEN: u32 = 128;
/// Pages that are given to this CPU's lists for the same reason: how many, of which order. Drivers refill their rings
/// from single pages, of which a page pool takes 64 at a time, or from runs of eight; what they free comes back to the
/// same lists.
const SPARE_PAGES: [(usize, u32); 2] = [(72, 0), (1, 3)];
/// Packets that one poll may bring.
pub const BUDGET: i32 = 64;

/// The most one NAPI can tell about itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Napi {
    /// Ours to poll.
    Clean,
    /// It was running when its CPU stopped: the driver's indices are half written, polling it may crash.
    Dirty,
}

/// How the take-over went, for the console and for status.
#[derive(Clone, Copy, Default, Debug)]
pub struct Taken {
    /// NAPIs that can be polled.
    pub clean: usize,
    /// NAPIs that were running when their CPU was stopped, or were switched off.
    pub dirty: usize,
}

/// Everything for receiving on one device.
pub struct Receiver {
    dev: *mut bindings::net_device,
    napis: KVec<(*mut bindings::napi_struct, Napi)>,
    queue: KBox<FrameQueue>,
    spares: KVec<Spare>,
    spare_pages: KVec<SparePage>,
    saved: Option<Saved>,
    /// Which NAPI brought the last frame.
    active: usize,
    turn: usize,
}

/// What was changed, to be put back. What a kernel was built without needs no saving.
struct Saved {
    features: bindings::netdev_features_t,
    batch: c_int,
    rx_handler: bindings::rx_handler_func_t,
    rx_handler_data: *mut c_void,
    xdp_prog: *mut bindings::bpf_prog,
    #[cfg(CONFIG_NET_XGRESS)]
    tcx_ingress: *mut bindings::bpf_mprog_entry,
    #[cfg(CONFIG_NETFILTER_INGRESS)]
    nf_hooks_ingress: *mut bindings::nf_hook_entries,
    vlan_info: *mut bindings::vlan_info,
    ptype_all: [bindings::list_head; 2],
    #[cfg(CONFIG_RPS)]
    rps: KVec<(*mut bindings::rps_map, bindings::rps_tag_ptr)>,
}

/// Frames that have been caught and not yet looked at: a ring.
struct FrameQueue {
    skbs: [*mut bindings::sk_buff; MAX_FRAMES],
    head: usize,
    len: usize,
    dropped: u32,
}

static QUEUE: AtomicPtr<FrameQueue> = AtomicPtr::new(null_mut());

// SAFETY: The pointers belong to a device that is held for as long as the receiver lives; only one context at a time
// uses them (process context when arming, then the panicking CPU alone).
unsafe impl Send for Receiver {}

fn state(napi: *mut bindings::napi_struct) -> &'static AtomicUsize {
    // SAFETY: A NAPI of a held device; its state is only ever accessed atomically.
    unsafe { AtomicUsize::from_ptr((&raw mut (*napi).state).cast()) }
}

fn poll_owner(napi: *mut bindings::napi_struct) -> &'static AtomicI32 {
    // SAFETY: As above.
    unsafe { AtomicI32::from_ptr(&raw mut (*napi).poll_owner) }
}

impl Receiver {
    /// Makes room for what will be needed. Process context; `dev` is held by the caller for the receiver's life.
    pub(super) fn new(dev: *mut bindings::net_device) -> Result<Self> {
        let mut queue = KBox::<FrameQueue>::new_uninit(GFP_KERNEL)?;
        // SAFETY: The memory is ours, and all zeroes is an empty ring.
        let queue = unsafe {
            queue.as_mut_ptr().write_bytes(0, 1);
            queue.assume_init()
        };
        let mut spares = KVec::with_capacity(SPARES, GFP_KERNEL)?;
        for _ in 0..SPARES {
            // SAFETY: Process context.
            let skb = unsafe { bindings::nd_alloc_skb(SPARE_LEN, false) };
            if skb.is_null() {
                return Err(ENOMEM);
            }
            spares.push(Spare(ManuallyDrop::new(Received(skb))), GFP_KERNEL)?;
        }
        let mut spare_pages = KVec::new();
        for (count, order) in SPARE_PAGES {
            for _ in 0..count {
                spare_pages.push(SparePage::new(order)?, GFP_KERNEL)?;
            }
        }
        Ok(Self {
            dev,
            napis: KVec::with_capacity(MAX_NAPIS, GFP_KERNEL)?,
            queue,
            spares,
            spare_pages,
            saved: Some(Saved {
                features: 0,
                batch: 0,
                rx_handler: None,
                rx_handler_data: null_mut(),
                xdp_prog: null_mut(),
                #[cfg(CONFIG_NET_XGRESS)]
                tcx_ingress: null_mut(),
                #[cfg(CONFIG_NETFILTER_INGRESS)]
                nf_hooks_ingress: null_mut(),
                vlan_info: null_mut(),
                ptype_all: [bindings::list_head::default(); 2],
                #[cfg(CONFIG_RPS)]
                rps: KVec::with_capacity(MAX_RX_QUEUES, GFP_KERNEL)?,
            }),
            active: 0,
            turn: 0,
        })
    }

    /// Takes every NAPI whose poll function is left within the attempt's time, while the other CPUs still run, and
    /// keeps those that it has already. Whether it has all. Panic path, before the stop.
    ///
    /// `poll_owner` is netpoll's lock around the poll function: with it in our hands nobody begins one, not even on
    /// a busy queue that is polled over and over. A poll runs for microseconds to milliseconds.
    ///
    /// One that this very CPU was polling when it panicked stays as it is: nothing will end that poll.
    pub(super) fn quiesce(&mut self, attempt: Attempt) -> bool {
        if self.napis.is_empty() {
            self.list();
        }
        let this = super::system::cpu() as i32;
        let mut left = attempt.limit_us / 10;
        let mut all = true;
        for (napi, kind) in self.napis.iter_mut() {
            while *kind == Napi::Dirty && !switched_off(*napi) && poll_owner(*napi).load(Ordering::Relaxed) != this {
                if try_take(*napi) {
                    *kind = Napi::Clean;
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

    /// Lets go of what was taken before the stop; the take-over will have it again. Panic path, after the stop.
    pub(super) fn let_go(&mut self) {
        for (napi, kind) in self.napis.iter_mut() {
            if *kind == Napi::Clean {
                *kind = Napi::Dirty;
                poll_owner(*napi).store(-1, Ordering::Release);
            }
        }
    }

    fn list(&mut self) {
        self.napis.clear();
        // SAFETY: The list changes only under RTNL or the device's lock; a CPU that is changing it has at most to
        // be outwaited, and each entry is inserted whole. The walk is bounded by the room for entries.
        unsafe {
            let head = &raw mut (*self.dev).napi_list;
            let mut at = (*head).next;
            while at != head && !at.is_null() {
                let napi = at.byte_sub(core::mem::offset_of!(bindings::napi_struct, dev_list)).cast();
                if self.napis.push_within_capacity((napi, Napi::Dirty)).is_err() {
                    break;
                }
                at = (*at).next;
            }
        }
    }

    /// Takes over the rest after the stop, and spreads both nets. Panic path.
    pub fn take_over(&mut self) -> Taken {
        if self.napis.is_empty() {
            self.list();
        }
        let mut taken = Taken::default();
        for (napi, kind) in self.napis.iter_mut() {
            // Nobody is left to race with: what is free now was only busy before.
            if *kind == Napi::Dirty && try_take(*napi) {
                *kind = Napi::Clean;
            }
            match kind {
                Napi::Clean => taken.clean += 1,
                Napi::Dirty => taken.dirty += 1,
            }
        }
        if taken.clean == 0 {
            self.force();
        }
        self.spread_nets();
        taken
    }

    /// The last resort when every poll function was interrupted half way, say by a panic inside the only one. Some
    /// drivers can be polled all the same (virtio_net); with others this ends in a fault, and so does the dump, which
    /// would not have begun otherwise.
    fn force(&mut self) {
        let this = super::system::cpu() as i32;
        for (napi, kind) in self.napis.iter_mut() {
            if !switched_off(*napi) {
                poll_owner(*napi).store(this, Ordering::Release);
                state(*napi).fetch_or(SCHED | IN_BUSY_POLL, Ordering::AcqRel);
                *kind = Napi::Clean;
            }
        }
    }

    fn spread_nets(&mut self) {
        QUEUE.store(&raw mut *self.queue, Ordering::Release);
        let Some(saved) = self.saved.as_mut() else { return };
        let dev = self.dev;
        // SAFETY: The other CPUs are stopped and interrupts are off: plain accesses to a held device and to the
        // stack's own data race with nobody.
        unsafe {
            saved.features = (*dev).features;
            (*dev).features &= !(bindings::nd_feature_gro() as bindings::netdev_features_t);
            let batch = &raw mut bindings::net_hotdata.gro_normal_batch;
            saved.batch = batch.read();
            batch.write_volatile(c_int::MAX);

            saved.rx_handler_data = (*dev).rx_handler_data;
            saved.rx_handler = (*dev).rx_handler;
            (*dev).rx_handler = Some(catch);
            saved.xdp_prog = core::mem::replace(&mut (*dev).xdp_prog, null_mut());
            #[cfg(CONFIG_NET_XGRESS)]
            {
                saved.tcx_ingress = core::mem::replace(&mut (*dev).tcx_ingress, null_mut());
            }
            #[cfg(CONFIG_NETFILTER_INGRESS)]
            {
                saved.nf_hooks_ingress = core::mem::replace(&mut (*dev).nf_hooks_ingress, null_mut());
            }
            let vlan_info = (&raw mut (*dev).vlan_info).cast::<*mut bindings::vlan_info>();
            saved.vlan_info = vlan_info.replace(null_mut());
            let taps = [&raw mut (*dev).ptype_all, bindings::nd_net_ptype_all(dev)];
            for (list, saved) in taps.into_iter().zip(saved.ptype_all.iter_mut()) {
                *saved = *list;
                (*list).next = list;
                (*list).prev = list;
            }
            #[cfg(CONFIG_RPS)]
            for index in 0..((*dev).num_rx_queues).min(MAX_RX_QUEUES as c_uint) {
                let queue = bindings::nd_rxq(dev, index);
                let steering = ((*queue).rps_map, (*queue).rps_flow_table);
                if saved.rps.push_within_capacity(steering).is_ok() {
                    (*queue).rps_map = null_mut();
                    (*queue).rps_flow_table = 0;
                }
            }
        }
    }

    /// Gives the spare buffers and pages to this CPU's caches. Panic path, in softirq context.
    pub(super) fn donate(&mut self) {
        while let Some(pages) = self.spare_pages.pop() {
            drop(pages);
        }
        while let Some(spare) = self.spares.pop() {
            spare.give();
        }
    }

    /// Polls the NIC once. Panic path.
    ///
    /// The NAPI that brought the last frame each time, one of the others in turn: neighbours' questions may hash
    /// elsewhere. `tx_lock_free` says whether a NAPI that takes a transmit lock may be polled.
    pub(super) fn poll(&mut self, tx_lock_free: impl Fn(*mut bindings::napi_struct) -> bool) {
        let count = self.napis.len();
        if count == 0 {
            return;
        }
        self.turn = self.turn.wrapping_add(1);
        for at in [self.active % count, self.turn % count] {
            if let Some((napi, Napi::Clean)) = self.napis.get(at).copied() {
                if !tx_lock_free(napi) {
                    continue;
                }
                if poll_one(napi, &mut self.queue) {
                    self.active = at;
                }
            }
            if self.active % count == self.turn % count {
                break;
            }
        }
    }

    /// Polls every NAPI that may be polled, for transmit completions. Panic path.
    pub(super) fn poll_all(&mut self, tx_lock_free: impl Fn(*mut bindings::napi_struct) -> bool) {
        for (napi, kind) in self.napis.iter() {
            if *kind == Napi::Clean && tx_lock_free(*napi) {
                poll_one(*napi, &mut self.queue);
            }
        }
    }

    /// The next frame that was caught. Panic path.
    pub fn next(&mut self) -> Option<Received> {
        self.queue.pop().map(Received)
    }

    /// Frames that were caught and found no room.
    pub fn dropped(&self) -> u32 {
        self.queue.dropped
    }

    /// Puts back what [`Receiver::take_over`] changed. Panic path. The NAPIs stay ours: the CPUs that would poll
    /// them are gone.
    pub fn give_back(&mut self) {
        while let Some(frame) = self.next() {
            drop(frame);
        }
        // Whoever prints over this NIC from now on may.
        for (napi, kind) in self.napis.iter() {
            if *kind == Napi::Clean {
                poll_owner(*napi).store(-1, Ordering::Release);
            }
        }
        QUEUE.store(null_mut(), Ordering::Release);
        let Some(saved) = self.saved.as_mut() else { return };
        let dev = self.dev;
        // SAFETY: As in `spread_nets`.
        unsafe {
            (*dev).features = saved.features;
            (&raw mut bindings::net_hotdata.gro_normal_batch).write_volatile(saved.batch);
            (*dev).rx_handler_data = saved.rx_handler_data;
            (*dev).rx_handler = saved.rx_handler;
            (*dev).xdp_prog = saved.xdp_prog;
            #[cfg(CONFIG_NET_XGRESS)]
            {
                (*dev).tcx_ingress = saved.tcx_ingress;
            }
            #[cfg(CONFIG_NETFILTER_INGRESS)]
            {
                (*dev).nf_hooks_ingress = saved.nf_hooks_ingress;
            }
            (&raw mut (*dev).vlan_info).cast::<*mut bindings::vlan_info>().write(saved.vlan_info);
            let taps = [&raw mut (*dev).ptype_all, bindings::nd_net_ptype_all(dev)];
            for (list, saved) in taps.into_iter().zip(saved.ptype_all) {
                *list = saved;
            }
            #[cfg(CONFIG_RPS)]
            for (index, (map, table)) in saved.rps.iter().enumerate() {
                let queue = bindings::nd_rxq(dev, index as c_uint);
                (*queue).rps_map = *map;
                (*queue).rps_flow_table = *table;
            }
            #[cfg(CONFIG_RPS)]
            saved.rps.clear();
        }
    }

    /// Reports what receiving changes. Panic path.
    pub fn report(&self, changed: &mut Changed) {
        let dev = self.dev;
        // SAFETY: Sizes and addresses of a held device; nothing is dereferenced but the device itself.
        unsafe {
            let len = size_of::<bindings::net_device>() + (*dev).priv_len as usize;
            changed.object(dev.cast(), len, "netdev");
            changed.object(
                (*dev)._tx.cast(),
                (*dev).num_tx_queues as usize * size_of::<bindings::netdev_queue>(),
                "netdev",
            );
            changed.object(
                (*dev)._rx.cast(),
                (*dev).num_rx_queues as usize * size_of::<bindings::netdev_rx_queue>(),
                "netdev",
            );
            changed.object(
                (&raw const bindings::net_hotdata).cast(),
                size_of::<bindings::net_hotdata>(),
                "net_hotdata",
            );
            changed.object(bindings::nd_softnet().cast(), size_of::<bindings::softnet_data>(), "softnet_data");
            changed.object(bindings::nd_net_ptype_all(dev).cast(), size_of::<bindings::list_head>(), "net");
        }
        for (napi, _) in self.napis.iter() {
            changed.object((*napi).cast(), size_of::<bindings::napi_struct>(), "napi");
        }
        for spare in self.spares.iter() {
            spare.0.report(changed);
        }
        for pages in self.spare_pages.iter() {
            pages.report(changed);
        }
        changed.value(&*self.queue, "state");
        changed.place(&raw const QUEUE, "state");
        changed.object(self.napis.as_ptr().cast(), MAX_NAPIS * size_of::<(usize, Napi)>(), "state");
    }
}

/// Whether a NAPI is of no use: the device is down or being reset.
fn switched_off(napi: *mut bindings::napi_struct) -> bool {
    state(napi).load(Ordering::Acquire) & (DISABLE | NPSVC) != 0
}

/// Takes a NAPI unless somebody is inside its poll function, or it is switched off.
fn try_take(napi: *mut bindings::napi_struct) -> bool {
    let this = super::system::cpu() as i32;
    let owner = poll_owner(napi);
    if owner.compare_exchange(-1, this, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return false;
    }
    if switched_off(napi) {
        owner.store(-1, Ordering::Release);
        return false;
    }
    // Idle, or queued on a CPU that will never get to it: from now on the driver cannot schedule or complete it.
    state(napi).fetch_or(SCHED | IN_BUSY_POLL, Ordering::AcqRel);
    true
}

/// Whether it brought anything.
fn poll_one(napi: *mut bindings::napi_struct, queue: &mut FrameQueue) -> bool {
    let this = super::system::cpu() as i32;
    let before = queue.len;
    // SAFETY: The NAPI is ours (`try_take` or `force`); the driver's poll function expects softirq
    // context, which the dump's caller has entered. What it hands up lands in `gro.rx_list` or in `catch`.
    unsafe {
        (*napi).list_owner = this;
        if (*napi).poll.is_some() {
            bindings::nd_napi_poll(napi, BUDGET);
        }
        let list = &raw mut (*napi).gro.rx_list;
        let mut at = (*list).next;
        (*list).next = list;
        (*list).prev = list;
        (*napi).gro.rx_count = 0;
        while at != list && !at.is_null() {
            let next = (*at).next;
            let skb: *mut bindings::sk_buff =
                at.byte_sub(core::mem::offset_of!(bindings::sk_buff, __bindgen_anon_1)).cast();
            queue.push(skb);
            at = next;
        }
    }
    queue.len > before
}

/// The second net: an `rx_handler`.
///
/// # Safety
///
/// For the network stack alone: `skb` points to a received buffer, which becomes ours unless we pass it on.
unsafe extern "C" fn catch(skb: *mut *mut bindings::sk_buff) -> bindings::rx_handler_result_t {
    // SAFETY: Set in `spread_nets` to a queue that lives until `give_back`; only this CPU runs.
    match unsafe { QUEUE.load(Ordering::Acquire).as_mut() } {
        Some(queue) => {
            // SAFETY: By this function's contract.
            queue.push(unsafe { *skb });
            bindings::rx_handler_result_RX_HANDLER_CONSUMED
        }
        None => bindings::rx_handler_result_RX_HANDLER_PASS,
    }
}

impl FrameQueue {
    fn push(&mut self, skb: *mut bindings::sk_buff) {
        let at = (self.head + self.len) % MAX_FRAMES;
        match self.skbs.get_mut(at) {
            Some(slot) if self.len < MAX_FRAMES => {
                *slot = skb;
                self.len += 1;
            }
            _ => {
                self.dropped = self.dropped.wrapping_add(1);
                drop(Received(skb));
            }
        }
    }

    fn pop(&mut self) -> Option<*mut bindings::sk_buff> {
        if self.len == 0 {
            return None;
        }
        let skb = self.skbs.get(self.head).copied();
        self.head = (self.head + 1) % MAX_FRAMES;
        self.len -= 1;
        skb
    }
}

/// Pages to give away.
struct SparePage {
    page: *mut bindings::page,
    order: u32,
}

impl SparePage {
    fn new(order: u32) -> Result<Self> {
        // SAFETY: Process context.
        let page = unsafe { bindings::nd_alloc_pages(order) };
        if page.is_null() {
            return Err(ENOMEM);
        }
        Ok(Self { page, order })
    }

    fn report(&self, changed: &mut Changed) {
        // SAFETY: The pages are ours.
        let start = unsafe { bindings::nd_page_to_phys(self.page) };
        for index in 0..1u64 << self.order {
            changed.page(start.saturating_add(index * PAGE_SIZE), "spare");
        }
        changed.object(self.page.cast(), size_of::<bindings::page>() << self.order, "struct page");
    }
}

impl Drop for SparePage {
    fn drop(&mut self) {
        // SAFETY: Ours. Small orders go to this CPU's lists under a try-lock.
        unsafe { bindings::__free_pages(self.page, self.order) };
    }
}

/// A buffer that waits for the panic. A module that is unloaded frees it like any other: a CPU's cache is for softirqs.
struct Spare(ManuallyDrop<Received>);

impl Spare {
    /// Gives it to this CPU's cache. Panic path, in softirq context.
    fn give(self) {
        let skb = self.0 .0;
        core::mem::forget(self);
        drop(Received(skb));
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        // SAFETY: The buffer is ours, and nobody drops it in there. Without a budget any context will do.
        unsafe { bindings::napi_consume_skb(self.0 .0, 0) };
    }
}

/// Copies the beginning of a received frame, from the Ethernet header on; how much was copied. Any context.
///
/// # Safety
///
/// `skb` is a received buffer that stays while this runs.
pub(super) unsafe fn copy(skb: *mut bindings::sk_buff, buffer: &mut [u8]) -> usize {
    // SAFETY: By this function's contract. `data` stands behind the Ethernet header (eth_type_trans), which is in front of it in
    // the same head; `skb_copy_bits` checks the rest.
    unsafe {
        let mac_len = ((*skb).data as usize).wrapping_sub(bindings::nd_skb_mac_header(skb) as usize);
        let total = mac_len.saturating_add((*skb).len as usize);
        let len = total.min(buffer.len());
        if mac_len > 64
            || bindings::skb_copy_bits(skb, -(mac_len as c_int), buffer.as_mut_ptr().cast(), len as c_int) != 0
        {
            return 0;
        }
        len
    }
}

/// Whether the UDP checksum of a received frame need not be looked at again. Any context.
///
/// # Safety
///
/// As for [`copy`].
pub(super) unsafe fn checksum_trusted(skb: *mut bindings::sk_buff) -> bool {
    // SAFETY: By this function's contract.
    let summed = unsafe { bindings::nd_skb_summed(skb) };
    summed == bindings::CHECKSUM_UNNECESSARY || summed == bindings::CHECKSUM_PARTIAL
}

/// A received frame.
pub struct Received(*mut bindings::sk_buff);

impl Received {
    /// Copies the frame's beginning, from the Ethernet header on; how much was copied. Panic path.
    pub fn copy_to(&self, buffer: &mut [u8]) -> usize {
        // SAFETY: The buffer is ours.
        unsafe { copy(self.0, buffer) }
    }

    /// Whether the UDP checksum need not be looked at again.
    pub fn checksum_trusted(&self) -> bool {
        // SAFETY: The buffer is ours.
        unsafe { checksum_trusted(self.0) }
    }

    /// Reports the memory that came with it. Panic path.
    pub fn report(&self, changed: &mut Changed) {
        // SAFETY: The buffer is ours; head, end and fragments are what the driver set up.
        unsafe {
            let skb = self.0;
            changed.object(skb.cast(), size_of::<bindings::sk_buff>(), "skb");
            let len = (*skb).end as usize + bindings::nd_skb_shared_info_len() as usize;
            changed.object((*skb).head.cast(), len, "rxbuf");
            for index in 0..bindings::nd_skb_frags(skb).min(bindings::MAX_SKB_FRAGS) {
                let page = bindings::nd_skb_frag_page(skb, index);
                changed.page(bindings::nd_page_to_phys(page) as u64, "rxbuf");
                changed.object(page.cast(), size_of::<bindings::page>(), "struct page");
            }
        }
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        // SAFETY: The buffer is ours. It goes back to this CPU's cache, not to the slab.
        unsafe { bindings::nd_skb_to_cache(self.0) };
    }
}
