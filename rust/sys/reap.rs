// SPDX-License-Identifier: GPL-2.0-only

//! Transmitted frames given back by the driver, without interrupts.

use super::bindings;
use super::system;
use super::tx;
use core::ffi::{c_int, c_void, CStr};
use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use kernel::prelude::*;

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
    let this = system::cpu() as i32;
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
    let this = system::cpu() as i32;
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

/// Does what a driver may do in its interrupt handler only: reap transmitted frames. Where the device has interrupts of its own
/// for that (e1000e with MSI-X), their handlers are called, and no other: what changes the state of the link may set a timer or
/// queue work, and if the panic came upon somebody who holds a lock of these (in an NMI, say) that would never end. Otherwise
/// `ndo_poll_controller` runs the handler, but not under an NMI. Neither is called while a handler is in progress: one that was
/// stopped half way never ends, and `ndo_poll_controller` waits for it. Panic path.
///
/// # Safety
///
/// `dev` is held, and interrupts are off.
pub(super) unsafe fn run_interrupt_handler(dev: *mut bindings::net_device) {
    // SAFETY: By this function's contract; interrupts are off, as the functions expect.
    unsafe {
        let ops = (*dev).netdev_ops;
        let Some(poll) = (*ops).ndo_poll_controller else { return };
        let (mut in_progress, mut transmitters) = (false, false);
        each_action(dev, |action, running| {
            in_progress |= running;
            transmitters |= is_transmitter(action);
        });
        if in_progress {
            return;
        }
        if transmitters {
            each_action(dev, |action, _| {
                if let (Some(handler), true) = ((*action).handler, is_transmitter(action)) {
                    handler((*action).irq as c_int, (*action).__bindgen_anon_1.dev_id);
                }
            });
        } else if !system::under_nmi() {
            poll(dev);
        }
    }
}

/// Whether an interrupt is one for what has been transmitted, as drivers name it: `eth0-tx-0`. Panic path.
///
/// # Safety
///
/// `action` is registered.
unsafe fn is_transmitter(action: *const bindings::irqaction) -> bool {
    // SAFETY: By this function's contract, its name is a string, or null.
    let name = unsafe { (*action).name };
    if name.is_null() {
        return false;
    }
    // SAFETY: As above.
    let name = unsafe { CStr::from_char_ptr(name) }.to_bytes();
    name.windows(4).any(|part| part.eq_ignore_ascii_case(b"-tx-"))
}

/// Calls `f` with each interrupt handler of the device, and whether that interrupt is in progress: on this CPU, because the
/// panic happened in it, or on one that was stopped by NMI. Panic path.
///
/// # Safety
///
/// `dev` is held.
unsafe fn each_action(dev: *mut bindings::net_device, mut f: impl FnMut(*mut bindings::irqaction, bool)) {
    const MAX_IRQS: u32 = 2048;
    /// Most handlers of one interrupt.
    const MAX_SHARED: u32 = 32;
    // SAFETY: The descriptors are looked up without locks; the actions of a held device stay registered.
    unsafe {
        let start = dev as usize;
        let end = start + size_of::<bindings::net_device>() + (*dev).priv_len as usize;
        for irq in 0..bindings::nd_nr_irqs().min(MAX_IRQS) {
            let data = bindings::irq_get_irq_data(irq);
            if data.is_null() {
                continue;
            }
            let desc: *mut bindings::irq_desc =
                data.byte_sub(core::mem::offset_of!(bindings::irq_desc, irq_data)).cast();
            let mut action = (*desc).action;
            for _ in 0..MAX_SHARED {
                if action.is_null() {
                    break;
                }
                let id = (*action).__bindgen_anon_1.dev_id as usize;
                if (start..end).contains(&id) {
                    f(action, bindings::nd_irq_in_progress(data));
                }
                action = (*action).next;
            }
        }
    }
}
