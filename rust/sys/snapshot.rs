// SPDX-License-Identifier: GPL-2.0-only

//! Bytes that process context replaces as a whole while any other context reads them.

use super::bindings;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::prelude::*;

/// Bytes that are replaced as a whole.
pub struct Snapshot(AtomicPtr<KVec<u8>>);

impl Snapshot {
    /// Empty.
    pub const fn new() -> Self {
        Self(AtomicPtr::new(null_mut()))
    }

    /// Puts other bytes in. Process context; sleeps.
    pub fn replace(&self, bytes: KVec<u8>) -> Result {
        let new = if bytes.is_empty() { null_mut() } else { KBox::into_raw(KBox::new(bytes, GFP_KERNEL)?) };
        let old = self.0.swap(new, Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: Process context. After a grace period nobody reads the old bytes; they came from a box.
            unsafe {
                bindings::synchronize_rcu_expedited();
                drop(KBox::from_raw(old));
            }
        }
        Ok(())
    }

    /// Reads the bytes. Panic path.
    pub fn with<R>(&self, f: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: Inside of a read-side section what is found is not freed. Callable from any context.
        unsafe {
            bindings::nd_rcu_read_lock();
            let bytes = self.0.load(Ordering::Acquire).as_ref();
            let result = f(bytes.map_or(&[], |bytes| bytes.as_slice()));
            bindings::nd_rcu_read_unlock();
            result
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let old = *self.0.get_mut();
        if !old.is_null() {
            // SAFETY: Nobody else has it any more; it came from a box.
            drop(unsafe { KBox::from_raw(old) });
        }
    }
}
