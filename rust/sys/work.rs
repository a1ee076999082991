// SPDX-License-Identifier: GPL-2.0-only

//! One piece of work that is done later, in process context, and state that it shares.

use super::bindings;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// Work that can be asked for from any context but NMI and panic, and runs `func` once for all that asked meanwhile.
pub struct DelayedWork {
    work: UnsafeCell<MaybeUninit<bindings::delayed_work>>,
    ready: AtomicBool,
}

// SAFETY: The kernel's workqueue serializes all access after `start`, which is called once.
unsafe impl Sync for DelayedWork {}

static FUNC: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static SOON: AtomicBool = AtomicBool::new(false);

impl DelayedWork {
    /// Not started.
    pub const fn new() -> Self {
        Self { work: UnsafeCell::new(MaybeUninit::uninit()), ready: AtomicBool::new(false) }
    }

    /// Sets what is to be done. Once, from the module's init; there is one such work in a module.
    pub fn start(&'static self, func: fn()) {
        FUNC.store(func as *mut (), Ordering::Release);
        // SAFETY: Called once, before anybody can ask for the work.
        unsafe { bindings::nd_init_delayed_work((*self.work.get()).as_mut_ptr(), Some(run)) };
        self.ready.store(true, Ordering::Release);
    }

    /// Asks for it to be done `msecs` from now, unless that has been asked already.
    pub fn later(&'static self, msecs: u32) {
        if self.ready.load(Ordering::Acquire) {
            // SAFETY: Initialised, and it lives for ever.
            unsafe { bindings::nd_queue_delayed_work((*self.work.get()).as_mut_ptr(), msecs) };
        }
    }

    /// Asks for it to be done `msecs` from now, if it would be done later or not at all. What is asked for in this way
    /// while it is about to run anyway does not put it off.
    pub fn soon(&'static self, msecs: u32) {
        if self.ready.load(Ordering::Acquire) && !SOON.swap(true, Ordering::AcqRel) {
            // SAFETY: Initialised, and it lives for ever.
            unsafe { bindings::nd_mod_delayed_work((*self.work.get()).as_mut_ptr(), msecs) };
        }
    }

    /// Takes it back and waits until it does not run any more; nothing can ask for it afterwards.
    pub fn stop(&'static self) {
        if self.ready.swap(false, Ordering::AcqRel) {
            // SAFETY: Initialised. The work may re-arm itself: `disable` makes that fail too.
            unsafe { bindings::disable_delayed_work_sync((*self.work.get()).as_mut_ptr()) };
        }
    }
}

/// A value that process context shares, under the module's one mutex.
pub struct Shared<T>(UnsafeCell<Option<T>>);

// SAFETY: Only reached under the mutex.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Empty.
    pub const fn new() -> Self {
        Self(UnsafeCell::new(None))
    }

    /// Calls `f` with the value under the mutex. Process context; `f` must not come back here.
    pub fn with<R>(&self, f: impl FnOnce(&mut Option<T>) -> R) -> R {
        // SAFETY: The mutex is static, and makes the reference unique.
        unsafe {
            bindings::nd_lock();
            let result = f(&mut *self.0.get());
            bindings::nd_unlock();
            result
        }
    }
}

/// # Safety
///
/// For the workqueue alone, which calls it after [`DelayedWork::start`]; the argument is not looked at.
unsafe extern "C" fn run(_: *mut bindings::work_struct) {
    let func = FUNC.load(Ordering::Acquire);
    // SAFETY: Set by `start`, before the work could run, from a `fn()`.
    let func: fn() = unsafe { core::mem::transmute(func) };
    // Before the work: what changes while it runs makes it run again.
    SOON.store(false, Ordering::Release);
    func();
}
