// SPDX-License-Identifier: GPL-2.0-or-later
//! Clusters from their pieces. What a client may make us hold is bounded: so many clusters, none larger than one can be.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use netdump_core::wire::v6::cluster::{Piece, MAX_CLUSTER_LEN};
use netdump_core::wire::v6::message::{Repair, Turn};
use netdump_core::wire::v6::Codec;
use netdump_core::wire::Pfn;

use super::rate::Rate;
use crate::event::PageBuf;

/// Clusters that are put together at a time.
const MAX_OPEN: usize = 1024;
/// Repairs of one cluster in which nothing new came: then it is fetched anew.
const MAX_FRUITLESS: u32 = 50;
/// Repairs that are not answered yet: the client drops what it has no room for, and some of them wait at its door.
const MAX_ASKED: usize = 48;
/// Buffers kept for clusters to come: no more than the owner has had at a time (`set_write_room`), and these at most.
const MAX_POOL: usize = 1024;

/// A cluster of which pieces are missing.
#[derive(Debug)]
struct Open {
    build: u32,
    codec: Codec,
    pieces: u8,
    have: u64,
    /// Bytes of the encoded cluster, which are the first ones of `buf`.
    length: u32,
    buf: PageBuf,
    gap: u32,
    /// The last of the pieces that are on their way was to have about this counter.
    last_counter: u64,
    /// When something of it came, or was asked for.
    touched: Instant,
    /// Pieces that were asked for, until the first of them comes: those behind it follow at once.
    asked: u64,
    /// The answer has counters from here on, and is behind so many pieces.
    answer: (u64, u64),
    fruitless: u32,
}

impl Open {
    fn missing(&self) -> u64 {
        !self.have & (u64::MAX >> (64 - u32::from(self.pieces)))
    }

    /// When what is missing should have come. `next` is the highest counter plus 1.
    fn due(&self, next: u64, rate: &Rate) -> Instant {
        if self.asked != 0 {
            self.touched + rate.repair_patience() + rate.time_of(self.answer.1)
        } else if next > self.last_counter.saturating_add(1) {
            self.touched + rate.reordering()
        } else {
            // The client has no credit for them yet, or it is gone.
            self.touched + rate.patience()
        }
    }
}

/// A cluster that is whole, and decoded: the first `len` bytes of `buf`.
pub(crate) struct Whole {
    pub(crate) first: Pfn,
    pub(crate) gap: u32,
    pub(crate) buf: PageBuf,
    pub(crate) len: usize,
}

/// What became of a piece.
pub(crate) enum Put {
    /// More are missing.
    Open,
    /// It was there, or there is no room for its cluster.
    Useless,
    /// Its cluster cannot be decoded.
    Broken,
    Whole(Whole),
}

/// All clusters of a session.
pub(crate) struct Assembly {
    open: BTreeMap<u64, Open>,
    /// Buffers for one cluster each.
    pool: Vec<PageBuf>,
    zstd: Option<zstd::bulk::Decompressor<'static>>,
}

impl fmt::Debug for Assembly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assembly").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Assembly {
    pub(crate) fn new() -> Self {
        Assembly { open: BTreeMap::new(), pool: Vec::new(), zstd: None }
    }

    /// Takes a buffer back.
    pub(crate) fn recycle(&mut self, buf: PageBuf) {
        if buf.len() == MAX_CLUSTER_LEN && self.pool.len() < MAX_POOL {
            self.pool.push(buf);
        }
    }

    /// Clusters that are not whole.
    pub(crate) fn len(&self) -> usize {
        self.open.len()
    }

    /// Bytes that it holds.
    pub(crate) fn held(&self) -> usize {
        let open: usize = self.open.values().map(|open| open.buf.len() + 2 * size_of::<Open>()).sum();
        let pool: usize = self.pool.iter().map(|buf| buf.len()).sum();
        open + pool
    }

    /// Where the first cluster from `start` on begins, with the frames in front of it that it says are left out.
    pub(crate) fn next_from(&self, start: u64, end: u64) -> Option<u64> {
        let (first, open) = self.open.range(start..end).next()?;
        Some(first - u64::from(open.gap).min(*first))
    }

    /// Puts a piece in its place.
    pub(crate) fn put(&mut self, now: Instant, counter: u64, piece: &Piece<'_>) -> Put {
        let Ok(at) = piece.offset() else { return Put::Useless };
        if piece.pieces == 1 {
            // Most clusters that compress well: nothing to keep.
            if let Some(open) = self.open.remove(&piece.first.0) {
                self.recycle(open.buf);
            }
            let mut buf = buffer(&mut self.pool);
            return match decode(&mut buf, &mut self.zstd, piece.codec, piece.data) {
                Some(len) => Put::Whole(Whole { first: piece.first, gap: piece.gap, buf, len }),
                None => {
                    self.recycle(buf);
                    Put::Broken
                }
            };
        }
        if self.open.len() >= MAX_OPEN && !self.open.contains_key(&piece.first.0) {
            return Put::Useless;
        }
        // A client may begin to count anywhere.
        let last_counter = counter.saturating_add(u64::from(piece.pieces - 1 - piece.piece));
        let pool = &mut self.pool;
        let open = self.open.entry(piece.first.0).or_insert_with(|| Open {
            build: piece.build,
            codec: piece.codec,
            pieces: piece.pieces,
            have: 0,
            length: piece.length,
            buf: buffer(pool),
            gap: piece.gap,
            last_counter,
            touched: now,
            asked: 0,
            answer: (0, 0),
            fruitless: 0,
        });
        let same = (open.build, open.codec, open.pieces, open.length)
            == (piece.build, piece.codec, piece.pieces, piece.length);
        if !same {
            // The client read it again and found other bytes: what came before belongs to nothing any more.
            (open.build, open.codec, open.pieces, open.length) = (piece.build, piece.codec, piece.pieces, piece.length);
            (open.have, open.last_counter, open.touched, open.asked) = (0, last_counter, now, 0);
        }
        let bit = 1 << piece.piece;
        if open.have & bit != 0 {
            return Put::Useless;
        }
        // The length was checked when the piece was parsed, so that it is in the buffer.
        let Some(place) = open.buf.get_mut(at..at + piece.data.len()) else { return Put::Useless };
        place.copy_from_slice(piece.data);
        open.have |= bit;
        open.touched = now;
        open.fruitless = 0;
        if open.asked & bit != 0 && counter >= open.answer.0 {
            let behind = (open.asked & !(bit | (bit - 1))).count_ones();
            open.last_counter = counter.saturating_add(u64::from(behind));
            open.asked = 0;
        }
        if open.missing() != 0 {
            return Put::Open;
        }
        let Some(open) = self.open.remove(&piece.first.0) else { return Put::Useless };
        let (length, whole) = (open.length as usize, |buf, len| Whole { first: piece.first, gap: open.gap, buf, len });
        if open.codec == Codec::Raw {
            return Put::Whole(whole(open.buf, length));
        }
        let mut buf = buffer(&mut self.pool);
        let encoded = open.buf.get(..length).unwrap_or(&[]);
        let decoded = decode(&mut buf, &mut self.zstd, open.codec, encoded);
        self.recycle(open.buf);
        match decoded {
            Some(len) => Put::Whole(whole(buf, len)),
            None => {
                self.recycle(buf);
                Put::Broken
            }
        }
    }

    /// Clusters whose missing pieces should have come by now, and what to ask for. `next` is the highest counter plus 1.
    pub(crate) fn overdue(
        &mut self,
        now: Instant,
        next: u64,
        rate: &Rate,
        max: usize,
        end_of: impl Fn(u64) -> u64,
    ) -> Vec<Repair> {
        let mut repairs = Vec::new();
        let mut hopeless = Vec::new();
        // Those that the client has in its hands, and their pieces.
        let (mut asked, mut pieces) = (0, 0);
        for open in self.open.values_mut() {
            if open.asked != 0 && now >= open.due(next, rate) {
                open.asked = 0; // it was lost
            }
            asked += usize::from(open.asked != 0);
            pieces += u64::from(open.asked.count_ones());
        }
        for (first, open) in &mut self.open {
            if repairs.len() >= max || asked >= MAX_ASKED {
                break;
            }
            if now < open.due(next, rate) {
                continue;
            }
            if open.fruitless >= MAX_FRUITLESS {
                hopeless.push(*first);
                continue;
            }
            open.fruitless += 1;
            open.asked = open.missing();
            open.touched = now;
            asked += 1;
            pieces += u64::from(open.asked.count_ones());
            open.answer = (next, pieces);
            repairs.push(Repair {
                first: Pfn(*first),
                end: Pfn(end_of(*first).max(first + 1)),
                build: open.build,
                missing: open.missing(),
                turn: Turn::Any,
            });
        }
        for first in hopeless {
            if let Some(open) = self.open.remove(&first) {
                self.recycle(open.buf);
            }
        }
        repairs
    }

    /// When something will be overdue.
    pub(crate) fn deadline(&self, next: u64, rate: &Rate) -> Option<Instant> {
        let asked = self.open.values().filter(|open| open.asked != 0);
        if asked.clone().count() >= MAX_ASKED {
            return asked.map(|open| open.due(next, rate)).min();
        }
        self.open.values().map(|open| open.due(next, rate)).min()
    }

    /// Forgets clusters that another one has covered.
    pub(crate) fn forget(&mut self, is_missing: impl Fn(u64) -> bool) {
        self.open.retain(|first, _| is_missing(*first));
    }
}

/// Room for any cluster.
fn buffer(pool: &mut Vec<PageBuf>) -> PageBuf {
    pool.pop().unwrap_or_else(|| vec![0; MAX_CLUSTER_LEN].into_boxed_slice())
}

/// Decodes a cluster into `out`, never more than that holds: its length.
fn decode(
    out: &mut [u8],
    zstd: &mut Option<zstd::bulk::Decompressor<'static>>,
    codec: Codec,
    encoded: &[u8],
) -> Option<usize> {
    let len = match codec {
        Codec::Raw => {
            out.get_mut(..encoded.len())?.copy_from_slice(encoded);
            encoded.len()
        }
        Codec::Lz4 => lz4_flex::block::decompress_into(encoded, out).ok()?,
        Codec::Zstd => {
            if zstd.is_none() {
                *zstd = Some(zstd::bulk::Decompressor::new().ok()?);
            }
            zstd.as_mut()?.decompress_to_buffer(encoded, out).ok()?
        }
    };
    (len <= out.len()).then_some(len)
}
