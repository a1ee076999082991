// SPDX-License-Identifier: GPL-2.0-or-later
//! What a session tells its owner.

use std::ops::Range;
use std::time::Duration;

use netdump_core::wire::classic::Start;
use netdump_core::wire::ext::VolatileRange;
use netdump_core::wire::v6::cluster::PAGE;
use netdump_core::wire::Pfn;
use netdump_vmcore::DumpInfo;

/// The bytes of one page, or of a cluster ([`Pages`]). Give it back with [`Session::recycle`](crate::Session::recycle) to
/// save an allocation.
pub type PageBuf = Box<[u8]>;

/// Neighbouring page frames of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first of them.
    pub first: Pfn,
    /// How many there are; never 0.
    pub count: u64,
    /// Where their bytes begin in [`Pages::data`]; `None`: they hold zeroes, and have none.
    pub at: Option<usize>,
}

/// Pages that came together, in the buffer that they came in: to copy each of them would cost more than all else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pages {
    /// Which they are, ascending.
    pub runs: Vec<Run>,
    /// Their bytes, among others.
    pub data: PageBuf,
}

impl Pages {
    /// Bytes in a page: version 6 knows no other.
    pub const PAGE: usize = PAGE;

    /// How many there are, those of zeroes among them.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// The bytes of a run of ours; `None` for zeroes.
    pub fn bytes(&self, run: &Run) -> Option<&[u8]> {
        let start = run.at?;
        let len = usize::try_from(run.count).ok()?.checked_mul(PAGE)?;
        self.data.get(start..start.checked_add(len)?)
    }

    /// Each page by itself, ascending.
    pub fn each(&self, mut take: impl FnMut(Pfn, &[u8])) {
        for run in &self.runs {
            let mut pages = self.bytes(run).map(|bytes| bytes.chunks_exact(PAGE));
            for pfn in run.first.0..run.first.0.saturating_add(run.count) {
                take(Pfn(pfn), pages.as_mut().and_then(Iterator::next).unwrap_or(&[0; PAGE]));
            }
        }
    }
}

/// Where a dump stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// START_NETDUMP was acknowledged; no HELLO has come back yet.
    Probe,
    /// Waiting for `grant_slot`.
    Waiting,
    /// Asking for page size, number of pages and registers.
    Describe,
    /// Fetching item NOTES.
    Notes,
    /// Fetching item LOG.
    Log,
    /// Waiting for `storage_ready`.
    Storage,
    /// Fetching pages.
    Memory,
    /// The client writes its task listing.
    ShowState,
    /// Fetching item VOLATILE.
    Volatile,
    /// Waiting for `stored`.
    Store,
    /// Ordering the client to reboot or to go on.
    End,
    /// Nothing more will be sent.
    Finished,
}

impl Phase {
    /// One word for logs and meta data.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Probe => "probe",
            Phase::Waiting => "waiting",
            Phase::Describe => "describe",
            Phase::Notes => "notes",
            Phase::Log => "log",
            Phase::Storage => "storage",
            Phase::Memory => "memory",
            Phase::Volatile => "volatile",
            Phase::ShowState => "show-state",
            Phase::Store => "store",
            Phase::End => "end",
            Phase::Finished => "finished",
        }
    }
}

/// Why page frames are not in the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Absence {
    /// The client says that there is no readable memory.
    Reserved,
    /// The client says that the number is too high.
    OutOfRange,
    /// The client has left them out, as the level says. Only version 6 tells.
    LeftOut,
    /// No answer came, although other pages were answered. The dump is incomplete.
    Unanswered,
}

/// Why a dump is not complete.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The client never answered a HELLO: a forged START_NETDUMP, or no way back to the client.
    #[error("the client did not answer HELLO")]
    NotProved,
    /// The client answered nothing for [`Params::silence`](crate::Params::silence).
    #[error("the client went silent in phase {}", .0.name())]
    Silent(Phase),
    /// The client is in its handshake again: it crashed anew.
    #[error("the client started another dump")]
    Restarted,
    /// The client answered something that no dump can be made of.
    #[error("the client's answer cannot be used: {0}")]
    Unusable(&'static str),
    /// The owner had no room, or could not write.
    #[error("no storage")]
    Storage,
    /// Some pages were never answered.
    #[error("{0} pages were not answered")]
    Unanswered(u64),
    /// The machine has more memory than classic page numbers reach.
    #[error("{0} pages lie beyond 32-bit page numbers")]
    BeyondReach(u64),
    /// No memory was wanted.
    #[error("log only")]
    LogOnly,
    /// It took longer than [`Params::max_duration`](crate::Params::max_duration).
    #[error("the dump took too long")]
    TooLong,
    /// [`Session::cancel`](crate::Session::cancel).
    #[error("cancelled")]
    Cancelled,
}

/// How the memory phase ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryEnd {
    /// `None`: every page was handed over.
    pub failure: Option<Failure>,
    /// Pages handed over, each counted once.
    pub pages: u64,
}

/// How a dump ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `None`: the dump is complete.
    pub failure: Option<Failure>,
    /// Pages handed over, each counted once.
    pub pages: u64,
    /// The task listing was acknowledged by the client.
    pub show_state: bool,
    /// The client stopped answering after the last order (or said END).
    pub obeyed: bool,
    /// Since START_NETDUMP.
    pub duration: Duration,
    /// Time in the memory phase.
    pub memory_duration: Duration,
    /// With [`Failure::Restarted`]: the START_NETDUMP that gave it away, to begin the next session with.
    pub restarted_as: Option<Start>,
}

/// What happened. Take events with [`Session::poll_event`](crate::Session::poll_event).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Another phase began.
    Phase(Phase),
    /// The client answered a HELLO whose number it could not guess. Time for a directory and a slot: `grant_slot`.
    Proved,
    /// All that is known beside memory. Create the files, then `storage_ready` or `storage_failed`
    /// (neither is waited for under [`Grant::LogOnly`](crate::Grant::LogOnly)).
    Described(Box<DumpInfo>),
    /// Console text that the client sent by itself (netlog, or the task listing).
    Netlog {
        /// Its place in the client's log stream; wraps.
        offset: u32,
        /// Raw text.
        text: Vec<u8>,
    },
    /// The task listing, whole. Only version 6 has it; in classic it is console text.
    Listing(Vec<u8>),
    /// The kernel log as the client held it when it took over.
    KernelLog(Vec<u8>),
    /// One page.
    Page {
        /// Its number.
        pfn: Pfn,
        /// Its bytes.
        data: PageBuf,
        /// It was handed over before, and the first answer is in doubt: write it even if it is all zero.
        again: bool,
    },
    /// Pages of version 6, each handed over once.
    Pages(Pages),
    /// These page frames are not in the dump.
    Absent {
        /// First to last + 1.
        pfns: Range<u64>,
        /// Why.
        why: Absence,
    },
    /// What was handed over so far is all that there is of these page frames, so that another session need not ask for them
    /// ([`Resumed`]). Only version 6 says it.
    Accounted {
        /// First to last + 1.
        frames: Range<u64>,
        /// They are pages that came ahead of the others, each of which was handed over.
        early: bool,
    },
    /// No more pages will come. Finish the file, then `stored`.
    MemoryDone(MemoryEnd),
    /// What the client itself changed while it dumped.
    Volatile(Vec<VolatileRange>),
    /// The dump is over and the session can be dropped.
    Finished(Outcome),
}

/// What is there of a dump that a session of another server process began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resumed {
    /// Page frames of [`Event::Accounted`] that were early.
    pub early: Vec<Range<u64>>,
    /// The others.
    pub accounted: Vec<Range<u64>>,
    /// Pages that were handed over.
    pub pages: u64,
}

/// How far a dump is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Page frames dealt with: handed over, absent or skipped.
    pub done: u64,
    /// Page frames to deal with; 0 before that is known.
    pub total: u64,
    /// Pages handed over.
    pub pages: u64,
    /// Requests not yet answered.
    pub in_flight: usize,
    /// Most requests that may be unanswered now.
    pub window: usize,
    /// Smoothed time from request to complete answer.
    pub rtt: Duration,
}

/// What was sent, received and refused, each by its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs)] // each says what is counted
pub struct Counters {
    pub requests: u64,
    pub datagrams: u64,
    /// Not a reply, or one whose fields make no sense.
    pub malformed: u64,
    /// Its number belongs to no live request: late, or forged.
    pub unknown_nr: u64,
    /// Its number is live but asked for something else.
    pub wrong_code: u64,
    /// Memory that was there already.
    pub duplicate_chunks: u64,
    /// Memory that differs from what came before for the same place: the page is fetched again.
    pub conflicts: u64,
    /// REPLY_ERROR that nothing asked for (a duplicate ACK gives one).
    pub stray_errors: u64,
    /// Notes of item NOTES that make no sense.
    pub refused_notes: u64,
    pub starts: u64,
    /// START_NETDUMP of a client that is in the middle of this dump: late, forged, or a restart.
    pub doubtful_starts: u64,
    pub netlog_packets: u64,
    /// Netlog text dropped because events were not taken.
    pub netlog_dropped: u64,
    /// Requests taken for lost because later ones were answered.
    pub lost_by_order: u64,
    /// Requests taken for lost because their time was up.
    pub lost_by_time: u64,
    /// Memory that was dropped because the owner had no room for it.
    pub no_room: u64,
    /// Requests that were answered after they had been taken for lost.
    pub spurious: u64,
}
