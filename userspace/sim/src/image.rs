// SPDX-License-Identifier: GPL-2.0-or-later
//! A crashed machine that does not exist: its memory is computed, so that a large one costs nothing and every page
//! that a server stored can be checked.

use netdump_core::engine::{Config, ItemPart, PageClass, Target, Unreadable};
use netdump_core::wire::classic::{ItemId, Machine};
use netdump_core::wire::ext::{
    ByteOrder, CpuFlags, CpuNote, KtextNote, MachineNote, NotesWriter, PhysRange, VolatileRange, VOLATILE_LEN,
};
use netdump_core::wire::v6::Reason;
use netdump_core::wire::{self, Cookie, Pfn, PhysAddr};

use crate::corpus::Corpus;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
/// Where the kernel has its direct map.
const PAGE_OFFSET: u64 = 0xffff_8880_0000_0000;

/// What the machine is like.
#[derive(Debug, Clone)]
pub struct ImageParams {
    /// Memory, bytes.
    pub memory: u64,
    /// Makes two machines different.
    pub seed: u64,
    /// CPUs.
    pub cpus: u32,
    /// One page in so many cannot be read; 0 for none.
    pub poisoned_every: u64,
    /// One page in so many is another each time that it is read; 0 for none.
    pub changing_every: u64,
    /// Bytes after which the noise in a page repeats itself: 4096 does not compress, 64 does very well.
    pub repeat: u64,
    /// Whether it knows our extension of the protocol.
    pub extension: bool,
    /// Pieces of the task listing.
    pub listing: usize,
    /// Bytes of kernel log.
    pub log: usize,
    /// What is in its memory, from address 0 on, and how much that is, in place of what is computed. None of it can be left
    /// out.
    pub corpus: Option<Corpus>,
}

impl Default for ImageParams {
    fn default() -> Self {
        ImageParams {
            memory: 16 << 20,
            seed: 1,
            cpus: 2,
            poisoned_every: 0,
            changing_every: 0,
            repeat: PAGE_SIZE,
            extension: true,
            listing: 20,
            log: 20_000,
            corpus: None,
        }
    }
}

/// The machine.
#[derive(Debug, Clone)]
pub struct Image {
    params: ImageParams,
    /// Ascending and disjoint, page aligned.
    ranges: Vec<PhysRange>,
    regs: Vec<u8>,
    notes: Vec<u8>,
    log: Vec<u8>,
    volatile: Vec<u8>,
    listed: usize,
    /// Pages that change were read so often.
    changes: u64,
}

impl Image {
    /// The machine of these properties. Its memory has the holes of a PC: below 4 KiB, and from 636 KiB to 1 MiB.
    pub fn new(params: ImageParams) -> Self {
        let range = |start, end| PhysRange { start: PhysAddr(start), end: PhysAddr(end) };
        let memory = params.corpus.as_ref().map_or(params.memory, |corpus| corpus.bytes().len() as u64);
        let end = (memory & !(PAGE_SIZE - 1)).max(2 << 20);
        let ranges = vec![range(0x1000, 0x9f000), range(0x10_0000, end)];
        let mut image = Image {
            regs: registers(params.seed, 0),
            log: log_text(params.seed, params.log),
            volatile: Vec::new(),
            notes: Vec::new(),
            ranges,
            params,
            listed: 0,
            changes: 0,
        };
        // The buffer has room for CPUs with registers of 216 bytes, and 4 KiB for all else.
        let mut buf = vec![0; 4096 + 256 * image.params.cpus as usize];
        let len = image.write_notes(&mut buf).expect("the buffer is large enough");
        buf.truncate(len);
        image.notes = buf;
        let mut entry = [0; VOLATILE_LEN];
        VolatileRange::new(range(0x1000, 0x3000), "pool").emit(&mut entry).expect("an entry fits its own length");
        image.volatile.extend_from_slice(&entry);
        image
    }

    fn write_notes(&self, buf: &mut [u8]) -> wire::Result<usize> {
        let mut w = NotesWriter::new(buf);
        w.machine(&MachineNote {
            e_machine: Machine::X86_64.0,
            page_shift: 12,
            byte_order: ByteOrder::Little,
            cpus_possible: self.params.cpus,
            crashing_cpu: 0,
        })?;
        for cpu in 0..self.params.cpus {
            w.cpu(&CpuNote {
                cpu,
                pid: 100 + cpu,
                flags: CpuFlags { crashing: cpu == 0, was_online: true, by_nmi: cpu != 0 },
                task_struct: self.task_struct() + u64::from(cpu) * 0x4000,
                regs: Some(&registers(self.params.seed, cpu)),
            })?;
        }
        w.vmcoreinfo(b"OSRELEASE=7.3.0-sim\nPAGESIZE=4096\nNUMBER(phys_base)=-1048576\nKERNELOFFSET=24e00000\n")?;
        w.ranges(&self.ranges)?;
        w.ktext(&KtextNote { vaddr: 0xffff_ffff_8100_0000, paddr: PhysAddr(0x10_0000), length: 0x10_0000 })?;
        w.layout(PAGE_OFFSET)?;
        w.identity(&[("hostname", b"sim"), ("release", b"7.3.0-sim"), ("machine", b"x86_64")])?;
        w.panic_text(b"sysrq triggered crash")?;
        Ok(w.len())
    }

    fn task_struct(&self) -> u64 {
        PAGE_OFFSET + 0x20_0000
    }

    /// What the engine must be told. Timeouts are none.
    pub fn config(&self, cookie: Cookie) -> Config {
        Config {
            cookie,
            machine: Machine::X86_64,
            task_struct: self.task_struct(),
            page_offset: PAGE_OFFSET,
            page_size: PAGE_SIZE as u32,
            nr_pages: self.nr_pages(),
            total_ram_pages: self.ram_pages().count() as u64,
            log_offset: 0,
            handshake_timeout: 0,
            idle_timeout: 0,
            total_timeout: 0,
        }
    }

    /// The highest page frame number + 1.
    pub fn nr_pages(&self) -> u64 {
        self.ranges.last().map_or(0, |last| last.end.0 / PAGE_SIZE)
    }

    /// The page frames that are RAM, ascending; some of them cannot be read.
    pub fn ram_pages(&self) -> impl Iterator<Item = Pfn> + '_ {
        self.ranges.iter().flat_map(|r| (r.start.0 / PAGE_SIZE..r.end.0 / PAGE_SIZE).map(Pfn))
    }

    /// Whether a page of RAM can be read.
    pub fn readable(&self, pfn: Pfn) -> bool {
        self.params.poisoned_every == 0 || pfn.0 % self.params.poisoned_every != self.params.poisoned_every - 1
    }

    /// Whether a page is another each time that it is read.
    pub fn changes(&self, pfn: Pfn) -> bool {
        self.params.changing_every != 0 && pfn.0 % self.params.changing_every == 1
    }

    /// What the page is used for, if that is something that can be left out: the same for each 32 of them.
    pub fn use_of(&self, pfn: Pfn) -> Option<Reason> {
        if self.params.corpus.is_some() {
            return None;
        }
        match mix(self.params.seed ^ mix(pfn.0 / 32)) % 10 {
            0..=3 => Some(Reason::Free),
            4 => Some(Reason::User),
            5 => Some(Reason::Cache),
            _ => None,
        }
    }

    /// The contents of a page: one in eight is zero, the others are noise of their own.
    pub fn page(&self, pfn: Pfn) -> Vec<u8> {
        let mut page = vec![0; PAGE_SIZE as usize];
        self.fill(pfn, 0, &mut page);
        page
    }

    /// Bytes of the page from `offset` on, which is a multiple of 8.
    fn fill(&self, pfn: Pfn, offset: u64, out: &mut [u8]) {
        let Some(corpus) = &self.params.corpus else {
            return fill(self.params.seed, pfn, offset, self.params.repeat, out);
        };
        let start = usize::try_from(pfn.0.saturating_mul(PAGE_SIZE).saturating_add(offset)).unwrap_or(usize::MAX);
        match start.checked_add(out.len()).and_then(|end| corpus.bytes().get(start..end)) {
            Some(bytes) => out.copy_from_slice(bytes),
            None => out.fill(0),
        }
    }

    /// The item NOTES.
    pub fn notes(&self) -> &[u8] {
        &self.notes
    }

    /// The kernel log.
    pub fn log(&self) -> &[u8] {
        &self.log
    }

    /// The registers of the CPU that crashed.
    pub fn registers(&self) -> &[u8] {
        &self.regs
    }

    /// The whole task listing.
    pub fn listing(&self) -> Vec<u8> {
        (0..self.params.listing).flat_map(listing_piece).collect()
    }
}

fn listing_piece(number: usize) -> Vec<u8> {
    format!("task:sim{number:<10} state:S stack:0 pid:{number}\n").into_bytes()
}

fn registers(seed: u64, cpu: u32) -> Vec<u8> {
    let mut regs = vec![0; 216];
    fill(seed ^ 0x7265_6773, Pfn(u64::from(cpu) * 8 + 1), 0, PAGE_SIZE, &mut regs);
    regs
}

fn log_text(seed: u64, len: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|n| format!("[{n:>8}.{seed:06}] a line of a kernel that never was\n").into_bytes());
    lines.take(len).collect()
}

/// Bytes of the page from `offset` on, which is a multiple of 8.
fn fill(seed: u64, pfn: Pfn, offset: u64, repeat: u64, out: &mut [u8]) {
    if pfn.0 % 8 == 0 {
        out.fill(0);
        return;
    }
    let start = mix(seed ^ mix(pfn.0));
    for (place, word) in out.chunks_mut(8).enumerate() {
        let value = mix(start.wrapping_add((offset / 8 + place as u64) % (repeat / 8))).to_le_bytes();
        word.copy_from_slice(&value[..word.len()]);
    }
}

/// The finalizer of splitmix64: every bit of the input reaches every bit of the output.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Target for Image {
    fn classify(&mut self, pfn: Pfn) -> PageClass {
        for range in &self.ranges {
            let (start, end) = (range.start.0 / PAGE_SIZE, range.end.0 / PAGE_SIZE);
            if pfn.0 < start {
                return PageClass::Hole { next: Some(Pfn(start)) };
            }
            if pfn.0 < end {
                return PageClass::Ram;
            }
        }
        PageClass::Hole { next: None }
    }

    fn read(&mut self, pfn: Pfn, offset: u32, out: &mut [u8]) -> Result<(), Unreadable> {
        if !self.readable(pfn) {
            return Err(Unreadable);
        }
        self.fill(pfn, u64::from(offset), out);
        if self.changes(pfn) {
            self.changes += 1;
            out.iter_mut().zip(self.changes.to_le_bytes()).for_each(|(byte, change)| *byte ^= change);
        }
        Ok(())
    }

    fn regs(&self) -> &[u8] {
        &self.regs
    }

    fn item(&mut self, item: ItemId, offset: u32, out: &mut [u8]) -> ItemPart {
        let bytes: &[u8] = match item {
            _ if !self.params.extension => &[],
            ItemId::Notes => &self.notes,
            ItemId::Log => &self.log,
            ItemId::Volatile => &self.volatile,
            ItemId::Unknown(_) => &[],
        };
        let rest = bytes.get(offset as usize..).unwrap_or(&[]);
        let written = rest.len().min(out.len());
        out[..written].copy_from_slice(&rest[..written]);
        ItemPart { total: bytes.len() as u32, written }
    }

    fn show_state(&mut self, out: &mut [u8]) -> Option<usize> {
        if self.listed == self.params.listing {
            return None;
        }
        let piece = listing_piece(self.listed);
        self.listed += 1;
        let len = piece.len().min(out.len());
        out[..len].copy_from_slice(&piece[..len]);
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_add_up_to_the_page_and_pages_differ() {
        let mut image = Image::new(ImageParams::default());
        for pfn in [Pfn(8), Pfn(9), Pfn(300)] {
            let mut whole = vec![0; 4096];
            for (n, chunk) in whole.chunks_mut(1024).enumerate() {
                image.read(pfn, n as u32 * 1024, chunk).unwrap();
            }
            assert_eq!(whole, image.page(pfn));
        }
        assert!(image.page(Pfn(8)).iter().all(|b| *b == 0));
        assert_ne!(image.page(Pfn(9)), image.page(Pfn(10)));
        let other = Image::new(ImageParams { seed: 2, ..ImageParams::default() });
        assert_ne!(image.page(Pfn(9)), other.page(Pfn(9)));
    }

    #[test]
    fn poison_is_where_it_was_asked_for() {
        let image = Image::new(ImageParams { poisoned_every: 10, ..ImageParams::default() });
        let bad = image.ram_pages().filter(|pfn| !image.readable(*pfn)).count();
        assert_eq!(bad, image.ram_pages().filter(|pfn| pfn.0 % 10 == 9).count());
        assert!(bad > 100);
    }
}
