// SPDX-License-Identifier: GPL-2.0-only

//! A clock that still runs when nothing else does.

use super::bindings;
use kernel::ffi::c_ulong;

/// Nanoseconds since the clock was made. Panic path.
///
/// `ktime_get_mono_fast_ns()` is read without locks, but nobody moves its base any more once the other CPUs are
/// stopped, so a narrow counter wraps back to that base: hpet after 43 s, acpi_pm after 4.7 s. Hence the sum of
/// what went forward between two readings; only the one reading in which the wrap falls is lost. Correct as long as
/// [`Clock::now`] is called more often than the counter wraps.
pub struct Clock {
    last: u64,
    total: u64,
}

impl Clock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self { last: raw(), total: 0 }
    }

    /// Nanoseconds since [`Clock::start`]. Never goes back.
    pub fn now(&mut self) -> u64 {
        let raw = raw();
        self.total = self.total.saturating_add(raw.saturating_sub(self.last));
        self.last = raw;
        self.total
    }
}

/// Whether the clock moves: while the machine suspends it stands still, and so does one that is driven by interrupts.
/// Panic path; takes a millisecond.
pub fn runs() -> bool {
    let before = raw();
    spin_us(1000);
    raw() != before
}

fn raw() -> u64 {
    // SAFETY: Reads a latched structure; callable from any context, NMI included.
    unsafe { bindings::ktime_get_mono_fast_ns() }
}

/// Waits, spinning. Panic path. Calibrated delay loop, no timer.
pub fn spin_us(usecs: u32) {
    for _ in 0..usecs / 1000 {
        // SAFETY: Spins only, no longer than udelay() takes in one call.
        unsafe { bindings::nd_udelay(1000) }
    }
    // SAFETY: As above.
    unsafe { bindings::nd_udelay((usecs % 1000) as c_ulong) }
}

/// Nanoseconds of a clock that only goes forward while the machine is well. Any context.
#[allow(dead_code)] // netconsole.ko's
pub fn monotonic() -> u64 {
    raw()
}

/// The time of day, in microseconds since 1970, at which printk's clock showed `printed_us`. Any context.
#[allow(dead_code)] // netconsole.ko's
pub fn time_of_day(printed_us: u64) -> u64 {
    // SAFETY: Both are readable in any context, NMI included.
    let (real, local) = unsafe { (bindings::ktime_get_real_fast_ns(), bindings::nd_local_clock() as u64) };
    (real / 1000).saturating_sub((local / 1000).saturating_sub(printed_us))
}

/// A random number below `limit`, which is not 0. Not for panics.
#[allow(dead_code)] // netconsole.ko's
pub fn random(limit: u32) -> u32 {
    // SAFETY: Callable with interrupts off.
    let number = unsafe { bindings::nd_random() };
    number % limit
}
