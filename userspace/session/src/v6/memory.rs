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
use crate::event::{Absence, Event, PageBuf, Pages, Resumed, Run};
use crate::tools::Events;

/// Segments that the client works on at a time, beside those that are granted again.
const FRESH: usize = 4;
/// Segments that wait to be granted again. What else was lost is looked for when there are fewer.
const MAX_AGAIN: usize = 256;

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
    /// Pages with bytes that it completed.
    pub(crate) pages: u64,
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
    /// `ranges`: page frames that are wanted, in the order in which they are. `turn`: the first one; [`Turn::Any`] if there is but
    /// one, for all pages.
    pub(crate) fn new(ranges: &[Range<u64>], turn: Turn, now: Instant) -> Self {
        let missing = all(ranges);
        Memory6 {
            total: missing.frames(),
            ranges: ranges.to_vec(),
            turn,
            had: Had::default(),
            missing,
            fresh: fresh(ranges),
            again: VecDeque::new(),
            active: Vec::new(),
            next_id: 1,
            assembly: Assembly::new(),
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
            // All are missing yet.
            for part in self.missing.within(frames.clone()) {
                self.had.add(part);
            }
        }
        self.pages = resumed.pages;
        if resumed.accounted.is_empty() {
            return; // those that come first may not all be there
        }
        if self.turn == Turn::First {
            self.turn = Turn::Second;
        }
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
        self.missing.held() + self.had.held() + self.assembly.held() + lists + described
    }

    pub(crate) fn recycle(&mut self, buf: PageBuf) {
        self.assembly.recycle(buf);
    }

    /// What the client is to work on, the most urgent first.
    pub(crate) fn segments(&mut self) -> Vec<Segment> {
        while self.active.len() < MAX_SEGMENTS {
            let fresh = self.active.iter().filter(|active| !active.segment.again).count();
            let (range, again) = match self.again.pop_front() {
                // It may have come after all.
                Some(range) if self.missing.within(range.clone()).next().is_none() => continue,
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
        if !self.missing.holds(piece.first.0) {
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
        let decoded = whole.buf.get(..whole.len).unwrap_or(&[]);
        let Ok(cluster) = Cluster::parse(whole.first, decoded) else {
            self.assembly.recycle(whole.buf);
            came.broken = true;
            return came;
        };
        let frames = whole.first.0 - u64::from(whole.gap).min(whole.first.0)..cluster.end().0;
        // A cluster that begins with a page of the first turn may be the answer to a repair of that turn, and says nothing about
        // what lies between its pages; or the client sends that page in both turns, and everything else must not be lost with it.
        let is_over = self.turn == Turn::Second && self.had.holds(whole.first.0);
        let own = if is_over { contents(&cluster) } else { vec![frames.clone()] };
        if !own.iter().all(|frames| self.missing.may_remove(frames.clone())) {
            came.useless = true;
            self.assembly.recycle(whole.buf);
            return came;
        }
        let runs = runs(&cluster, &self.missing, &self.had, whole.len);
        let pages = runs.iter().map(|run| run.count).sum::<u64>();
        came.pages = runs.iter().filter(|run| run.at.is_some()).map(|run| run.count).sum();
        // Empty in the second turn, which is most of a dump: nothing is allocated then.
        let early = runs.iter().filter(|_| self.turn == Turn::First);
        let early: Vec<Range<u64>> = early.map(|run| run.first.0..run.first.0 + run.count).collect();
        if runs.is_empty() {
            self.assembly.recycle(whole.buf);
        } else {
            events.push(Event::Pages(Pages { runs, data: whole.buf }));
        }
        for frames in early {
            self.had.add(frames.clone());
            events.push(Event::Accounted { frames, early: true });
        }
        self.pages += pages;
        for part in own {
            let came = if is_over { part.end - part.start } else { pages };
            self.account(part, came, events);
        }
        self.close_again(now, &frames);
        self.advanced = now;
        came
    }

    /// All pages that come of these frames have come, `pages` of them just now.
    fn account(&mut self, frames: Range<u64>, pages: u64, events: &mut Events) -> u64 {
        let parts = self.missing.remove(frames);
        let accounted: u64 = parts.iter().map(|part| part.end - part.start).sum();
        if self.turn != Turn::First && accounted > 0 {
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

    /// What was granted again is done with as soon as all of it is there, whatever the client has yet to say: others wait for
    /// its place.
    fn close_again(&mut self, now: Instant, frames: &Range<u64>) {
        let (before, missing) = (self.active.len(), &self.missing);
        self.active.retain_mut(|active| {
            let Segment { start, end, again, .. } = active.segment;
            if end.0 <= frames.start || frames.end <= start.0 {
                return true;
            }
            if let (true, Some((due, _))) = (active.finished, &mut active.check) {
                // What waited for this cluster waits no longer.
                *due = now.min(*due);
            }
            !again || missing.within(start.0..end.0).next().is_some()
        });
        self.changed |= self.active.len() < before && !self.again.is_empty();
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
        let mut repairs = self.assembly.overdue(now, next, rate, MAX_REPAIRS, end_of);
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
            active.check = (active.finished && waiting).then(|| (now + rate.repair_patience(), upto));
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
        let repairs = self.assembly.deadline(next, rate);
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

/// The frames whose pages a cluster holds, ascending.
fn contents(cluster: &Cluster<'_>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    cluster.for_each(|content| {
        let (first, count) = match content {
            Content::Page(pfn, _) => (pfn.0, 1),
            Content::Zeroes(pfn, count) => (pfn.0, u64::from(count)),
        };
        let end = first.saturating_add(count);
        match ranges.last_mut() {
            Some(last) if last.end == first => last.end = end,
            _ => ranges.push(first..end),
        }
    });
    ranges
}

/// What of a cluster of `len` bytes is to be handed over: not what is there already, nor what was not asked for.
fn runs(cluster: &Cluster<'_>, missing: &Missing, had: &Had, len: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(1);
    // The pages stand at the end, whole.
    let mut selected = 0;
    cluster.for_each(|content| selected += usize::from(matches!(content, Content::Page(..))));
    let mut at = len.saturating_sub(selected * PAGE);
    cluster.for_each(|content| match content {
        Content::Page(pfn, _) => {
            let place = at;
            at += PAGE;
            if !missing.holds(pfn.0) || had.holds(pfn.0) {
                return;
            }
            match runs.last_mut() {
                Some(Run { first, count, at: Some(start) })
                    if first.0 + *count == pfn.0 && *start + *count as usize * PAGE == place =>
                {
                    *count += 1;
                }
                _ => runs.push(Run { first: pfn, count: 1, at: Some(place) }),
            }
        }
        Content::Zeroes(pfn, count) => {
            for part in missing.within(pfn.0..pfn.0.saturating_add(u64::from(count))) {
                if had.count(part.clone()) == 0 {
                    runs.push(Run { first: Pfn(part.start), count: part.end - part.start, at: None });
                    continue;
                }
                let news = part.filter(|pfn| !had.holds(*pfn));
                runs.extend(news.map(|pfn| Run { first: Pfn(pfn), count: 1, at: None }));
            }
        }
    });
    runs
}

/// The least time between two grants.
pub(crate) const GRANT_INTERVAL: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;
    use netdump_core::wire::v6::cluster::{emit_index, Run as Frames, MAX_INDEX_LEN};
    use netdump_core::wire::v6::Codec;

    fn piece<'a>(first: u64, data: &'a [u8]) -> Piece<'a> {
        let length = data.len() as u32;
        Piece { first: Pfn(first), gap: 0, build: 1, piece: 0, pieces: 1, codec: Codec::Raw, length, data }
    }

    fn cluster(runs: &[Frames]) -> Vec<u8> {
        let mut index = [0; MAX_INDEX_LEN];
        let len = emit_index(runs, &mut index).unwrap();
        let mut bytes = index[MAX_INDEX_LEN - len..].to_vec();
        for (n, _) in runs.iter().filter(|run| !run.zero).flat_map(|run| 0..run.pages).enumerate() {
            bytes.extend([n as u8 + 1; PAGE]);
        }
        bytes
    }

    #[test]
    fn what_is_there_already_is_not_handed_over_and_zeroes_take_no_room() {
        let now = Instant::now();
        let ranges = [0..10, 20..u64::from(u32::MAX)];
        let mut memory = Memory6::new(&ranges, Turn::First, now);
        let mut events = Events::default();
        let frames = |skip, pages, zero| Frames { skip, pages, zero };
        let mut put = |memory: &mut Memory6, first, runs: &[Frames]| {
            let came = memory.on_piece(now, 0, &piece(first, &cluster(runs)), &mut events);
            assert!(!came.broken);
            let mut handed = None;
            while let Some(event) = events.pop() {
                match event {
                    Event::Pages(pages) => assert!(handed.replace((came.pages, pages)).is_none()),
                    other => assert!(matches!(other, Event::Accounted { early: true, .. }), "{other:?}"),
                }
            }
            handed
        };
        let (count, pages) = put(&mut memory, 4, &[frames(0, 2, false)]).unwrap();
        assert_eq!((count, pages.count(), pages.runs.len()), (2, 2, 1));
        // Around them; 10 to 19 were never asked for.
        let (count, pages) = put(&mut memory, 3, &[frames(0, 4, false), frames(0, 15, true)]).unwrap();
        let mut seen = Vec::new();
        pages.each(|pfn, bytes| seen.push((pfn.0, bytes[0], bytes.iter().all(|byte| *byte == bytes[0]))));
        assert_eq!(
            seen,
            [(3, 1, true), (6, 4, true), (7, 0, true), (8, 0, true), (9, 0, true), (20, 0, true), (21, 0, true)]
        );
        assert_eq!((count, pages.count()), (2, 7));
        memory.recycle(pages.data);
        assert!(put(&mut memory, 3, &[frames(0, 4, false)]).is_none());
        // A thousand pages of zeroes in one datagram are one buffer.
        let (count, pages) = put(&mut memory, 1000, &[frames(0, 32, true); 32]).unwrap();
        assert_eq!((count, pages.count(), pages.runs.len()), (0, 32 * 32, 32));
        assert_eq!(memory.pages, 9 + 32 * 32);
    }

    #[test]
    fn a_page_that_comes_in_both_turns_takes_no_other_with_it() {
        let now = Instant::now();
        let mut memory = Memory6::new(std::slice::from_ref(&(0..10)), Turn::First, now);
        let mut events = Events::default();
        let run = |skip, pages| Frames { skip, pages, zero: false };
        memory.on_piece(now, 0, &piece(4, &cluster(&[run(0, 2)])), &mut events);
        memory.account(0..10, 0, &mut events);
        assert!(!memory.is_done() && memory.turn == Turn::Second && memory.missing() == 10);
        while events.pop().is_some() {}
        // 4 and 5 again, 8 and 9 for the first time: what is between them is known from the clusters of this turn alone.
        let came = memory.on_piece(now, 1, &piece(4, &cluster(&[run(0, 2), run(2, 2)])), &mut events);
        assert_eq!((came.useless, came.pages), (false, 2));
        let missing: Vec<_> = memory.missing.within(0..10).collect();
        assert_eq!(missing, [0..4, 6..8]);
        while let Some(event) = events.pop() {
            match event {
                Event::Pages(pages) => assert_eq!((pages.count(), pages.runs[0].first), (2, Pfn(8))),
                Event::Accounted { frames, early: false } => assert!(frames == (4..6) || frames == (8..10)),
                other => panic!("{other:?}: nothing is known to be left out"),
            }
        }
    }
}
