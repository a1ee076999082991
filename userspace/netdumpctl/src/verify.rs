// SPDX-License-Identifier: GPL-2.0-or-later
//! `verify`: whether a file is a whole dump that its readers will take.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use netdump_core::wire::classic::Machine;
use netdump_core::wire::PhysAddr;
use netdump_vmcore::kernel_memory::{KernelMemory, MemoryError};
use netdump_vmcore::{printk, Kind, Piece, Reader, Vmcoreinfo};
use serde::Serialize;

use crate::dumps::Dump;
use crate::shown::{json, plain, size};

/// Memory that is read at a time.
const CHUNK: usize = 4 << 20;
const PAGE: usize = 4096;
/// Lines about what is wrong that are shown; `--json` has all.
const SHOWN: usize = 20;

/// What was found.
#[derive(Debug, Default, Serialize)]
struct Report {
    vmcore: String,
    /// "kdump" or, in the layout of 2005, "netdump".
    format: &'static str,
    release: Option<String>,
    segments: usize,
    /// Each address once.
    memory_bytes: u64,
    /// Of it: nothing but zero.
    zero_bytes: u64,
    /// CPUs whose registers are there.
    cpus: usize,
    log_records: Option<u64>,
    whole: bool,
    wrong: Vec<String>,
}

/// Reads all of it and says what was found; exit status 1 if something is wrong.
pub(crate) fn run(vmcore: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(vmcore).with_context(|| format!("{}", vmcore.display()))?;
    let mut report = Report { vmcore: vmcore.to_string_lossy().into_owned(), ..Report::default() };
    report.headers(&reader);
    report.notes(&reader);
    let length = reader.file_len()?;
    let mut progress = Progress::new(reader.pieces());
    let mut pieces = reader.pieces().to_vec();
    pieces.sort_unstable_by_key(|piece| piece.offset);
    let mut read_to = 0;
    for piece in pieces {
        // A small file must not pass for a large one, nor take as long.
        if piece.offset < read_to {
            report.wrong(format!("the memory at {:#x} is in the file at the place of other memory", piece.paddr));
            continue;
        }
        report.memory(&reader, piece, length, &mut progress);
        read_to = piece.offset.saturating_add(piece.len);
    }
    progress.end();
    if let Some(directory) = vmcore.parent() {
        report.compare(&Dump::open(directory.to_path_buf()), length);
    }
    report.whole = report.wrong.is_empty();
    let mut out = std::io::stdout().lock();
    if as_json {
        json(&mut out, &report)?;
    } else {
        report.print(&mut out)?;
    }
    Ok(ExitCode::from(u8::from(!report.whole)))
}

impl Report {
    fn wrong(&mut self, what: impl Into<String>) {
        self.wrong.push(what.into());
    }

    fn headers(&mut self, reader: &Reader) {
        self.format = match reader.kind() {
            Kind::Kdump => "kdump",
            Kind::Netdump => "netdump",
        };
        if !reader.is_complete() {
            self.wrong("its header says that it is not complete");
        }
        let mut segments: Vec<_> = reader.loads().map(|s| (s.paddr, s.len, s.offset)).collect();
        self.segments = segments.len();
        if segments.is_empty() {
            self.wrong("it holds no memory");
        }
        segments.sort_unstable();
        // The kernel's text may be there a second time under its own address, at the same place of the file.
        for pair in segments.windows(2) {
            if let [(a, len, from), (b, _, to)] = pair {
                let same = b.wrapping_sub(*a) == to.wrapping_sub(*from);
                if a.saturating_add(*len) > *b && !same {
                    self.wrong(format!("the segments at {a:#x} and {b:#x} overlap"));
                }
            }
        }
    }

    fn notes(&mut self, reader: &Reader) {
        let registers = reader.registers();
        self.cpus = registers.len();
        if registers.is_empty() {
            self.wrong("it has no registers (NT_PRSTATUS)");
        }
        let len = reader.machine().regs_len().filter(|_| reader.machine() == Machine::X86_64);
        let short = registers.iter().filter(|(_, regs)| len.is_some_and(|len| regs.len() < len)).count();
        if short > 0 {
            self.wrong(format!("the registers of {short} CPUs are cut short"));
        }
        match reader.vmcoreinfo() {
            Ok(Some(info)) => self.kernel(reader, &info),
            Ok(None) if reader.kind() == Kind::Netdump => {}
            Ok(None) => self.wrong("it has no VMCOREINFO"),
            Err(error) => self.wrong(error.to_string()),
        }
    }

    fn kernel(&mut self, reader: &Reader, info: &Vmcoreinfo<'_>) {
        if reader.kind() == Kind::Netdump {
            // Its first segment has an alignment, and begins at a multiple of a page.
            self.wrong("crash takes it for a netdump of 2005 and does not look at its VMCOREINFO");
        }
        self.release = info.os_release().map(str::to_owned);
        if self.release.is_none() {
            self.wrong("VMCOREINFO does not name the kernel's release");
        }
        if info.page_size().is_none() {
            self.wrong("VMCOREINFO does not say how large a page is");
        }
        let counted = KernelMemory::new(reader, info)
            .and_then(|memory| printk::records(&memory, info, |_| Ok::<_, MemoryError>(())));
        match counted {
            Ok(0) => self.wrong("the kernel's log in it is empty"),
            Ok(count) => self.log_records = Some(count),
            // Nothing is known of other machines' page tables.
            Err(MemoryError::OtherMachine) => {}
            Err(error) => self.wrong(format!("the kernel's log cannot be read: {error:#}")),
        }
    }

    /// Reads a piece, but for its holes.
    fn memory(&mut self, reader: &Reader, piece: Piece, length: u64, progress: &mut Progress) {
        let Piece { paddr, len, offset } = piece;
        let end = offset.saturating_add(len);
        if end > length {
            self.wrong(format!(
                "the memory at {paddr:#x} ends at byte {end} of a file of {length} bytes: it was cut off"
            ));
        }
        let there = end.min(length).saturating_sub(offset);
        self.memory_bytes += there;
        let mut chunk = vec![0; CHUNK];
        let mut at = offset;
        loop {
            let part = match reader.stored(at..offset + there) {
                Ok(Some(part)) => part,
                Ok(None) => {
                    self.zero_bytes += offset + there - at;
                    break;
                }
                Err(error) => return self.wrong(format!("{paddr:#x}: {error}")),
            };
            self.zero_bytes += part.start - at;
            at = part.start;
            while at < part.end {
                let bytes = chunk.get_mut(..(part.end - at).min(CHUNK as u64) as usize).unwrap_or(&mut []);
                if let Err(error) = reader.read(PhysAddr(paddr + (at - offset)), bytes) {
                    return self.wrong(format!("{:#x}: {error:#}", paddr + (at - offset)));
                }
                let zero = [0; PAGE];
                let pages = bytes.chunks(PAGE).filter(|page| zero.starts_with(page));
                self.zero_bytes += pages.map(|page| page.len() as u64).sum::<u64>();
                at += bytes.len() as u64;
                progress.show(at);
            }
        }
    }

    /// What the server wrote down about it.
    fn compare(&mut self, dump: &Dump, length: u64) {
        let missing = dump.number("/dump/pages/unanswered").unwrap_or(0);
        if missing > 0 {
            self.wrong(format!("meta.json: {missing} pages never came"));
        }
        if let Some(bytes) = dump.number("/dump/vmcore_bytes").filter(|bytes| *bytes != 0 && *bytes != length) {
            self.wrong(format!("meta.json says that it has {bytes} bytes, and it has {length}"));
        }
        if let Some(cpus) = dump.number("/dump/cpus").filter(|cpus| *cpus > self.cpus as u64) {
            self.wrong(format!("meta.json says that it has the registers of {cpus} CPUs, and it has {}", self.cpus));
        }
    }

    fn print(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let Report { segments, cpus, .. } = self;
        let format = match self.format {
            "kdump" => "as kdump writes it",
            _ => "the layout of 2005",
        };
        let release = self.release.as_ref().map_or(String::new(), |release| format!(", {release}"));
        let log = self.log_records.map_or(String::new(), |count| format!(", {count} log records"));
        let mut lines = vec![
            format!("{}: {format}{release}", self.vmcore),
            format!("{segments} segments, {}, {} of it zero", size(self.memory_bytes), size(self.zero_bytes)),
            format!("registers of {cpus} CPUs{log}"),
        ];
        lines.extend(self.wrong.iter().take(SHOWN).map(|line| format!("WRONG: {line}")));
        if self.wrong.len() > SHOWN {
            lines.push(format!("and {} more", self.wrong.len() - SHOWN));
        }
        lines.push(if self.whole { "whole" } else { "not whole" }.into());
        for line in lines {
            writeln!(out, "{}", plain(&line))?;
        }
        Ok(())
    }
}

/// How far it is, for whoever waits at a terminal.
struct Progress {
    last: u64,
    next: Option<Instant>,
    shown: bool,
}

impl Progress {
    const EVERY: Duration = Duration::from_secs(1);

    fn new(pieces: &[Piece]) -> Progress {
        let last = pieces.iter().map(|piece| piece.offset.saturating_add(piece.len)).max().unwrap_or(0);
        let next = std::io::stderr().is_terminal().then(|| Instant::now() + Self::EVERY);
        Progress { last, next, shown: false }
    }

    fn show(&mut self, at: u64) {
        if let Some(next) = self.next.filter(|next| *next <= Instant::now()) {
            eprint!("\r\x1b[Kread up to {} of {}", size(at), size(self.last));
            self.next = Some(next + Self::EVERY);
            self.shown = true;
        }
    }

    fn end(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}
