// SPDX-License-Identifier: GPL-2.0-only

//! Hands a prepared value from process context to the panic path.

use super::bindings;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use kernel::prelude::*;

/// A value that is built while the machine is well and used, exclusively, when it panics.
///
/// Process context swaps whole values with [`PanicCell::replace`]; a panic finds either the old one or the new one,
/// never half of one.
pub struct PanicCell<T> {
    value: AtomicPtr<T>,
    entered: AtomicBool,
}

/// The value, for as long as this guard lives. Nobody else gets it meanwhile.
pub struct Entered<'a, T> {
    cell: &'a PanicCell<T>,
    value: &'a mut T,
}

impl<T: Send> PanicCell<T> {
    /// An empty cell.
    pub const fn new() -> Self {
        Self { value: AtomicPtr::new(null_mut()), entered: AtomicBool::new(false) }
    }

    /// Puts a value in and returns what was there. Process context; waits for readers that are still on their way.
    pub fn replace(&self, value: Option<KBox<T>>) -> Option<KBox<T>> {
        let new = value.map_or(null_mut(), KBox::into_raw);
        let old = self.value.swap(new, Ordering::AcqRel);
        // SAFETY: Process context. A panicking CPU has interrupts off from before it looks at the pointer, which is
        // a read-side section: when this returns, nobody uses `old` any more, or the machine is panicking and this
        // CPU is stopped before it can free anything.
        unsafe { bindings::synchronize_rcu() };
        if old.is_null() {
            None
        } else {
            // SAFETY: `old` came from `KBox::into_raw`, was reachable only through the cell, and is no longer.
            Some(unsafe { KBox::from_raw(old) })
        }
    }

    /// Takes the value for the panic path. Panic path; interrupts must be off.
    ///
    /// None if there is no value, or if the value is already in use: that is a fault inside the code that uses it.
    pub fn enter(&self) -> Option<Entered<'_, T>> {
        if self.entered.swap(true, Ordering::AcqRel) {
            return None;
        }
        let value = self.value.load(Ordering::Acquire);
        // SAFETY: The pointer is null or came from a `KBox` that `replace` does not free before this CPU's
        // interrupts-off section ends; `entered` makes the reference unique.
        match unsafe { value.as_mut() } {
            Some(value) => Some(Entered { cell: self, value }),
            None => {
                self.entered.store(false, Ordering::Release);
                None
            }
        }
    }

    /// Forgets whoever is inside. Panic path.
    ///
    /// For the case that it was this CPU, interrupted by what calls this, and that it never goes on.
    pub fn abandon(&self) {
        self.entered.store(false, Ordering::Release);
    }

    /// Whether somebody is inside. Panic path.
    pub fn is_entered(&self) -> bool {
        self.entered.load(Ordering::Acquire)
    }
}

/// A value that is part of the module and used by the panic path alone: too large to be built on a stack. It has its pages for
/// itself: where they hold keys they are not dumped, and what a debugger needs of the module must not go with them.
#[repr(C, align(4096))]
pub struct PanicStatic<T> {
    value: UnsafeCell<T>,
    entered: AtomicBool,
}

// SAFETY: `enter` hands out one reference.
unsafe impl<T: Send> Sync for PanicStatic<T> {}

impl<T> PanicStatic<T> {
    /// With this value.
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), entered: AtomicBool::new(false) }
    }

    /// The value, once and for good. Panic path.
    pub fn take(&'static self) -> Option<&'static mut T> {
        if self.entered.swap(true, Ordering::AcqRel) {
            return None;
        }
        // SAFETY: Only the first caller gets here.
        Some(unsafe { &mut *self.value.get() })
    }
}

impl<T> Deref for Entered<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value
    }
}

impl<T> DerefMut for Entered<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value
    }
}

impl<T> Drop for Entered<'_, T> {
    fn drop(&mut self) {
        self.cell.entered.store(false, Ordering::Release);
    }
}
