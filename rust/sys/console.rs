// SPDX-License-Identifier: GPL-2.0-only

//! Consoles of the kind that printk calls nbcon (`kernel/printk/nbcon.c`): a thread writes what is printed, and in an
//! emergency or a panic whoever prints does so itself, whatever context that is.
//!
//! Who writes owns the console, and its outlets, between `nbcon_enter_unsafe()` and `nbcon_exit_unsafe()`; that is the
//! only lock there is. An outlet that cannot take a record now says so, and the record stays in printk's own buffer
//! until the next attempt: the thread makes one soon.

use super::bindings;
use super::peer::Memory;
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};
use kernel::ffi::c_ulong;
use kernel::prelude::*;

/// How pressing a record is, and with it what an outlet may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// The console's thread writes, with interrupts off.
    Thread,
    /// Whoever printed writes, in whatever context: a warning or an oops, and the machine may go on.
    Emergency,
    /// Likewise, and this CPU panics.
    Panic,
}

/// Something that was printed.
#[derive(Clone, Copy)]
pub struct Record<'a> {
    /// Its text; with the header of /dev/kmsg on a console that is extended.
    pub text: &'a [u8],
    /// Its number.
    pub seq: u64,
    /// On which CPU it was printed.
    pub cpu: u32,
    /// The name of the task that printed, with zeroes behind it.
    pub task: &'a [u8],
}

impl Record<'_> {
    /// By which task it was printed.
    pub fn task_name(&self) -> &[u8] {
        self.task.split(|byte| *byte == 0).next().unwrap_or(&[])
    }
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Delivery {
    /// The outlet has done with it what is to be done.
    Done,
    /// Not now. The console's thread comes back after so many microseconds.
    Later(u32),
}

/// Where the records of a console go.
pub trait Outlet: Send + 'static {
    /// Takes a record. Panic path; interrupts are off. A record may come again, by its number, after another outlet of
    /// the console could not take it.
    fn deliver(&mut self, record: &Record<'_>, urgency: Urgency) -> Delivery;
}

/// A console and its outlets. Static.
#[repr(C)]
pub struct Console<T: Outlet> {
    raw: UnsafeCell<bindings::console>,
    slots: AtomicPtr<KVec<AtomicPtr<T>>>,
    registered: AtomicBool,
    /// Records with a lower number were printed before the console was registered.
    backlog: AtomicU64,
    pause_us: AtomicU32,
}

// SAFETY: printk serializes what it does with `raw`; our own fields are atomic, and see the module's docs for outlets.
unsafe impl<T: Outlet> Sync for Console<T> {}

/// An outlet that is in use by its console.
pub struct Attached<T: Outlet> {
    console: &'static Console<T>,
    outlet: *mut T,
}

// SAFETY: Owns an outlet, which may go anywhere.
unsafe impl<T: Outlet> Send for Attached<T> {}

const NAME_LEN: usize = 16;

impl<T: Outlet> Console<T> {
    /// A console of this name (15 bytes at most).
    pub const fn new(name: &CStr, extended: bool) -> Self {
        // SAFETY: All zeroes is a console without functions, to be filled in.
        let mut raw: bindings::console = unsafe { core::mem::zeroed() };
        let bytes = name.to_bytes();
        let mut at = 0;
        while at < bytes.len() && at < NAME_LEN - 1 {
            raw.name[at] = bytes[at];
            at += 1;
        }
        let extended = if extended { bindings::cons_flags_CON_EXTENDED } else { 0 };
        raw.flags = (bindings::cons_flags_CON_NBCON | extended) as i16;
        raw.write_thread = Some(write_thread::<T>);
        raw.write_atomic = Some(write_atomic::<T>);
        raw.device_lock = Some(device_lock);
        raw.device_unlock = Some(device_unlock::<T>);
        Self {
            raw: UnsafeCell::new(raw),
            slots: AtomicPtr::new(null_mut()),
            registered: AtomicBool::new(false),
            backlog: AtomicU64::new(0),
            pause_us: AtomicU32::new(0),
        }
    }

    /// Has the whole log written when the console is next registered. Process context, while it is not registered.
    pub fn replay(&'static self) {
        // SAFETY: Not registered: nobody else looks at it.
        unsafe { (*self.raw.get()).flags |= bindings::cons_flags_CON_PRINTBUFFER as i16 };
    }

    /// Registers it, if it is not. Process context; callers exclude each other.
    pub fn register(&'static self) {
        if self.registered.swap(true, Ordering::AcqRel) {
            return;
        }
        self.backlog.store(super::kmsg::next_seq(), Ordering::Release);
        // SAFETY: Static, complete, and not registered.
        unsafe {
            (*self.raw.get()).flags |= bindings::cons_flags_CON_ENABLED as i16;
            bindings::register_console(self.raw.get());
        }
    }

    /// Takes it back, if it is registered. What has been printed is written first, for as long as that gets on. Process
    /// context; callers exclude each other.
    pub fn unregister(&'static self) {
        if self.registered.swap(false, Ordering::AcqRel) {
            // SAFETY: Registered.
            unsafe { bindings::unregister_console(self.raw.get()) };
        }
    }

    /// Whether it is registered.
    pub fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Acquire)
    }

    /// Number of the first record that was not there yet when the console was registered. Panic path.
    pub fn backlog(&self) -> u64 {
        self.backlog.load(Ordering::Acquire)
    }

    /// Adds an outlet. Process context; sleeps; callers of this and of [`Attached::detach`] exclude each other.
    pub fn attach(&'static self, outlet: KBox<T>) -> Result<Attached<T>> {
        let old = self.slots.load(Ordering::Acquire);
        // SAFETY: Replaced only by us, under the callers' exclusion.
        let old_slots = unsafe { old.as_ref() }.map_or(&[] as &[_], |slots| slots.as_slice());
        if let Some(slot) = old_slots.iter().find(|slot| slot.load(Ordering::Acquire).is_null()) {
            let outlet = KBox::into_raw(outlet);
            slot.store(outlet, Ordering::Release);
            return Ok(Attached { console: self, outlet });
        }
        let mut slots = KVec::with_capacity(old_slots.len() + 1, GFP_KERNEL)?;
        for slot in old_slots {
            slots.push(AtomicPtr::new(slot.load(Ordering::Acquire)), GFP_KERNEL)?;
        }
        let mut new = KBox::new(slots, GFP_KERNEL)?;
        let outlet = KBox::into_raw(outlet);
        // There is room for it.
        let _ = new.push_within_capacity(AtomicPtr::new(outlet));
        let old = self.slots.swap(KBox::into_raw(new), Ordering::AcqRel);
        // SAFETY: Process context. Whoever reads the slots has interrupts off, which is a read-side section.
        unsafe { bindings::synchronize_rcu_expedited() };
        if !old.is_null() {
            // SAFETY: Made by `KBox::into_raw`, and nobody reads it any more.
            drop(unsafe { KBox::from_raw(old) });
        }
        Ok(Attached { console: self, outlet })
    }

    /// Forgets the slots, once no outlet is left and the console is not registered. Process context.
    pub fn tidy(&'static self) {
        let old = self.slots.swap(null_mut(), Ordering::AcqRel);
        // SAFETY: As in `attach`.
        unsafe {
            bindings::synchronize_rcu_expedited();
            if !old.is_null() {
                drop(KBox::from_raw(old));
            }
        }
    }

    /// In a panic, once the other CPUs are stopped: whoever owned the console never goes on, so it is free. Writes what is
    /// there, and then has `last` done for each outlet. Panic path.
    pub fn write_out(&'static self, last: fn(&mut T)) {
        if !self.is_registered() {
            return;
        }
        // SAFETY: The word is only ever accessed atomically.
        let state = unsafe { AtomicU32::from_ptr((&raw mut (*self.raw.get()).nbcon_state.counter).cast()) };
        state.store(0, Ordering::Release);
        // SAFETY: Registered. In a panic, releasing it writes what is there.
        unsafe {
            if bindings::nbcon_device_try_acquire(self.raw.get()) {
                bindings::nbcon_device_release(self.raw.get());
            }
        }
        self.each(last);
    }

    /// Adds what is written when a record is: the console, and each outlet as far as it is one piece of memory; `each`
    /// adds what it has elsewhere. Panic path, with the other CPUs stopped.
    pub fn report(&'static self, memory: &mut Memory, each: fn(&T, &mut Memory)) {
        memory.value(self);
        self.each(|outlet| {
            memory.value(outlet);
            each(outlet, memory);
        });
    }

    /// Panic path, with the other CPUs stopped.
    fn each(&'static self, mut call: impl FnMut(&mut T)) {
        // SAFETY: Interrupts are off: what is found lives on. Nobody is left to use it at the same time.
        let slots = unsafe { self.slots.load(Ordering::Acquire).as_ref() };
        for slot in slots.map_or(&[] as &[_], |slots| slots.as_slice()) {
            // SAFETY: As above.
            if let Some(outlet) = unsafe { slot.load(Ordering::Acquire).as_mut() } {
                call(outlet);
            }
        }
    }
}

impl<T: Outlet> Attached<T> {
    /// Takes the outlet back: nobody uses it any more. Process context; sleeps.
    pub fn detach(self) -> KBox<T> {
        // SAFETY: As in `Console::attach`.
        let slots = unsafe { self.console.slots.load(Ordering::Acquire).as_ref() };
        for slot in slots.map_or(&[] as &[_], |slots| slots.as_slice()) {
            if slot.load(Ordering::Acquire) == self.outlet {
                slot.store(null_mut(), Ordering::Release);
            }
        }
        // SAFETY: As in `Console::attach`; the outlet came from a box.
        unsafe {
            bindings::synchronize_rcu_expedited();
            KBox::from_raw(self.outlet)
        }
    }
}

/// # Safety
///
/// For printk alone: `console` is the first field of a [`Console<T>`], `context` the record that this context owns the
/// console for. Interrupts are off.
unsafe fn write<T: Outlet>(
    console: *mut bindings::console,
    context: *mut bindings::nbcon_write_context,
    urgency: Urgency,
) {
    // SAFETY: By this function's contract; consoles are static.
    let this = unsafe { &*console.cast::<Console<T>>() };
    // SAFETY: The word is only ever accessed atomically. printk stores the number of the record there.
    let number = unsafe { AtomicU64::from_ptr((&raw mut (*console).nbcon_prev_seq.counter).cast()) };
    let seq = number.load(Ordering::Relaxed);
    // SAFETY: Interrupts are off: what is found lives on (see `Console::attach`).
    let slots = unsafe { this.slots.load(Ordering::Acquire).as_ref() };
    let mut pause = None;
    for slot in slots.map_or(&[] as &[_], |slots| slots.as_slice()) {
        let outlet = slot.load(Ordering::Acquire);
        if outlet.is_null() {
            continue;
        }
        // SAFETY: By this function's contract. While this context owns the console, the text and the outlet are its.
        let delivery = unsafe {
            if !bindings::nbcon_enter_unsafe(context) {
                return;
            }
            let record = Record {
                text: core::slice::from_raw_parts((*context).outbuf, (*context).len as usize),
                seq,
                cpu: (*context).cpu as u32,
                task: &(*context).comm,
            };
            (*outlet).deliver(&record, urgency)
        };
        if let Delivery::Later(us) = delivery {
            pause = Some(us.max(pause.unwrap_or(0)));
        }
        // SAFETY: As above.
        if !unsafe { bindings::nbcon_exit_unsafe(context) } {
            return;
        }
    }
    if let Some(pause) = pause {
        this.pause_us.store(pause, Ordering::Relaxed);
        // To printk this looks as if the console had been lost and had again: the record stays to be written. That it is
        // the same one the next time is no news to anybody.
        number.store(u64::MAX, Ordering::Relaxed);
        // SAFETY: As above.
        unsafe {
            (*context).outbuf = null_mut();
            (*context).len = 0;
        }
    }
}

/// # Safety
///
/// See [`write`].
unsafe extern "C" fn write_thread<T: Outlet>(
    console: *mut bindings::console,
    context: *mut bindings::nbcon_write_context,
) {
    // SAFETY: By this function's contract; `device_lock` has switched interrupts off.
    unsafe { write::<T>(console, context, Urgency::Thread) };
}

/// # Safety
///
/// See [`write`].
unsafe extern "C" fn write_atomic<T: Outlet>(
    console: *mut bindings::console,
    context: *mut bindings::nbcon_write_context,
) {
    // SAFETY: By this function's contract.
    unsafe {
        let panic = (*context).ctxt.prio == bindings::nbcon_prio_NBCON_PRIO_PANIC;
        write::<T>(console, context, if panic { Urgency::Panic } else { Urgency::Emergency });
    }
}

/// # Safety
///
/// For printk alone, in task context.
unsafe extern "C" fn device_lock(_: *mut bindings::console, flags: *mut c_ulong) {
    // SAFETY: By this function's contract.
    unsafe { *flags = bindings::nd_local_irq_save() };
}

/// # Safety
///
/// For printk alone, in task context, after [`device_lock`]: nothing is held that forbids to sleep.
unsafe extern "C" fn device_unlock<T: Outlet>(console: *mut bindings::console, flags: c_ulong) {
    // SAFETY: By this function's contract.
    unsafe {
        bindings::nd_local_irq_restore(flags);
        let this = &*console.cast::<Console<T>>();
        let pause = this.pause_us.swap(0, Ordering::Relaxed);
        if pause > 0 {
            bindings::nd_sleep_us(pause as c_ulong);
        }
    }
}
