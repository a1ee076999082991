// SPDX-License-Identifier: GPL-2.0-or-later
//! The notes of a dump: registers of each CPU, VMCOREINFO, and the task that crashed.
//!
//! `struct elf_prstatus` as far as debuggers look at it: `pr_pid`, the registers, `pr_fpvalid`.
//!
//! | | i386 | 64-bit |
//! |--|--|--|
//! | `pr_pid` at | 24 | 32 |
//! | registers at | 72 | 112 |
//! | behind them | u32 `pr_fpvalid` | u32 `pr_fpvalid`, u32 padding |

use std::ops::Range;

use netdump_core::wire::classic::Machine;

use crate::describe::DumpInfo;
use crate::elf::{Class, Out, NT_PRPSINFO, NT_PRSTATUS, NT_TASKSTRUCT};

/// Longest VMCOREINFO that becomes a note, bytes.
pub(crate) const MAX_VMCOREINFO: usize = 64 * 1024;

/// Registers that a PRSTATUS of this machine holds, bytes. The server of 2005 stored 44 of ppc64's 48 words, and crash expects that.
fn stored_regs(machine: Machine) -> Option<usize> {
    match machine {
        Machine::PPC64 => Some(352),
        other => other.regs_len(),
    }
}

/// Where `pr_pid` and the registers are.
pub(crate) fn prstatus_places(class: Class) -> (usize, usize) {
    match class {
        Class::Elf32 => (24, 72),
        Class::Elf64 => (32, 112),
    }
}

/// `struct elf_prstatus` for a machine, or for one that we do not know the raw registers behind the usual 64-bit head.
fn prstatus(info: &DumpInfo, pid: u32, regs: &[u8]) -> Vec<u8> {
    // A 32-bit kernel's notes keep their layout in a 64-bit file.
    let class = if info.machine == Machine::I386 { Class::Elf32 } else { Class::Elf64 };
    let (pid_at, regs_at) = prstatus_places(class);
    let regs_len = stored_regs(info.machine).unwrap_or(regs.len());
    let mut out = Out::new(class, info.byte_order);
    out.zeros(pid_at);
    out.u32(pid);
    out.zeros(regs_at - pid_at - 4);
    let taken = regs.get(..regs_len).unwrap_or_default();
    out.bytes.extend_from_slice(taken);
    out.zeros(regs_len - taken.len());
    out.u32(0); // pr_fpvalid
    out.zeros(out.bytes.len().next_multiple_of(if class == Class::Elf64 { 8 } else { 4 }) - out.bytes.len());
    out.bytes
}

/// `struct elf_prpsinfo` saying as much as is known: a kernel ran.
fn prpsinfo(class: Class) -> Vec<u8> {
    let (len, name_at) = match class {
        Class::Elf32 => (124, 28),
        Class::Elf64 => (136, 40),
    };
    let mut desc = vec![0; len];
    desc[1] = b'R'; // pr_sname
    for at in [name_at, name_at + 16] {
        desc[at..at + 7].copy_from_slice(b"vmlinux"); // pr_fname, pr_psargs
    }
    desc
}

/// The talk's note: address of the task that crashed, and a word that only ia64 used.
fn taskstruct(class: Class, info: &DumpInfo) -> Vec<u8> {
    let mut out = Out::new(class, info.byte_order);
    out.word(info.task_struct);
    out.word(0);
    out.bytes
}

/// Notes in the order that today's tools like: one PRSTATUS per CPU, then VMCOREINFO, then TASKSTRUCT.
///
/// `pr_pid` is the number of the CPU plus 1: gdb needs it distinct (several CPUs run pid 0), and drgn
/// finds a CPU by it.
///
/// Also tells where the text of VMCOREINFO is.
pub(crate) fn kdump(class: Class, info: &DumpInfo) -> (Vec<u8>, Option<Range<usize>>) {
    let mut out = Out::new(class, info.byte_order);
    let mut status = |pid: u32, regs: &[u8]| out.note(NT_PRSTATUS, b"CORE\0", &prstatus(info, pid, regs));
    if info.cpus.is_empty() {
        status(info.crashing_cpu.unwrap_or(0).saturating_add(1), &info.regs);
    }
    for cpu in &info.cpus {
        let known = cpu.regs.as_deref();
        // crash counts the notes, so a CPU without registers has one too.
        let regs = known.unwrap_or(if cpu.crashing { &info.regs } else { &[] });
        status(cpu.cpu.saturating_add(1), regs);
    }
    let mut vmcoreinfo = None;
    if let Some(text) = info.vmcoreinfo.as_ref().filter(|text| text.len() <= MAX_VMCOREINFO) {
        let start = out.bytes.len() + 12 + "VMCOREINFO\0".len().next_multiple_of(4);
        vmcoreinfo = Some(start..start + text.len());
        out.note(0, b"VMCOREINFO\0", text);
    }
    if info.task_struct != 0 {
        // crash reads this one without rounding the name's length up: it must be a multiple of 4, so without a NUL.
        out.note(NT_TASKSTRUCT, b"CORE", &taskstruct(class, info));
    }
    (out.bytes, vmcoreinfo)
}

/// The three notes of 2005. Their names have no NUL: the crash of that time does not round the length of a name.
pub(crate) fn netdump(class: Class, info: &DumpInfo) -> Vec<u8> {
    let crashed = info.cpus.iter().find(|cpu| cpu.crashing);
    let regs = match crashed.and_then(|cpu| cpu.regs.as_deref()) {
        Some(regs) => regs,
        None => &info.regs,
    };
    let mut out = Out::new(class, info.byte_order);
    out.note(NT_PRSTATUS, b"CORE", &prstatus(info, 0, regs));
    out.note(NT_PRPSINFO, b"CORE", &prpsinfo(class));
    out.note(NT_TASKSTRUCT, b"CORE", &taskstruct(class, info));
    out.bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::info;
    use netdump_core::wire::ext::ByteOrder;

    #[test]
    fn prstatus_has_the_sizes_that_crash_expects() {
        for (machine, order, class, len) in [
            (Machine::I386, ByteOrder::Little, Class::Elf32, 144),
            (Machine::X86_64, ByteOrder::Little, Class::Elf64, 336),
            (Machine::PPC64, ByteOrder::Big, Class::Elf64, 472),
            (Machine::IA64, ByteOrder::Little, Class::Elf64, 568),
        ] {
            let mut info = info();
            info.machine = machine;
            info.byte_order = order;
            let regs = vec![0xaa; machine.regs_len().unwrap()];
            let desc = prstatus(&info, 0x0102, &regs);
            assert_eq!(desc.len(), len, "{machine:?}");
            let (pid_at, regs_at) = prstatus_places(class);
            let pid = if order == ByteOrder::Little { [2, 1, 0, 0] } else { [0, 0, 1, 2] };
            assert_eq!(desc[pid_at..pid_at + 4], pid);
            assert_eq!(desc[regs_at - 1..=regs_at], [0, 0xaa]);
            let filled = stored_regs(machine).unwrap();
            assert!(desc[regs_at..regs_at + filled].iter().all(|b| *b == 0xaa));
            assert!(desc[regs_at + filled..].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn netdump_notes_have_the_lengths_of_2005() {
        let mut info = info();
        assert_eq!(netdump(Class::Elf64, &info).len(), 352 + 152 + 32);
        info.machine = Machine::I386;
        assert_eq!(netdump(Class::Elf32, &info).len(), 160 + 140 + 24);
        let notes = netdump(Class::Elf32, &info);
        assert_eq!(notes[..16], *b"\x04\0\0\0\x90\0\0\0\x01\0\0\0CORE");
    }

    #[test]
    fn every_cpu_has_a_status_even_without_registers() {
        let mut info = info();
        info.cpus[0].regs = None;
        let (notes, place) = kdump(Class::Elf64, &info);
        assert_eq!(notes.get(place.unwrap()), info.vmcoreinfo.as_deref());
        // Header 12, name 8, desc 336.
        assert_eq!(notes[20 + 32], 1);
        assert_eq!(notes[20 + 112], 0);
        assert_eq!(notes[356 + 20 + 32], 2);
        assert_eq!(notes[356 + 20 + 112], 2);
    }
}
