// SPDX-License-Identifier: GPL-2.0-only

//! Numbers and addresses read and written by the kernel's own functions, for interfaces that must accept, refuse and
//! print exactly what others of the kernel do.

use super::bindings;
use core::ffi::CStr;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use kernel::error::to_result;
use kernel::prelude::*;

/// Longest string that [`Terminated`] holds, with its NUL.
const MAX: usize = 256;

/// A copy of some text with a NUL behind it. Text that is too long is cut, text with a NUL in it ends there.
pub struct Terminated([u8; MAX]);

impl Terminated {
    /// Copies `text`.
    pub fn new(text: &[u8]) -> Self {
        let mut bytes = [0; MAX];
        for (to, from) in bytes.iter_mut().zip(text).take(MAX - 1) {
            *to = *from;
        }
        Self(bytes)
    }

    /// The copy.
    pub fn get(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// A truth value (`kstrtobool()`).
pub fn boolean(text: &CStr) -> Result<bool> {
    let mut value = false;
    // SAFETY: The text is terminated.
    to_result(unsafe { bindings::kstrtobool(text.as_char_ptr(), &raw mut value) })?;
    Ok(value)
}

/// A decimal number of 16 bits (`kstrtou16()`).
pub fn decimal16(text: &CStr) -> Result<u16> {
    let mut value = 0;
    // SAFETY: The text is terminated.
    to_result(unsafe { bindings::kstrtou16(text.as_char_ptr(), 10, &raw mut value) })?;
    Ok(value)
}

/// An IP address (`in4_pton()`, `in6_pton()`), perhaps with a newline behind it.
pub fn ip(text: &CStr) -> Option<IpAddr> {
    let bytes = text.to_bytes();
    let len = match bytes.split_last() {
        None => return None,
        Some((b'\n', rest)) => rest.len(),
        Some(_) => bytes.len(),
    } as i32;
    let start = text.as_char_ptr();
    // SAFETY: The text is as long as said and terminated; `end` is set to a place in it, the terminator at most.
    unsafe {
        let at_end = |end: *const u8| end.is_null() || matches!(*end, 0 | b'\n');
        let mut end = core::ptr::null();
        let mut v4 = [0u8; 4];
        if bindings::in4_pton(start, len, v4.as_mut_ptr(), -1, &raw mut end) > 0 && at_end(end) {
            return Some(IpAddr::V4(Ipv4Addr::from(v4)));
        }
        let mut v6 = [0u8; 16];
        if bindings::in6_pton(start, len, v6.as_mut_ptr(), -1, &raw mut end) > 0 && at_end(end) {
            return Some(IpAddr::V6(Ipv6Addr::from(v6)));
        }
    }
    None
}

/// An Ethernet address at the start of a text (`mac_pton()`); what follows it is not looked at.
pub fn mac(text: &CStr) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    // SAFETY: The text is terminated.
    unsafe { bindings::mac_pton(text.as_char_ptr(), mac.as_mut_ptr()) }.then_some(mac)
}

/// An IP address as the kernel prints it (`%pI4`, `%pI6c`).
pub struct ShowIp(pub IpAddr);

impl core::fmt::Display for ShowIp {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => write!(f, "{v4}"),
            IpAddr::V6(v6) => {
                let octets = v6.octets();
                let mut text = [0u8; 64];
                // SAFETY: Sixteen bytes, and room as said.
                unsafe { bindings::nd_print_ip6(text.as_mut_ptr(), text.len(), octets.as_ptr()) };
                let text = CStr::from_bytes_until_nul(&text).ok().and_then(|text| text.to_str().ok());
                f.write_str(text.unwrap_or("?"))
            }
        }
    }
}

/// Bytes that should be text, as they are where they are.
pub struct Lossy<'a>(pub &'a [u8]);

impl core::fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        use core::fmt::Write;
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            for _ in chunk.invalid() {
                f.write_char('?')?;
            }
        }
        Ok(())
    }
}

impl kernel::fmt::Display for ShowIp {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl kernel::fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}
