// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Walking through the segments: which pages go into a cluster, and which pieces of it are sent. Panic path.

use super::super::super::wire::v6::cluster::{
    emit_index, Piece, Run, MAX_CLUSTER_FRAMES, MAX_CLUSTER_LEN, MAX_INDEX_LEN, MAX_PIECES, MAX_RUNS, MAX_RUN_PAGES,
    PAGE, PIECE_HEADER_LEN,
};
use super::super::super::wire::v6::message::{Grant, Place, Repair, Segment, Turn, MAX_CLUSTER_PAGES, MAX_SEGMENTS};
use super::super::super::wire::v6::{Codec, Level, Reason};
use super::super::super::wire::{Error, Pfn, Result};
use super::super::add;
use super::{fill, Choice, Counters6, Room, Source};

/// Choices that are asked for at a time: between two of them the network is looked at.
const STEPS: usize = 256;
// A cluster that is put together in so many steps is one that a server takes.
const _: () = assert!(STEPS as u64 <= MAX_CLUSTER_FRAMES);
/// Repairs that wait; the server asks again for those that find no room.
const MAX_REPAIRS: usize = 64;
/// Repairs after which a cluster that was kept because its memory changes makes way for another.
const KEPT_FOR: u32 = 64;

/// A segment, and how far it was walked through.
#[derive(Debug, Clone, Copy)]
struct Work {
    segment: Segment,
    place: Place,
}

/// Which buffer holds the cluster that is being sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Plain,
    Packed,
    Kept,
}

/// The cluster that is being sent.
#[derive(Debug, Clone, Copy)]
struct Sending {
    held: Held,
    /// Where the encoded cluster lies in its buffer.
    at: usize,
    len: usize,
    first: Pfn,
    gap: u32,
    build: u32,
    codec: Codec,
    piece_len: usize,
    pieces: u8,
    /// Bits of the pieces that are still to be sent.
    left: u64,
    /// Where its segment stands once all of it was sent; `None` for a repair.
    after: Option<Place>,
}

/// What a cluster is put together from.
#[derive(Clone, Copy)]
struct What {
    turn: Turn,
    /// Frames below this one.
    end: u64,
    /// Those that are left out are counted.
    count: bool,
}

/// A cluster that was put together.
struct Built {
    /// Where it begins in the plain buffer, and how long it is.
    at: usize,
    len: usize,
    first: u64,
    /// The frame behind its last one.
    end: u64,
    /// The frame behind all that were looked at.
    looked_at: u64,
    pages: u64,
    zero: u64,
}

/// A cluster whose memory changes while it is dumped, as it was when its repair was asked for: otherwise the pieces that
/// arrive would never belong together.
#[derive(Debug)]
struct Kept {
    first: u64,
    build: u32,
    len: usize,
    codec: Codec,
    /// Repairs since it was asked for.
    age: u32,
    room: Room,
}

/// What a client knows of the memory that it sends.
#[derive(Debug)]
pub(super) struct Walk {
    level: Level,
    codec: Codec,
    pages: u8,
    works: [Option<Work>; MAX_SEGMENTS],
    repairs: [Repair; MAX_REPAIRS],
    repairing: usize,
    sending: Option<Sending>,
    left_out: [u64; Reason::COUNT],
    plain: Room,
    packed: Room,
    kept: Kept,
}

const NO_REPAIR: Repair = Repair { first: Pfn(0), end: Pfn(0), build: 0, missing: 0, turn: Turn::Any };

impl Walk {
    pub(super) const fn new() -> Self {
        Walk {
            level: Level::ALL,
            codec: Codec::Raw,
            pages: MAX_CLUSTER_PAGES,
            works: [None; MAX_SEGMENTS],
            repairs: [NO_REPAIR; MAX_REPAIRS],
            repairing: 0,
            sending: None,
            left_out: [0; Reason::COUNT],
            plain: [0; MAX_CLUSTER_LEN],
            packed: [0; MAX_CLUSTER_LEN],
            kept: Kept { first: 0, build: 0, len: 0, codec: Codec::Raw, age: 0, room: [0; MAX_CLUSTER_LEN] },
        }
    }

    pub(super) fn begin(&mut self, level: Level) {
        self.level = level;
        self.left_out = [0; Reason::COUNT];
        self.kept.len = 0;
        self.forget();
    }

    /// Forgets what a server wanted.
    pub(super) fn forget(&mut self) {
        self.works = [None; MAX_SEGMENTS];
        self.repairing = 0;
        self.sending = None;
    }

    pub(super) fn left_out(&self) -> &[u64; Reason::COUNT] {
        &self.left_out
    }

    pub(super) fn places(&self) -> impl ExactSizeIterator<Item = Place> + '_ {
        // They stand at the front.
        let count = self.works.iter().take_while(|work| work.is_some()).count();
        self.works.iter().take(count).map(|work| work.map_or(Place::default(), |work| work.place))
    }

    /// Takes a grant: segments that are known go on where they are.
    pub(super) fn grant(&mut self, grant: &Grant<'_>, codecs: u32) {
        self.level = self.level.or(grant.level);
        self.codec = if codecs & grant.codec.bit() != 0 { grant.codec } else { Codec::Raw };
        self.pages = grant.pages;
        let before = self.works;
        self.works = [None; MAX_SEGMENTS];
        for (place, segment) in self.works.iter_mut().zip(grant.segments()) {
            let known = before.iter().flatten().find(|work| work.segment == segment).copied();
            let start = Place { id: segment.id, cursor: segment.start, tail: segment.start };
            *place = Some(known.unwrap_or(Work { segment, place: start }));
        }
    }

    /// Notes a repair, if there is room.
    pub(super) fn repair(&mut self, repair: Repair) {
        let queued = self.repairs.get_mut(..self.repairing).unwrap_or(&mut []);
        if let Some(same) = queued.iter_mut().find(|queued| queued.first == repair.first) {
            *same = repair;
        } else if let Some(place) = self.repairs.get_mut(self.repairing) {
            *place = repair;
            self.repairing = self.repairing.saturating_add(1);
        }
    }

    pub(super) fn has_more(&self) -> bool {
        self.sending.is_some() || self.repairing > 0 || self.works.iter().flatten().any(Work::has_more)
    }

    /// Writes the next piece. `None` if there is none, or none yet.
    pub(super) fn next_piece(
        &mut self,
        source: &mut impl Source,
        body: &mut [u8],
        counters: &mut Counters6,
    ) -> Option<Result<usize>> {
        if self.sending.is_none() {
            let piece_len = body.len().checked_sub(PIECE_HEADER_LEN)?;
            if self.repairing > 0 {
                self.begin_repair(source, piece_len, counters);
            } else {
                self.begin_cluster(source, piece_len, counters);
            }
        }
        let sending = self.sending.as_mut()?;
        let room = match sending.held {
            Held::Plain => &self.plain,
            Held::Packed => &self.packed,
            Held::Kept => &self.kept.room,
        };
        let written = sending.write(room, body);
        add(&mut counters.pieces, 1);
        if sending.left == 0 {
            if let Some(after) = sending.after {
                let work = self.works.iter_mut().flatten().find(|work| work.segment.id == after.id);
                if let Some(work) = work {
                    work.place = after;
                }
            }
            self.sending = None;
        }
        Some(written)
    }

    fn begin_cluster(&mut self, source: &mut impl Source, piece_len: usize, counters: &mut Counters6) {
        let Some(at) = self.works.iter().position(|work| work.as_ref().is_some_and(Work::has_more)) else { return };
        let Some(work) = self.works.get(at).copied().flatten() else { return };
        let what = What { turn: work.segment.turn, end: work.segment.end.0, count: !work.segment.again };
        match self.build(source, work.place.cursor.0, what) {
            Ok(built) => {
                let gap = built.first.saturating_sub(work.place.tail.0);
                let gap = u32::try_from(gap).unwrap_or(u32::MAX);
                let after = Place { id: work.segment.id, cursor: Pfn(built.looked_at), tail: Pfn(built.end) };
                add(&mut counters.clusters, 1);
                add(&mut counters.pages, built.pages);
                add(&mut counters.zero_pages, built.zero);
                self.sending = self.encode(source, &built, piece_len, gap, Some(after));
            }
            // Nothing there, as far as was looked.
            Err(looked_at) => {
                if let Some(Some(work)) = self.works.get_mut(at) {
                    work.place.cursor = Pfn(looked_at);
                }
            }
        }
    }

    fn begin_repair(&mut self, source: &mut impl Source, piece_len: usize, counters: &mut Counters6) {
        let Some(repair) = self.repairs.first().copied() else { return };
        self.repairs.rotate_left(1);
        self.repairing = self.repairing.saturating_sub(1);
        add(&mut counters.repairs, 1);
        self.kept.age = self.kept.age.saturating_add(1);
        let kept = &mut self.kept;
        if kept.len > 0 && kept.first == repair.first.0 && kept.build == repair.build {
            kept.age = 0;
            let (len, codec) = (kept.len, kept.codec);
            self.sending = sending(Held::Kept, 0, len, repair.first, repair.build, codec, piece_len);
        } else {
            // What is not there any more is found missing by the server, which then asks for the segment.
            let what = What { turn: repair.turn, end: repair.end.0, count: false };
            let Ok(built) = self.build(source, repair.first.0, what) else { return };
            if built.first != repair.first.0 {
                return;
            }
            self.sending = self.encode(source, &built, piece_len, 0, None);
        }
        let Some(sending) = self.sending.as_mut() else { return };
        if sending.build == repair.build {
            sending.left &= repair.missing;
            if sending.left == 0 {
                self.sending = None; // it asks for pieces that there are not
            }
            return;
        }
        // Other bytes than before: all of them are sent, and kept, in case that they change again.
        add(&mut counters.rebuilt, 1);
        if self.kept.len == 0 || self.kept.first == repair.first.0 || self.kept.age > KEPT_FOR {
            let room = if sending.held == Held::Packed { &self.packed } else { &self.plain };
            let from = room.get(sending.at..sending.at.saturating_add(sending.len));
            if let (Some(from), Some(to)) = (from, self.kept.room.get_mut(..sending.len)) {
                fill(to, from);
                let kept = &mut self.kept;
                (kept.first, kept.build, kept.len) = (sending.first.0, sending.build, sending.len);
                (kept.codec, kept.age) = (sending.codec, 0);
                (sending.held, sending.at) = (Held::Kept, 0);
            }
        }
    }

    /// Puts a cluster together from the pages from `at` on. `Err`: there are none below that frame.
    fn build(&mut self, source: &mut impl Source, mut at: u64, what: What) -> core::result::Result<Built, u64> {
        let What { turn, end, count } = what;
        let mut runs = [Run::default(); MAX_RUNS];
        let mut used = 0usize;
        let mut skip = 0u64;
        let mut built = Built { at: MAX_INDEX_LEN, len: 0, first: 0, end: 0, looked_at: at, pages: 0, zero: 0 };
        let mut filled = MAX_INDEX_LEN;
        for _ in 0..STEPS {
            if at >= end || built.pages >= u64::from(self.pages) {
                break;
            }
            // Whatever it says, there must be an end.
            let further = |to: Pfn| to.0.clamp(at.saturating_add(1), end);
            let mut skipped = match source.select(self.level, turn, Pfn(at), Pfn(end)) {
                // In the first turn it would be counted twice.
                Choice::Skip { to, reason } => Some((further(to), (turn != Turn::First).then_some(reason))),
                Choice::Pass { to } => Some((further(to), None)),
                Choice::Keep => None,
            };
            let mut zero = false;
            if skipped.is_none() {
                let Some(page) = self.plain.get_mut(filled..filled.saturating_add(PAGE)) else { break };
                if source.read(Pfn(at), 0, page).is_err() {
                    skipped = Some((at.saturating_add(1), Some(Reason::Unreadable)));
                } else {
                    zero = self.level.leaves_out(Level::ZERO) && is_zero(page);
                }
            }
            if let Some((to, reason)) = skipped {
                if used > 0 && skip.saturating_add(to.saturating_sub(at)) > u64::from(u32::MAX) {
                    break;
                }
                let number = reason.filter(|_| count).and_then(|reason| self.left_out.get_mut(reason as usize));
                if let Some(number) = number {
                    add(number, to.saturating_sub(at));
                }
                skip = skip.saturating_add(to.saturating_sub(at));
                at = to;
                continue;
            }
            let last = used.checked_sub(1).and_then(|last| runs.get_mut(last));
            match last {
                Some(run) if skip == 0 && run.zero == zero && run.pages < MAX_RUN_PAGES => {
                    run.pages = run.pages.saturating_add(1);
                }
                _ => {
                    let Some(run) = runs.get_mut(used) else { break };
                    // What was skipped in front of the first one is no part of the cluster.
                    let skip = if used == 0 { 0 } else { u32::try_from(skip).unwrap_or(u32::MAX) };
                    *run = Run { skip, pages: 1, zero };
                    if used == 0 {
                        built.first = at;
                    }
                    used = used.saturating_add(1);
                }
            }
            skip = 0;
            if zero {
                built.zero = built.zero.saturating_add(1);
            } else {
                built.pages = built.pages.saturating_add(1);
                filled = filled.saturating_add(PAGE);
            }
            at = at.saturating_add(1);
            built.end = at;
        }
        built.looked_at = at;
        let runs = runs.get(..used).filter(|runs| !runs.is_empty()).ok_or(at)?;
        let index = self.plain.get_mut(..MAX_INDEX_LEN).and_then(|room| emit_index(runs, room).ok()).ok_or(at)?;
        built.at = MAX_INDEX_LEN.saturating_sub(index);
        built.len = filled.saturating_sub(built.at);
        Ok(built)
    }

    fn encode(
        &mut self,
        source: &mut impl Source,
        built: &Built,
        piece_len: usize,
        gap: u32,
        after: Option<Place>,
    ) -> Option<Sending> {
        let plain = self.plain.get(built.at..built.at.saturating_add(built.len))?;
        // What shrinks by less than a sixteenth is not worth the server's time.
        let worth = built.len.saturating_sub(built.len >> 4);
        let packed = match self.codec {
            Codec::Raw => None,
            codec => self.packed.get_mut(..worth).and_then(|room| source.compress(codec, plain, room)),
        };
        let (held, at, len, codec) = match packed.filter(|len| (1..=worth).contains(len)) {
            Some(len) => (Held::Packed, 0, len, self.codec),
            None => (Held::Plain, built.at, built.len, Codec::Raw),
        };
        let room = if held == Held::Packed { &self.packed } else { &self.plain };
        let build = source.hash(room.get(at..at.saturating_add(len))?);
        let sending = sending(held, at, len, Pfn(built.first), build, codec, piece_len)?;
        Some(Sending { gap, after, ..sending })
    }
}

impl Work {
    fn has_more(&self) -> bool {
        self.place.cursor < self.segment.end
    }
}

/// An encoded cluster, all pieces of which are to be sent.
fn sending(
    held: Held,
    at: usize,
    len: usize,
    first: Pfn,
    build: u32,
    codec: Codec,
    piece_len: usize,
) -> Option<Sending> {
    if piece_len == 0 {
        return None;
    }
    let pieces = len.saturating_add(piece_len.saturating_sub(1)).checked_div(piece_len)?;
    if pieces == 0 || pieces > MAX_PIECES {
        return None;
    }
    let left = u64::MAX.checked_shr((MAX_PIECES.saturating_sub(pieces)) as u32)?;
    let pieces = u8::try_from(pieces).ok()?;
    Some(Sending { held, at, len, first, gap: 0, build, codec, piece_len, pieces, left, after: None })
}

impl Sending {
    /// Writes the first of the pieces that are left.
    fn write(&mut self, room: &Room, body: &mut [u8]) -> Result<usize> {
        let piece = self.left.trailing_zeros();
        self.left &= self.left.wrapping_sub(1);
        let start = self.piece_len.saturating_mul(piece as usize);
        let len = self.piece_len.min(self.len.saturating_sub(start));
        let at = self.at.saturating_add(start);
        let data = room.get(at..at.saturating_add(len)).ok_or(Error::NoRoom)?;
        Piece {
            first: self.first,
            gap: self.gap,
            build: self.build,
            piece: piece as u8,
            pieces: self.pieces,
            codec: self.codec,
            length: self.len as u32,
            data: &[],
        }
        .emit_header(body)?;
        let out = body.get_mut(PIECE_HEADER_LEN..PIECE_HEADER_LEN.saturating_add(len)).ok_or(Error::NoRoom)?;
        fill(out, data);
        Ok(PIECE_HEADER_LEN.saturating_add(len))
    }
}

fn is_zero(page: &[u8]) -> bool {
    // Most pages that are not zero show it at once; a word at a time is as fast as memory.
    page.chunks_exact(64).all(|line| {
        line.chunks_exact(8)
            .fold(0u64, |sum, word| sum | word.first_chunk::<8>().map_or(1, |word| u64::from_ne_bytes(*word)))
            == 0
    })
}
