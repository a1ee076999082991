// SPDX-License-Identifier: GPL-2.0-or-later
//! What every phase works with: numbers, measurements, counters and the events that wait for the owner.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use netdump_core::wire::ext::VolatileRange;
use netdump_vmcore::DumpInfo;

use crate::event::{Absence, Counters, Event, Pages, Run};
use crate::flight::Cause;
use crate::number::Numbers;
use crate::rtt::Rtt;
use crate::window::Window;

/// Shared by all phases of one session.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) numbers: Numbers,
    pub(crate) rtt: Rtt,
    pub(crate) window: Window,
    pub(crate) counters: Counters,
    pub(crate) events: Events,
}

impl Tools {
    pub(crate) fn new(seed: [u8; 32], max_window: usize) -> Self {
        Tools {
            numbers: Numbers::new(seed),
            rtt: Rtt::default(),
            window: Window::new(max_window),
            counters: Counters::default(),
            events: Events::default(),
        }
    }
}

impl Tools {
    /// Part of an answer came that was still wanted. `lost`: why its request had been taken for lost, and when it was
    /// sent; its answer has so many `datagrams`.
    pub(crate) fn arrived(&mut self, now: Instant, lost: Option<(Cause, Instant)>, datagrams: usize) {
        self.rtt.answered();
        self.window.arrived();
        let Some((cause, sent)) = lost else { return };
        self.counters.spurious += 1;
        self.window.found(datagrams);
        match cause {
            Cause::Time => self.rtt.was_hasty(),
            Cause::Order => self.rtt.was_overtaken(now.saturating_duration_since(sent)),
        }
    }

    /// A transmission was taken for lost, and so many datagrams of its answer with it.
    pub(crate) fn lost(&mut self, cause: Cause, datagrams: usize) {
        self.window.lost(datagrams);
        match cause {
            Cause::Order => self.counters.lost_by_order += 1,
            Cause::Time => self.counters.lost_by_time += 1,
        }
    }

    /// Nothing came in time.
    pub(crate) fn timed_out(&mut self) {
        if self.rtt.timed_out() {
            self.window.silent();
        }
    }
}

/// Events that were not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Events {
    queue: VecDeque<Event>,
    pages: usize,
    netlog: usize,
}

impl Events {
    pub(crate) fn push(&mut self, event: Event) {
        match event {
            Event::Page { .. } => self.pages += 1,
            Event::Pages(ref pages) => self.pages += pages.data.len() / Pages::PAGE,
            Event::Netlog { .. } => self.netlog += 1,
            _ => {}
        }
        self.queue.push_back(event);
    }

    /// Page frames that are not in the dump; they are added to the last event if they continue it.
    pub(crate) fn push_absent(&mut self, pfns: Range<u64>, why: Absence) {
        if let Some(Event::Absent { pfns: last, why: last_why }) = self.queue.back_mut() {
            if last.end == pfns.start && *last_why == why {
                last.end = pfns.end;
                return;
            }
        }
        self.push(Event::Absent { pfns, why });
    }

    pub(crate) fn pop(&mut self) -> Option<Event> {
        let event = self.queue.pop_front()?;
        match event {
            Event::Page { .. } => self.pages -= 1,
            Event::Pages(ref pages) => self.pages -= pages.data.len() / Pages::PAGE,
            Event::Netlog { .. } => self.netlog -= 1,
            _ => {}
        }
        Some(event)
    }

    /// About how many bytes they hold.
    pub(crate) fn held(&self) -> usize {
        let bytes = |event: &Event| match event {
            Event::Page { data, .. } => data.len(),
            Event::Pages(pages) => pages.data.len() + pages.runs.capacity() * size_of::<Run>(),
            Event::Netlog { text, .. } | Event::Listing(text) | Event::KernelLog(text) => text.capacity(),
            Event::Volatile(ranges) => ranges.capacity() * size_of::<VolatileRange>(),
            // Everything in it is bounded, and there is one of them.
            Event::Described(_) => size_of::<DumpInfo>(),
            Event::Phase(_) | Event::Proved | Event::Absent { .. } | Event::Accounted { .. } => 0,
            Event::MemoryDone(_) | Event::Finished(_) => 0,
        };
        self.queue.iter().map(bytes).sum::<usize>() + self.queue.capacity() * size_of::<Event>()
    }

    /// Pages that their buffers would hold.
    pub(crate) fn pages(&self) -> usize {
        self.pages
    }

    /// Netlog events.
    pub(crate) fn netlog(&self) -> usize {
        self.netlog
    }
}
