// SPDX-License-Identifier: GPL-2.0-or-later
//! Whether a dump holds what the machine held.

use std::path::Path;

use netdump_core::wire::PhysAddr;
use netdump_vmcore::{ReadError, Reader};
use serde::Serialize;

use crate::image::{Image, PAGE_SIZE};

/// Page frames that are named in a report at most.
const NAMED: usize = 16;

/// What a comparison found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct VerifyReport {
    /// Readable pages of the machine.
    pub pages: u64,
    /// Those of them that are in the dump as they were.
    pub equal: u64,
    /// Those that the dump has no place for.
    pub missing: u64,
    /// Those that differ.
    pub different: u64,
    /// The first page frames that are missing or differ.
    pub first: Vec<u64>,
    /// The dump says that it is complete.
    pub complete: bool,
}

impl VerifyReport {
    /// All of the machine is there, and as it was.
    pub fn is_true(&self) -> bool {
        self.complete && self.pages > 0 && self.equal == self.pages
    }
}

/// Compares each readable page of `image` with the vmcore at `path`.
pub fn vmcore(path: &Path, image: &Image) -> Result<VerifyReport, ReadError> {
    let reader = Reader::open(path)?;
    let mut report = VerifyReport { complete: reader.is_complete(), ..VerifyReport::default() };
    let mut page = vec![0; PAGE_SIZE as usize];
    for pfn in image.ram_pages().filter(|pfn| image.readable(*pfn)) {
        report.pages += 1;
        let found = reader.read(PhysAddr(pfn.0 * PAGE_SIZE), &mut page);
        if found.is_ok() && page == image.page(pfn) {
            report.equal += 1;
            continue;
        }
        match found {
            Ok(()) => report.different += 1,
            Err(_) => report.missing += 1,
        }
        if report.first.len() < NAMED {
            report.first.push(pfn.0);
        }
    }
    Ok(report)
}
