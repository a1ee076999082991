// SPDX-License-Identifier: GPL-2.0-only

//! Module parameters (`params_netdump.c`) and the `status` file.

use super::bindings;
use super::page::Page;
use core::ffi::CStr;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicPtr, Ordering};

/// The parameters of netdump.ko as they were given.
#[derive(Clone, Copy)]
pub struct Parameters {
    /// The target string, without a check.
    pub netdump: &'static str,
    /// Never arm.
    pub disable: bool,
    /// `reboot=`, without a check.
    pub reboot: &'static str,
    /// Seconds; 0 means no limit.
    pub handshake_timeout: u32,
    /// Seconds; 0 means no limit.
    pub idle_timeout: u32,
    /// Seconds; 0 means no limit.
    pub total_timeout: u32,
    /// Seconds; 0 means no limit.
    pub queue_timeout: u32,
    /// `level=`, without a check.
    pub level: u32,
    /// `protocol=`, without a check.
    pub protocol: &'static str,
    /// `simd=`, without a check.
    pub simd: &'static str,
    /// Seconds; 0 means none.
    pub probe_interval: u32,
    /// `tags=`, without a check.
    pub tags: &'static str,
}

/// Reads the parameters. None if a string is not UTF-8.
///
/// They are set before the module's init runs and have no writable file under /sys, so they do not change.
pub fn get() -> Option<Parameters> {
    // SAFETY: Written only by the module loader, before init; never changed since.
    unsafe {
        let netdump = &raw const bindings::nd_param_netdump;
        let reboot = &raw const bindings::nd_param_reboot;
        let protocol = &raw const bindings::nd_param_protocol;
        let simd = &raw const bindings::nd_param_simd;
        let tags = &raw const bindings::nd_param_tags;
        Some(Parameters {
            netdump: text(&*netdump)?,
            disable: bindings::nd_param_disable,
            reboot: text(&*reboot)?,
            handshake_timeout: bindings::nd_param_handshake_timeout,
            idle_timeout: bindings::nd_param_idle_timeout,
            total_timeout: bindings::nd_param_total_timeout,
            queue_timeout: bindings::nd_param_queue_timeout,
            level: bindings::nd_param_level,
            protocol: text(&*protocol)?,
            simd: text(&*simd)?,
            probe_interval: bindings::nd_param_probe_interval,
            tags: text(&*tags)?,
        })
    }
}

fn text(bytes: &'static [u8]) -> Option<&'static str> {
    CStr::from_bytes_until_nul(bytes).ok()?.to_str().ok()
}

/// Both halves of the classic cookie. It is forgotten where the module loader put it, so that this is its only copy.
pub fn take_cookie() -> u64 {
    // SAFETY: Init is their only user, and the parameters have no file.
    unsafe {
        let cookie = u64::from(bindings::nd_param_magic1) | u64::from(bindings::nd_param_magic2) << 32;
        (&raw mut bindings::nd_param_magic1).write_volatile(0);
        (&raw mut bindings::nd_param_magic2).write_volatile(0);
        cookie
    }
}

/// Writes the text of the `status` file.
pub type ShowStatus = fn(&mut dyn Write) -> fmt::Result;

static SHOW_STATUS: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Sets what answers a read of `/sys/module/netdump/parameters/status`.
pub fn set_status(show: Option<ShowStatus>) {
    SHOW_STATUS.store(show.map_or(core::ptr::null_mut(), |show| show as *mut ()), Ordering::Release);
}

/// Called by the kernel when the file is read.
#[no_mangle]
extern "C" fn nd_status_get(buffer: *mut u8, _: *const bindings::kernel_param) -> i32 {
    let show = SHOW_STATUS.load(Ordering::Acquire);
    if show.is_null() {
        return 0;
    }
    // SAFETY: Only `set_status` stores here, and only a `ShowStatus`.
    let show: ShowStatus = unsafe { core::mem::transmute(show) };
    // SAFETY: sysfs gives a page.
    let mut page = unsafe { Page::new(buffer) };
    // A text that does not fit is cut, as everywhere in sysfs.
    let _ = show(&mut page);
    page.len() as i32
}
