// SPDX-License-Identifier: GPL-2.0-only

//! Registers, in the order of an ELF core's `elf_gregset`.

use super::bindings;
use kernel::ffi::c_ulong;

/// Bytes of `elf_gregset_t` on x86_64: 27 words.
pub const GREGSET_LEN: usize = 27 * 8;

/// A CPU's registers as the kernel saves them.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Regs(bindings::pt_regs);

impl Default for Regs {
    fn default() -> Self {
        // SAFETY: All fields are integers.
        Self(unsafe { core::mem::zeroed() })
    }
}

impl Regs {
    pub(super) fn as_mut_ptr(&mut self) -> *mut bindings::pt_regs {
        &raw mut self.0
    }

    /// # Safety
    ///
    /// `regs` is readable.
    pub(super) unsafe fn copy(regs: *const bindings::pt_regs) -> Self {
        // SAFETY: By this function's contract.
        Self(unsafe { *regs })
    }

    /// The address of the next instruction.
    pub fn ip(&self) -> u64 {
        self.0.ip as u64
    }

    /// As `elf_gregset_t`, in this machine's byte order (`ELF_CORE_COPY_REGS`).
    pub fn gregset(&self, bases: SegmentBases) -> [u8; GREGSET_LEN] {
        let r = &self.0;
        // SAFETY: Every variant of these unions is a plain integer of the same bits.
        let (cs, ss) = unsafe { (c_ulong::from(r.__bindgen_anon_1.cs), c_ulong::from(r.__bindgen_anon_2.ss)) };
        let SegmentBases { fs, gs } = bases;
        let words: [c_ulong; 27] = [
            r.r15, r.r14, r.r13, r.r12, r.bp, r.bx, r.r11, r.r10, r.r9, r.r8, r.ax, r.cx, r.dx, r.si, r.di, r.orig_ax,
            r.ip, cs, r.flags, r.sp, ss, fs, gs, 0, 0, 0, 0,
        ];
        let mut bytes = [0; GREGSET_LEN];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The bases of the fs and gs segments of one CPU.
#[derive(Clone, Copy, Default)]
pub struct SegmentBases {
    fs: c_ulong,
    gs: c_ulong,
}

impl SegmentBases {
    /// Those of this CPU. Panic path.
    pub fn read() -> Self {
        // SAFETY: Reads two registers that every x86_64 CPU has.
        unsafe { Self { fs: bindings::nd_fs_base(), gs: bindings::nd_gs_base() } }
    }
}
