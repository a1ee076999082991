// SPDX-License-Identifier: GPL-2.0-only

//! Two modules, one network device, netconsole.ko's side: finds netdump.ko whenever that is loaded, reads what it says of
//! the device (`claim.rs`) for as long as it stays, and tells it which memory changes here, since a dump names all that
//! changes while it lasts. Neither module holds the other.

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

static REPORT: AtomicPtr<()> = AtomicPtr::new(null_mut());
static CLAIM: AtomicPtr<bindings::nd_nic_claim> = AtomicPtr::new(null_mut());
static MODULES: Block = Block::new(on_module, 0);

/// While it lives netdump.ko is found; dropping it forgets it.
pub struct Search(());

impl Search {
    /// Finds netdump.ko if it is there, and from now on whenever it comes; in a panic it has `report` called. Process
    /// context.
    pub fn start(report: fn(&mut Memory)) -> Result<Self> {
        REPORT.store(report as *mut (), Ordering::Release);
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
                    tell_place(claim).store(null_mut(), Ordering::Release);
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
            // One of another build may have another form.
            let fits = (*claim).size as usize == size_of::<bindings::nd_nic_claim>();
            if fits && CLAIM.swap(claim, Ordering::AcqRel) != claim {
                AtomicU32::from_ptr(&raw mut (*claim).users).fetch_add(1, Ordering::AcqRel);
                tell_place(claim).store(tell as *mut (), Ordering::Release);
            }
            bindings::nd_put_claim();
        }
    }
}

/// # Safety
///
/// `claim` is that of a module that is held.
unsafe fn tell_place<'a>(claim: *mut bindings::nd_nic_claim) -> &'a AtomicPtr<()> {
    // SAFETY: By this function's contract; the word is only ever accessed atomically.
    unsafe { AtomicPtr::from_ptr((&raw mut (*claim).tell).cast()) }
}

/// Takes the memory that this module may change.
pub struct Memory {
    to: *mut c_void,
    add: bindings::nd_add_memory,
}

impl Memory {
    /// A value. Panic path.
    pub fn value<T: ?Sized>(&mut self, value: &T) {
        self.object((&raw const *value).cast(), size_of_val(value));
    }

    /// Memory at a mapped address. Panic path.
    pub(super) fn object(&mut self, start: *const c_void, len: usize) {
        if let Some(add) = self.add {
            // SAFETY: Given to `tell` together; an address only.
            unsafe { add(self.to, start, len as c_ulong) };
        }
    }
}

/// # Safety
///
/// For netdump.ko alone: in a panic, `add` takes `to`.
unsafe extern "C" fn tell(to: *mut c_void, add: bindings::nd_add_memory) {
    let report = REPORT.load(Ordering::Acquire);
    if !report.is_null() {
        // SAFETY: Stored from this type.
        let report: fn(&mut Memory) = unsafe { core::mem::transmute(report) };
        report(&mut Memory { to, add });
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
