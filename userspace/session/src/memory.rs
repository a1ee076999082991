// SPDX-License-Identifier: GPL-2.0-or-later
//! The memory phase: pages are asked for within the window, put together from their chunks, and handed over.
//!
//! A page that is done lingers for a while. The genuine answer to one number is the same in every copy,
//! so when a late chunk differs from what came before *with the same number*, one of the two was forged
//! (or, rarely, the request was duplicated on the way and the page changed in between): the page is then
//! fetched again. That is what makes guessing a number useless, as long as the client's own answer arrives.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use netdump_core::wire::classic::{Body, Command, CHUNK_LEN};
use netdump_core::wire::{Pfn, RequestId};
use netdump_vmcore::PageSize;

use crate::event::{Absence, Event, PageBuf};
use crate::flight::{Cause, Flight, Live, PROBES};
use crate::tools::Tools;
use crate::window;
use crate::work::Work;

/// So many numbers of a page are accepted at a time.
const LIVE_NUMBERS: usize = 4;
/// A page is given up after so many requests and so long, if others are answered meanwhile.
const MAX_TRIES: u32 = 40;
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Done pages that linger, per page of the largest window.
const LINGER: usize = 3;
/// Buffers kept for pages to come.
const MAX_POOL: usize = 512;
/// A client whose answers contradict each other more often than this is not worth believing.
pub(crate) const MAX_CONFLICTS: u64 = 4096;

#[derive(Debug, PartialEq)]
enum State {
    Free,
    /// Asked for, or about to be.
    Active,
    /// Handed over.
    Done,
    /// Absent, and these were passed over because of it.
    Absent(Vec<Range<u64>>),
}

/// One page that is being fetched, or was lately.
#[derive(Debug)]
struct Slot {
    state: State,
    pfn: u64,
    /// Chunks that are there.
    have: u64,
    buf: Option<PageBuf>,
    /// Ring of its last numbers.
    numbers: [Option<RequestId>; LIVE_NUMBERS],
    tries: u32,
    /// When it was first asked for.
    since: Option<Instant>,
    /// Waits in `retry`.
    retry: bool,
    /// Handed over before.
    again: bool,
    /// Counts the uses of this slot.
    generation: u32,
}

/// By which number a chunk came, and what was in it.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    nr: RequestId,
    print: u64,
}

/// The pages of one dump.
#[derive(Debug)]
pub(crate) struct Memory {
    page_size: PageSize,
    chunks: usize,
    flight: Flight,
    work: Work,
    /// Follow the client's hint where the next RAM is. Not needed when the ranges are known.
    walk: bool,
    slots: Vec<Slot>,
    /// `chunks` entries for each slot.
    seen: Vec<Seen>,
    free: Vec<u32>,
    lingering: VecDeque<(u32, u32)>,
    retry: VecDeque<u32>,
    active: usize,
    pool: Vec<PageBuf>,
    key: u64,
    pub(crate) total: u64,
    pub(crate) done: u64,
    pub(crate) pages: u64,
    pub(crate) unanswered: u64,
    pub(crate) conflicts: u64,
}

impl Memory {
    /// `ranges`: page frames to ask for, ascending and disjoint; `walk`: they may be holes.
    pub(crate) fn new(page_size: PageSize, ranges: Vec<Range<u64>>, walk: bool, max_window: usize, key: u64) -> Self {
        let work = Work::new(ranges);
        let chunks = page_size.bytes() / CHUNK_LEN;
        let count = max_window.max(window::MIN) * (1 + LINGER);
        let slot = |_| Slot {
            state: State::Free,
            pfn: 0,
            have: 0,
            buf: None,
            numbers: [None; LIVE_NUMBERS],
            tries: 0,
            since: None,
            retry: false,
            again: false,
            generation: 0,
        };
        Memory {
            page_size,
            chunks,
            flight: Flight::new(),
            total: work.len(),
            work,
            walk,
            slots: (0..count).map(slot).collect(),
            seen: vec![Seen::default(); count * chunks],
            free: (0..count as u32).rev().collect(),
            lingering: VecDeque::with_capacity(count),
            retry: VecDeque::new(),
            active: 0,
            pool: Vec::new(),
            key,
            done: 0,
            pages: 0,
            unanswered: 0,
            conflicts: 0,
        }
    }

    /// Every page frame was dealt with.
    pub(crate) fn is_done(&self) -> bool {
        self.work.is_empty() && self.active == 0
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.flight.open()
    }

    pub(crate) fn recycle(&mut self, buf: PageBuf) {
        if buf.len() == self.page_size.bytes() && self.pool.len() < MAX_POOL {
            self.pool.push(buf);
        }
    }

    /// The next request, if window and `room` (pages that may be begun) allow one.
    pub(crate) fn poll(&mut self, now: Instant, room: usize, t: &mut Tools) -> Option<(RequestId, Command)> {
        while let Some(unit) = self.flight.take_overtaken(now, t.rtt.overtaking_age(), t.window.size()) {
            self.repeat(unit, Cause::Order, t);
        }
        loop {
            if self.flight.open() >= t.window.size() {
                if !self.retry.is_empty() || !self.work.is_empty() {
                    t.window.note_full();
                }
                return None;
            }
            let index = match self.retry.pop_front() {
                Some(index) => {
                    let Some(slot) = self.slots.get_mut(index as usize) else {
                        continue;
                    };
                    if !slot.retry || slot.state != State::Active {
                        continue;
                    }
                    slot.retry = false;
                    if slot.tries >= MAX_TRIES && slot.since.is_some_and(|since| now >= since + MAX_WAIT) {
                        self.give_up(index, t);
                        continue;
                    }
                    index
                }
                None if self.active < room => {
                    if self.work.is_empty() {
                        return None;
                    }
                    // Before the page is taken: one that has no place would be forgotten.
                    let index = self.vacant()?;
                    let (pfn, again) = self.work.take()?;
                    self.begin(index, pfn, again)?
                }
                None => return None,
            };
            let slot = self.slots.get_mut(index as usize)?;
            let nr = self.flight.send(now, index, &mut t.numbers);
            let at = slot.tries as usize % LIVE_NUMBERS;
            slot.tries = slot.tries.saturating_add(1);
            slot.since.get_or_insert(now);
            if let Some(old) = slot.numbers[at].replace(nr) {
                self.flight.forget(old);
            }
            return Some((nr, Command::SendMem(Pfn(slot.pfn))));
        }
    }

    /// A slot for a page; `None` only if all are active, which the window does not allow.
    fn vacant(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| self.oldest_lingering())
    }

    /// Puts a page into a vacant slot.
    fn begin(&mut self, index: u32, pfn: u64, again: bool) -> Option<u32> {
        let buf = self.pool.pop().unwrap_or_else(|| vec![0; self.page_size.bytes()].into_boxed_slice());
        let slot = self.slots.get_mut(index as usize)?;
        slot.state = State::Active;
        slot.pfn = pfn;
        slot.have = 0;
        slot.buf = Some(buf);
        slot.tries = 0;
        slot.since = None;
        slot.retry = false;
        slot.again = again;
        slot.generation = slot.generation.wrapping_add(1);
        self.active += 1;
        Some(index)
    }

    fn oldest_lingering(&mut self) -> Option<u32> {
        while let Some((index, generation)) = self.lingering.pop_front() {
            let slot = self.slots.get_mut(index as usize)?;
            if slot.generation == generation && !matches!(slot.state, State::Active | State::Free) {
                self.release(index);
                return self.free.pop();
            }
        }
        None
    }

    /// Forgets the page of a slot.
    fn release(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        for nr in &mut slot.numbers {
            if let Some(nr) = nr.take() {
                self.flight.forget(nr);
            }
        }
        slot.state = State::Free;
        if let Some(buf) = slot.buf.take() {
            self.recycle(buf);
        }
        self.free.push(index);
    }

    /// Nobody answers for this page.
    fn give_up(&mut self, index: u32, t: &mut Tools) {
        let pfn = self.slots[index as usize].pfn;
        self.active -= 1;
        self.done += 1;
        self.unanswered += 1;
        self.release(index);
        t.events.push_absent(pfn..pfn + 1, Absence::Unanswered);
    }

    /// An answer; `true` if it was one to a live number of ours.
    pub(crate) fn handle(&mut self, now: Instant, nr: RequestId, body: &Body<'_>, t: &mut Tools) -> bool {
        let Some(live) = self.flight.get(nr) else {
            t.counters.unknown_nr += 1;
            return false;
        };
        match *body {
            Body::Mem { offset, data } => self.on_chunk(now, nr, live, offset, data, t),
            Body::Reserved { next } => {
                let next = if self.walk { next.map_or(u64::MAX, |pfn| pfn.0) } else { 0 };
                self.on_absent(now, nr, live, Absence::Reserved, next, t)
            }
            Body::Error { info: 0, .. } => self.on_absent(now, nr, live, Absence::OutOfRange, 0, t),
            _ => {
                t.counters.wrong_code += 1;
                false
            }
        }
    }

    fn on_chunk(
        &mut self,
        now: Instant,
        nr: RequestId,
        live: Live,
        offset: u32,
        data: &[u8; CHUNK_LEN],
        t: &mut Tools,
    ) -> bool {
        let chunk = offset as usize / CHUNK_LEN;
        if chunk >= self.chunks {
            t.counters.malformed += 1;
            return false;
        }
        let index = live.unit as usize;
        let seen_at = index * self.chunks + chunk;
        let slot = &mut self.slots[index];
        let known = slot.have & (1 << chunk) != 0;
        match slot.state {
            State::Active if !known => {}
            State::Active | State::Done => {
                let seen = self.seen[seen_at];
                if seen.nr == nr && seen.print != fingerprint(data, self.key) {
                    self.refetch(live.unit, t);
                } else {
                    t.counters.duplicate_chunks += 1;
                }
                return true;
            }
            State::Absent(_) => {
                self.refetch(live.unit, t);
                return true;
            }
            State::Free => return false,
        }
        let Some(out) = slot.buf.as_mut().and_then(|buf| buf.get_mut(offset as usize..)?.first_chunk_mut()) else {
            return false;
        };
        *out = *data;
        slot.have |= 1 << chunk;
        self.seen[seen_at] = Seen { nr, print: fingerprint(data, self.key) };
        let complete = slot.have.count_ones() as usize == self.chunks;
        if complete || chunk + 1 == self.chunks {
            // A number belongs to one transmission: there is no doubt which one this answers.
            t.rtt.measured(now.saturating_duration_since(live.at));
        }
        t.arrived(now, self.flight.saw(nr), self.chunks);
        if complete {
            self.settle(live, t);
            let slot = &mut self.slots[index];
            slot.state = State::Done;
            self.lingering.push_back((live.unit, slot.generation));
            if let Some(data) = slot.buf.take() {
                self.pages += 1;
                self.done += 1;
                t.events.push(Event::Page { pfn: Pfn(slot.pfn), data, again: slot.again });
            }
        }
        true
    }

    /// A page is done, by an answer to `live`: ends its transmissions.
    fn settle(&mut self, live: Live, t: &mut Tools) {
        let slot = &self.slots[live.unit as usize];
        for nr in slot.numbers.iter().flatten() {
            self.flight.settle(*nr);
        }
        self.active -= 1;
        t.window.answered(live.seq, self.flight.next_seq(), &t.rtt);
    }

    fn on_absent(&mut self, now: Instant, nr: RequestId, live: Live, why: Absence, next: u64, t: &mut Tools) -> bool {
        let slot = &self.slots[live.unit as usize];
        match slot.state {
            State::Active => {}
            State::Absent(_) => return true,
            State::Done if slot.numbers.contains(&Some(nr)) => {
                // All its chunks had come: one of the two was forged.
                if self.came_by(live.unit, nr) {
                    self.refetch(live.unit, t);
                }
                return true;
            }
            _ => return false,
        }
        let pfn = slot.pfn;
        t.arrived(now, self.flight.saw(nr), self.chunks);
        self.settle(live, t);
        // A hint that does not lead on is no hint.
        let skipped = if next > pfn { self.work.skip(next) } else { Vec::new() };
        self.done += 1;
        t.events.push_absent(pfn..pfn + 1, why);
        for range in &skipped {
            self.done += range.end - range.start;
            t.events.push_absent(range.clone(), why);
        }
        let slot = &mut self.slots[live.unit as usize];
        slot.state = State::Absent(skipped);
        let buf = slot.buf.take();
        self.lingering.push_back((live.unit, slot.generation));
        if let Some(buf) = buf {
            self.recycle(buf);
        }
        true
    }

    /// Whether any chunk of the page in a slot came by this number.
    fn came_by(&self, unit: u32, nr: RequestId) -> bool {
        let first = unit as usize * self.chunks;
        self.seen[first..first + self.chunks].iter().any(|seen| seen.nr == nr)
    }

    /// Answers contradict each other: nothing that came for this page counts, nor do its numbers.
    fn refetch(&mut self, unit: u32, t: &mut Tools) {
        t.counters.conflicts += 1;
        self.conflicts += 1;
        let slot = &mut self.slots[unit as usize];
        let pfn = slot.pfn;
        let handed_over = slot.again || slot.state == State::Done;
        // What counted will count again.
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Active => self.active -= 1,
            State::Done => {
                self.done -= 1;
                self.pages -= 1;
            }
            State::Absent(skipped) => {
                self.done -= 1;
                for range in skipped {
                    self.done -= range.end - range.start;
                    self.work.put_back(range, false);
                }
            }
            State::Free => {}
        }
        self.release(unit);
        self.work.put_back(pfn..pfn + 1, handed_over);
    }

    /// Repeats what was not answered in time.
    pub(crate) fn handle_timeout(&mut self, now: Instant, t: &mut Tools) {
        let mut late = 0;
        while let Some(unit) = self.flight.take_late(now, t.rtt.wait()) {
            self.repeat(unit, Cause::Time, t);
            late += 1;
            if late == PROBES {
                break;
            }
        }
        if late > 0 {
            t.timed_out();
        }
    }

    /// A transmission was lost.
    fn repeat(&mut self, unit: u32, cause: Cause, t: &mut Tools) {
        let slot = &mut self.slots[unit as usize];
        if slot.state == State::Active && !slot.retry {
            slot.retry = true;
            self.retry.push_back(unit);
        }
        t.lost(cause, self.chunks.saturating_sub(slot.have.count_ones() as usize));
    }

    pub(crate) fn deadline(&self, wait: Duration) -> Option<Instant> {
        self.flight.deadline(wait)
    }
}

/// A 64-bit sum of a chunk that somebody who does not know `key` cannot aim at.
fn fingerprint(data: &[u8; CHUNK_LEN], key: u64) -> u64 {
    const K: u64 = 0x9fb2_1c65_1e98_df25;
    let mut lanes = [key, key ^ K, key.rotate_left(17), key.rotate_left(41) ^ K];
    for block in data.chunks_exact(32) {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(8)) {
            let mut bytes = [0u8; 8];
            bytes.copy_from_slice(word);
            *lane = (*lane ^ u64::from_le_bytes(bytes)).wrapping_mul(K).rotate_left(29);
        }
    }
    let [a, b, c, d] = lanes;
    let mixed = a ^ b.rotate_left(13) ^ c.rotate_left(27) ^ d.rotate_left(43);
    (mixed ^ (mixed >> 32)).wrapping_mul(K)
}
