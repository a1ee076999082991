// SPDX-License-Identifier: GPL-2.0-only

//! A value under the module's second mutex: the one that is taken last, also under RTNL.

use super::bindings;
use core::cell::UnsafeCell;

/// A value that process context shares. The mutex is taken inside of RTNL and of [`super::work::Shared`], never around
/// them.
pub struct Listed<T>(UnsafeCell<T>);

// SAFETY: Only reached under the mutex.
unsafe impl<T: Send> Sync for Listed<T> {}

impl<T> Listed<T> {
    /// With this value.
    pub const fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }

    /// Calls `f` with the value under the mutex. Process context; `f` must not come back here.
    pub fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: The mutex is static, and makes the reference unique.
        unsafe {
            bindings::nd_list_lock();
            let result = f(&mut *self.0.get());
            bindings::nd_list_unlock();
            result
        }
    }
}
