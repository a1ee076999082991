// SPDX-License-Identifier: GPL-2.0-or-later
//! One client's dump: its session, its directory, its file, and what will stand in `meta.json`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Instant;

use jiff::Timestamp;
use netdump_core::wire::ext::VolatileRange;
use netdump_core::wire::v6::Reason;
use netdump_session::{Absence, Counters, Dialogue, Grant, Outcome, Pages, Phase};
use netdump_vmcore::{DumpInfo, Vmcoreinfo};

use crate::admission::DumpId;
use crate::clients::Owner;
use crate::config::Format;
use crate::crashdir::ClientDir;
use crate::dispatch::Fire;
use crate::journal::{Cause, Step};
use crate::meta::{DatagramCounts, DumpMeta, Meta, PageCounts, VolatileMeta};
use crate::socket::Path;
use crate::store::DirId;
use crate::writer::{FileFacts, Page, Resumable, Writer};

/// Pages that are handed to the writer at once, so that a thread is not woken for each.
const BATCH: usize = 32;
/// The same in clusters.
const CLUSTERS: usize = 16;

/// How far the search for room on the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// Not looked at.
    Unknown,
    /// Asked; `last` after the hook had its chance.
    Measuring {
        /// There is no other chance.
        last: bool,
    },
    /// `netdump-nospace` runs.
    Hook,
    /// There is enough, or nobody checks.
    Enough,
    /// There is not.
    Lacking,
}

/// A dump from its START_NETDUMP until its directory is closed.
#[derive(Debug)]
pub struct Dump {
    /// Its name inside the server.
    pub id: DumpId,
    /// The protocol.
    pub session: Dialogue,
    /// Where requests go.
    pub path: Path,
    /// Who it is, if it answers.
    owner: Owner,
    /// It is somebody who is known.
    pub registered: bool,
    /// What it was granted, once it was.
    pub grant: Option<Grant>,
    /// Its directory.
    pub dir: Option<DirId>,
    /// The same, opened.
    pub client_dir: Option<ClientDir>,
    /// What the client told about itself.
    pub info: Option<Box<DumpInfo>>,
    /// The kernel's log as of the crash, while it is not known whether there is a directory.
    pub kernel_log: Vec<u8>,
    /// Room on the disk.
    pub space: Space,
    /// `netdump-nospace` has been called for it, and is not called again.
    pub helped: bool,
    /// Bytes of disk that are kept for it.
    pub reserved: u64,
    /// The thread that writes the vmcore.
    pub writer: Option<Writer>,
    /// Layout of the file.
    pub format: Format,
    /// The file is closed, or there will be none.
    pub facts: Option<FileFacts>,
    /// The file is whole.
    pub complete: bool,
    /// All memory was given to the writer: the file will be whole once the disk has it.
    pub whole: bool,
    /// The log is on the disk, as far as it had come by the end of the listing.
    pub log_synced: bool,
    /// The server ended before the dump did.
    pub stopped: bool,
    /// Why there is no (whole) file, where the session cannot know.
    pub storage_error: Option<String>,
    /// Bytes of buffers given to the thread and not back yet.
    pub on_their_way: usize,
    batch: Vec<Page>,
    clusters: Vec<Pages>,
    /// What is accounted for with the clusters.
    step: Step,
    /// The directory holds what another session of the same panic left: it is gone on with.
    pub begun: bool,
    /// Page frames without a page.
    pub absent: PageCounts,
    /// What the client changed while it dumped.
    pub volatile: Vec<VolatileRange>,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// START_NETDUMP.
    pub started: Timestamp,
    /// The same on the clock that sessions use.
    pub began: Instant,
    /// Datagrams from the client's address, but not its port.
    pub wrong_port: u64,
    /// Drops of the socket when it began.
    pub drops_before: u64,
    /// Tenths of the memory that were reported.
    pub tenths: u64,
    /// In version 6, which panic it is of: once it is over, that one is not dumped again.
    pub burns: Option<Fire>,
    /// Counters of the session that were taken over.
    pub seen: Counters,
    /// Lost log bytes, filled in at the end.
    pub log_lost: u64,
    /// When the memory phase began, and when it ended.
    pub memory: (Option<Instant>, Option<Instant>),
    /// Where KASLR put the kernel.
    pub kaslr: Kaslr,
}

/// What crash has to be told to open a dump in the layout of 2005, as its options take it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kaslr {
    /// `--kaslr=`.
    pub kernel_offset: Option<String>,
    /// `-m phys_base=`.
    pub phys_base: Option<String>,
}

impl Kaslr {
    /// From VMCOREINFO, where it is there and says it.
    pub fn of(info: &DumpInfo) -> Kaslr {
        let Some(Ok(info)) = info.vmcoreinfo.as_deref().map(Vmcoreinfo::parse) else { return Kaslr::default() };
        // A negative phys_base comes out as the unsigned number that crash wants.
        Kaslr {
            kernel_offset: info.kernel_offset().map(|offset| format!("{offset:#x}")),
            phys_base: info.number("phys_base").map(|base| format!("{base:#x}")),
        }
    }
}

impl Dump {
    /// A dump that has just been asked for.
    pub fn new(id: DumpId, session: Dialogue, path: Path, owner: Owner, now: Instant, drops: u64) -> Dump {
        Dump {
            id,
            session,
            path,
            registered: owner != Owner::Anybody,
            owner,
            grant: None,
            dir: None,
            client_dir: None,
            info: None,
            kernel_log: Vec::new(),
            space: Space::Unknown,
            helped: false,
            reserved: 0,
            writer: None,
            format: Format::Elf,
            facts: None,
            complete: false,
            whole: false,
            log_synced: false,
            stopped: false,
            storage_error: None,
            on_their_way: 0,
            batch: Vec::new(),
            clusters: Vec::new(),
            step: Step::default(),
            begun: false,
            absent: PageCounts::default(),
            volatile: Vec::new(),
            outcome: None,
            started: Timestamp::now(),
            began: now,
            wrong_port: 0,
            drops_before: drops,
            tenths: 0,
            burns: None,
            seen: Counters::default(),
            log_lost: 0,
            memory: (None, None),
            kaslr: Kaslr::default(),
        }
    }

    /// Takes a page for the file.
    pub fn push_page(&mut self, page: Page) {
        self.batch.push(page);
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// Takes pages of version 6 for the file.
    pub fn push_cluster(&mut self, pages: Pages) {
        self.clusters.push(pages);
        if self.clusters.len() >= CLUSTERS {
            self.flush();
        }
    }

    /// Gives the pages to the writer.
    pub fn flush(&mut self) {
        let Some(writer) = &self.writer else {
            self.batch.clear();
            self.step = Step::default();
            return self.clusters.clear();
        };
        if !self.batch.is_empty() {
            let batch = std::mem::replace(&mut self.batch, Vec::with_capacity(BATCH));
            self.on_their_way += batch.iter().map(|page| page.data.len()).sum::<usize>();
            writer.pages(batch);
        }
        if !self.clusters.is_empty() || !self.step.frames.is_empty() {
            let clusters = std::mem::replace(&mut self.clusters, Vec::with_capacity(CLUSTERS));
            self.on_their_way += clusters.iter().map(|pages| pages.data.len()).sum::<usize>();
            writer.clusters(clusters, std::mem::take(&mut self.step));
        }
    }

    /// All pages of these frames were pushed before.
    pub fn push_accounted(&mut self, frames: Range<u64>, early: bool) {
        match self.step.frames.last_mut() {
            Some((last, kind)) if last.end == frames.start && *kind == early => last.end = frames.end,
            _ => self.step.frames.push((frames, early)),
        }
        if self.step.frames.len() >= BATCH {
            self.flush();
        }
    }

    /// Which dump the file is of, if another process could go on with it.
    pub fn resumable(&self) -> Option<Resumable> {
        let fire = self.burns.as_ref()?;
        Some(Resumable { cause: Cause::new(fire, self.path.peer.ip()), begun: self.begun })
    }

    /// Counts page frames that will not come.
    pub fn note_absent(&mut self, pages: u64, why: Absence) {
        match why {
            Absence::Reserved => self.absent.reserved += pages,
            Absence::OutOfRange => self.absent.out_of_range += pages,
            Absence::LeftOut => {
                self.absent.left_out += pages;
                self.step.left_out += pages;
            }
            Absence::Unanswered => self.absent.unanswered += pages,
        }
    }

    /// Bytes of disk that it may still use.
    pub fn still_reserved(&self) -> u64 {
        let page = self.info.as_ref().map_or(0, |info| info.page_size.bytes() as u64);
        self.reserved.saturating_sub(self.session.progress().pages.saturating_mul(page))
    }

    /// The file is written or being written.
    pub fn is_writing(&self) -> bool {
        self.writer.is_some() && self.facts.is_none()
    }

    /// `meta.json` as of now.
    pub fn meta(&self, drops: u64) -> Meta {
        let counters = self.session.counters();
        let facts = self.facts.unwrap_or_default();
        let info = self.info.as_deref();
        let outcome = self.outcome.as_ref();
        let memory_seconds = match self.memory {
            (Some(from), Some(to)) => to.saturating_duration_since(from).as_secs_f64(),
            (Some(from), None) => from.elapsed().as_secs_f64(),
            (None, _) => 0.0,
        };
        let page_size = info.map_or(0, |info| info.page_size.bytes() as u64);
        let pages = outcome.map_or_else(|| self.session.progress().pages, |outcome| outcome.pages);
        let rate = if memory_seconds > 0.0 { (pages * page_size) as f64 / memory_seconds } else { 0.0 };
        let (protocol, machine) = self.session.dialect();
        let failure = match (&self.storage_error, outcome) {
            // Whatever happened beside it.
            _ if self.complete => None,
            (Some(error), _) => Some(error.clone()),
            (None, Some(outcome)) => outcome.failure.as_ref().map(ToString::to_string),
            (None, None) => self.stopped.then(|| "the server was stopped".to_owned()),
        };
        let (client_id, previous_key) = match &self.owner {
            Owner::Enrolled { id, previous } => (Some(id.clone()), *previous),
            Owner::Magic | Owner::Anybody => (None, false),
        };
        let dump = DumpMeta {
            started: Some(self.started),
            ended: (self.outcome.is_some() || self.stopped).then(Timestamp::now),
            phase: self.session.phase().name(),
            failure,
            protocol,
            machine: machine.0,
            left_out: self.session.left_out().map(left_out),
            // What is made of it later says so itself.
            format: if self.format == Format::Kdump { Format::Elf } else { self.format }.name(),
            conversion: None,
            kernel_offset: self.kaslr.kernel_offset.clone(),
            phys_base: self.kaslr.phys_base.clone(),
            page_size,
            nr_pages: info.map_or(0, |info| info.nr_pages),
            memory_bytes: info.map_or(0, DumpInfo::memory_bytes),
            pages: PageCounts { written: facts.pages.written, zero: facts.pages.zero, ..self.absent },
            datagrams: DatagramCounts {
                requests: counters.requests,
                received: counters.datagrams,
                retransmissions: counters.lost_by_order + counters.lost_by_time,
                duplicates: counters.duplicate_chunks,
                conflicts: counters.conflicts,
                refused: counters.malformed + counters.unknown_nr + counters.wrong_code,
                wrong_port: self.wrong_port,
                socket_drops: drops.saturating_sub(self.drops_before),
            },
            vmcore_bytes: facts.bytes,
            vmcore_disk_bytes: facts.disk_bytes,
            cpus: info.map_or(0, |info| info.cpus.iter().filter(|cpu| cpu.regs.is_some()).count()),
            show_state: outcome.is_some_and(|outcome| outcome.show_state),
            obeyed: outcome.is_some_and(|outcome| outcome.obeyed),
            seconds: outcome.map_or_else(|| self.began.elapsed(), |outcome| outcome.duration).as_secs_f64(),
            memory_seconds,
            bytes_per_second: rate as u64,
        };
        Meta {
            complete: self.complete,
            log_lost_bytes: self.log_lost,
            identity: info.map(|info| info.identity.clone()).unwrap_or_default(),
            panic: info.and_then(|info| info.panic.clone()),
            dump: Some(dump),
            volatile: self.volatile.iter().map(volatile_meta).collect(),
            client_id,
            previous_key,
            authenticated: self.session.is_authenticated(),
            ..Meta::new(self.path.peer.ip(), self.started, self.registered)
        }
    }

    /// Whether it may be pushed out by another client: it has proved nothing.
    pub fn is_probe(&self) -> bool {
        self.session.phase() == Phase::Probe
    }
}

/// Frames that were left out, by reason; those that are none are not named.
fn left_out(counts: [u64; Reason::COUNT]) -> BTreeMap<&'static str, u64> {
    Reason::EACH
        .iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (reason.name(), count))
        .collect()
}

fn volatile_meta(range: &VolatileRange) -> VolatileMeta {
    VolatileMeta {
        start: range.range.start.0,
        end: range.range.end.0,
        label: range.label().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netdump_core::wire::classic::Start;
    use netdump_core::wire::Cookie;
    use netdump_session::{Params, Session};

    fn dump() -> Dump {
        let now = Instant::now();
        let session = Session::new(Params::new(Cookie::new(1)), Start::V4, [0; 32], now);
        let session = Dialogue::Classic(Box::new(session));
        let path = Path { peer: ([10, 0, 0, 1], 6666).into(), local: None };
        Dump::new(DumpId(1), session, path, Owner::Anybody, now, 0)
    }

    #[test]
    fn a_stopped_dump_has_ended_and_says_why_only_if_it_is_not_whole() {
        let mut dump = dump();
        assert_eq!(dump.meta(0).dump.unwrap().ended, None);
        dump.stopped = true;
        let stopped = dump.meta(0).dump.unwrap();
        assert!(stopped.ended.is_some());
        assert_eq!(stopped.failure.as_deref(), Some("the server was stopped"));
        dump.storage_error = Some("writing failed".into());
        assert_eq!(dump.meta(0).dump.unwrap().failure.as_deref(), Some("writing failed"));
        // The thread had all memory, and closed the file whole in the time that was left.
        dump.storage_error = None;
        dump.complete = true;
        let meta = dump.meta(0);
        let whole = meta.dump.unwrap();
        assert!(meta.complete && whole.ended.is_some());
        assert_eq!(whole.failure, None);
    }
}
