// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the engine is told at the start, what it counts, and its time.

use super::super::wire::classic::{Machine, Version};
use super::super::wire::Cookie;

/// Nanoseconds since some moment before the dump began. The engine never reads a clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub u64);

impl Time {
    /// The moment `ns` nanoseconds later.
    pub const fn plus(self, ns: u64) -> Self {
        Time(self.0.saturating_add(ns))
    }

    /// The moment at which a timeout of `ns` that starts now has passed; `None` for 0, which is no timeout.
    pub(super) fn deadline(self, ns: u64) -> Option<Self> {
        (ns != 0).then_some(self.plus(ns))
    }
}

/// The facts and limits of one dump.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// The secret that each request must hold.
    pub cookie: Cookie,
    /// This machine.
    pub machine: Machine,
    /// Address of the task that crashed.
    pub task_struct: u64,
    /// Kernel virtual address of physical address 0 in the direct map.
    pub page_offset: u64,
    /// Bytes in a page: a power of two, 1024 or more.
    pub page_size: u32,
    /// Number of page frames, holes included: the highest one plus 1. Those above 2^32 cannot be asked for.
    pub nr_pages: u64,
    /// Pages of RAM.
    pub total_ram_pages: u64,
    /// Place in the log stream at which the task listing goes on, if a log was sent before.
    pub log_offset: u32,
    /// Longest wait for a server, ns; 0 waits for ever.
    pub handshake_timeout: u64,
    /// Longest time between two authentic requests, ns; 0 is no limit.
    pub idle_timeout: u64,
    /// Longest dump, handshake included, ns; 0 is no limit. Nothing extends it.
    pub total_timeout: u64,
}

impl Config {
    pub(super) const EMPTY: Self = Config {
        cookie: Cookie::new(0),
        machine: Machine(0),
        task_struct: 0,
        page_offset: 0,
        page_size: 0,
        nr_pages: 0,
        total_ram_pages: 0,
        log_offset: 0,
        handshake_timeout: 0,
        idle_timeout: 0,
        total_timeout: 0,
    };

    /// The version to speak with a server that speaks up to `max_version`; `None` if there is none.
    ///
    /// A server that says 0 was made before the number was read; it takes every client for a version 4 i386.
    pub(super) fn negotiate(&self, max_version: u32) -> Option<Version> {
        match max_version {
            0 => self.machine.speaks_version_4().then_some(Version::V4),
            1..=4 => Some(Version::V4),
            _ => Some(Version::V5),
        }
    }
}

/// What was received and sent. They wrap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Datagrams given to `handle`.
    pub received: u64,
    /// Requests that were taken: queued, or needing no answer.
    pub accepted: u64,
    /// Too short for a request.
    pub short: u64,
    /// Requests without the right cookie.
    pub bad_cookie: u64,
    /// Requests before the acknowledgement.
    pub early: u64,
    /// Requests after the end.
    pub late: u64,
    /// Requests whose number was already queued.
    pub duplicate: u64,
    /// Requests dropped because the queue was full.
    pub queue_full: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Bytes in them, without IP and UDP headers.
    pub sent_bytes: u64,
    /// START_NETDUMP sent.
    pub starts: u64,
    /// Pages sent whole.
    pub pages: u64,
    /// Kilobytes of memory sent.
    pub chunks: u64,
    /// Pages answered as reserved.
    pub reserved: u64,
    /// Reads of memory that failed.
    pub unreadable: u64,
    /// REPLY_ERROR sent.
    pub errors: u64,
    /// Pieces of task listing sent.
    pub log_pieces: u64,
    /// Replies of the extension sent.
    pub items: u64,
    /// Answers lost because the caller's buffer was too small for them.
    pub no_room: u64,
}

impl Counters {
    pub(super) const ZERO: Self = Counters {
        received: 0,
        accepted: 0,
        short: 0,
        bad_cookie: 0,
        early: 0,
        late: 0,
        duplicate: 0,
        queue_full: 0,
        sent: 0,
        sent_bytes: 0,
        starts: 0,
        pages: 0,
        chunks: 0,
        reserved: 0,
        unreadable: 0,
        errors: 0,
        log_pieces: 0,
        items: 0,
        no_room: 0,
    };
}
