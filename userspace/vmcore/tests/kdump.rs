// SPDX-License-Identifier: GPL-2.0-or-later
//! Kdump-compressed files, read back by a reader of their own, and by crash where it is at hand.

mod kdump_reader;
mod small_dump;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kdump_reader::Kdump;
use netdump_core::wire::classic::Machine;
use netdump_core::wire::Pfn;
use netdump_vmcore::{
    convert, Compression, DumpInfo, Format, FrameSet, KdumpError, KdumpFacts, KdumpOptions, Progress, Writer,
};
use proptest::prelude::*;
use small_dump::range;

/// 2 MiB in two ranges, two CPUs.
fn info() -> DumpInfo {
    let identity = [("hostname", "web1"), ("release", "7.3.4-netdump"), ("version", "#1 SMP")];
    DumpInfo {
        vmcoreinfo: Some(b"OSRELEASE=7.3.4-netdump\nPAGESIZE=4096\nNUMBER(phys_base)=-1048576\n".to_vec()),
        ktext: None,
        identity: identity.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect(),
        ..small_dump::info()
    }
}

fn options(compression: Compression, threads: usize) -> KdumpOptions {
    let threads = NonZeroUsize::new(threads).unwrap();
    let time = Duration::from_micros(1_700_000_000_000_005);
    KdumpOptions { compression, level: 30, complete: true, time, threads }
}

/// The sparse file of some pages, and which they are.
fn sparse(info: &DumpInfo, pages: &BTreeMap<u64, Vec<u8>>) -> (File, FrameSet) {
    let elf = tempfile::tempfile().unwrap();
    let mut writer = Writer::create(elf.try_clone().unwrap(), info.clone(), Format::Elf).unwrap();
    let mut frames = FrameSet::create(tempfile::tempfile().unwrap(), info.nr_pages).unwrap();
    for (pfn, page) in pages {
        writer.write(Pfn(*pfn), page, false).unwrap();
        frames.add(Pfn(*pfn), 1).unwrap();
    }
    frames.flush().unwrap();
    writer.finish(true).unwrap();
    (elf, frames)
}

fn made(
    info: &DumpInfo,
    pages: &BTreeMap<u64, Vec<u8>>,
    options: &KdumpOptions,
) -> Result<(Vec<u8>, KdumpFacts), KdumpError> {
    let (elf, frames) = sparse(info, pages);
    let out = tempfile::NamedTempFile::new().unwrap();
    let progress = Progress::default();
    let facts = convert(info, &elf, &frames, out.as_file(), options, &progress)?;
    let (done, total) = (progress.done.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
    assert_eq!((done, total), (facts.pages, facts.pages));
    Ok((std::fs::read(out.path()).unwrap(), facts))
}

/// A page that compresses, and one that does not.
fn page(byte: u8) -> Vec<u8> {
    match byte {
        0..100 => vec![byte; 4096],
        _ => {
            let mut state = 0x9e37_79b9_7f4a_7c15u64 ^ u64::from(byte) << 32;
            let mut next = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            };
            (0..4096).map(|_| next()).collect()
        }
    }
}

fn some_pages() -> BTreeMap<u64, Vec<u8>> {
    [(1, 7), (2, 0), (3, 200), (0x9e, 0), (0x100, 7), (0x1ff, 9)].map(|(pfn, byte)| (pfn, page(byte))).into()
}

#[test]
fn headers_are_as_makedumpfile_writes_them() {
    let (bytes, facts) = made(&info(), &some_pages(), &options(Compression::Zstd, 2)).unwrap();
    assert_eq!(facts, KdumpFacts { pages: 6, zero_pages: 2, bytes: bytes.len() as u64 });
    let kdump = Kdump::of(bytes);
    let names: Vec<_> = (0..6).map(|n| kdump.text(12 + 65 * n)).collect();
    assert_eq!(names, ["Linux", "web1", "7.3.4-netdump", "#1 SMP", "x86_64", "(none)"]);
    assert_eq!((kdump.u64(408), kdump.u64(416)), (1_700_000_000, 5));
    assert_eq!((kdump.status(), kdump.block()), (0x20, 4096));
    // Sub header and notes in a block, a bitmap in another each.
    assert_eq!((kdump.u32(432), kdump.u32(436), kdump.u32(440)), (1, 2, 0x200));
    assert_eq!((kdump.u32(456), kdump.u32(460)), (1, 2), "crashed on CPU 1 of 2");
    assert_eq!(kdump.sub(0), (-1_048_576i64) as u64, "phys_base");
    assert_eq!(kdump.sub(8), 30, "dump_level, and no part of another file");
    assert_eq!((kdump.sub(16), kdump.sub(24), kdump.sub(64), kdump.sub(72)), (0, 0, 0, 0));
    assert_eq!((kdump.sub(80), kdump.sub(88), kdump.sub(96)), (0, 0, 0x200));
    assert_eq!(kdump.part(32), info().vmcoreinfo.unwrap());
    let notes = kdump.part(48);
    assert_eq!(notes[..20], *b"\x05\0\0\0\x50\x01\0\0\x01\0\0\0CORE\0\0\0\0");
    assert_eq!((notes[20 + 112], notes[356 + 20 + 112]), (1, 2), "registers");
}

#[test]
fn pages_of_zeroes_are_one_and_what_never_came_is_not_there() {
    for (compression, flags) in [(Compression::None, 0), (Compression::Zlib, 1), (Compression::Zstd, 0x20)] {
        let (bytes, _) = made(&info(), &some_pages(), &options(compression, 1)).unwrap();
        let kdump = Kdump::of(bytes);
        assert_eq!(kdump.status(), flags);
        assert_eq!(kdump.pages().collect::<Vec<_>>(), some_pages().into_keys().collect::<Vec<_>>());
        for (pfn, page) in some_pages() {
            assert_eq!(kdump.page(pfn).unwrap(), page, "page {pfn:#x}");
        }
        let zero = kdump.descriptor(2).unwrap();
        assert_eq!((zero, zero.1, zero.2), (kdump.descriptor(0x9e).unwrap(), 4096, 0));
        assert_eq!(kdump.descriptor(1).unwrap().2, flags);
        assert_eq!((kdump.descriptor(3).unwrap().1, kdump.descriptor(3).unwrap().2), (4096, 0), "it cannot be smaller");
        let memory: Vec<_> = (0..0x200).filter(|pfn| kdump.is_memory(*pfn)).collect();
        assert_eq!(memory, (1..0x9f).chain(0x100..0x200).collect::<Vec<_>>());
    }
}

#[test]
fn a_dump_that_was_cut_says_so() {
    let cut = KdumpOptions { complete: false, ..options(Compression::Zlib, 1) };
    let (bytes, _) = made(&info(), &some_pages(), &cut).unwrap();
    assert_eq!(Kdump::of(bytes).status(), 1 | 8);
}

#[test]
fn without_ranges_memory_is_what_came() {
    let mut info = info();
    info.ranges = None;
    info.cpus.clear();
    info.vmcoreinfo = None;
    info.identity.clear();
    let (bytes, _) = made(&info, &some_pages(), &options(Compression::Zstd, 1)).unwrap();
    let kdump = Kdump::of(bytes);
    assert!((0..0x200).all(|pfn| kdump.is_memory(pfn) == some_pages().contains_key(&pfn)));
    assert_eq!(kdump.page(0x1ff).unwrap(), page(9));
    assert_eq!((kdump.u32(460), kdump.sub(32), kdump.text(12 + 65)), (1, 0, "(none)"));
}

#[test]
fn what_cannot_be_is_an_error_and_no_dump() {
    let (elf, frames) = sparse(&info(), &some_pages());
    let attempt = |info: &DumpInfo, elf: &File, frames: &FrameSet, progress: &Progress| {
        let out = tempfile::NamedTempFile::new().unwrap();
        let result = convert(info, elf, frames, out.as_file(), &options(Compression::Zstd, 3), progress);
        assert!(!std::fs::read(out.path()).unwrap().starts_with(b"KDUMP"), "it looks whole");
        result.unwrap_err()
    };
    let narrow = DumpInfo { machine: Machine::I386, ..info() };
    assert!(matches!(attempt(&narrow, &elf, &frames, &Progress::default()), KdumpError::Machine(3)));
    let stopped = Progress::default();
    stopped.stop.store(true, Ordering::Relaxed);
    assert!(matches!(attempt(&info(), &elf, &frames, &stopped), KdumpError::Stopped));
    let mut more = FrameSet::create(tempfile::tempfile().unwrap(), 0x200).unwrap();
    more.add(Pfn(0xa0), 1).unwrap();
    more.flush().unwrap();
    assert!(matches!(attempt(&info(), &elf, &more, &Progress::default()), KdumpError::NotInDump(Pfn(0xa0))));
    // One thread cannot read its pages, and the others do not wait for it.
    let mut all = FrameSet::create(tempfile::tempfile().unwrap(), 0x10_0000).unwrap();
    let large = DumpInfo { nr_pages: 0x10_0000, ranges: Some(vec![range(0, 0x10_0000 * 4096)]), ..info() };
    all.add(Pfn(0), 0x4000).unwrap();
    all.flush().unwrap();
    let short = tempfile::tempfile().unwrap();
    short.set_len(0x1000 * 4096).unwrap();
    let error = attempt(&large, &short, &all, &Progress::default());
    assert!(matches!(error, KdumpError::Io { what: "read pages", .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever came: it is what is read, nothing else is there, and who compressed it makes no difference.
    #[test]
    fn any_pages_come_back(
        lens in proptest::collection::vec((0u64..70, 1u64..600), 1..5),
        picks in proptest::collection::vec((any::<prop::sample::Index>(), 1u64..400, any::<u8>()), 0..12),
        compression in prop_oneof![Just(Compression::None), Just(Compression::Zlib), Just(Compression::Zstd)],
        threads in 2usize..5,
        known in any::<bool>(),
    ) {
        let (mut at, mut ranges) = (0, Vec::new());
        for (gap, len) in lens {
            ranges.push(range((at + gap) * 4096, (at + gap + len) * 4096));
            at += gap + len;
        }
        let frames: BTreeSet<u64> = ranges.iter().flat_map(|r| r.start.0 / 4096..r.end.0 / 4096).collect();
        let list: Vec<u64> = frames.iter().copied().collect();
        let mut pages = BTreeMap::new();
        for (index, count, byte) in picks {
            let first = *index.get(&list);
            pages.extend((first..first + count).filter(|pfn| frames.contains(pfn)).map(|pfn| {
                (pfn, if byte % 3 == 0 { page(0) } else { page(byte.wrapping_add(pfn as u8)) })
            }));
        }
        let info = DumpInfo { nr_pages: at, ranges: known.then_some(ranges), ..info() };
        let (bytes, facts) = made(&info, &pages, &options(compression, threads)).unwrap();
        prop_assert_eq!(&bytes, &made(&info, &pages, &options(compression, 1)).unwrap().0);
        prop_assert_eq!(facts.zero_pages, pages.values().filter(|page| page.iter().all(|byte| *byte == 0)).count() as u64);
        let kdump = Kdump::of(bytes);
        for pfn in 0..at {
            prop_assert_eq!(kdump.page(pfn), pages.get(&pfn).cloned());
            let memory = if known { frames.contains(&pfn) } else { pages.contains_key(&pfn) };
            prop_assert_eq!(kdump.is_memory(pfn), memory);
        }
    }
}

/// crash reads header, sub header and VMCOREINFO of a dump without a kernel's symbols: an outside judge of their fields.
/// What else there is to judge is in tests-qemu (six-format-kdump): without a real kernel's memory no tool goes on.
#[test]
fn crash_agrees() {
    let cache = std::env::var_os("NETDUMP_CACHE").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        Some(home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?.join("netdump"))
    });
    let Some(crash) = cache.map(|cache| cache.join("bin/crash")).filter(|crash| crash.exists()) else {
        eprintln!("skipped: no crash here (make lab)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vmcore");
    for compression in [Compression::None, Compression::Zlib, Compression::Zstd] {
        std::fs::write(&path, made(&info(), &some_pages(), &options(compression, 2)).unwrap().0).unwrap();
        let out = Command::new(&crash).arg("--osrelease").arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert_eq!(text.trim(), "7.3.4-netdump", "{}", String::from_utf8_lossy(&out.stderr));
    }
}
