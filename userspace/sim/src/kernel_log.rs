// SPDX-License-Identifier: GPL-2.0-or-later
//! A kernel that does not exist, with a log: page tables and printk's ring buffer as they stand in the memory of an
//! x86-64 machine, and the dump of it. For whatever reads a kernel's log out of a dump.

use std::collections::VecDeque;
use std::fs::File;
use std::io;

use netdump_core::wire::classic::Machine;
use netdump_core::wire::ext::{ByteOrder, PhysRange};
use netdump_core::wire::{Pfn, PhysAddr};
use netdump_vmcore::{DumpInfo, Format, PageSize, WriteError, Writer};

const PAGE: u64 = 4096;
/// `__START_KERNEL_map`, and how far the image is above it.
const IMAGE: u64 = 0xffff_ffff_8000_0000;
const TEXT: u64 = 0x0100_0000;
/// Where the rings are, with 4 and with 5 levels of page tables.
const RINGS: [u64; 2] = [0xffff_8880_0000_0000, 0xff11_0000_0000_0000];
/// What an entry of a page table has beside the address, and what one has that maps more than a page.
const TABLE: u64 = 0x063;
const LARGE: u64 = 0x0e3;
/// Where, behind the structure `printk_ringbuffer`, the variable `prb` is.
const POINTER: u64 = 1024;
/// Sizes of the structures, as those of Linux 7.3.
const DESC_LEN: u64 = 24;
const INFO_LEN: u64 = 112;
/// Bits of a number; the first ones are chosen so that they soon wrap.
const ID: u64 = (1 << 62) - 1;
const FINALIZED: u64 = 2 << 62;
const REUSABLE: u64 = 3 << 62;

/// How the rings are mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// Page by page, in an order of its own.
    Pages,
    /// By an entry for 2 MiB.
    Large,
    /// By an entry for 1 GiB.
    Huge,
}

/// What the kernel is like.
#[derive(Debug, Clone, Copy)]
pub struct KernelParams {
    /// Five levels of page tables.
    pub five_levels: bool,
    /// How the rings are mapped.
    pub mapping: Mapping,
    /// A bit of each entry that says "encrypted" (AMD's SME); 0 for none.
    pub encryption: u64,
    /// The ring has 2 to this records.
    pub record_bits: u32,
    /// The ring has 2 to this bytes of text.
    pub text_bits: u32,
}

impl Default for KernelParams {
    fn default() -> Self {
        KernelParams { five_levels: false, mapping: Mapping::Pages, encryption: 0, record_bits: 5, text_bits: 12 }
    }
}

/// The kernel. Its physical memory is below 2 MiB.
#[derive(Debug, Clone)]
pub struct Kernel {
    params: KernelParams,
    /// From physical address 0 on.
    memory: Vec<u8>,
    /// Where the top page table, and the structure `printk_ringbuffer` are.
    root: u64,
    ringbuffer: u64,
    /// Where the pages of each ring are: descriptors, what belongs to them, texts.
    rings: [Vec<u64>; 3],
    /// Records that were ever printed, the newest number, and where the next text goes.
    printed: u64,
    head: u64,
    head_lpos: u64,
    /// Records that are there: number, begin and end of the text block, time, text.
    live: VecDeque<(u64, Block, u64, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    begin: u64,
    next: u64,
}

impl Kernel {
    /// One that has just booted.
    pub fn new(params: KernelParams) -> Kernel {
        let (records, bytes) = (1u64 << params.record_bits, 1u64 << params.text_bits);
        // Page 0 is no RAM, as on a PC.
        let mut kernel = Kernel {
            params,
            memory: vec![0; PAGE as usize],
            root: 0,
            ringbuffer: 0,
            rings: Default::default(),
            printed: 0,
            head: records.wrapping_add(1).wrapping_neg() & ID,
            head_lpos: bytes.wrapping_neg(),
            live: VecDeque::new(),
        };
        kernel.root = kernel.allocate();
        kernel.ringbuffer = kernel.allocate();
        let start = RINGS[usize::from(params.five_levels)];
        let mut virt = start;
        let mut places = [0; 3];
        for (ring, len) in [records * DESC_LEN, records * INFO_LEN, bytes].into_iter().enumerate() {
            let mut pages: Vec<u64> = (0..len.div_ceil(PAGE)).map(|_| kernel.allocate()).collect();
            places[ring] = match params.mapping {
                Mapping::Pages => {
                    // What is contiguous for the kernel need not be so in memory.
                    pages.reverse();
                    let place = virt;
                    for page in &pages {
                        kernel.map(virt, *page, 1);
                        virt += PAGE;
                    }
                    place
                }
                Mapping::Large | Mapping::Huge => start + pages.first().copied().unwrap_or(0),
            };
            kernel.rings[ring] = pages;
        }
        match params.mapping {
            Mapping::Pages => {}
            Mapping::Large => kernel.map(start, 0, 2),
            Mapping::Huge => kernel.map(start, 0, 3),
        }
        kernel.map(kernel.virt(kernel.ringbuffer), kernel.ringbuffer, 1);
        let first = kernel.head;
        kernel.put_desc(first, REUSABLE, Block { begin: 1, next: 1 });
        for (at, value) in [(0, u64::from(params.record_bits)), (8, places[0]), (16, places[1])] {
            kernel.put(kernel.ringbuffer + at, value);
        }
        kernel.put(kernel.ringbuffer + POINTER, kernel.virt(kernel.ringbuffer));
        kernel.put(kernel.ringbuffer + 48, u64::from(params.text_bits));
        kernel.put(kernel.ringbuffer + 56, places[2]);
        kernel.put_ends();
        kernel
    }

    /// Prints something, `time` nanoseconds after the boot; what does not fit its ring has no text.
    pub fn print(&mut self, time: u64, text: &[u8]) {
        let (records, bytes) = (1u64 << self.params.record_bits, 1u64 << self.params.text_bits);
        self.printed += 1;
        self.head = self.head.wrapping_add(1) & ID;
        while self.live.len() as u64 >= records {
            self.forget();
        }
        // A number and the text, in whole words, and not in two parts.
        let size = (8 + text.len() as u64).next_multiple_of(8);
        let (block, stored) = if text.is_empty() || size > bytes / 2 {
            (Block { begin: 3, next: 3 }, &b""[..])
        } else {
            let begin = self.head_lpos;
            let next = begin.wrapping_add(size);
            let wraps = begin / bytes != next.wrapping_sub(1) / bytes;
            let next = if wraps { (next.wrapping_sub(1) & !(bytes - 1)).wrapping_add(size) } else { next };
            while next.wrapping_sub(self.oldest_lpos()) > bytes {
                self.forget();
            }
            self.head_lpos = next;
            let from = if wraps { 0 } else { begin % bytes };
            self.put_ring(2, from, &self.head.to_le_bytes());
            self.put_ring(2, from + 8, text);
            (Block { begin, next }, text)
        };
        let place = self.head % records;
        self.put_desc(self.head, FINALIZED, block);
        let info = [&self.head.to_le_bytes()[..], &time.to_le_bytes(), &(stored.len() as u16).to_le_bytes()].concat();
        self.put_ring(1, place * INFO_LEN, &info);
        self.live.push_back((self.head, block, time, stored.to_vec()));
        self.put_ends();
    }

    /// What its log holds, oldest first: time and text.
    pub fn log(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.live.iter().map(|(_, _, time, text)| (*time, text.as_slice()))
    }

    /// Bytes of text that its ring has room for.
    pub fn log_len(&self) -> u64 {
        1 << self.params.text_bits
    }

    /// Its memory, from physical address 0 on.
    pub fn memory(&mut self) -> &mut Vec<u8> {
        &mut self.memory
    }

    /// What it says about itself.
    pub fn vmcoreinfo(&self) -> String {
        format!(
            "OSRELEASE=7.3.0-sim\nBUILD-ID=00112233445566778899aabbccddeeff00112233\nPAGESIZE=4096\n\
             SYMBOL(swapper_pg_dir)={:x}\nSYMBOL(prb)={:x}\nNUMBER(phys_base)={}\nNUMBER(pgtable_l5_enabled)={}\n\
             NUMBER(sme_mask)={}\nKERNELOFFSET=0\n{LAYOUT}",
            self.virt(self.root),
            self.virt(self.ringbuffer) + POINTER,
            -(TEXT as i64),
            u8::from(self.params.five_levels),
            self.params.encryption
        )
    }

    /// Writes the dump of it.
    pub fn dump(&self, file: File) -> Result<(), WriteError> {
        let end = self.memory.len() as u64;
        let info = DumpInfo {
            machine: Machine::X86_64,
            byte_order: ByteOrder::Little,
            page_size: PageSize::KIB4,
            nr_pages: end / PAGE,
            total_ram_pages: (end / PAGE - 1) as u32,
            task_struct: 0,
            page_offset: RINGS[usize::from(self.params.five_levels)],
            regs: vec![1; 216],
            crashing_cpu: Some(0),
            cpus_possible: 1,
            cpus: Vec::new(),
            vmcoreinfo: Some(self.vmcoreinfo().into_bytes()),
            ranges: Some(vec![PhysRange { start: PhysAddr(PAGE), end: PhysAddr(end) }]),
            ktext: None,
            identity: Default::default(),
            panic: None,
            overlays: Vec::new(),
        };
        let mut writer = Writer::create(file, info, Format::Elf)?;
        writer.write(Pfn(1), self.memory.get(PAGE as usize..).unwrap_or(&[]), false)?;
        writer.finish(true)?;
        Ok(())
    }

    /// Its dump in a file that nobody else sees.
    pub fn dumped(&self) -> io::Result<File> {
        let file = File::from(nix::sys::memfd::memfd_create(c"vmcore", nix::sys::memfd::MFdFlags::empty())?);
        self.dump(file.try_clone()?).map_err(io::Error::other)?;
        Ok(file)
    }

    fn allocate(&mut self) -> u64 {
        let page = self.memory.len() as u64;
        self.memory.resize(self.memory.len() + PAGE as usize, 0);
        page
    }

    /// Where the image has a physical address.
    fn virt(&self, phys: u64) -> u64 {
        IMAGE + TEXT + phys
    }

    /// Maps `virt` by an entry of that level.
    fn map(&mut self, virt: u64, phys: u64, lowest: u32) {
        let levels = if self.params.five_levels { 5 } else { 4 };
        let mut table = self.root;
        for level in (lowest..=levels).rev() {
            let place = table + (virt >> (12 + 9 * (level - 1)) & 0x1ff) * 8;
            let old = self.get(place);
            if level == lowest {
                let bits = if level == 1 { TABLE } else { LARGE };
                self.put(place, phys | bits | self.params.encryption);
            } else if old == 0 {
                table = self.allocate();
                self.put(place, table | TABLE | self.params.encryption);
            } else {
                table = old & 0x000f_ffff_ffff_f000 & !self.params.encryption;
            }
        }
    }

    fn get(&self, phys: u64) -> u64 {
        let bytes = self.memory.get(phys as usize..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }

    fn put(&mut self, phys: u64, value: u64) {
        self.memory[phys as usize..][..8].copy_from_slice(&value.to_le_bytes());
    }

    fn put_ring(&mut self, ring: usize, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            let page = self.rings[ring][(at / PAGE) as usize];
            self.memory[(page + at % PAGE) as usize] = *byte;
        }
    }

    fn put_desc(&mut self, id: u64, state: u64, block: Block) {
        let place = id % (1 << self.params.record_bits);
        let desc = [(state | id).to_le_bytes(), block.begin.to_le_bytes(), block.next.to_le_bytes()].concat();
        self.put_ring(0, place * DESC_LEN, &desc);
    }

    /// The oldest record goes.
    fn forget(&mut self) {
        if let Some((id, block, ..)) = self.live.pop_front() {
            self.put_desc(id, REUSABLE, block);
        }
    }

    fn oldest_lpos(&self) -> u64 {
        let with_text = self.live.iter().find(|(_, block, ..)| block.begin & 1 == 0);
        with_text.map_or(self.head_lpos, |(_, block, ..)| block.begin)
    }

    /// The oldest number moves only when its descriptor is needed: before that it may have lost its text.
    fn put_ends(&mut self) {
        let tail = self.head.wrapping_sub(self.printed.min((1 << self.params.record_bits) - 1)) & ID;
        self.put(self.ringbuffer + 24, self.head);
        self.put(self.ringbuffer + 32, tail);
    }
}

/// Where things are in the structures.
const LAYOUT: &str = "\
OFFSET(printk_ringbuffer.desc_ring)=0
OFFSET(printk_ringbuffer.text_data_ring)=48
OFFSET(prb_desc_ring.count_bits)=0
OFFSET(prb_desc_ring.descs)=8
OFFSET(prb_desc_ring.infos)=16
OFFSET(prb_desc_ring.head_id)=24
OFFSET(prb_desc_ring.tail_id)=32
SIZE(prb_desc)=24
OFFSET(prb_desc.state_var)=0
OFFSET(prb_desc.text_blk_lpos)=8
OFFSET(prb_data_blk_lpos.begin)=0
OFFSET(prb_data_blk_lpos.next)=8
SIZE(printk_info)=112
OFFSET(printk_info.ts_nsec)=8
OFFSET(printk_info.text_len)=16
OFFSET(prb_data_ring.size_bits)=0
OFFSET(prb_data_ring.data)=8
OFFSET(atomic_long_t.counter)=0
";
