// SPDX-License-Identifier: GPL-2.0-only

//! The kernel's notifier chains that matter here: panics, oopses, and changes of network and memory.

use super::bindings;
use super::regs::Regs;
use super::system;
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void, CStr};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use kernel::ffi::c_ulong;
use kernel::prelude::*;

/// After all ordinary notifiers, before Hyper-V (INT_MIN + 1) and Xen (INT_MIN) take their devices away.
const PANIC_PRIORITY: c_int = c_int::MIN + 16;

pub(super) struct Block(pub(super) UnsafeCell<bindings::notifier_block>);

// SAFETY: Only the notifier chains touch a block while it is registered.
unsafe impl Sync for Block {}

impl Block {
    pub(super) const fn new(
        call: unsafe extern "C" fn(*mut bindings::notifier_block, c_ulong, *mut c_void) -> c_int,
        priority: c_int,
    ) -> Self {
        Self(UnsafeCell::new(bindings::notifier_block {
            notifier_call: Some(call),
            next: core::ptr::null_mut(),
            priority,
        }))
    }
}

static PANIC: Block = Block::new(on_panic, PANIC_PRIORITY);
static DIE: Block = Block::new(on_die, c_int::MAX);
static NETDEV: Block = Block::new(on_change, 0);
static NETEVENT: Block = Block::new(on_change, 0);
static INETADDR: Block = Block::new(on_change, 0);
static INET6ADDR: Block = Block::new(on_change, 0);
static MEMORY: Block = Block::new(on_change, 0);

static PANIC_CALL: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static CHANGE_CALL: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// All registrations of the module; dropping it takes them back.
pub struct Notifiers(());

impl Notifiers {
    /// `on_panic` gets the panic's message, with interrupts off and the other CPUs stopped; `on_change` hears that
    /// devices, addresses, neighbours or memory have changed, in atomic context.
    pub fn register(on_panic: fn(&CStr), on_change: fn()) -> Result<Self> {
        PANIC_CALL.store(on_panic as *mut (), Ordering::Release);
        CHANGE_CALL.store(on_change as *mut (), Ordering::Release);
        let this = Self(());
        // SAFETY: The blocks are statics and are unregistered before the module goes (see `drop`, which copes with
        // blocks that never got registered).
        unsafe {
            check(bindings::register_netdevice_notifier(NETDEV.0.get()))?;
            check(bindings::register_netevent_notifier(NETEVENT.0.get()))?;
            check(bindings::register_inetaddr_notifier(INETADDR.0.get()))?;
            check(bindings::register_inet6addr_notifier(INET6ADDR.0.get()))?;
            check(bindings::register_memory_notifier(MEMORY.0.get()))?;
            check(bindings::register_die_notifier(DIE.0.get()))?;
            check(bindings::atomic_notifier_chain_register(&raw mut bindings::panic_notifier_list, PANIC.0.get()))?;
        }
        Ok(this)
    }
}

fn check(error: c_int) -> Result {
    kernel::error::to_result(error)
}

impl Drop for Notifiers {
    fn drop(&mut self) {
        // SAFETY: Unregistering a block that is not on its chain does nothing but say so.
        unsafe {
            bindings::atomic_notifier_chain_unregister(&raw mut bindings::panic_notifier_list, PANIC.0.get());
            bindings::unregister_die_notifier(DIE.0.get());
            bindings::unregister_memory_notifier(MEMORY.0.get());
            bindings::unregister_inet6addr_notifier(INET6ADDR.0.get());
            bindings::unregister_inetaddr_notifier(INETADDR.0.get());
            bindings::unregister_netevent_notifier(NETEVENT.0.get());
            bindings::unregister_netdevice_notifier(NETDEV.0.get());
        }
    }
}

const NOTIFY_DONE: c_int = 0;

/// # Safety
///
/// For the panic notifier chain alone: `message` is vpanic()'s static buffer, a terminated string.
unsafe extern "C" fn on_panic(_: *mut bindings::notifier_block, _: c_ulong, message: *mut c_void) -> c_int {
    let call = PANIC_CALL.load(Ordering::Acquire);
    if !call.is_null() {
        // SAFETY: Stored from a `fn(&CStr)`.
        let call: fn(&CStr) = unsafe { core::mem::transmute(call) };
        // SAFETY: By this function's contract; `call` does not keep it.
        call(unsafe { CStr::from_char_ptr(message.cast()) });
    }
    NOTIFY_DONE
}

/// # Safety
///
/// For notifier chains alone; the arguments are not looked at.
unsafe extern "C" fn on_change(_: *mut bindings::notifier_block, _: c_ulong, _: *mut c_void) -> c_int {
    changed();
    NOTIFY_DONE
}

/// Something has changed that may matter. Atomic context.
pub(super) fn changed() {
    let call = CHANGE_CALL.load(Ordering::Acquire);
    if !call.is_null() {
        // SAFETY: Stored from a `fn()`.
        let call: fn() = unsafe { core::mem::transmute(call) };
        call();
    }
}

/// The registers of the newest oops.
struct Oops {
    regs: UnsafeCell<Regs>,
    /// Address of the task, and when it began: another one may get the same address later.
    task: [AtomicU64; 2],
    /// CPU number + 1; 0 while there is none or it is being written.
    cpu: AtomicU32,
}

// SAFETY: `regs` is written only between cpu = 0 and cpu = n, by one oops at a time (die() holds its own lock), and
// read only by the panicking CPU that wrote it.
unsafe impl Sync for Oops {}

static OOPS: Oops = Oops {
    // SAFETY: Integers only.
    regs: UnsafeCell::new(unsafe { core::mem::zeroed() }),
    task: [AtomicU64::new(0), AtomicU64::new(0)],
    cpu: AtomicU32::new(0),
};

/// # Safety
///
/// For the die notifier chain alone: `args` is the `die_args` of the event, whose registers are valid for the call.
unsafe extern "C" fn on_die(_: *mut bindings::notifier_block, event: c_ulong, args: *mut c_void) -> c_int {
    if event as u32 == bindings::die_val_DIE_OOPS {
        OOPS.cpu.store(0, Ordering::Release);
        // SAFETY: By this function's contract; see `Oops` for who writes when.
        unsafe { *OOPS.regs.get() = Regs::copy((*args.cast::<bindings::die_args>()).regs) };
        for (to, from) in OOPS.task.iter().zip(this_task()) {
            to.store(from, Ordering::Relaxed);
        }
        OOPS.cpu.store(system::cpu() + 1, Ordering::Release);
    }
    NOTIFY_DONE
}

/// Address of the running task and when it began, in nanoseconds since boot. Panic path.
fn this_task() -> [u64; 2] {
    [system::current_task().0, system::current_start()]
}

/// The registers at the oops that led to this panic, if an oops did: the newest one was here, in this task. A task that
/// oopsed does not live on. Panic path.
pub fn oops_regs() -> Option<Regs> {
    let same_task = || OOPS.task.iter().zip(this_task()).all(|(then, now)| then.load(Ordering::Relaxed) == now);
    if OOPS.cpu.load(Ordering::Acquire) != system::cpu() + 1 || !same_task() {
        return None;
    }
    // SAFETY: Written by this CPU, and complete.
    Some(unsafe { *OOPS.regs.get() })
}
