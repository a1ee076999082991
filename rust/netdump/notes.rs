// SPDX-License-Identifier: GPL-2.0-only

//! The notes that go with a dump: item NOTES of the protocol's extension (docs/protocol.md).

use super::plan::Plan;
use super::sys::nic::Nic;
use super::sys::regs::GREGSET_LEN;
use super::sys::{memory::ONLINE_MASK_LEN, stop_cpus, system};
use super::wire::classic::Machine;
use super::wire::ext::{ByteOrder, CpuFlags, CpuNote, KtextNote, MachineNote, NotesWriter, TLV_HEADER_LEN};
use super::wire::tags::{Tags, MAX_PAIRS};
use super::wire::{PhysAddr, Result};
use core::ffi::CStr;

const PAGE_SHIFT: u8 = 12;
/// Room for identity, panic message and the small notes.
const TEXTS: usize = 6144;
/// Longest text of the firmware's.
const MAX_BOARD: usize = 128;
/// Longest panic message (the kernel's own buffer is as long).
const MAX_MESSAGE: usize = 1024;

/// How many bytes the notes can take at most.
pub fn room(cpus: usize, ranges: usize, vmcoreinfo: usize) -> usize {
    let cpu = TLV_HEADER_LEN + 20 + GREGSET_LEN;
    cpus * cpu + TLV_HEADER_LEN * (16 + MAX_PAIRS) + ranges * 16 + vmcoreinfo + ONLINE_MASK_LEN + TEXTS
}

/// Writes the notes into the plan's buffer. Panic path.
///
/// A note that does not fit is left out; `room` is made so that all do.
pub fn write(plan: &mut Plan, message: &[u8], task: u64, pid: u32) {
    let Plan { notes, regs, ranges, vmcoreinfo, layout, online, nic, settings, .. } = plan;
    let mut out = NotesWriter::new(&mut notes.bytes);
    let message = message.get(..MAX_MESSAGE).unwrap_or(message);
    let crashing = system::cpu();
    let machine = MachineNote {
        e_machine: Machine::X86_64.0,
        page_shift: PAGE_SHIFT,
        byte_order: ByteOrder::Little,
        cpus_possible: system::cpus_possible(),
        crashing_cpu: crashing,
    };
    keep(out.machine(&machine));
    keep(out.panic_text(message));
    identity(&mut out, nic, settings.tags);
    for cpu in 0..system::cpus_possible() {
        if cpu == crashing {
            let flags = CpuFlags { crashing: true, was_online: true, by_nmi: false };
            keep(out.cpu(&CpuNote { cpu, pid, flags, task_struct: task, regs: Some(&*regs) }));
        } else if let Some(state) = stop_cpus::cpu_state(cpu) {
            let flags = CpuFlags { crashing: false, was_online: true, by_nmi: state.by_nmi };
            let regs = state.regs.as_ref().map(|regs| &regs[..]);
            keep(out.cpu(&CpuNote { cpu, pid: state.pid, flags, task_struct: state.task, regs }));
        }
    }
    keep(out.vmcoreinfo(vmcoreinfo));
    keep(out.ranges(ranges));
    if let Some((vaddr, paddr, length)) = layout.image {
        keep(out.ktext(&KtextNote { vaddr, paddr: PhysAddr(paddr), length }));
    }
    keep(out.layout(layout.page_offset));
    for (paddr, bytes) in online.places() {
        keep(out.overlay(PhysAddr(paddr), bytes));
    }
    notes.len = out.len();
}

fn identity(out: &mut NotesWriter<'_>, nic: &Nic, tags: Tags<'_>) {
    let names = system::names();
    let board = system::board();
    let short = |text: &'static CStr| text.to_bytes().get(..MAX_BOARD).unwrap_or(text.to_bytes());
    keep(out.identity(&[
        ("hostname", names.hostname.to_bytes()),
        ("release", names.release.to_bytes()),
        ("version", names.version.to_bytes()),
        ("machine", names.machine.to_bytes()),
        ("dmi-vendor", short(board.vendor)),
        ("dmi-product", short(board.product)),
        ("dmi-serial", short(board.serial)),
        ("dmi-uuid", short(board.uuid)),
        ("nic", nic.name().to_bytes()),
        ("nic-driver", short(nic.driver())),
    ]));
    for (key, value) in tags.pairs() {
        keep(out.identity(&[(key, value.as_bytes())]));
    }
}

/// A note that found no room is missed by the server, which then does without it; nothing better can be done here.
fn keep(_: Result<()>) {}
