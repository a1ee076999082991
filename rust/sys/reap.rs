// SPDX-License-Identifier: GPL-2.0-only

//! Transmitted frames given back by the driver, without interrupts.

use super::bindings;
use super::tx;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

const NPSVC: usize = 1 << bindings::NAPI_STATE_NPSVC;
/// Most NAPIs of a device that are looked at.
const MAX_NAPIS: usize = 256;

/// Calls `f` with the NAPIs of a device. Panic path.
///
/// # Safety
///
/// `dev` is held. Entries come and go under RTNL, each of them whole.
unsafe fn each_napi(dev: *mut bindings::net_device, mut f: impl FnMut(*mut bindings::napi_struct)) {
    // SAFETY: By this function's contract; interrupts are off, so that none is freed meanwhile.
    unsafe {
        let head = &raw mut (*dev).napi_list;
        let mut at = (*head).next;
        for _ in 0..MAX_NAPIS {
            if at == head || at.is_null() {
                return;
            }
            f(at.byte_sub(core::mem::offset_of!(bindings::napi_struct, dev_list)).cast());
            at = (*at).next;
        }
    }
}

/// Calls `f` with every device below a device that stands on top of others: a bond's, a bridge's, a VLAN device's. Panic path,
/// with the other CPUs stopped.
///
/// # Safety
///
/// `dev` is held. Whoever was changing what is below it never goes on; the lists are made for readers without locks.
#[allow(dead_code)] // netconsole.ko's
pub(super) unsafe fn each_lower<F: FnMut(*mut bindings::net_device)>(dev: *mut bindings::net_device, mut f: F) {
    /// # Safety
    ///
    /// `private.data` points to an `F`.
    unsafe extern "C" fn call<F: FnMut(*mut bindings::net_device)>(
        lower: *mut bindings::net_device,
        private: *mut bindings::netdev_nested_priv,
    ) -> c_int {
        // SAFETY: By this function's contract; nobody else uses it meanwhile.
        unsafe { (*(*private).data.cast::<F>())(lower) };
        0
    }
    let mut private = bindings::netdev_nested_priv { flags: 0, data: (&raw mut f).cast::<c_void>() };
    // SAFETY: By this function's contract; interrupts are off, which is a read-side section.
    unsafe { bindings::netdev_walk_all_lower_dev_rcu(dev, Some(call::<F>), &raw mut private) };
}

/// Whether this very CPU was interrupted in a poll function of the device. Panic path.
///
/// # Safety
///
/// `dev` is held.
#[allow(dead_code)] // netconsole.ko's
pub(super) unsafe fn polls_here(dev: *mut bindings::net_device) -> bool {
    let this = super::system::cpu() as i32;
    let mut here = false;
    // SAFETY: By this function's contract; the word is only ever accessed atomically.
    unsafe {
        each_napi(dev, |napi| {
            here |= AtomicI32::from_ptr(&raw mut (*napi).poll_owner).load(Ordering::Relaxed) == this;
        });
    }
    here
}

/// Lets each poll function that nobody is in do its work for the transmitter (a budget of 0), as netpoll does. Panic path.
///
/// # Safety
///
/// `dev` is held and registered with netpoll; interrupts are off, and this CPU looks as if it served a softirq.
#[allow(dead_code)] // netconsole.ko's
pub(super) unsafe fn poll(dev: *mut bindings::net_device) {
    let this = super::system::cpu() as i32;
    // SAFETY: By this function's contract; both words are only ever accessed atomically.
    unsafe {
        each_napi(dev, |napi| {
            let owner = AtomicI32::from_ptr(&raw mut (*napi).poll_owner);
            if owner.compare_exchange(-1, this, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                return;
            }
            let state = AtomicUsize::from_ptr((&raw mut (*napi).state).cast());
            // Set already, it is switched off.
            if tx::may_poll(dev, napi) && state.fetch_or(NPSVC, Ordering::AcqRel) & NPSVC == 0 {
                if let Some(poll) = (*napi).poll {
                    poll(napi, 0);
                }
                state.fetch_and(!NPSVC, Ordering::AcqRel);
            }
            owner.store(-1, Ordering::Release);
        });
    }
}

/// Some drivers reap transmitted frames in their interrupt handler only (e1000e with MSI-X). `ndo_poll_controller` runs
/// it, but waits for a handler that is in progress: one that was stopped half way never ends. Panic path.
///
/// # Safety
///
/// `dev` is held, and interrupts are off.
pub(super) unsafe fn run_interrupt_handler(dev: *mut bindings::net_device) {
    // SAFETY: By this function's contract; interrupts are off, as the function expects.
    unsafe {
        let ops = (*dev).netdev_ops;
        if let (Some(poll), false) = ((*ops).ndo_poll_controller, handler_in_progress(dev)) {
            poll(dev);
        }
    }
}

/// Whether an interrupt handler of the device has begun and not ended: on this CPU, because the panic happened in
/// it, or on one that was stopped by NMI. Panic path.
///
/// # Safety
///
/// `dev` is held.
unsafe fn handler_in_progress(dev: *mut bindings::net_device) -> bool {
    const MAX_IRQS: u32 = 2048;
    // SAFETY: The descriptors are looked up without locks; the actions of a held device stay registered.
    unsafe {
        let start = dev as usize;
        let end = start + size_of::<bindings::net_device>() + (*dev).priv_len as usize;
        for irq in 0..bindings::nd_nr_irqs().min(MAX_IRQS) {
            let data = bindings::irq_get_irq_data(irq);
            if data.is_null() || !bindings::nd_irq_in_progress(data) {
                continue;
            }
            let desc: *mut bindings::irq_desc =
                data.byte_sub(core::mem::offset_of!(bindings::irq_desc, irq_data)).cast();
            let mut action = (*desc).action;
            while !action.is_null() {
                let id = (*action).__bindgen_anon_1.dev_id as usize;
                if (start..end).contains(&id) {
                    return true;
                }
                action = (*action).next;
            }
        }
        false
    }
}
