// SPDX-License-Identifier: GPL-2.0-only

//! A place in the panic for somebody who wants to be done before a dump begins.

use super::bindings;
use super::notifier::Block;
use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use kernel::error::to_result;
use kernel::ffi::c_ulong;
use kernel::prelude::*;

/// After all ordinary notifiers, just before netdump.ko's.
const PRIORITY: c_int = c_int::MIN + 17;

static BLOCK: Block = Block::new(notify, PRIORITY);
static CALL: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static OTHERS_STOPPED: AtomicBool = AtomicBool::new(false);

/// The registration; dropping it takes it back.
pub struct OnPanic(());

impl OnPanic {
    /// `call` is called in a panic, with interrupts off and the other CPUs stopped; perhaps more than once.
    pub fn register(call: fn()) -> Result<Self> {
        CALL.store(call as *mut (), Ordering::Release);
        // SAFETY: The block is static, and unregistered before the module goes.
        to_result(unsafe {
            bindings::atomic_notifier_chain_register(&raw mut bindings::panic_notifier_list, BLOCK.0.get())
        })?;
        Ok(Self(()))
    }
}

impl Drop for OnPanic {
    fn drop(&mut self) {
        // SAFETY: Registered.
        unsafe { bindings::atomic_notifier_chain_unregister(&raw mut bindings::panic_notifier_list, BLOCK.0.get()) };
    }
}

/// Whether the machine panics and only this CPU is left. Panic path.
pub fn others_stopped() -> bool {
    OTHERS_STOPPED.load(Ordering::Acquire)
}

/// # Safety
///
/// For the panic notifier chain alone; the arguments are not looked at.
unsafe extern "C" fn notify(_: *mut bindings::notifier_block, _: c_ulong, _: *mut c_void) -> c_int {
    const NOTIFY_DONE: c_int = 0;
    OTHERS_STOPPED.store(true, Ordering::Release);
    let call = CALL.load(Ordering::Acquire);
    if !call.is_null() {
        // SAFETY: Stored from a `fn()`.
        let call: fn() = unsafe { core::mem::transmute(call) };
        call();
    }
    NOTIFY_DONE
}
