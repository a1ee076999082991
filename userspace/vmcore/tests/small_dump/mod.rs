// SPDX-License-Identifier: GPL-2.0-or-later
//! What is known of a small dump, for more than one file of tests.

use std::collections::BTreeMap;

use netdump_core::wire::classic::Machine;
use netdump_core::wire::ext::{ByteOrder, PhysRange};
use netdump_core::wire::PhysAddr;
use netdump_vmcore::{Cpu, DumpInfo, Ktext, PageSize};

/// From the first byte to the one behind the last.
pub(crate) fn range(start: u64, end: u64) -> PhysRange {
    PhysRange { start: PhysAddr(start), end: PhysAddr(end) }
}

/// 2 MiB in two ranges, two CPUs.
pub(crate) fn info() -> DumpInfo {
    let cpu = |cpu: u32| Cpu {
        cpu,
        pid: 0,
        task_struct: 0,
        crashing: cpu == 1,
        was_online: true,
        by_nmi: false,
        regs: Some(vec![cpu as u8 + 1; 216]),
    };
    DumpInfo {
        machine: Machine::X86_64,
        byte_order: ByteOrder::Little,
        page_size: PageSize::KIB4,
        nr_pages: 0x200,
        total_ram_pages: 0x19e,
        task_struct: 0xffff_8880_0012_3000,
        page_offset: 0xffff_8880_0000_0000,
        regs: vec![9; 216],
        crashing_cpu: Some(1),
        cpus_possible: 2,
        cpus: vec![cpu(0), cpu(1)],
        vmcoreinfo: Some(b"OSRELEASE=7.3.4\nPAGESIZE=4096\n".to_vec()),
        ranges: Some(vec![range(0x1000, 0x9_f000), range(0x10_0000, 0x20_0000)]),
        ktext: Some(Ktext { vaddr: 0xffff_ffff_8100_0000, paddr: PhysAddr(0x10_0000), length: 0x8_0000 }),
        identity: BTreeMap::new(),
        panic: None,
        overlays: Vec::new(),
    }
}
