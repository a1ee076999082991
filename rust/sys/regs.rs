// SPDX-License-Identifier: GPL-2.0-only

//! Registers, in the order of an ELF core's `elf_gregset`.

use super::bindings;

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

    /// As `elf_gregset_t`, in this machine's byte order (`ELF_CORE_COPY_REGS`).
    pub fn gregset(&self, bases: SegmentBases) -> [u8; GREGSET_LEN] {
        let r = &self.0;
        // SAFETY: Every variant of these unions is a plain integer of the same bits.
        let (cs, ss) = unsafe { (r.__bindgen_anon_1.cs as u64, r.__bindgen_anon_2.ss as u64) };
        let words: [u64; 27] = [
            r.r15 as _,
            r.r14 as _,
            r.r13 as _,
            r.r12 as _,
            r.bp as _,
            r.bx as _,
            r.r11 as _,
            r.r10 as _,
            r.r9 as _,
            r.r8 as _,
            r.ax as _,
            r.cx as _,
            r.dx as _,
            r.si as _,
            r.di as _,
            r.orig_ax as _,
            r.ip as _,
            cs,
            r.flags as _,
            r.sp as _,
            ss,
            bases.fs,
            bases.gs,
            0,
            0,
            0,
            0,
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
    fs: u64,
    gs: u64,
}

impl SegmentBases {
    /// Those of this CPU. Panic path.
    pub fn read() -> Self {
        // SAFETY: Reads two registers that every x86_64 CPU has.
        unsafe { Self { fs: bindings::nd_fs_base() as u64, gs: bindings::nd_gs_base() as u64 } }
    }
}
