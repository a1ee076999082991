// SPDX-License-Identifier: GPL-2.0-only

//! The kernel log, read without locks (`kernel/printk`, kmsg_dump_*), and the local consoles.

use super::bindings;

/// A place in the kernel log.
pub struct LogReader(bindings::kmsg_dump_iter);

impl LogReader {
    /// At the end: only what is printed from now on will be read. Panic path.
    pub fn at_end() -> Self {
        let mut iter = rewound();
        iter.cur_seq = iter.next_seq;
        Self(iter)
    }

    /// The next record, with time stamp and newline. None when there is no more yet. Panic path.
    pub fn next_line(&mut self, line: &mut [u8]) -> Option<usize> {
        let mut len = 0usize;
        // SAFETY: The buffer is as long as said; the function takes no lock.
        let any = unsafe {
            bindings::kmsg_dump_get_line(&raw mut self.0, false, line.as_mut_ptr().cast(), line.len(), &raw mut len)
        };
        any.then_some(len.min(line.len()))
    }
}

/// Renders the newest records that fit into `buffer`, as dmesg does; their length. Panic path.
pub fn newest(buffer: &mut [u8]) -> usize {
    let mut iter = rewound();
    let mut len = 0usize;
    // SAFETY: As in `next_line`.
    let any = unsafe {
        bindings::kmsg_dump_get_buffer(&raw mut iter, false, buffer.as_mut_ptr().cast(), buffer.len(), &raw mut len)
    };
    if any {
        len.min(buffer.len())
    } else {
        0
    }
}

/// Number that the next record will have. Any context.
#[allow(dead_code)] // netconsole.ko's
pub fn next_seq() -> u64 {
    rewound().next_seq
}

fn rewound() -> bindings::kmsg_dump_iter {
    let mut iter = bindings::kmsg_dump_iter::default();
    // SAFETY: Fills the iterator in; takes no lock.
    unsafe { bindings::kmsg_dump_rewind(&raw mut iter) };
    iter
}

/// Keeps what is printed off the local consoles while it lives. Panic path.
pub struct QuietConsoles {
    loglevel: i32,
}

impl QuietConsoles {
    /// From now on.
    pub fn new() -> Self {
        // SAFETY: `console_printk[0]` is the console log level, a plain word; the other CPUs are stopped.
        unsafe {
            let level = (&raw mut bindings::console_printk).cast::<i32>();
            let loglevel = level.read_volatile();
            level.write_volatile(0);
            Self { loglevel }
        }
    }
}

impl Drop for QuietConsoles {
    fn drop(&mut self) {
        // SAFETY: As in `new`.
        unsafe { (&raw mut bindings::console_printk).cast::<i32>().write_volatile(self.loglevel) };
    }
}
