// SPDX-License-Identifier: GPL-2.0-or-later
//! `verify`: whether a file is a whole dump that its readers will take.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use netdump_core::wire::PhysAddr;
use netdump_vmcore::kernel_memory::KernelMemory;
use netdump_vmcore::{printk, Kind, Reader};

use crate::shown::size;

const CHUNK: usize = 4 << 20;

/// Reads all of it and says what was found; exit status 1 if something is wrong.
pub(crate) fn run(vmcore: &Path) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(vmcore).with_context(|| format!("{}", vmcore.display()))?;
    let length = std::fs::metadata(vmcore)?.len();
    let mut wrong: Vec<String> = Vec::new();
    if !reader.is_complete() {
        wrong.push("its header says that it is not complete".into());
    }
    if reader.loads().next().is_none() {
        wrong.push("it holds no memory".into());
    }
    let mut segments: Vec<_> = reader.loads().map(|s| (s.paddr, s.len, s.offset)).collect();
    segments.sort_unstable();
    // The kernel's text may be there a second time under its own address, at the same place of the file.
    for pair in segments.windows(2) {
        if let [(a, len, from), (b, _, to)] = pair {
            let same = b.wrapping_sub(*a) == to.wrapping_sub(*from);
            if a.saturating_add(*len) > *b && !same {
                wrong.push(format!("the segments at {a:#x} and {b:#x} overlap"));
            }
        }
    }
    let (mut bytes, mut zero) = (0u64, 0u64);
    let mut chunk = vec![0; CHUNK];
    for (paddr, len, offset) in &segments {
        if offset.saturating_add(*len) > length {
            wrong.push(format!("the segment at {paddr:#x} ends beyond the file ({length} bytes): it was cut off"));
            continue;
        }
        let mut at = 0;
        while at < *len {
            let part = chunk.get_mut(..(len - at).min(CHUNK as u64) as usize).unwrap_or(&mut []);
            if let Err(error) = reader.read(PhysAddr(paddr + at), part) {
                wrong.push(format!("{:#x}: {error:#}", paddr + at));
                break;
            }
            zero += part.chunks(4096).filter(|page| page.iter().all(|byte| *byte == 0)).count() as u64;
            bytes += part.len() as u64;
            at += part.len() as u64;
        }
    }
    let registers = reader.registers();
    if registers.is_empty() {
        wrong.push("it has no registers (NT_PRSTATUS)".into());
    }
    let mut log = None;
    match reader.vmcoreinfo() {
        Ok(Some(info)) => {
            if info.os_release().is_none() {
                wrong.push("VMCOREINFO does not name the kernel's release".into());
            }
            let counted = KernelMemory::new(&reader, &info).and_then(|memory| {
                printk::records(&memory, &info, |_| Ok::<_, netdump_vmcore::kernel_memory::MemoryError>(()))
            });
            match counted {
                Ok(0) => wrong.push("the kernel's log in it is empty".into()),
                Ok(count) => log = Some(count),
                Err(error) => wrong.push(format!("the kernel's log cannot be read: {error:#}")),
            }
        }
        Ok(None) if reader.kind() == Kind::Netdump => {}
        Ok(None) => wrong.push("it has no VMCOREINFO".into()),
        Err(error) => wrong.push(error.to_string()),
    }
    let kind = match reader.kind() {
        Kind::Kdump => "as kdump writes it",
        Kind::Netdump => "the layout of 2005",
    };
    println!("{}: {kind}, {} segments, {} ({zero} pages of zeroes)", vmcore.display(), segments.len(), size(bytes));
    println!(
        "registers of {} CPUs{}",
        registers.len(),
        log.map_or(String::new(), |count| format!(", {count} log records"))
    );
    for line in &wrong {
        println!("WRONG: {line}");
    }
    println!("{}", if wrong.is_empty() { "whole" } else { "not whole" });
    Ok(ExitCode::from(u8::from(!wrong.is_empty())))
}
