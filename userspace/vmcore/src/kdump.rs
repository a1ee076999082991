// SPDX-License-Identifier: GPL-2.0-or-later
//! Kdump-compressed files, as makedumpfile writes them: header version 6.
//!
//! ```text
//! block 0      disk_dump_header: signature, utsname, time, sizes
//! block 1      kdump_sub_header: phys_base, level, places of what follows; the notes, VMCOREINFO among them
//! then         bitmap of the frames that are memory; bitmap of those that the file has; each of whole blocks
//! then         page_desc for each frame of the second bitmap, ascending: place, length, how it is compressed
//! then         a page of zeroes, which all such frames share, and the others as they were compressed
//! ```
//!
//! All fields are in the byte order of the machine, and as wide as a 64-bit compiler makes them. A block is a page.
//!
//! [`convert`] makes such a file of a finished sparse one ([`Format::Elf`](crate::Format)) and of the [`FrameSet`] that
//! tells which of its holes are pages of zeroes. It has bounded memory (1 MiB of pages at a time for each thread, and
//! what becomes of them), and the same input makes the same bytes however many threads there are.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use netdump_core::wire::classic::Machine;
use netdump_core::wire::Pfn;

use crate::describe::DumpInfo;
use crate::elf::{Class, Out};
use crate::frames::{set, FrameSet, BLOCK};
use crate::layout::{Format, Layout};
use crate::notes;
use crate::vmcoreinfo::Vmcoreinfo;
use crate::writer::is_zero;

/// `DUMP_DH_COMPRESSED_*`: how a page is compressed; in the header, how pages are.
const ZLIB: u32 = 0x1;
const ZSTD: u32 = 0x20;
/// `DUMP_DH_COMPRESSED_INCOMPLETE`, in the header: crash shows `[PARTIAL DUMP]`.
const INCOMPLETE: u32 = 0x8;
/// Bytes of `kdump_sub_header` of version 6.
const SUB_HEADER: u64 = 104;
/// Bytes of `page_desc`.
const DESC: u64 = 24;
/// Bytes of each field of `new_utsname`, its NUL included.
const UTSNAME: usize = 65;
/// Pages that a thread takes at a time, in bytes.
const CHUNK: usize = 1 << 20;

/// How pages are compressed, each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all; pages of zeroes still share one.
    None,
    /// For crash before 8.0 and makedumpfile before 1.7.0.
    Zlib,
    /// Smaller, and several times as fast.
    Zstd,
}

/// What the file is to be like, beside what it is of.
#[derive(Debug, Clone)]
pub struct KdumpOptions {
    /// Of pages.
    pub compression: Compression,
    /// What was left out, as for makedumpfile -d; for those who read the file.
    pub level: u32,
    /// All pages that were to come have come.
    pub complete: bool,
    /// Time of the dump, since 1970.
    pub time: Duration,
    /// Threads that compress.
    pub threads: NonZeroUsize,
}

/// What is known while a file is being made, and the way to give it up.
#[derive(Debug, Default)]
pub struct Progress {
    /// Pages that are done.
    pub done: AtomicU64,
    /// Pages that there are; 0 until they are counted.
    pub total: AtomicU64,
    /// Nobody wants it any more: [`convert`] returns soon.
    pub stop: AtomicBool,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KdumpFacts {
    /// Frames in the second bitmap.
    pub pages: u64,
    /// Of them, pages of zeroes.
    pub zero_pages: u64,
    /// Length of the file.
    pub bytes: u64,
}

/// Why there is no such file.
#[derive(Debug, thiserror::Error)]
pub enum KdumpError {
    /// The file system refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What it was.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// How wide its fields are is not known, or they are 32 bits wide.
    #[error("no kdump-compressed files are made of machine {0}")]
    Machine(u16),
    /// The set has a frame that the dump has no place for.
    #[error("page {:#x} is not in the dump", .0 .0)]
    NotInDump(Pfn),
    /// As [`Progress::stop`] said.
    #[error("given up")]
    Stopped,
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> KdumpError {
    move |source| KdumpError::Io { what, source }
}

/// Writes to `out`, which should be empty, what `elf` holds of the `frames`. The file is safe on the disk when this
/// returns, and no reader takes it for a dump before it is whole.
pub fn convert(
    info: &DumpInfo,
    elf: &File,
    frames: &FrameSet,
    out: &File,
    options: &KdumpOptions,
    progress: &Progress,
) -> Result<KdumpFacts, KdumpError> {
    let machine = machine(info.machine).ok_or(KdumpError::Machine(info.machine.0))?;
    let page = info.page_size.bytes() as u64;
    let header = Header::new(info, machine, options, frames.end());
    let pages = write_bitmaps(info, frames, out, &header)?;
    progress.total.store(pages, Ordering::Relaxed);
    let descs = header.descs();
    let zeroes = descs + pages * DESC;
    out.write_all_at(&vec![0; page as usize], zeroes).map_err(io_error("write the page of zeroes"))?;

    let shared = Shared {
        chunks: Mutex::new(Chunks { frames, block: [0; BLOCK], number: 0, bit: BITS, chunk: 0, desc: 0 }),
        place: Mutex::new(Place { chunk: 0, end: zeroes + page, failed: false }),
        moved: Condvar::new(),
    };
    let work = Work { info, layout: &Layout::new(info, Format::Elf), elf, out, options, progress, descs, zeroes };
    let results: Vec<_> = std::thread::scope(|scope| {
        // Fewer threads than were asked for do it as well; this one is always there.
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, || work.run(&shared)).ok();
        let threads: Vec<_> = (1..options.threads.get()).filter_map(start).collect();
        let own = work.run(&shared);
        let panicked = |_| Err(KdumpError::Io { what: "compress", source: io::Error::other("a thread panicked") });
        let others = threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked));
        others.chain([own]).collect()
    });
    let mut zero_pages = 0;
    let mut failure = None;
    for result in results {
        match result {
            Ok(zero) => zero_pages += zero,
            // Those who waited for one that failed say this.
            Err(KdumpError::Stopped) => failure = failure.or(Some(KdumpError::Stopped)),
            Err(error) => failure = Some(error),
        }
    }
    if let Some(failure) = failure {
        return Err(failure);
    }
    // Memory first: what has a header is whole.
    out.sync_data().map_err(io_error("make the pages safe"))?;
    out.write_all_at(&header.bytes, 0).map_err(io_error("write the header"))?;
    out.sync_all().map_err(io_error("make the header safe"))?;
    let bytes = shared.place().end;
    Ok(KdumpFacts { pages, zero_pages, bytes })
}

/// The blocks in front of the bitmaps.
struct Header {
    bytes: Vec<u8>,
    block: u64,
    /// Blocks of one bitmap.
    bitmap: u64,
}

impl Header {
    fn new(info: &DumpInfo, machine: &str, options: &KdumpOptions, max_mapnr: u64) -> Header {
        let block = info.page_size.bytes() as u64;
        let (notes, vmcoreinfo) = notes::kdump(Class::Elf64, info);
        let sub_blocks = (SUB_HEADER + notes.len() as u64).div_ceil(block);
        let bitmap = max_mapnr.div_ceil(8).div_ceil(block);
        let low = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let kernel = info.vmcoreinfo.as_deref().and_then(|text| Vmcoreinfo::parse(text).ok());

        let mut out = Out::new(Class::Elf64, info.byte_order);
        out.bytes.extend_from_slice(b"KDUMP   ");
        out.u32(6); // header_version
        let release = kernel.as_ref().and_then(Vmcoreinfo::os_release).unwrap_or_default();
        let known = |key: &str| info.identity.get(key).map(String::as_str).filter(|text| !text.is_empty());
        let names = [
            "Linux",
            known("hostname").unwrap_or("(none)"),
            known("release").unwrap_or(release),
            known("version").unwrap_or_default(),
            machine,
            "(none)",
        ];
        for name in names {
            let taken = name.as_bytes().get(..UTSNAME - 1).unwrap_or(name.as_bytes());
            out.bytes.extend_from_slice(taken);
            out.zeros(UTSNAME - taken.len());
        }
        out.zeros(6); // up to a multiple of 8
        out.u64(options.time.as_secs());
        out.u64(u64::from(options.time.subsec_micros()));
        let compressed = match options.compression {
            Compression::None => 0,
            Compression::Zlib => ZLIB,
            Compression::Zstd => ZSTD,
        };
        out.u32(compressed | if options.complete { 0 } else { INCOMPLETE }); // status
        out.u32(low(block));
        out.u32(low(sub_blocks));
        out.u32(low(2 * bitmap));
        out.u32(low(max_mapnr));
        out.zeros(12); // total_ram_blocks, device_blocks, written_blocks
        out.u32(info.crashing_cpu.unwrap_or(0)); // current_cpu
        out.u32(low(info.cpus.len().max(1) as u64)); // nr_cpus
        out.zeros((block as usize).saturating_sub(out.bytes.len()));

        out.u64(phys_base(info, kernel.as_ref()));
        out.u32(options.level);
        out.zeros(20); // split, start_pfn, end_pfn: for files that are a part of a dump
        let notes_at = block + SUB_HEADER;
        match vmcoreinfo {
            Some(place) => {
                out.u64(notes_at + place.start as u64);
                out.u64(place.len() as u64);
            }
            None => out.zeros(16),
        }
        out.u64(notes_at);
        out.u64(notes.len() as u64);
        out.zeros(32); // eraseinfo; start_pfn_64, end_pfn_64
        out.u64(max_mapnr);
        out.bytes.extend_from_slice(&notes);
        out.zeros(((1 + sub_blocks) * block) as usize - out.bytes.len());
        Header { bytes: out.bytes, block, bitmap }
    }

    /// Where the first bitmap begins.
    fn bitmaps(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Where the descriptors begin.
    fn descs(&self) -> u64 {
        self.bitmaps() + 2 * self.bitmap * self.block
    }
}

/// `utsname.machine`, by which crash tells whether a dump is for it.
fn machine(machine: Machine) -> Option<&'static str> {
    match machine {
        Machine::X86_64 => Some("x86_64"),
        Machine::PPC64 => Some("ppc64"),
        Machine::IA64 => Some("ia64"),
        AARCH64 => Some("aarch64"),
        _ => None,
    }
}

const AARCH64: Machine = Machine(183);

/// How far the kernel lies from where it was linked to, of an x86-64 machine.
fn phys_base(info: &DumpInfo, kernel: Option<&Vmcoreinfo<'_>>) -> u64 {
    let told = kernel.and_then(|kernel| kernel.number("phys_base")).map(|base| base as u64);
    let seen = || {
        let text = info.ktext.filter(|_| info.machine == Machine::X86_64)?;
        Some(text.paddr.0.wrapping_sub(text.vaddr.wrapping_sub(crate::kernel_memory::IMAGE)))
    };
    told.or_else(seen).unwrap_or(0)
}

/// Both bitmaps. Returns how many frames are in the second.
fn write_bitmaps(info: &DumpInfo, frames: &FrameSet, out: &File, header: &Header) -> Result<u64, KdumpError> {
    let second = header.bitmaps() + header.bitmap * header.block;
    // What is not written is zero.
    out.set_len(header.descs()).map_err(io_error("make room"))?;
    let mut pages = 0;
    let mut there = [0; BLOCK];
    for number in 0..frames.blocks() {
        frames.block(number, &mut there).map_err(io_error("read the set of pages"))?;
        pages += there.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
        // Whatever a client says of its memory: a page that came is memory.
        let mut memory = there;
        let (first, end) = (number * BITS as u64, (number + 1) * BITS as u64);
        for range in info.ranges.iter().flatten() {
            let from = info.page_size.pfn(range.start).0.max(first);
            let to = info.page_size.pfn(range.end).0.min(end).min(frames.end());
            if from < to {
                set(&mut memory, from - first, to - from);
            }
        }
        for (bits, start) in [(&memory, header.bitmaps()), (&there, second)] {
            if !is_zero(bits) {
                let at = number * BLOCK as u64;
                out.write_all_at(bits, start + at).map_err(io_error("write a bitmap"))?;
            }
        }
    }
    Ok(pages)
}

/// Frames in a block of a set.
const BITS: usize = BLOCK * 8;

/// What is still to be done.
struct Chunks<'a> {
    frames: &'a FrameSet,
    block: [u8; BLOCK],
    /// The block that comes next.
    number: u64,
    /// Where we are in the last.
    bit: usize,
    /// Chunks given out.
    chunk: u64,
    /// Frames given out: the number of the next descriptor.
    desc: u64,
}

impl Chunks<'_> {
    /// Fills `out` with up to `most` frames; none when there are no more. Returns the chunk's number and that of its first
    /// descriptor.
    fn next(&mut self, most: usize, out: &mut Vec<u64>) -> io::Result<(u64, u64)> {
        out.clear();
        while out.len() < most {
            if self.bit >= BITS {
                if self.number >= self.frames.blocks() {
                    break;
                }
                self.frames.block(self.number, &mut self.block)?;
                (self.number, self.bit) = (self.number + 1, 0);
            }
            let byte = self.block.get(self.bit / 8).map_or(0, |byte| byte >> (self.bit % 8));
            if byte == 0 {
                self.bit = (self.bit / 8 + 1) * 8;
                continue;
            }
            self.bit += byte.trailing_zeros() as usize;
            out.push((self.number - 1) * BITS as u64 + self.bit as u64);
            self.bit += 1;
        }
        let at = (self.chunk, self.desc);
        self.chunk += 1;
        self.desc += out.len() as u64;
        Ok(at)
    }
}

/// Where the next chunk is placed.
struct Place {
    /// Whose turn it is.
    chunk: u64,
    /// Where it goes.
    end: u64,
    /// One thread is gone: the turn of its chunk never ends.
    failed: bool,
}

struct Shared<'a> {
    chunks: Mutex<Chunks<'a>>,
    place: Mutex<Place>,
    moved: Condvar,
}

impl Shared<'_> {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of a chunk, so that the file does not depend on who is faster. Returns where it goes.
    fn turn(&self, chunk: u64, len: u64) -> Result<u64, KdumpError> {
        let mut place = self.place();
        while place.chunk != chunk && !place.failed {
            place = self.moved.wait(place).unwrap_or_else(PoisonError::into_inner);
        }
        if place.failed {
            return Err(KdumpError::Stopped);
        }
        let at = place.end;
        place.chunk += 1;
        place.end += len;
        self.moved.notify_all();
        Ok(at)
    }
}

/// However a thread ends, none waits for it.
struct Leaves<'a, 'b>(&'a Shared<'b>, bool);

impl Drop for Leaves<'_, '_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.place().failed = true;
            self.0.moved.notify_all();
        }
    }
}

/// What a thread needs to know.
struct Work<'a> {
    info: &'a DumpInfo,
    layout: &'a Layout,
    elf: &'a File,
    out: &'a File,
    options: &'a KdumpOptions,
    progress: &'a Progress,
    /// Where the descriptors begin.
    descs: u64,
    /// Where the page of zeroes is.
    zeroes: u64,
}

impl Work<'_> {
    /// Does chunks until there are no more. Returns how many pages of zeroes were in them.
    fn run(&self, shared: &Shared<'_>) -> Result<u64, KdumpError> {
        let mut leaves = Leaves(shared, false);
        let page = self.info.page_size.bytes();
        let mut packer = Packer::new(self.options.compression, page).map_err(io_error("begin to compress"))?;
        let (mut frames, mut raw, mut packed, mut lens) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut zero = 0;
        loop {
            if self.progress.stop.load(Ordering::Relaxed) {
                return Err(KdumpError::Stopped);
            }
            let taken = shared.chunks.lock().unwrap_or_else(PoisonError::into_inner).next(CHUNK / page, &mut frames);
            let (chunk, first) = taken.map_err(io_error("read the set of pages"))?;
            if frames.is_empty() {
                leaves.1 = true;
                return Ok(zero);
            }
            self.read(&frames, &mut raw)?;
            packed.clear();
            lens.clear();
            for bytes in raw.chunks_exact(page) {
                if is_zero(bytes) {
                    zero += 1;
                    lens.push((0, 0));
                } else {
                    let before = packed.len();
                    let flags = packer.pack(bytes, &mut packed).map_err(io_error("compress"))?;
                    lens.push((packed.len() - before, flags));
                }
            }
            let at = shared.turn(chunk, packed.len() as u64)?;
            self.out.write_all_at(&packed, at).map_err(io_error("write pages"))?;
            let descs = self.descriptors(&lens, at);
            self.out.write_all_at(&descs, self.descs + first * DESC).map_err(io_error("write descriptors"))?;
            self.progress.done.fetch_add(frames.len() as u64, Ordering::Relaxed);
        }
    }

    /// The pages of some frames, one behind the other; neighbours are read at once.
    fn read(&self, frames: &[u64], raw: &mut Vec<u8>) -> Result<(), KdumpError> {
        let page = self.info.page_size.bytes();
        raw.resize(frames.len() * page, 0);
        let mut rest = raw.as_mut_slice();
        let mut places = Vec::with_capacity(frames.len());
        for frame in frames {
            let addr = self.info.page_size.addr(Pfn(*frame)).0;
            let piece = self.layout.piece(addr).ok_or(KdumpError::NotInDump(Pfn(*frame)))?;
            places.push(piece.offset + (addr - piece.start));
        }
        for run in places.chunk_by(|a, b| a + page as u64 == *b) {
            let (now, later) = rest.split_at_mut(run.len() * page);
            let at = run.first().copied().unwrap_or(0);
            self.elf.read_exact_at(now, at).map_err(io_error("read pages"))?;
            rest = later;
        }
        Ok(())
    }

    fn descriptors(&self, lens: &[(usize, u32)], at: u64) -> Vec<u8> {
        let mut out = Out::new(Class::Elf64, self.info.byte_order);
        let mut at = at;
        for (len, flags) in lens {
            let (place, size) =
                if *len == 0 { (self.zeroes, self.info.page_size.bytes() as u32) } else { (at, *len as u32) };
            out.u64(place);
            out.u32(size);
            out.u32(*flags);
            out.u64(0); // page_flags
            at += *len as u64;
        }
        out.bytes
    }
}

/// Compresses pages.
enum Packer {
    None,
    Zlib(Box<flate2::Compress>, Vec<u8>),
    Zstd(zstd::bulk::Compressor<'static>, Vec<u8>),
}

impl Packer {
    fn new(compression: Compression, page: usize) -> io::Result<Packer> {
        Ok(match compression {
            Compression::None => Packer::None,
            Compression::Zlib => {
                Packer::Zlib(Box::new(flate2::Compress::new(flate2::Compression::fast(), true)), vec![0; page])
            }
            Compression::Zstd => {
                let room = zstd::zstd_safe::compress_bound(page);
                Packer::Zstd(zstd::bulk::Compressor::new(ZSTD_LEVEL)?, vec![0; room])
            }
        })
    }

    /// Appends a page, smaller if it can be. Returns the flags of its descriptor.
    fn pack(&mut self, page: &[u8], out: &mut Vec<u8>) -> io::Result<u32> {
        let (len, room, flags) = match self {
            Packer::None => (page.len(), &[][..], 0),
            Packer::Zlib(zlib, room) => {
                zlib.reset();
                let done = zlib.compress(page, room, flate2::FlushCompress::Finish).map_err(io::Error::other)?;
                let whole = done == flate2::Status::StreamEnd;
                (if whole { zlib.total_out() as usize } else { page.len() }, &room[..], ZLIB)
            }
            Packer::Zstd(zstd, room) => (zstd.compress_to_buffer(page, room.as_mut_slice())?, &room[..], ZSTD),
        };
        match room.get(..len).filter(|_| len < page.len()) {
            Some(small) => {
                out.extend_from_slice(small);
                Ok(flags)
            }
            None => {
                out.extend_from_slice(page);
                Ok(0)
            }
        }
    }
}

/// makedumpfile's.
const ZSTD_LEVEL: i32 = 1;
