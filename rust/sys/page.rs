// SPDX-License-Identifier: GPL-2.0-only

//! The page that a show function of sysfs or configfs writes into.

use core::fmt;

/// What the kernel gives a show function: one page.
const PAGE: usize = 4096;

/// A page that is being written. A text that does not fit is cut, as everywhere in sysfs.
pub struct Page {
    start: *mut u8,
    len: usize,
}

impl Page {
    /// # Safety
    ///
    /// `start` is a page that nobody else uses while this lives.
    pub(super) unsafe fn new(start: *mut u8) -> Self {
        Self { start, len: 0 }
    }

    /// Bytes written.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Writes bytes that need not be text.
    pub fn write_bytes(&mut self, bytes: &[u8]) -> fmt::Result {
        let room = PAGE - 1 - self.len;
        let len = bytes.len().min(room);
        // SAFETY: `start` is a page, of which `self.len` bytes are used and `room` are left.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), self.start.add(self.len), len) };
        self.len += len;
        if len < bytes.len() {
            Err(fmt::Error)
        } else {
            Ok(())
        }
    }
}

impl fmt::Write for Page {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.write_bytes(text.as_bytes())
    }
}
