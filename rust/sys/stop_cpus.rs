// SPDX-License-Identifier: GPL-2.0-only

//! What happens just before panic() stops the other CPUs: get ready, and take their registers.
//!
//! `smp_ops` is where the architecture says how CPUs are stopped (`arch/x86/kernel/smp.c`). The stop leaves no
//! registers behind and shuts the local APIC down, so both have to be had before. Each other CPU is interrupted and
//! parked: it saves the registers of what it was doing and spins, with interrupts on, until the real stop arrives.
//! So whatever it held with interrupts off has been released. A CPU that does not come within 200 ms (a hypervisor may
//! keep it waiting) is spinning with interrupts off; it is taken by NMI instead and spins in there.
//!
//! A CPU may be spinning because of the panic itself: the serial port's interrupt handler waits for the console, which
//! no CPU but the panicking one gets (`nbcon_context_try_acquire_direct()`). If the network driver was interrupted by
//! that, it would be stuck half way. So where the driver does not come to rest, the panic is called off for the moment
//! that lets such a CPU finish.
//!
//! With a kdump image loaded and the default order the kernel stops the CPUs from within `__crash_kexec()`. Then nothing
//! of this happens: kdump must find everything as it would without us.

use super::bindings;
use super::regs::{Regs, SegmentBases, GREGSET_LEN};
use super::system;
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use kernel::prelude::*;

/// How long a CPU may take to follow the interrupt, in microseconds.
const PARK_LIMIT_US: u32 = 200_000;
/// How long a CPU may take to follow the NMI, in microseconds.
const NMI_LIMIT_US: u32 = 10_000;
const FIRST: Attempt = Attempt { limit_us: 20_000, last: false, nested: false };
/// With the panic called off.
const LAST: Attempt = Attempt { limit_us: 200_000, last: true, nested: false };
/// How long a CPU taken by NMI waits for the kernel's own stop, in microseconds (which waits 1 s before it sends NMIs).
const HELD_LIMIT_US: u32 = 5_000_000;
/// How many frames are unwound to find the interrupted registers.
const MAX_FRAMES: u32 = 32;

const ABSENT: u32 = 0;
const ASKED: u32 = 1;
const TAKING: u32 = 2;
const TAKEN: u32 = 3;
const TAKEN_BY_NMI: u32 = 4;

/// What a CPU was doing.
#[derive(Clone, Copy)]
pub struct CpuState {
    /// Address of its task.
    pub task: u64,
    /// The task's pid.
    pub pid: u32,
    /// The registers as `elf_gregset`, if they could be had.
    pub regs: Option<[u8; GREGSET_LEN]>,
    /// Where it was; 0 without registers.
    pub ip: u64,
    /// It had to be taken by NMI.
    pub by_nmi: bool,
}

struct Slot {
    call: UnsafeCell<bindings::__call_single_data>,
    state: AtomicU32,
    online: AtomicBool,
    regs: UnsafeCell<(Regs, SegmentBases)>,
    task: UnsafeCell<(u64, u32)>,
    found: AtomicBool,
}

static SLOTS: AtomicPtr<KVec<Slot>> = AtomicPtr::new(core::ptr::null_mut());
static BEFORE: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static AFTER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static DONE: AtomicBool = AtomicBool::new(false);
/// The CPU that has called its panic off, + 1; 0 for none.
static CALLED_OFF: AtomicU32 = AtomicU32::new(0);
/// The kernel has stopped the others as far as it can.
static STOPPED: AtomicBool = AtomicBool::new(false);
static STOP: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static CRASH_STOP: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// `smp_ops.stop_other_cpus` and `smp_ops.crash_stop_other_cpus`, which [`STOP`] and [`CRASH_STOP`] hold as pointers.
type StopFn = Option<unsafe extern "C" fn(c_int)>;
type CrashStopFn = Option<unsafe extern "C" fn()>;

struct NmiAction(UnsafeCell<core::mem::MaybeUninit<bindings::nmiaction>>);
// SAFETY: Written once before it is registered, then the kernel's.
unsafe impl Sync for NmiAction {}
static NMI: NmiAction = NmiAction(UnsafeCell::new(core::mem::MaybeUninit::zeroed()));
const NMI_NAME: &core::ffi::CStr = c"netdump";

/// One of two attempts at getting ready for the stop.
#[derive(Clone, Copy)]
pub struct Attempt {
    /// How long it may take, in microseconds.
    pub limit_us: u32,
    /// What is not ready after this one has to be used as it is.
    pub last: bool,
    /// This CPU panicked (an NMI, say) on top of an attempt of its own, which never goes on.
    pub nested: bool,
}

impl Attempt {
    /// Whether to leave off: the panic is called off, and another CPU has begun to panic. Panic path.
    pub(super) fn is_over(self) -> bool {
        // SAFETY: Reads a word.
        self.last && unsafe { bindings::panic_in_progress() }
    }
}

/// Gets ready; whether all is. If not, it is called once more.
pub type GetReady = fn(Attempt) -> bool;

/// The interposition; dropping it takes it back.
pub struct Interposed(());

impl Interposed {
    /// From now on `before` runs on the panicking CPU, with interrupts off and all others still running, and then
    /// the others' registers are taken; `after` once they are stopped. Process context, once.
    pub fn install(before: GetReady, after: fn()) -> Result<Self> {
        let mut slots = KVec::with_capacity(system::cpus_possible() as usize, GFP_KERNEL)?;
        for _ in 0..system::cpus_possible() {
            let slot = Slot {
                // SAFETY: All zeroes is an idle request.
                call: UnsafeCell::new(unsafe { core::mem::zeroed() }),
                state: AtomicU32::new(ABSENT),
                online: AtomicBool::new(false),
                regs: UnsafeCell::new((Regs::default(), SegmentBases::default())),
                task: UnsafeCell::new((0, 0)),
                found: AtomicBool::new(false),
            };
            slots.push(slot, GFP_KERNEL)?;
        }
        let slots = KBox::new(slots, GFP_KERNEL)?;
        BEFORE.store(before as *mut (), Ordering::Release);
        AFTER.store(after as *mut (), Ordering::Release);
        SLOTS.store(KBox::into_raw(slots), Ordering::Release);
        // SAFETY: The action is a static, filled in before it is registered and unregistered in `drop`.
        unsafe {
            let action = (*NMI.0.get()).as_mut_ptr();
            (&raw mut (*action).handler).write(Some(on_nmi));
            (&raw mut (*action).name).write(NMI_NAME.as_char_ptr());
            let list = &raw mut (*action).list;
            (*list).next = list;
            (*list).prev = list;
            let error = bindings::__register_nmi_handler(bindings::NMI_LOCAL as c_uint, action);
            if error != 0 {
                drop(KBox::from_raw(SLOTS.swap(core::ptr::null_mut(), Ordering::AcqRel)));
                return Err(Error::from_errno(error));
            }
            let ops = &raw mut bindings::smp_ops;
            let stop = &raw mut (*ops).stop_other_cpus;
            let crash_stop = &raw mut (*ops).crash_stop_other_cpus;
            STOP.store(core::mem::transmute::<StopFn, *mut ()>(stop.read()), Ordering::Release);
            CRASH_STOP.store(core::mem::transmute::<CrashStopFn, *mut ()>(crash_stop.read()), Ordering::Release);
            stop.write_volatile(Some(stop_other_cpus));
            if crash_stop.read().is_some() {
                crash_stop.write_volatile(Some(crash_stop_other_cpus));
            }
        }
        Ok(Self(()))
    }
}

impl Drop for Interposed {
    fn drop(&mut self) {
        // SAFETY: Puts back what `install` found. A pointer that is not ours is left alone; the kernel itself sets
        // these two at boot only, so that nobody is expected to have interposed on top of us.
        unsafe {
            let ops = &raw mut bindings::smp_ops;
            let stop = &raw mut (*ops).stop_other_cpus;
            if stop.read().is_some_and(|f| f as usize == stop_other_cpus as usize) {
                stop.write_volatile(core::mem::transmute::<*mut (), StopFn>(STOP.load(Ordering::Acquire)));
            }
            let crash_stop = &raw mut (*ops).crash_stop_other_cpus;
            if crash_stop.read().is_some_and(|f| f as usize == crash_stop_other_cpus as usize) {
                crash_stop
                    .write_volatile(core::mem::transmute::<*mut (), CrashStopFn>(CRASH_STOP.load(Ordering::Acquire)));
            }
            bindings::unregister_nmi_handler(bindings::NMI_LOCAL as c_uint, NMI_NAME.as_char_ptr());
            // A CPU that is just inside one of the two has interrupts off.
            bindings::synchronize_rcu();
            drop(KBox::from_raw(SLOTS.swap(core::ptr::null_mut(), Ordering::AcqRel)));
        }
    }
}

/// # Safety
///
/// For `smp_send_stop()` and the kernel's own `stop_other_cpus()` alone, which call it through `smp_ops`.
unsafe extern "C" fn stop_other_cpus(wait: c_int) {
    before_stop();
    let stop = STOP.load(Ordering::Acquire);
    // SAFETY: What `install` found there.
    if let Some(stop) = unsafe { core::mem::transmute::<*mut (), StopFn>(stop) } {
        // SAFETY: Called as the kernel would have.
        unsafe { stop(wait) };
    }
    stopped();
}

/// # Safety
///
/// For `crash_smp_send_stop()` alone, which calls it through `smp_ops`.
unsafe extern "C" fn crash_stop_other_cpus() {
    if !for_kdump() {
        before_stop();
    }
    let stop = CRASH_STOP.load(Ordering::Acquire);
    // SAFETY: What `install` found there.
    if let Some(stop) = unsafe { core::mem::transmute::<*mut (), CrashStopFn>(stop) } {
        // SAFETY: Called as the kernel would have.
        unsafe { stop() };
    }
    stopped();
}

/// The kernel has stopped the others as far as it can. Only in a panic that [`before_stop`] has seen is that of interest.
fn stopped() {
    let again = STOPPED.swap(true, Ordering::AcqRel);
    let after = AFTER.load(Ordering::Acquire);
    // SAFETY: Reads a word.
    let panic = unsafe { bindings::panic_on_this_cpu() };
    if panic && DONE.load(Ordering::Acquire) && !again && !after.is_null() {
        // SAFETY: Stored from a `fn()`.
        let after: fn() = unsafe { core::mem::transmute(after) };
        after();
    }
}

/// Whether a kdump image is just being started. Panic path.
///
/// What asks for the stop is found in our own stack: the order (`crash_kexec_post_notifiers`) is not exported.
fn for_kdump() -> bool {
    if !system::kdump_loaded() {
        return false;
    }
    // SAFETY: The state is valid while `unwind` looks at it.
    let calls = |state| match unsafe { bindings::unwind_get_return_address(state) } {
        0 => None,
        caller => system::Symbol::of(caller as u64).as_str().starts_with("__crash_kexec+").then_some(()),
    };
    unwind(calls).is_some()
}

fn slots() -> &'static [Slot] {
    // SAFETY: Null, or the vector that `install` made and `drop` frees only when nobody can get here any more.
    unsafe { SLOTS.load(Ordering::Acquire).as_ref() }.map_or(&[], |slots| slots.as_slice())
}

fn before_stop() {
    // SAFETY: Reads a word. A shutdown or reboot stops CPUs too, and is none of our business.
    if !unsafe { bindings::panic_on_this_cpu() } || DONE.swap(true, Ordering::AcqRel) {
        return;
    }
    for (cpu, slot) in slots().iter().enumerate() {
        // SAFETY: Reads the mask.
        slot.online.store(unsafe { bindings::nd_cpu_online(cpu as c_uint) }, Ordering::Relaxed);
    }
    let before = BEFORE.load(Ordering::Acquire);
    if !before.is_null() {
        // SAFETY: Stored from a `GetReady`.
        let before: GetReady = unsafe { core::mem::transmute(before) };
        let nested = CALLED_OFF.swap(0, Ordering::AcqRel) == system::cpu() + 1;
        if !before(Attempt { nested, ..FIRST }) && !called_off(before) {
            // The other CPU's panic is the panic now. It takes this CPU as any other.
            loop {
                // SAFETY: Spins.
                unsafe { bindings::nd_cpu_relax() };
            }
        }
    }
    park_others();
}

/// Calls the panic off while `before` gets ready. False if another CPU has begun to panic meanwhile: it finds
/// everything as if this panic had not begun, but for what has been got ready already.
fn called_off(before: GetReady) -> bool {
    CALLED_OFF.store(system::cpu() + 1, Ordering::Release);
    DONE.store(false, Ordering::Release);
    // SAFETY: Writes a word; this CPU is the panicking one.
    unsafe { bindings::panic_reset() };
    before(LAST);
    // SAFETY: Exchanges a word.
    let mine = unsafe { bindings::panic_try_start() };
    if mine {
        DONE.store(true, Ordering::Release);
        CALLED_OFF.store(0, Ordering::Release);
    }
    mine
}

fn park_others() {
    let this = system::cpu();
    let others =
        || slots().iter().enumerate().filter(|(cpu, slot)| *cpu as u32 != this && slot.online.load(Ordering::Relaxed));
    for (cpu, slot) in others() {
        slot.state.store(ASKED, Ordering::Release);
        // SAFETY: The request is in a slot that lives on; it is used once (`DONE`). Callable with interrupts off.
        unsafe {
            let call = slot.call.get();
            (*call).func = Some(park);
            (*call).info = (&raw const *slot).cast_mut().cast();
            bindings::smp_call_function_single_async(cpu as c_int, call);
        }
    }
    wait_for(PARK_LIMIT_US, || others().all(|(_, slot)| taken(slot)));
    for (cpu, _) in others().filter(|(_, slot)| slot.state.load(Ordering::Acquire) == ASKED) {
        // SAFETY: Sends an interrupt; our handler is registered.
        unsafe { bindings::nd_send_nmi(cpu as c_uint) };
    }
    wait_for(NMI_LIMIT_US, || others().all(|(_, slot)| taken(slot)));
}

fn taken(slot: &Slot) -> bool {
    slot.state.load(Ordering::Acquire) >= TAKEN
}

/// Waits, spinning, until `done` or for so long. Panic path.
fn wait_for(limit_us: u32, mut done: impl FnMut() -> bool) {
    for _ in 0..limit_us / 10 {
        if done() {
            return;
        }
        super::clock::spin_us(10);
    }
}

/// Claims the slot for whichever of interrupt and NMI comes first.
fn claim(slot: &Slot) -> bool {
    slot.state.compare_exchange(ASKED, TAKING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

fn store(slot: &Slot, regs: Option<Regs>, state: u32) {
    // SAFETY: `claim` gave this CPU the slot; others read it only once `state` is set.
    unsafe {
        *slot.regs.get() = (regs.unwrap_or_default(), SegmentBases::read());
        *slot.task.get() = system::current_task();
    }
    slot.found.store(regs.is_some(), Ordering::Relaxed);
    slot.state.store(state, Ordering::Release);
}

/// Runs on each other CPU as an inter-processor call, in hard interrupt context. Never returns: what it interrupted
/// must stay as the registers say until the stop.
///
/// # Safety
///
/// For the call that `park_others` sends alone: `info` is this CPU's [`Slot`].
unsafe extern "C" fn park(info: *mut c_void) {
    // SAFETY: By this function's contract; the slots live on while anything can get here.
    let slot = unsafe { &*info.cast::<Slot>() };
    if claim(slot) {
        store(slot, interrupted(), TAKEN);
    }
    loop {
        // SAFETY: The interrupt has been acknowledged; the stop comes as another one, on top of this.
        unsafe {
            bindings::nd_local_irq_enable();
            bindings::nd_cpu_relax();
        }
    }
}

/// The registers that the interrupt we are in has saved.
fn interrupted() -> Option<Regs> {
    unwind(|state| {
        // SAFETY: The state is valid, and so are the registers that it knows of.
        unsafe {
            let regs = bindings::nd_unwind_entry_regs(state);
            (!regs.is_null()).then(|| Regs::copy(regs))
        }
    })
}

/// Goes up this CPU's stack until `look` finds something, for [`MAX_FRAMES`] frames at most. Panic path.
fn unwind<T>(look: impl Fn(*mut bindings::unwind_state) -> Option<T>) -> Option<T> {
    let mut state = core::mem::MaybeUninit::<bindings::unwind_state>::zeroed();
    let state = state.as_mut_ptr();
    // SAFETY: The unwinder reads stacks of this CPU only, and checks what it reads.
    unsafe { bindings::nd_unwind_start(state) };
    for _ in 0..MAX_FRAMES {
        // SAFETY: As above.
        if unsafe { bindings::nd_unwind_done(state) } {
            return None;
        }
        let found = look(state);
        if found.is_some() {
            return found;
        }
        // SAFETY: As above.
        unsafe { bindings::unwind_next_frame(state) };
    }
    None
}

const NMI_DONE: c_int = 0;
const NMI_HANDLED: c_int = 1;

/// Takes this CPU if it has been asked for and has not followed the interrupt, and holds it until the kernel's own stop
/// has sent its NMI, which is pending then and comes before anything else: it halts the CPU for good, and leaves
/// virtualization, which would stand in the way of a restart.
///
/// # Safety
///
/// For the kernel's NMI handler alone: `regs` are the registers of what the NMI interrupted.
unsafe extern "C" fn on_nmi(_: c_uint, regs: *mut bindings::pt_regs) -> c_int {
    let Some(slot) = slots().get(system::cpu() as usize) else { return NMI_DONE };
    // Any other NMI, at any other time.
    if !DONE.load(Ordering::Acquire) || !claim(slot) {
        return NMI_DONE;
    }
    // SAFETY: By this function's contract.
    store(slot, Some(unsafe { Regs::copy(regs) }), TAKEN_BY_NMI);
    wait_for(HELD_LIMIT_US, || STOPPED.load(Ordering::Acquire));
    NMI_HANDLED
}

/// What CPU `cpu` was doing when this one panicked. None if it was offline. Panic path, after the stop.
pub fn cpu_state(cpu: u32) -> Option<CpuState> {
    let slot = slots().get(cpu as usize).filter(|slot| slot.online.load(Ordering::Relaxed))?;
    let state = slot.state.load(Ordering::Acquire);
    if state < TAKEN {
        return Some(CpuState { task: 0, pid: 0, regs: None, ip: 0, by_nmi: false });
    }
    // SAFETY: TAKEN or later: the CPU that wrote them writes no more.
    let (regs, bases, task, pid) = unsafe {
        let (regs, bases) = *slot.regs.get();
        let (task, pid) = *slot.task.get();
        (regs, bases, task, pid)
    };
    let found = slot.found.load(Ordering::Relaxed);
    let ip = if found { regs.ip() } else { 0 };
    let regs = found.then(|| regs.gregset(bases));
    Some(CpuState { task, pid, regs, ip, by_nmi: state == TAKEN_BY_NMI })
}
