// SPDX-License-Identifier: GPL-2.0-or-later
//! From what the client said to a [`DumpInfo`]: every count and length is bounded, every text printable,
//! and a note that makes no sense is left out rather than believed.

use netdump_core::wire::classic::{Machine, Start};
use netdump_core::wire::ext::{ByteOrder, Note, PhysRange, Ranges, Tlvs};
use netdump_core::wire::{Pfn, PhysAddr};
use netdump_vmcore::{Cpu, DumpInfo, Ktext, Overlay, PageSize};

const MAX_CPUS: usize = 8192;
const MAX_RANGES: usize = 4096;
const MAX_OVERLAYS: usize = 1024;
/// In all notes of a client together.
const MAX_IDENTITY: usize = 64;
const MAX_KEY: usize = 64;
const MAX_TEXT: usize = 1024;
const MAX_VMCOREINFO: usize = 64 * 1024;
/// The largest register block of any machine that we know, and then some.
const MAX_REGS: usize = 1024;

/// What the classic requests brought.
#[derive(Debug, Clone, Default)]
pub(crate) struct Classic {
    pub(crate) nr_pages: u64,
    pub(crate) total_ram_pages: u32,
    /// As received: perhaps with garbage at its end.
    pub(crate) regs: Vec<u8>,
}

/// The description and what had to be left out of it.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) info: DumpInfo,
    /// Notes that make no sense.
    pub(crate) refused: u64,
    /// Pages of RAM at or above the number of pages that the client gave.
    pub(crate) beyond: u64,
}

/// Builds the description.
pub(crate) fn describe(start: &Start, page_size: PageSize, classic: &Classic, notes: Option<&[u8]>) -> Described {
    let (machine, task_struct, page_offset) = match *start {
        Start::V4 => (Machine::I386, 0, 0),
        Start::V5 { machine, task_struct, page_offset, .. } => (machine, task_struct, page_offset),
    };
    let mut info = DumpInfo {
        machine,
        byte_order: if machine == Machine::PPC64 { ByteOrder::Big } else { ByteOrder::Little },
        page_size,
        nr_pages: classic.nr_pages,
        total_ram_pages: classic.total_ram_pages,
        task_struct,
        page_offset,
        regs: Vec::new(),
        crashing_cpu: None,
        cpus_possible: 0,
        cpus: Vec::new(),
        vmcoreinfo: None,
        ranges: None,
        ktext: None,
        identity: Default::default(),
        panic: None,
        overlays: Vec::new(),
    };
    let (mut refused, mut beyond) = (0, 0);
    for tlv in notes.into_iter().flat_map(Tlvs::new) {
        let taken = tlv.and_then(|tlv| Note::parse(&tlv)).is_ok_and(|note| take(&mut info, &mut beyond, note));
        refused += u64::from(!taken);
    }
    let len = info.machine.regs_len().unwrap_or(MAX_REGS.min(classic.regs.len()));
    info.regs = classic.regs.get(..len).map(<[u8]>::to_vec).unwrap_or_default();
    info.cpus.sort_by_key(|cpu| cpu.cpu);
    info.cpus.dedup_by_key(|cpu| cpu.cpu);
    Described { info, refused, beyond }
}

/// Puts a note in its place; `false` if it cannot be.
fn take(info: &mut DumpInfo, beyond: &mut u64, note: Note<'_>) -> bool {
    match note {
        Note::Machine(m) => {
            if m.page_shift != info.page_size.shift() || m.cpus_possible as usize > MAX_CPUS {
                return false;
            }
            info.machine = Machine(m.e_machine);
            info.byte_order = m.byte_order;
            info.cpus_possible = m.cpus_possible;
            info.crashing_cpu = Some(m.crashing_cpu);
        }
        Note::Cpu(c) => {
            let bad_regs = c.regs.is_some_and(|regs| match info.machine.regs_len() {
                Some(len) => regs.len() != len,
                None => regs.len() > MAX_REGS,
            });
            if bad_regs || info.cpus.len() >= MAX_CPUS || c.cpu as usize >= MAX_CPUS {
                return false;
            }
            info.cpus.push(Cpu {
                cpu: c.cpu,
                pid: c.pid,
                task_struct: c.task_struct,
                crashing: c.flags.crashing,
                was_online: c.flags.was_online,
                by_nmi: c.flags.by_nmi,
                regs: c.regs.map(<[u8]>::to_vec),
            });
        }
        Note::Vmcoreinfo(text) => {
            if text.is_empty() || text.len() > MAX_VMCOREINFO {
                return false;
            }
            info.vmcoreinfo = Some(text.to_vec());
            let build_id = text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"BUILD-ID="));
            if let Some(build_id) = build_id {
                info.identity.insert("build-id".into(), printable(&build_id[..build_id.len().min(MAX_KEY)]));
            }
        }
        Note::Ranges(ranges) => match bounded(&ranges, info) {
            Some(within) => {
                let bytes = |r: PhysRange| r.end.0 - r.start.0;
                let all: u64 = ranges.iter().map(bytes).sum();
                let taken: u64 = within.iter().copied().map(bytes).sum();
                *beyond = (all - taken) >> info.page_size.shift();
                info.ranges = Some(within);
            }
            None => return false,
        },
        Note::Ktext(k) => {
            if k.length == 0 {
                return false;
            }
            info.ktext = Some(Ktext { vaddr: k.vaddr, paddr: k.paddr, length: k.length });
        }
        Note::Layout { page_offset } => info.page_offset = page_offset,
        Note::Identity(text) => {
            // What a machine does not know of itself has no value.
            let lines = text.split(|b| *b == b'\n').filter(|line| !line.ends_with(b"="));
            for line in lines {
                let Some(at) = line.iter().position(|b| *b == b'=') else {
                    continue;
                };
                let (key, value) = (&line[..at], &line[at + 1..]);
                if key.len() > MAX_KEY || !key.iter().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(b)) {
                    continue;
                }
                let key = printable(key);
                if info.identity.len() < MAX_IDENTITY || info.identity.contains_key(&key) {
                    info.identity.insert(key, printable(value));
                }
            }
        }
        Note::Panic(text) => info.panic = Some(printable(text)),
        Note::Overlay { paddr, data } => {
            if info.overlays.len() >= MAX_OVERLAYS {
                return false;
            }
            info.overlays.push(Overlay { paddr, data: data.to_vec() });
        }
        // A later client may say more.
        Note::Unknown { .. } => {}
    }
    true
}

/// The ranges below `nr_pages`, if they are page aligned and not too many.
fn bounded(ranges: &Ranges<'_>, info: &DumpInfo) -> Option<Vec<PhysRange>> {
    if !ranges.is_page_aligned(info.page_size.shift()) || ranges.iter().count() > MAX_RANGES {
        return None;
    }
    let limit = info.page_size.addr(Pfn(info.nr_pages)).0;
    let within: Vec<_> = ranges
        .iter()
        .map(|r| PhysRange { start: r.start, end: PhysAddr(r.end.0.min(limit)) })
        .filter(|r| r.start.0 < r.end.0)
        .collect();
    (!within.is_empty()).then_some(within)
}

/// Text that can be shown and stored: control characters become blanks, what is not UTF-8 becomes U+FFFD.
fn printable(text: &[u8]) -> String {
    let text = &text[..text.len().min(MAX_TEXT)];
    let clean: String = String::from_utf8_lossy(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clean.trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use netdump_core::wire::ext::NotesWriter;

    #[test]
    fn identity_is_bounded_over_all_notes() {
        let mut buf = vec![0; 1 << 20];
        let mut notes = NotesWriter::new(&mut buf);
        let keys: Vec<String> = (0..1000).map(|n| format!("key{n}")).collect();
        for key in keys.iter().chain(&keys[..1]) {
            notes.identity(&[(key, b"value"), ("hostname", b"box")]).unwrap();
        }
        let len = notes.len();
        let described = describe(&Start::V4, PageSize::KIB4, &Classic::default(), Some(&buf[..len]));
        assert_eq!((described.info.identity.len(), described.refused), (MAX_IDENTITY, 0));
        assert_eq!(described.info.identity["hostname"], "box");
    }
}
