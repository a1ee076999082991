// SPDX-License-Identifier: GPL-2.0-only

//! Two modules, one network device, netdump.ko's side: what netconsole.ko has to know to keep off the device while a
//! dump has it, that there is somebody who wants to send between the stop of the other CPUs and the dump, and which memory
//! that one changes.
//!
//! netconsole.ko finds the exported struct while all is well (`peer.rs`); nobody looks for anything in a panic, and
//! neither module holds the other.

use super::bindings;
use super::volatile::Changed;
use core::ffi::c_void;
use core::mem::transmute;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use kernel::ffi::c_ulong;

/// Nobody keeps anybody off.
pub(super) const FREE: u32 = 0;
/// Transmit locks and poll functions are held, from just before the other CPUs are stopped until they are.
pub(super) const HELD: u32 = 1;
/// The dump sends and receives.
pub(super) const TAKEN: u32 = 2;

fn state() -> &'static AtomicU32 {
    // SAFETY: The word is only ever accessed atomically.
    unsafe { AtomicU32::from_ptr(&raw mut bindings::netdump_nic_claim.state) }
}

fn set(dev: *mut bindings::net_device, to: u32) {
    // SAFETY: As above.
    let place = unsafe { AtomicPtr::from_ptr(&raw mut bindings::netdump_nic_claim.dev) };
    place.store(dev.cast(), Ordering::Release);
    state().store(to, Ordering::Release);
}

/// The locks of this device are about to be taken. Panic path.
pub(super) fn hold(dev: *mut bindings::net_device) {
    set(dev, HELD);
}

/// The dump has the device from now on. Panic path.
pub(super) fn take(dev: *mut bindings::net_device) {
    set(dev, TAKEN);
}

/// Whoever else sends through the device may. Panic path.
pub fn release() {
    state().store(FREE, Ordering::Release);
}

/// Whether somebody wants to send between the stop and the dump. Panic path.
pub(super) fn has_users() -> bool {
    // SAFETY: As above.
    unsafe { AtomicU32::from_ptr(&raw mut bindings::netdump_nic_claim.users) }.load(Ordering::Acquire) > 0
}

/// Adds what netconsole.ko may change while the dump lasts, and after it. Panic path.
pub fn report(changed: &mut Changed) {
    // It is given back before the machine goes on.
    changed.place(&raw const bindings::netdump_nic_claim, "state");
    // SAFETY: The word is only ever accessed atomically.
    let place = unsafe { AtomicPtr::<()>::from_ptr((&raw mut bindings::netdump_nic_claim.tell).cast()) };
    let tell = place.load(Ordering::Acquire);
    if !tell.is_null() {
        // SAFETY: Stored by `peer.rs` as this type, for as long as that module is there.
        unsafe {
            let tell: unsafe extern "C" fn(*mut c_void, bindings::nd_add_memory) = transmute(tell);
            tell((&raw mut *changed).cast(), Some(add));
        }
    }
}

/// # Safety
///
/// For [`report`] alone: `to` is its report, `start` a mapped address.
unsafe extern "C" fn add(to: *mut c_void, start: *const c_void, len: c_ulong) {
    // SAFETY: By this function's contract.
    unsafe { &mut *to.cast::<Changed>() }.object(start, len, "netconsole");
}
