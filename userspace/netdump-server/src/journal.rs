// SPDX-License-Identifier: GPL-2.0-or-later
//! What the unfinished vmcore of a version 6 dump holds so far (`resume`, beside it), so that another process of this server
//! can go on where this one was stopped.
//!
//! A line of JSON says which panic and which file; each line behind it is written after what it speaks of was: `e` and two
//! page frames for pages that came ahead of their turn, `a` for frames that are accounted for, `n` for numbers that add up
//! (pages, zero pages among them, frames left out). What was not written before a power cut may be missing from the vmcore
//! although it is told here; so a journal is good for the boot that it was written in alone.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::ops::Range;

use netdump_session::Resumed;
use netdump_vmcore::DumpInfo;
use serde::{Deserialize, Serialize};

use crate::crashdir::ClientDir;
use crate::dispatch::Fire;

/// Its name.
pub const NAME: &str = "resume";
/// No journal is read further: that is more than any machine's pages need.
const MAX_BYTES: u64 = 1 << 30;
/// No first line is longer: it names up to 4,096 ranges.
const MAX_HEADER: u64 = 1 << 18;

/// Which panic a journal is of. A name alone says who it is only where a key proves it; otherwise the address counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Cause {
    key: Option<([u8; 16], [u8; 16])>,
    fire: [u8; 16],
    client: Option<IpAddr>,
}

impl Cause {
    /// Of a client at this address.
    pub fn new(fire: &Fire, client: IpAddr) -> Cause {
        let key = fire.0.map(|name| (name.key_id, name.arm_id));
        Cause { key, fire: fire.1, client: key.is_none().then_some(client) }
    }
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    version: u32,
    cause: Cause,
    /// Of this machine.
    boot: String,
    format: String,
    /// Physical memory of the client, bytes: where pages lie in the file follows from it.
    ranges: Vec<(u64, u64)>,
}

/// What a journal says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// For the session.
    pub resumed: Resumed,
    /// Pages of zeroes among the pages.
    pub zero: u64,
    /// Frames left out.
    pub left_out: u64,
}

/// A journal that is being written.
#[derive(Debug)]
pub struct Journal {
    file: File,
    line: String,
}

/// What was written to the vmcore since the last line, or will never be.
#[derive(Debug, Default)]
pub struct Step {
    /// Frames that are accounted for; early or not.
    pub frames: Vec<(Range<u64>, bool)>,
    /// Of them, those left out.
    pub left_out: u64,
}

impl Header {
    fn new(cause: &Cause, info: &DumpInfo, format: &str) -> io::Result<Header> {
        let ranges = info.ranges.iter().flatten().map(|range| (range.start.0, range.end.0)).collect();
        Ok(Header { version: 1, cause: cause.clone(), boot: boot()?, format: format.to_owned(), ranges })
    }
}

impl Journal {
    /// Begins one.
    pub fn create(dir: &ClientDir, cause: &Cause, info: &DumpInfo, format: &str) -> io::Result<Journal> {
        let mut line = serde_json::to_string(&Header::new(cause, info, format)?)?;
        line.push('\n');
        let mut file = dir.create_journal()?;
        file.write_all(line.as_bytes())?;
        Ok(Journal { file, line })
    }

    /// Goes on with one, if it is of this panic, this file and this boot; and what it says.
    pub fn resume(dir: &ClientDir, cause: &Cause, info: &DumpInfo, format: &str) -> io::Result<(Journal, Told)> {
        let file = dir.open_journal()?;
        let mut reader = BufReader::new(file.try_clone()?.take(MAX_BYTES));
        let mut line = String::new();
        reader.by_ref().take(MAX_HEADER).read_line(&mut line)?;
        let header: Header = serde_json::from_str(&line)?;
        if header != Header::new(cause, info, format)? {
            return Err(io::Error::other("it is of another panic, another layout of memory, or before a restart"));
        }
        let told = Told::parse(reader)?;
        Ok((Journal { file, line }, told))
    }

    /// Tells of what was written: `pages`, `zero` of which are. Each step is one write.
    pub fn note(&mut self, step: &Step, pages: u64, zero: u64) -> io::Result<()> {
        self.line.clear();
        for (frames, early) in &step.frames {
            let kind = if *early { 'e' } else { 'a' };
            // A String takes everything.
            let _ = writeln!(self.line, "{kind} {:x} {:x}", frames.start, frames.end);
        }
        if pages > 0 || step.left_out > 0 {
            let _ = writeln!(self.line, "n {pages:x} {zero:x} {:x}", step.left_out);
        }
        self.file.write_all(self.line.as_bytes())
    }
}

impl Told {
    /// Lines; the last one may be cut off.
    fn parse(mut reader: impl BufRead) -> io::Result<Told> {
        let mut told = Told::default();
        let mut line = String::new();
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 || !line.ends_with('\n') {
                return Ok(told);
            }
            let wrong = || io::Error::other("a line of it makes no sense");
            let mut words = line.trim_end().split(' ');
            let kind = words.next().ok_or_else(wrong)?;
            let numbers: Vec<u64> =
                words.map(|word| u64::from_str_radix(word, 16).map_err(|_| wrong())).collect::<Result<_, _>>()?;
            match (kind, numbers.as_slice()) {
                ("e", [start, end]) if start < end => extend(&mut told.resumed.early, *start..*end),
                ("a", [start, end]) if start < end => extend(&mut told.resumed.accounted, *start..*end),
                ("n", [pages, zero, left_out]) => {
                    told.resumed.pages = told.resumed.pages.saturating_add(*pages);
                    told.zero = told.zero.saturating_add(*zero);
                    told.left_out = told.left_out.saturating_add(*left_out);
                }
                _ => return Err(wrong()),
            }
        }
    }
}

/// What continues the last range becomes part of it.
fn extend(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => ranges.push(range),
    }
}

/// Which panic the journal in a directory is of, if there is one that is good for anything.
pub fn cause(dir: &ClientDir) -> Option<Cause> {
    let mut line = String::new();
    BufReader::new(dir.open_journal().ok()?.take(MAX_HEADER)).read_line(&mut line).ok()?;
    let header: Header = serde_json::from_str(&line).ok()?;
    (header.boot == boot().ok()?).then_some(header.cause)
}

/// Which boot of this machine this is.
fn boot() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crashdir::CrashDir;
    use netdump_core::wire::ext::PhysRange;
    use netdump_core::wire::PhysAddr;
    use proptest::prelude::*;

    fn info(end: u64) -> DumpInfo {
        let ranges = vec![PhysRange { start: PhysAddr(0x1000), end: PhysAddr(end) }];
        DumpInfo { ranges: Some(ranges), ..crate::writer::tests::info() }
    }

    #[test]
    fn what_was_noted_is_told_to_the_same_panic_and_no_other() {
        let root = tempfile::tempdir().unwrap();
        let client = "10.0.0.1".parse().unwrap();
        let dir = CrashDir::open(root.path()).unwrap().create(client, jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(cause(&dir), None);
        let of = Cause::new(&(None, [7; 16]), client);
        let mut journal = Journal::create(&dir, &of, &info(0x9000), "elf").unwrap();
        let step = Step { frames: vec![(1..3, true), (3..4, true), (6..7, true), (8..9, false)], left_out: 0 };
        journal.note(&step, 4, 1).unwrap();
        journal.note(&Step { frames: vec![(1..8, false)], left_out: 4 }, 0, 0).unwrap();
        let told = Told {
            resumed: Resumed { early: vec![1..4, 6..7], accounted: vec![8..9, 1..8], pages: 4 },
            zero: 1,
            left_out: 4,
        };
        assert_eq!(cause(&dir), Some(of.clone()));
        let (mut journal, before) = Journal::resume(&dir, &of, &info(0x9000), "elf").unwrap();
        assert_eq!(before, told);
        // A line that was cut off counts for nothing.
        journal.file.write_all(b"a 9 1").unwrap();
        assert_eq!(Journal::resume(&dir, &of, &info(0x9000), "elf").unwrap().1, told);
        let elsewhere = Cause::new(&(None, [7; 16]), "10.0.0.2".parse().unwrap());
        assert!(Journal::resume(&dir, &elsewhere, &info(0x9000), "elf").is_err());
        assert!(Journal::resume(&dir, &of, &info(0xa000), "elf").is_err());
        assert!(Journal::resume(&dir, &of, &info(0x9000), "netdump").is_err());
        journal.file.write_all(b"\nx\n").unwrap();
        assert!(Journal::resume(&dir, &of, &info(0x9000), "elf").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes: Vec<u8>, lines in proptest::collection::vec("[ean] [0-9a-f]{1,17} [0-9a-f]{1,3}( [0-9]{1,20})?\n", 0..9)) {
            let _ = Told::parse(&bytes[..]);
            let _ = Told::parse(lines.concat().as_bytes());
        }
    }
}
