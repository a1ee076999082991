// SPDX-License-Identifier: GPL-2.0-or-later
//! Writing a dump: pages in any order, each at its place, zero pages as holes.
//!
//! The header says from the first moment that the file is incomplete, and only
//! [`finish`](Writer::finish) takes that back: whatever becomes of the server, the file tells the truth.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use netdump_core::wire::ext::PhysRange;
use netdump_core::wire::{Pfn, PhysAddr};

use crate::describe::DumpInfo;
use crate::layout::{Format, Layout, MAX_FOUND};

/// Where a dump is written to.
pub trait Storage {
    /// Writes all of `data` at `offset`.
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// Makes the file this long; what is not written reads as zero.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Returns when everything is on stable storage.
    fn sync(&self) -> io::Result<()>;
}

impl Storage for File {
    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, data, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Why something could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// No place was planned for this page.
    #[error("page {:#x} is not in the dump", .0 .0)]
    NotInDump(Pfn),
    /// Not a whole number of pages.
    #[error("{0} bytes are not whole pages")]
    Length(usize),
    /// The file system refused.
    #[error("cannot write {what}")]
    Io {
        /// What it was.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn io_error(what: &'static str) -> impl FnOnce(io::Error) -> WriteError {
    move |source| WriteError::Io { what, source }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Written {
    /// Pages taken, zero pages among them.
    pub pages: u64,
    /// Zero pages, left as holes.
    pub zero_pages: u64,
}

/// A dump being written.
#[derive(Debug)]
pub struct Writer<S> {
    storage: S,
    layout: Layout,
    info: DumpInfo,
    /// By page frame: place in the page and bytes.
    overlays: BTreeMap<u64, Vec<(usize, Vec<u8>)>>,
    /// Page frames seen so far, where the ranges are not known.
    found: Found,
    written: Written,
    scratch: Vec<u8>,
}

impl<S: Storage> Writer<S> {
    /// Begins a file: its header, marked incomplete, and its length. The storage should be empty.
    pub fn create(storage: S, info: DumpInfo, format: Format) -> Result<Self, WriteError> {
        let layout = Layout::new(&info, format);
        storage.set_len(layout.file_len()).map_err(io_error("length"))?;
        storage.write_all_at(&layout.header(&info, false, &[]), 0).map_err(io_error("header"))?;
        let overlays = overlays_by_page(&info);
        let scratch = vec![0; info.page_size.bytes()];
        Ok(Writer { storage, layout, info, overlays, found: Found::default(), written: Written::default(), scratch })
    }

    /// Writes consecutive pages from `first` on. `again`: they may have been written before with other
    /// contents, so that zero pages cannot be left out.
    pub fn write(&mut self, first: Pfn, data: &[u8], again: bool) -> Result<(), WriteError> {
        let page = self.info.page_size.bytes();
        if data.len() % page != 0 {
            return Err(WriteError::Length(data.len()));
        }
        // Runs of pages that can be written in one call: neither zero, nor patched, nor apart in the file.
        let mut run: Option<(u64, usize)> = None;
        for (n, bytes) in data.chunks_exact(page).enumerate() {
            let pfn = Pfn(first.0.saturating_add(n as u64));
            let offset = self.offset(pfn)?;
            if self.layout.is_open() {
                self.found.add(pfn.0);
            }
            if !again {
                self.written.pages += 1;
            }
            if let Some(patches) = self.overlays.get(&pfn.0) {
                self.scratch.copy_from_slice(bytes);
                for (at, patch) in patches {
                    if let Some(out) = self.scratch.get_mut(*at..*at + patch.len()) {
                        out.copy_from_slice(patch);
                    }
                }
                self.storage.write_all_at(&self.scratch, offset).map_err(io_error("page"))?;
                self.flush(&mut run, data, n * page)?;
                continue;
            }
            if !again && is_zero(bytes) {
                self.written.zero_pages += 1;
                self.flush(&mut run, data, n * page)?;
                continue;
            }
            match run {
                Some((at, start)) if at + (n * page - start) as u64 == offset => {}
                _ => {
                    self.flush(&mut run, data, n * page)?;
                    run = Some((offset, n * page));
                }
            }
        }
        self.flush(&mut run, data, data.len())
    }

    /// Writes a run of pages: from `run`'s place in `data` to `end`.
    fn flush(&self, run: &mut Option<(u64, usize)>, data: &[u8], end: usize) -> Result<(), WriteError> {
        match run.take() {
            Some((offset, start)) => self.storage.write_all_at(&data[start..end], offset).map_err(io_error("page")),
            None => Ok(()),
        }
    }

    /// Place of a page in the file.
    fn offset(&self, pfn: Pfn) -> Result<u64, WriteError> {
        let addr = self.info.page_size.addr(pfn).0;
        let piece = self.layout.piece(addr).ok_or(WriteError::NotInDump(pfn))?;
        Ok(piece.offset + (addr - piece.start))
    }

    /// What was written so far.
    pub fn written(&self) -> Written {
        self.written
    }

    /// What the file describes.
    pub fn info(&self) -> &DumpInfo {
        &self.info
    }

    /// Writes the last header, makes everything safe, and gives the storage back. A dump that is not
    /// `complete` stays marked so.
    pub fn finish(self, complete: bool) -> Result<(S, Written), WriteError> {
        let found = self.found.ranges(&self.info);
        let header = self.layout.header(&self.info, complete, &found);
        // Memory first: the header must not say "complete" of pages that a power cut can still lose.
        self.storage.sync().map_err(io_error("pages"))?;
        self.storage.write_all_at(&header, 0).map_err(io_error("header"))?;
        self.storage.sync().map_err(io_error("header"))?;
        Ok((self.storage, self.written))
    }
}

fn overlays_by_page(info: &DumpInfo) -> BTreeMap<u64, Vec<(usize, Vec<u8>)>> {
    let page = info.page_size.bytes();
    let mut by_page: BTreeMap<u64, Vec<(usize, Vec<u8>)>> = BTreeMap::new();
    for overlay in &info.overlays {
        let mut pfn = info.page_size.pfn(overlay.paddr).0;
        let mut at = overlay.paddr.0 as usize % page;
        let mut rest = overlay.data.as_slice();
        while !rest.is_empty() {
            let (here, next) = rest.split_at(rest.len().min(page - at));
            by_page.entry(pfn).or_default().push((at, here.to_vec()));
            (pfn, at, rest) = (pfn.saturating_add(1), 0, next);
        }
    }
    by_page
}

/// Whether a page is all zero, without a branch per byte.
pub(crate) fn is_zero(page: &[u8]) -> bool {
    page.chunks(256).all(|chunk| chunk.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The page frames that were seen, as few ranges.
#[derive(Debug, Default)]
struct Found {
    /// Start and end; disjoint, not touching.
    ranges: BTreeMap<u64, u64>,
}

impl Found {
    fn add(&mut self, pfn: u64) {
        let before = self.ranges.range(..=pfn).next_back().map(|(start, end)| (*start, *end));
        if before.is_some_and(|(_, end)| pfn < end) {
            return;
        }
        let joins_after = self.ranges.remove(&(pfn + 1));
        let end = joins_after.unwrap_or(pfn + 1);
        match before {
            Some((start, last)) if last == pfn => self.ranges.insert(start, end),
            _ => self.ranges.insert(pfn, end),
        };
        if self.ranges.len() > MAX_FOUND {
            self.join_nearest();
        }
    }

    /// Joins the two ranges with the smallest gap; it will read as zero.
    fn join_nearest(&mut self) {
        let gaps = self.ranges.iter().zip(self.ranges.iter().skip(1));
        let Some((start, next)) =
            gaps.min_by_key(|((_, end), (next, _))| *next - *end).map(|((s, _), (n, _))| (*s, *n))
        else {
            return;
        };
        if let Some(end) = self.ranges.remove(&next) {
            self.ranges.insert(start, end);
        }
    }

    fn ranges(&self, info: &DumpInfo) -> Vec<PhysRange> {
        let addr = |pfn: u64| PhysAddr(info.page_size.addr(Pfn(pfn)).0);
        self.ranges.iter().map(|(start, end)| PhysRange { start: addr(*start), end: addr(*end) }).collect()
    }
}
