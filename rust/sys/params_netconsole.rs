// SPDX-License-Identifier: GPL-2.0-only

//! Parameters of netconsole.ko (`params_netconsole.c`).

use super::bindings;
use core::ffi::CStr;

/// The parameters as they were given.
#[derive(Clone, Copy)]
pub struct Parameters {
    /// Targets of the kind that upstream's netconsole has.
    pub netconsole: &'static CStr,
    /// Targets that speak netlog.
    pub netlog: &'static CStr,
    /// Targets that speak syslog.
    pub syslog: &'static CStr,
    /// How syslog targets speak, unless configfs says otherwise.
    pub syslog_format: &'static CStr,
}

/// Reads the parameters. They are set before the module's init runs and do not change.
pub fn get() -> Parameters {
    // SAFETY: Written only by the module loader, before init.
    unsafe {
        let netconsole = &raw const bindings::nc_param_netconsole;
        let netlog = &raw const bindings::nc_param_netlog;
        let syslog = &raw const bindings::nc_param_syslog;
        let syslog_format = &raw const bindings::nc_param_syslog_format;
        Parameters {
            netconsole: text(&*netconsole),
            netlog: text(&*netlog),
            syslog: text(&*syslog),
            syslog_format: text(&*syslog_format),
        }
    }
}

fn text(bytes: &'static [u8]) -> &'static CStr {
    CStr::from_bytes_until_nul(bytes).unwrap_or(c"")
}

/// Whether records are to be left out, because only oopses are wanted and there is none at the moment. Panic path.
pub fn leaves_out() -> bool {
    // SAFETY: Reads two words, which may change at any time.
    unsafe { (&raw const bindings::nc_param_oops_only).read_volatile() && !bindings::nd_oops_in_progress() }
}
