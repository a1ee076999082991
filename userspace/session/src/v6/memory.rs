// SPDX-License-Identifier: GPL-2.0-or-later
//! The memory phase: which segments are granted, what of them has come, and what was lost on the way.
//!
//! A cluster says how many frames in front of it were left out, and the client's PROGRESS says how far it has looked in each
//! segment; so every frame is accounted for, or known to be missing. Of a cluster that came in part the missing pieces are
//! asked for; where nothing came at all, the frames are granted once more as a segment of their own.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use netdump_core::wire::v6::cluster::{Cluster, Content, Piece, PAGE};
use netdump_core::wire::v6::message::{Place, Progress, Repair, Segment, SegmentId, Turn, MAX_REPAIRS, MAX_SEGMENTS};
use netdump_core::wire::Pfn;

use super::assemble::{Assembly, Put};
use super::coverage::{Had, Missing};
use super::rate::Rate;
use crate::event::{Absence, Event, PageBuf, Resumed};
use crate::tools::Events;

/// Segments that the client works on at a time, beside those that are granted again.
const FRESH: usize = 4;
/// Segments that wait to be granted again. What else was lost is looked for when there are fewer.
const MAX_AGAIN: usize = 256;
/// Buffers kept for pages to come.
const MAX_POOL: usize = 4096;

/// A segment that was granted.
#[derive(Debug)]
struct Active {
    segment: Segment,
    /// The client has looked at all of it.
    finished: bool,
    /// When to see what of it was lost, and up to which frame.
    check: Option<(Instant, u64)>,
}

/// What came of a piece.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Came {
    pub(crate) useless: bool,
    pub(crate) broken: bool,
}

/// The memory of one dump.
#[derive(Debug)]
pub(crate) struct Memory6 {
    /// Frames that are wanted, as they were described.
    ranges: Vec<Range<u64>>,
    /// Which pages are asked for now.
    turn: Turn,
    /// Pages that came while others had their turn.
    had: Had,
    missing: Missing,
    fresh: VecDeque<Range<u64>>,
    again: VecDeque<Range<u64>>,
    active: Vec<Active>,
    next_id: u32,
    assembly: Assembly,
    pool: Vec<PageBuf>,
    /// The grant is to be told of something new.
    pub(crate) changed: bool,
    pub(crate) total: u64,
    pub(crate) pages: u64,
    /// When frames were accounted for last.
    pub(crate) advanced: Instant,
    /// Segments granted again, and pieces asked for again.
    pub(crate) refetched: u64,
    pub(crate) repaired: u64,
}

impl Memory6 {
    /// `ranges`: page frames that are wanted, in the order in which they are.
    pub(crate) fn new(ranges: &[Range<u64>], first_id: u32, now: Instant) -> Self {
        let missing = all(ranges);
        Memory6 {
            total: missing.frames(),
            ranges: ranges.to_vec(),
            turn: Turn::First,
            had: Had::default(),
            missing,
            fresh: fresh(ranges),
            again: VecDeque::new(),
            active: Vec::new(),
            next_id: first_id,
            assembly: Assembly::new(),
            pool: Vec::new(),
            changed: true,
            pages: 0,
            advanced: now,
            refetched: 0,
            repaired: 0,
        }
    }

    /// Goes on where another session stopped: it had all of these `early` pages, and these frames were accounted for.
    pub(crate) fn resume(&mut self, resumed: &Resumed) {
        for frames in &resumed.early {
            for part in all(&self.ranges).within(frames.clone()) {
                part.for_each(|pfn| self.had.add(pfn));
            }
        }
        self.pages = resumed.pages;
        if resumed.accounted.is_empty() {
            return; // those that come first may not all be there
        }
        self.turn = Turn::Second;
        for frames in &resumed.accounted {
            self.missing.remove(frames.clone());
        }
        let ranges = std::mem::take(&mut self.fresh);
        self.fresh = ranges.into_iter().flat_map(|range| self.missing.within(range).collect::<Vec<_>>()).collect();
    }

    /// Every frame was accounted for. When that is so for the pages that come first, the others have their turn.
    pub(crate) fn is_done(&mut self) -> bool {
        if self.turn == Turn::First && self.missing.frames() == 0 {
            self.turn = Turn::Second;
            self.missing = all(&self.ranges);
            self.fresh = fresh(&self.ranges);
            self.active.clear();
            self.assembly.forget(|_| false);
            self.changed = true;
        }
        self.missing.frames() == 0
    }

    /// Frames accounted for.
    pub(crate) fn done(&self) -> u64 {
        // What was passed over in the first turn is not done by that.
        let accounted = if self.turn == Turn::First { 0 } else { self.total - self.missing.frames() };
        accounted.max(self.pages)
    }

    pub(crate) fn missing(&self) -> u64 {
        self.missing.frames()
    }

    pub(crate) fn open_clusters(&self) -> usize {
        self.assembly.len()
    }

    /// Bytes that it holds.
    pub(crate) fn held(&self) -> usize {
        let ranges = self.fresh.capacity() + self.again.capacity();
        let lists = ranges * size_of::<Range<u64>>() + self.active.capacity() * size_of::<Active>();
        let described = self.ranges.capacity() * size_of::<Range<u64>>();
        self.missing.held() + self.had.held() + self.assembly.held() + self.pool.len() * PAGE + lists + described
    }

    pub(crate) fn recycle(&mut self, buf: PageBuf) {
        if buf.len() == PAGE && self.pool.len() < MAX_POOL {
            self.pool.push(buf);
        }
    }

    /// What the client is to work on, the most urgent first.
    pub(crate) fn segments(&mut self) -> Vec<Segment> {
        while self.active.len() < MAX_SEGMENTS {
            let fresh = self.active.iter().filter(|active| !active.segment.again).count();
            let (range, again) = match self.again.pop_front() {
                Some(range) => (range, true),
                None if fresh < FRESH => match self.fresh.pop_front() {
                    Some(range) => (range, false),
                    None => break,
                },
                None => break,
            };
            let id = SegmentId(self.next_id);
            self.next_id = self.next_id.wrapping_add(1);
            let segment = Segment { id, start: Pfn(range.start), end: Pfn(range.end), again, turn: self.turn };
            self.active.push(Active { segment, finished: false, check: None });
        }
        // What was lost first: clusters around it wait for it.
        self.active.sort_by_key(|active| !active.segment.again);
        self.changed = false;
        self.active.iter().filter(|active| !active.finished).map(|active| active.segment).collect()
    }

    /// A piece came.
    pub(crate) fn on_piece(&mut self, now: Instant, counter: u64, piece: &Piece<'_>, events: &mut Events) -> Came {
        let mut came = Came::default();
        // What came in the first turn is no cluster of this one, but the answer to a repair that was not needed any more.
        let is_over = self.turn == Turn::Second && self.had.holds(piece.first.0);
        if !self.missing.holds(piece.first.0) || is_over {
            came.useless = true;
            return came;
        }
        let whole = match self.assembly.put(now, counter, piece) {
            Put::Open => return came,
            Put::Useless => {
                came.useless = true;
                return came;
            }
            Put::Broken => {
                came.broken = true;
                return came;
            }
            Put::Whole(whole) => whole,
        };
        let Ok(cluster) = Cluster::parse(whole.first, whole.decoded) else {
            came.broken = true;
            return came;
        };
        let frames = whole.first.0 - u64::from(whole.gap).min(whole.first.0)..cluster.end().0;
        if !self.missing.may_remove(frames.clone()) {
            came.useless = true;
            return came;
        }
        let (missing, had, pool) = (&self.missing, &mut self.had, &mut self.pool);
        let first_turn = self.turn == Turn::First;
        let mut pages = 0;
        let mut early: Option<Range<u64>> = None;
        let mut page = |pfn: Pfn, bytes: Option<&[u8; PAGE]>| {
            // What is there already is not handed over again, and what was not asked for not at all.
            if !missing.holds(pfn.0) || had.holds(pfn.0) {
                return;
            }
            if first_turn {
                had.add(pfn.0);
            }
            let mut data = pool.pop().unwrap_or_else(|| vec![0; PAGE].into_boxed_slice());
            match bytes {
                Some(bytes) => data.copy_from_slice(bytes),
                None => data.fill(0),
            }
            pages += 1;
            events.push(Event::Page { pfn, data, again: false });
            if first_turn {
                match &mut early {
                    Some(run) if run.end == pfn.0 => run.end += 1,
                    _ => {
                        let run = early.replace(pfn.0..pfn.0 + 1);
                        run.into_iter().for_each(|frames| events.push(Event::Accounted { frames, early: true }));
                    }
                }
            }
        };
        cluster.for_each(|content| match content {
            Content::Page(pfn, bytes) => page(pfn, Some(bytes)),
            Content::Zeroes(pfn, count) => (pfn.0..pfn.0 + u64::from(count)).for_each(|pfn| page(Pfn(pfn), None)),
        });
        early.into_iter().for_each(|frames| events.push(Event::Accounted { frames, early: true }));
        self.pages += pages;
        self.account(frames, pages, events);
        self.advanced = now;
        came
    }

    /// All pages that come of these frames have come, `pages` of them just now.
    fn account(&mut self, frames: Range<u64>, pages: u64, events: &mut Events) -> u64 {
        let parts: Vec<Range<u64>> = self.missing.within(frames.clone()).collect();
        let accounted = self.missing.remove(frames);
        if self.turn == Turn::Second && accounted > 0 {
            let before: u64 = parts.iter().map(|part| self.had.count(part.clone())).sum();
            let left_out = accounted.saturating_sub(pages + before);
            if left_out > 0 {
                // Which of them were is of no use to anybody.
                let end = parts.last().map_or(0, |part| part.end);
                events.push_absent(end - left_out.min(end)..end, Absence::LeftOut);
            }
            parts.into_iter().for_each(|frames| events.push(Event::Accounted { frames, early: false }));
        }
        accounted
    }

    /// The client says where it stands.
    pub(crate) fn on_progress(&mut self, now: Instant, progress: &Progress<'_>, rate: &Rate, events: &mut Events) {
        for Place { id, cursor, tail } in progress.places() {
            let Some(active) = self.active.iter().find(|active| active.segment.id == id) else { continue };
            let Segment { start, end, .. } = active.segment;
            if tail > cursor || cursor > end || tail < start {
                continue; // no place in that segment
            }
            if tail < cursor && !self.missing.may_remove(tail.0..cursor.0) {
                continue;
            }
            if self.account(tail.0..cursor.0, 0, events) > 0 {
                self.advanced = now;
            }
            let Some(active) = self.active.iter_mut().find(|active| active.segment.id == id) else { continue };
            if cursor == end && !active.finished {
                active.finished = true;
                self.changed = true;
                active.check = None;
            }
            let upto = if active.finished { end.0 } else { tail.0 };
            if active.check.is_none() && upto > start.0 {
                active.check = Some((now + rate.reordering(), upto));
            }
        }
    }

    /// Looks for what was lost; the pieces to ask for. `next` is the highest counter plus 1.
    pub(crate) fn poll(&mut self, now: Instant, next: u64, rate: &Rate) -> Vec<Repair> {
        self.check_segments(now, rate);
        let missing = &self.missing;
        self.assembly.forget(|first| missing.holds(first));
        let active = &self.active;
        let fallback = |first: u64| missing.within(first..u64::MAX).next().map_or(first + 1, |part| part.end);
        let end_of = |first: u64| {
            let holds = |segment: &Segment| (segment.start.0..segment.end.0).contains(&first);
            // Those that were granted again come first.
            active.iter().map(|a| &a.segment).find(|s| holds(s)).map_or_else(|| fallback(first), |s| s.end.0)
        };
        let mut repairs = self.assembly.overdue(now, next, rate.reordering(), rate.patience(), MAX_REPAIRS, end_of);
        repairs.iter_mut().for_each(|repair| repair.turn = self.turn);
        self.repaired += repairs.iter().map(|repair| u64::from(repair.missing.count_ones())).sum::<u64>();
        repairs
    }

    fn check_segments(&mut self, now: Instant, rate: &Rate) {
        let mut lost: Vec<Range<u64>> = Vec::new();
        for n in 0..self.active.len() {
            let Some((due, upto)) = self.active[n].check else { continue };
            if now < due {
                continue;
            }
            let segment = self.active[n].segment;
            let mut waiting = false;
            let mut at = segment.start.0;
            while let Some(part) = self.missing.within(at..upto).next() {
                // A cluster that came in part is repaired; what is behind it is seen when that is done.
                let known = self.assembly.next_from(part.start, part.end).unwrap_or(part.end);
                waiting |= known < part.end;
                at = part.end;
                let part = part.start..known.clamp(part.start, part.end);
                if part.is_empty() {
                    continue;
                }
                let granted = self.active.iter().map(|active| &active.segment);
                let granted = granted.filter(|other| other.again && other.id != segment.id);
                let mut taken = granted.map(|s| s.start.0..s.end.0).chain(self.again.iter().chain(&lost).cloned());
                if let Some(other) = taken.find(|other| other.start < part.end && part.start < other.end) {
                    // It may hold any number of parts: they are not looked at one by one.
                    waiting = true;
                    at = at.max(other.end);
                    continue;
                }
                if self.again.len() + lost.len() >= MAX_AGAIN {
                    waiting = true;
                    break;
                }
                lost.push(part);
            }
            let active = &mut self.active[n];
            active.check = (active.finished && waiting).then(|| (now + rate.patience(), upto));
        }
        self.active.retain(|active| !active.finished || active.check.is_some());
        if !lost.is_empty() {
            self.refetched += lost.len() as u64;
            self.changed = true;
            self.again.extend(lost);
        }
    }

    /// When [`poll`](Self::poll) has something to do, if nothing comes before.
    pub(crate) fn deadline(&self, next: u64, rate: &Rate) -> Option<Instant> {
        let checks = self.active.iter().filter_map(|active| active.check).map(|(due, _)| due).min();
        let repairs = self.assembly.deadline(next, rate.reordering(), rate.patience());
        [checks, repairs].into_iter().flatten().min()
    }
}

fn all(ranges: &[Range<u64>]) -> Missing {
    let mut sorted = ranges.to_vec();
    sorted.sort_by_key(|range| range.start);
    Missing::new(&sorted)
}

fn fresh(ranges: &[Range<u64>]) -> VecDeque<Range<u64>> {
    ranges.iter().filter(|range| range.start < range.end).cloned().collect()
}

/// The least time between two grants.
pub(crate) const GRANT_INTERVAL: Duration = Duration::from_millis(1);
