// SPDX-License-Identifier: GPL-2.0-or-later
//! Dump files written and read back, and what readelf says of them.

mod small_dump;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use netdump_core::wire::classic::Machine;
use netdump_core::wire::ext::ByteOrder;
use netdump_core::wire::{Pfn, PhysAddr};
use netdump_vmcore::{Class, Format, Kind, Overlay, ReadError, Reader, WriteError, Writer};
use proptest::prelude::*;
use small_dump::{info, range};

fn page(byte: u8) -> Vec<u8> {
    vec![byte; 4096]
}

fn read_page(reader: &Reader, pfn: u64) -> Vec<u8> {
    let mut out = page(0xee);
    reader.read(PhysAddr(pfn * 4096), &mut out).unwrap();
    out
}

#[test]
fn a_dump_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmcore");
    let mut writer = Writer::create(File::create(&path).unwrap(), info(), Format::Elf).unwrap();
    assert!(!Reader::open(&path).unwrap().is_complete());
    // Out of order, with a zero page in the middle of a run.
    writer.write(Pfn(0x150), &page(5), false).unwrap();
    writer.write(Pfn(1), &[page(1), page(0), page(3)].concat(), false).unwrap();
    let (_, written) = writer.finish(true).unwrap();
    assert_eq!((written.pages, written.zero_pages), (4, 1));

    let reader = Reader::open(&path).unwrap();
    assert!(reader.is_complete());
    assert_eq!((reader.kind(), reader.class(), reader.machine()), (Kind::Kdump, Class::Elf64, Machine::X86_64));
    for (pfn, byte) in [(1, 1), (2, 0), (3, 3), (4, 0), (0x150, 5), (0x1ff, 0)] {
        assert_eq!(read_page(&reader, pfn), page(byte), "page {pfn:#x}");
    }
    assert!(matches!(reader.read(PhysAddr(0xa_0000), &mut [0; 8]), Err(ReadError::NotInDump(_))));
    assert_eq!(reader.registers(), [(1, vec![1; 216]), (2, vec![2; 216])]);
    assert_eq!(reader.vmcoreinfo().unwrap().unwrap().os_release(), Some("7.3.4"));
    let loads: Vec<_> = reader.loads().map(|s| (s.offset, s.vaddr, s.paddr, s.len, s.align)).collect();
    assert_eq!(
        loads,
        [
            (0x9_f000, 0xffff_ffff_8100_0000, 0x10_0000, 0x8_0000, 0),
            (0x1000, 0xffff_8880_0000_1000, 0x1000, 0x9_e000, 0),
            (0x9_f000, 0xffff_8880_0010_0000, 0x10_0000, 0x10_0000, 0),
        ]
    );
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.len(), 0x19_f000);
    assert!(meta.blocks() * 512 < 64 * 1024, "{} blocks: not sparse", meta.blocks());
}

#[test]
fn the_layout_of_2005() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmcore");
    let mut writer = Writer::create(File::create(&path).unwrap(), info(), Format::Netdump).unwrap();
    writer.write(Pfn(7), &page(7), false).unwrap();
    writer.finish(true).unwrap();
    let reader = Reader::open(&path).unwrap();
    assert_eq!(reader.kind(), Kind::Netdump);
    let loads: Vec<_> = reader.loads().map(|s| (s.offset, s.vaddr, s.paddr, s.len, s.align)).collect();
    assert_eq!(loads, [(0x1000, 0xffff_8880_0000_0000, 0, 0x20_0000, 4096)]);
    let kinds: Vec<_> = reader.notes().iter().map(|n| (n.name.as_str(), n.kind, n.desc.len())).collect();
    assert_eq!(kinds, [("CORE", 1, 336), ("CORE", 3, 136), ("CORE", 4, 16)]);
    assert_eq!(reader.registers(), [(0, vec![2; 216])]);
    // Physical address P lies at 4096 + P.
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 0x20_1000);
    assert_eq!(bytes[0x8000..0x9000], page(7));
    assert_eq!(bytes[64 + 56 * 2 + 12..][..4], *b"CORE");
}

#[test]
fn i386_of_2005_is_elf32() {
    let mut info = info();
    info.machine = Machine::I386;
    info.page_offset = 0xc000_0000;
    info.task_struct = 0xc123_4000;
    info.regs = vec![3; 68];
    info.cpus.clear();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmcore");
    Writer::create(File::create(&path).unwrap(), info, Format::Netdump).unwrap().finish(true).unwrap();
    let reader = Reader::open(&path).unwrap();
    assert_eq!((reader.class(), reader.machine()), (Class::Elf32, Machine::I386));
    assert_eq!(reader.registers(), [(0, vec![3; 68])]);
    assert_eq!(reader.notes()[2].desc, [0, 0x40, 0x23, 0xc1, 0, 0, 0, 0]);
}

#[test]
fn without_ranges_the_segments_are_what_was_found() {
    let mut info = info();
    info.ranges = None;
    info.ktext = None;
    info.cpus.clear();
    info.vmcoreinfo = None;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmcore");
    let mut writer = Writer::create(File::create(&path).unwrap(), info, Format::Elf).unwrap();
    assert_eq!(Reader::open(&path).unwrap().loads().count(), 1);
    for pfn in [3, 1, 2, 0x100, 0x101, 2] {
        writer.write(Pfn(pfn), &page(pfn as u8), false).unwrap();
    }
    assert!(matches!(writer.write(Pfn(0x200), &page(1), false), Err(WriteError::NotInDump(Pfn(0x200)))));
    writer.finish(true).unwrap();
    let reader = Reader::open(&path).unwrap();
    let loads: Vec<_> = reader.loads().map(|s| (s.paddr, s.len, s.vaddr)).collect();
    assert_eq!(loads, [(0x1000, 0x3000, 0xffff_8880_0000_1000), (0x10_0000, 0x2000, 0xffff_8880_0010_0000)]);
    assert_eq!(read_page(&reader, 2), page(2));
    assert_eq!(read_page(&reader, 0x101), page(1));
    assert_eq!(reader.registers(), [(2, vec![9; 216])]);
}

#[test]
fn overlays_win() {
    let mut info = info();
    info.overlays = vec![
        Overlay { paddr: PhysAddr(0x1ffe), data: vec![1, 2, 3, 4] },
        Overlay { paddr: PhysAddr(0x5000), data: vec![9] },
    ];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmcore");
    let mut writer = Writer::create(File::create(&path).unwrap(), info, Format::Elf).unwrap();
    writer.write(Pfn(1), &[page(8), page(0), page(8)].concat(), false).unwrap();
    writer.finish(true).unwrap();
    let reader = Reader::open(&path).unwrap();
    let mut bytes = [0; 6];
    reader.read(PhysAddr(0x1ffc), &mut bytes).unwrap();
    assert_eq!(bytes, [8, 8, 1, 2, 3, 4]);
    // A page that never came stays a hole, patch or not.
    assert_eq!(read_page(&reader, 5), page(0));
}

#[test]
fn a_page_written_again_may_become_zero() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmcore");
    let mut writer = Writer::create(File::create(&path).unwrap(), info(), Format::Elf).unwrap();
    writer.write(Pfn(1), &page(1), false).unwrap();
    writer.write(Pfn(1), &page(0), true).unwrap();
    assert!(matches!(writer.write(Pfn(1), &[1; 100], false), Err(WriteError::Length(100))));
    assert!(matches!(writer.write(Pfn(0), &page(1), false), Err(WriteError::NotInDump(Pfn(0)))));
    let (_, written) = writer.finish(false).unwrap();
    assert_eq!(written.pages, 1);
    let reader = Reader::open(&path).unwrap();
    assert!(!reader.is_complete());
    assert_eq!(read_page(&reader, 1), page(0));
}

#[test]
fn damaged_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmcore");
    Writer::create(File::create(&path).unwrap(), info(), Format::Elf).unwrap().finish(true).unwrap();
    let good = std::fs::read(&path).unwrap();
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        matches!(Reader::open(&path), Err(ReadError::NotADump(_)))
    };
    assert!(refused(&|b| b.truncate(10)));
    assert!(refused(&|b| b.truncate(40)));
    assert!(refused(&|b| b.truncate(200)));
    assert!(refused(&|b| b[0] = 0));
    assert!(refused(&|b| b[16] = 2));
    assert!(refused(&|b| b[54] = 1));
    assert!(refused(&|b| b[64 + 32 + 4] = 1)); // p_filesz of PT_NOTE
    assert!(!refused(&|_| {}));
}

/// binutils reads our headers: an outside judge of every field.
#[test]
fn readelf_agrees() {
    let Ok(version) = Command::new("readelf").arg("--version").output() else {
        let may_skip = std::env::var_os("NETDUMP_MAY_SKIP").is_some_and(|value| value == "1");
        assert!(may_skip, "no readelf here (NETDUMP_MAY_SKIP=1 leaves this out)");
        eprintln!("skipped: no readelf here");
        return;
    };
    assert!(version.status.success());
    let dir = tempfile::tempdir().unwrap();
    for (format, machine) in [
        (Format::Elf, Machine::X86_64),
        (Format::Netdump, Machine::X86_64),
        (Format::Netdump, Machine::I386),
        (Format::Netdump, Machine::PPC64),
    ] {
        let mut info = info();
        info.machine = machine;
        if machine == Machine::PPC64 {
            info.byte_order = ByteOrder::Big;
        }
        if machine != Machine::X86_64 {
            info.cpus.clear();
            info.regs = vec![1; machine.regs_len().unwrap()];
        }
        let path = dir.path().join("vmcore");
        Writer::create(File::create(&path).unwrap(), info, format).unwrap().finish(true).unwrap();
        let out = Command::new("readelf").arg("-aW").arg(&path).env("LC_ALL", "C").output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(text.contains("CORE (Core file)"), "{text}");
        assert!(text.contains("NT_PRSTATUS (prstatus structure)"), "{text}");
        match (format, machine) {
            (Format::Elf, _) => {
                assert_eq!(text.matches("NT_PRSTATUS").count(), 2);
                assert!(text.contains("VMCOREINFO"), "{text}");
                assert!(text.contains("LOAD           0x09f000 0xffffffff81000000 0x0000000000100000"), "{text}");
            }
            (_, Machine::PPC64) => assert!(text.contains("big endian") && text.contains("PowerPC64"), "{text}"),
            (_, Machine::I386) => assert!(text.contains("ELF32") && text.contains("Intel 80386"), "{text}"),
            _ => assert!(text.contains("NT_PRPSINFO (prpsinfo structure)"), "{text}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the ranges and the order of pages: what was written is what is read, the rest is zero.
    #[test]
    fn any_pages_in_any_order(
        lens in proptest::collection::vec((0u64..5, 1u64..6), 1..6),
        writes in proptest::collection::vec((any::<prop::sample::Index>(), 1usize..4, any::<u8>()), 0..30),
    ) {
        let mut at = 0;
        let mut ranges = Vec::new();
        for (gap, len) in lens {
            ranges.push(range((at + gap) * 4096, (at + gap + len) * 4096));
            at += gap + len;
        }
        let frames: Vec<u64> = ranges.iter().flat_map(|r| r.start.0 / 4096..r.end.0 / 4096).collect();
        let mut info = info();
        info.nr_pages = at;
        info.ranges = Some(ranges);
        let mut expected: BTreeMap<u64, u8> = frames.iter().map(|pfn| (*pfn, 0)).collect();
        let file = tempfile::tempfile().unwrap();
        let mut writer = Writer::create(file.try_clone().unwrap(), info, Format::Elf).unwrap();
        for (index, count, byte) in writes {
            let first = *index.get(&frames);
            let count = (0..count as u64).take_while(|n| expected.contains_key(&(first + n))).count();
            writer.write(Pfn(first), &vec![byte; count * 4096], true).unwrap();
            for n in 0..count as u64 {
                expected.insert(first + n, byte);
            }
        }
        writer.finish(true).unwrap();
        let reader = Reader::new(file).unwrap();
        for (pfn, byte) in expected {
            prop_assert_eq!(read_page(&reader, pfn), page(byte));
        }
    }
}
