// SPDX-License-Identifier: GPL-2.0-or-later
//! A small reader of kdump-compressed files of little-endian 64-bit machines, for tests: it trusts what it reads.
#![allow(dead_code, unreachable_pub)] // each test file uses its part

use std::io::Read;
use std::path::Path;

pub struct Kdump {
    bytes: Vec<u8>,
    /// By frame: it is memory; it is in the file, and then the place of its descriptor.
    memory: Vec<bool>,
    place: Vec<Option<usize>>,
}

impl Kdump {
    pub fn open(path: &Path) -> Kdump {
        Kdump::of(std::fs::read(path).unwrap())
    }

    pub fn of(bytes: Vec<u8>) -> Kdump {
        assert!(bytes.starts_with(b"KDUMP   \x06\0\0\0"), "no signature, or another version");
        let mut kdump = Kdump { bytes, memory: Vec::new(), place: Vec::new() };
        let bitmaps = kdump.block() * (1 + kdump.u32(432) as usize);
        let size = kdump.block() * kdump.u32(436) as usize;
        let mut desc = bitmaps + size;
        let bit = |at: usize, pfn: usize| kdump.bytes[at + pfn / 8] & 1 << (pfn % 8) != 0;
        let frames = kdump.sub(96) as usize;
        let memory = (0..frames).map(|pfn| bit(bitmaps, pfn)).collect();
        let mut place = Vec::new();
        for pfn in 0..frames {
            let there = bit(bitmaps + size / 2, pfn);
            place.push(there.then_some(desc));
            desc += if there { 24 } else { 0 };
        }
        // Nothing is set behind the last frame.
        assert!((frames..size * 4).all(|pfn| !bit(bitmaps, pfn) && !bit(bitmaps + size / 2, pfn)));
        (kdump.memory, kdump.place) = (memory, place);
        kdump
    }

    pub fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    pub fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    /// A field of the sub header.
    pub fn sub(&self, at: usize) -> u64 {
        self.u64(self.block() + at)
    }

    pub fn text(&self, at: usize) -> &str {
        let end = self.bytes[at..].iter().position(|byte| *byte == 0).unwrap();
        std::str::from_utf8(&self.bytes[at..at + end]).unwrap()
    }

    /// What two fields of the sub header say: place and length.
    pub fn part(&self, at: usize) -> &[u8] {
        &self.bytes[self.sub(at) as usize..][..self.sub(at + 8) as usize]
    }

    pub fn block(&self) -> usize {
        self.u32(428) as usize
    }

    pub fn status(&self) -> u32 {
        self.u32(424)
    }

    pub fn frames(&self) -> u64 {
        self.place.len() as u64
    }

    pub fn is_memory(&self, pfn: u64) -> bool {
        self.memory[pfn as usize]
    }

    /// Frames that it has.
    pub fn pages(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.frames()).filter(|pfn| self.place[*pfn as usize].is_some())
    }

    /// Place, length and flags of a page, if it is there.
    pub fn descriptor(&self, pfn: u64) -> Option<(u64, u32, u32)> {
        let at = (*self.place.get(pfn as usize)?)?;
        assert_eq!(self.u64(at + 16), 0);
        Some((self.u64(at), self.u32(at + 8), self.u32(at + 12)))
    }

    pub fn page(&self, pfn: u64) -> Option<Vec<u8>> {
        let (place, len, flags) = self.descriptor(pfn)?;
        let stored = &self.bytes[place as usize..][..len as usize];
        let mut page = Vec::new();
        match flags {
            0 => page.extend_from_slice(stored),
            1 => drop(flate2::read::ZlibDecoder::new(stored).read_to_end(&mut page).unwrap()),
            0x20 => page = zstd::bulk::decompress(stored, self.block()).unwrap(),
            other => panic!("flags {other:#x}"),
        }
        assert_eq!(page.len(), self.block());
        Some(page)
    }
}
