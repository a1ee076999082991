// SPDX-License-Identifier: GPL-2.0-only

//! A stack of our own for the dump.
//!
//! A panic may come on an 8 KiB exception stack; a driver's poll function and ours do not fit there. It also keeps
//! the crashed stack as it was.

use super::{bindings, regs::Regs, volatile::PhysRange};
use core::ffi::c_void;
use kernel::prelude::*;

/// The kernel's zstd takes several KiB, and ciphers with vector registers their share.
const SIZE: usize = 64 * 1024;

#[repr(C, align(4096))]
struct Memory([u8; SIZE]);

/// The stack's memory, contiguous and made beforehand.
pub struct Stack {
    memory: KBox<core::mem::MaybeUninit<Memory>>,
}

struct Call<'a> {
    run: &'a mut dyn FnMut(&Regs),
    regs: *const Regs,
}

impl Stack {
    /// Allocates one. Process context.
    pub fn new() -> Result<Self> {
        Ok(Self { memory: KBox::new_uninit(GFP_KERNEL)? })
    }

    /// Where it is, for the report of changed memory.
    pub fn range(&self) -> PhysRange {
        PhysRange::of_linear(self.memory.as_ptr().cast(), SIZE)
    }

    /// Runs `run` on this stack and returns when it does. Panic path; interrupts must be off.
    ///
    /// `run` gets the registers of the caller: an unwinder that starts from them walks up to whoever panicked.
    pub fn run(&mut self, run: &mut dyn FnMut(&Regs)) {
        let mut regs = Regs::default();
        let mut call = Call { run, regs: &raw const regs };
        // The kernel's stacks begin one word below their end as well.
        let top = (self.memory.as_mut_ptr() as usize + SIZE - 8) as *mut c_void;
        // SAFETY: `top` is the end of memory that only this stack uses; `&mut self` keeps it from being used
        // twice. `call` and `regs` outlive the call. `nd_on_stack` is the function below.
        unsafe { bindings::nd_call_on_stack(top, regs.as_mut_ptr(), (&raw mut call).cast()) };
    }
}

/// First function on the new stack.
#[no_mangle]
extern "C" fn nd_on_stack(arg: *mut c_void) {
    // SAFETY: `Stack::run` passes a `Call` that lives until it returns, and nothing else refers to it meanwhile.
    let call = unsafe { &mut *arg.cast::<Call<'_>>() };
    // SAFETY: As above; the registers were filled before the stack was switched.
    (call.run)(unsafe { &*call.regs });
}
