// SPDX-License-Identifier: GPL-2.0-only

//! Odds of the running system: who it is, what runs, and how it restarts.

use super::bindings;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, Ordering};
use kernel::ffi::{c_char, c_ulong};
use kernel::prelude::*;

/// The names that `uname` prints.
pub struct Names {
    /// Host name.
    pub hostname: &'static CStr,
    /// Kernel release.
    pub release: &'static CStr,
    /// Kernel version.
    pub version: &'static CStr,
    /// Machine.
    pub machine: &'static CStr,
}

/// Reads them. Panic path: a host name that is being changed at this moment comes out mixed, never unbounded.
pub fn names() -> Names {
    // SAFETY: The arrays of the initial namespace live for ever; each is bounded by its own length.
    unsafe {
        let names = &raw const bindings::init_uts_ns.name;
        Names {
            hostname: text(&(*names).nodename),
            release: text(&(*names).release),
            version: text(&(*names).version),
            machine: text(&(*names).machine),
        }
    }
}

/// What the firmware calls the machine.
pub struct Board {
    /// Who made it.
    pub vendor: &'static CStr,
    /// Which one it is.
    pub product: &'static CStr,
    /// Its serial number.
    pub serial: &'static CStr,
    /// Its UUID.
    pub uuid: &'static CStr,
}

/// Reads it; what is not there is empty. Panic path: these texts are there from boot on and do not change.
pub fn board() -> Board {
    let text = |field| {
        // SAFETY: A text of the kernel's that lives for ever, or null.
        unsafe {
            let text = bindings::dmi_get_system_info(field as i32);
            if text.is_null() {
                c""
            } else {
                CStr::from_char_ptr(text)
            }
        }
    };
    Board {
        vendor: text(bindings::dmi_field_DMI_SYS_VENDOR),
        product: text(bindings::dmi_field_DMI_PRODUCT_NAME),
        serial: text(bindings::dmi_field_DMI_PRODUCT_SERIAL),
        uuid: text(bindings::dmi_field_DMI_PRODUCT_UUID),
    }
}

fn text(bytes: &'static [c_char]) -> &'static CStr {
    CStr::from_bytes_until_nul(bytes).unwrap_or(c"")
}

/// Restarts the machine without going through shutdown. Panic path.
pub fn restart() -> ! {
    // SAFETY: What vpanic() itself calls for `kernel.panic`.
    unsafe { bindings::emergency_restart() };
    // It does not return on any machine that can restart; there is nothing better to do on one that cannot.
    loop {
        super::clock::spin_us(1_000_000);
    }
}

/// This CPU's number. Panic path.
pub fn cpu() -> u32 {
    // SAFETY: Reads a per-CPU word.
    unsafe { bindings::nd_cpu() }
}

/// How many CPU numbers are possible.
pub fn cpus_possible() -> u32 {
    // SAFETY: Constant after boot.
    unsafe { bindings::nd_cpus_possible() }
}

/// Address and pid of the task that runs on this CPU. Panic path.
pub fn current_task() -> (u64, u32) {
    // SAFETY: `current` is valid while it runs.
    unsafe {
        let task = bindings::nd_current();
        (task as u64, (*task).pid as u32)
    }
}

/// When the task that runs on this CPU began, in nanoseconds since boot. Panic path.
pub fn current_start() -> u64 {
    // SAFETY: `current` is valid while it runs.
    unsafe { (*bindings::nd_current()).start_time }
}

/// Whether a kdump image is loaded: with the default order the kernel then never asks us.
pub fn kdump_loaded() -> bool {
    // SAFETY: Reads a flag.
    unsafe { bindings::kexec_crash_loaded() != 0 }
}

/// Tells the watchdogs that this CPU is alive. Panic path.
pub fn touch_watchdogs() {
    // SAFETY: Writes per-CPU words.
    unsafe { bindings::nd_touch_watchdogs() };
}

/// Calls `f` where no softirq of this CPU comes between: as the network stack calls drivers. Process context.
pub fn without_softirqs<R>(f: impl FnOnce() -> R) -> R {
    // SAFETY: On and off again, in this order, on the same CPU.
    unsafe {
        bindings::nd_softirqs_off();
        let result = f();
        bindings::nd_softirqs_on();
        result
    }
}

/// The name of a place in the kernel's code, `function+offset/size [module]`.
pub struct Symbol {
    text: [u8; bindings::ND_SYMBOL_LEN as usize],
}

impl Symbol {
    /// Looks it up, without locks. Panic path.
    pub fn of(address: u64) -> Self {
        let mut symbol = Self { text: [0; bindings::ND_SYMBOL_LEN as usize] };
        // SAFETY: The buffer is as long as the function expects.
        unsafe { bindings::sprint_symbol(symbol.text.as_mut_ptr(), address as usize) };
        symbol
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        CStr::from_bytes_until_nul(&self.text).ok().and_then(|text| text.to_str().ok()).unwrap_or("?")
    }
}

/// Reports what running at all changes: the task that this CPU is in. Panic path.
pub fn report(changed: &mut super::volatile::Changed) {
    // SAFETY: Reads a per-CPU word; the address is not followed.
    changed.place(unsafe { bindings::nd_current() }, "task");
}

/// Makes this CPU look as if it were serving a softirq, until dropped. Panic path; interrupts are off.
///
/// Driver polls expect that context, NMI or hard interrupt context would forbid them much, and an oops in it leads
/// back into panic() instead of killing the task and going on.
pub struct SoftirqContext {
    saved: c_ulong,
    bpf: *mut bindings::bpf_net_context,
}

/// Storage for the context that XDP programs find in `current`.
pub struct BpfContext(core::mem::MaybeUninit<bindings::bpf_net_context>);

// SAFETY: Its pointers are set and followed by the panicking CPU alone.
unsafe impl Send for BpfContext {}

impl BpfContext {
    /// Empty; filled in by [`SoftirqContext::enter`].
    pub const fn new() -> Self {
        Self(core::mem::MaybeUninit::uninit())
    }
}

impl SoftirqContext {
    /// Enters it.
    ///
    /// `storage` must stay where it is until the context is left: `current` points to it. It is borrowed for the
    /// context's whole life by living in the same plan.
    pub fn enter(storage: &mut BpfContext) -> Self {
        // SAFETY: Interrupts are off and the other CPUs stopped: nobody else touches this CPU's count or `current`.
        unsafe {
            note_nmi();
            let saved = bindings::nd_preempt_count();
            bindings::nd_preempt_count_set(bindings::nd_preempt_count_in_softirq(saved));
            Self { saved, bpf: bindings::nd_bpf_net_ctx_set(storage.0.as_mut_ptr()) }
        }
    }
}

impl Drop for SoftirqContext {
    fn drop(&mut self) {
        // SAFETY: As in `enter`.
        unsafe {
            bindings::nd_bpf_net_ctx_clear(self.bpf);
            bindings::nd_preempt_count_set(self.saved);
        }
    }
}

/// Makes this CPU look as if it were serving a softirq for as long as a driver's functions are called, so that nothing in
/// there wakes a thread. Panic path; interrupts are off.
#[allow(dead_code)] // netconsole.ko's
pub(super) struct InDriver(c_ulong);

#[allow(dead_code)] // netconsole.ko's
impl InDriver {
    /// In a panic what it really serves, perhaps an NMI, is not to be seen either: drivers' functions mind.
    pub(super) fn enter(panic: bool) -> Self {
        // SAFETY: Interrupts are off: nobody else touches this CPU's count. An NMI leaves it as it was.
        unsafe {
            if panic {
                note_nmi();
            }
            let saved = bindings::nd_preempt_count();
            bindings::nd_preempt_count_set(if panic {
                bindings::nd_preempt_count_in_softirq(saved)
            } else {
                bindings::nd_preempt_count_with_softirq(saved)
            });
            Self(saved)
        }
    }
}

impl Drop for InDriver {
    fn drop(&mut self) {
        // SAFETY: As in `enter`.
        unsafe { bindings::nd_preempt_count_set(self.0) };
    }
}

/// The panic happened in an NMI.
static UNDER_NMI: AtomicBool = AtomicBool::new(false);

/// Before that is hidden from drivers.
fn note_nmi() {
    if in_nmi() {
        UNDER_NMI.store(true, Ordering::Relaxed);
    }
}

/// Whether the panic happened in an NMI: what it came upon may hold any lock. Panic path, in [`SoftirqContext`] or
/// [`InDriver`], which hide it.
pub(super) fn under_nmi() -> bool {
    UNDER_NMI.load(Ordering::Relaxed)
}

/// Whether this is an NMI. Any context.
pub fn in_nmi() -> bool {
    // SAFETY: Reads a per-CPU word.
    unsafe { bindings::nd_in_nmi() }
}

/// Whether this is a hard interrupt. Any context.
#[allow(dead_code)] // netconsole.ko's
pub fn in_hardirq() -> bool {
    // SAFETY: Reads a per-CPU word.
    unsafe { bindings::nd_in_hardirq() }
}
