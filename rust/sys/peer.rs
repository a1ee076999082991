// SPDX-License-Identifier: GPL-2.0-only

//! Two modules, one network device, netconsole.ko's side: finds netdump.ko whenever that is loaded, and reads what it
//! says of the device (`claim.rs`) for as long as it stays. Neither module holds the other.

use super::bindings;
use super::notifier::Block;
use core::ffi::{c_int, c_void};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use kernel::error::to_result;
use kernel::ffi::c_ulong;
use kernel::prelude::*;

/// `claim.rs`
const FREE: u32 = 0;

static CLAIM: AtomicPtr<bindings::nd_nic_claim> = AtomicPtr::new(null_mut());
static MODULES: Block = Block::new(on_module, 0);

/// While it lives netdump.ko is found; dropping it forgets it.
pub struct Search(());

impl Search {
    /// Finds netdump.ko if it is there, and from now on whenever it comes. Process context.
    pub fn start() -> Result<Self> {
        // SAFETY: The block is static, and unregistered before the module goes.
        to_result(unsafe { bindings::register_module_notifier(MODULES.0.get()) })?;
        let this = Self(());
        find();
        Ok(this)
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        // SAFETY: Registered. Afterwards the other module may go at any moment, so it is looked up, and held, once more.
        unsafe {
            bindings::unregister_module_notifier(MODULES.0.get());
            let known = CLAIM.swap(null_mut(), Ordering::AcqRel);
            let claim: *mut bindings::nd_nic_claim = bindings::nd_find_claim().cast();
            if !claim.is_null() {
                if claim == known {
                    AtomicU32::from_ptr(&raw mut (*claim).users).fetch_sub(1, Ordering::AcqRel);
                }
                bindings::nd_put_claim();
            }
            bindings::synchronize_rcu_expedited();
        }
    }
}

fn find() {
    // SAFETY: What is found is held until it is put, and remembered until the module says that it goes.
    unsafe {
        let claim: *mut bindings::nd_nic_claim = bindings::nd_find_claim().cast();
        if !claim.is_null() {
            if CLAIM.swap(claim, Ordering::AcqRel) != claim {
                AtomicU32::from_ptr(&raw mut (*claim).users).fetch_add(1, Ordering::AcqRel);
            }
            bindings::nd_put_claim();
        }
    }
}

/// # Safety
///
/// For the chain of module events alone: process context, `module` is the module.
unsafe extern "C" fn on_module(_: *mut bindings::notifier_block, event: c_ulong, module: *mut c_void) -> c_int {
    const NOTIFY_DONE: c_int = 0;
    match event as u32 {
        bindings::module_state_MODULE_STATE_LIVE => find(),
        bindings::module_state_MODULE_STATE_GOING => {
            let claim = CLAIM.load(Ordering::Acquire);
            // SAFETY: By this function's contract. The module's memory goes only after this.
            if !claim.is_null() && unsafe { bindings::nd_within_module(claim.cast(), module) } {
                CLAIM.store(null_mut(), Ordering::Release);
                // SAFETY: Whoever reads the claim has interrupts off, which is a read-side section.
                unsafe { bindings::synchronize_rcu_expedited() };
            }
        }
        _ => {}
    }
    NOTIFY_DONE
}

/// Whether netdump.ko has this device. Panic path; interrupts are off.
pub(super) fn claims(dev: *mut bindings::net_device) -> bool {
    let claim = CLAIM.load(Ordering::Acquire);
    if claim.is_null() {
        return false;
    }
    // SAFETY: With interrupts off it stays (see `on_module`); the words are only ever accessed atomically.
    unsafe {
        AtomicU32::from_ptr(&raw mut (*claim).state).load(Ordering::Acquire) != FREE
            && AtomicPtr::from_ptr(&raw mut (*claim).dev).load(Ordering::Acquire) == dev.cast()
    }
}
