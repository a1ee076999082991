// SPDX-License-Identifier: GPL-2.0-or-later
//! Which page frames are still missing: disjoint intervals. And which pages came ahead of the others: a bit for each.

use std::collections::BTreeMap;
use std::ops::Range;

/// Intervals that a client can make of what it was asked for, at most. One that sends what it was asked for, on a path that
/// loses most of it, makes some thousands.
const MAX_INTERVALS: usize = 1 << 16;

/// Intervals of page frames, by their first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Missing {
    intervals: BTreeMap<u64, u64>,
    frames: u64,
}

impl Missing {
    /// Ascending, disjoint intervals.
    pub(crate) fn new(intervals: &[Range<u64>]) -> Self {
        let intervals: BTreeMap<u64, u64> =
            intervals.iter().filter(|i| i.start < i.end).map(|i| (i.start, i.end)).collect();
        let frames = intervals.iter().map(|(start, end)| end - start).sum();
        Missing { intervals, frames }
    }

    /// How many there are.
    pub(crate) fn frames(&self) -> u64 {
        self.frames
    }

    /// About how many bytes they take; nodes of the tree may be half empty.
    pub(crate) fn held(&self) -> usize {
        self.intervals.len() * 2 * size_of::<(u64, u64)>()
    }

    /// Whether this one is.
    pub(crate) fn holds(&self, pfn: u64) -> bool {
        self.intervals.range(..=pfn).next_back().is_some_and(|(_, end)| pfn < *end)
    }

    /// Whether `range` can be removed: if that makes one interval more there must be room for it.
    pub(crate) fn may_remove(&self, range: Range<u64>) -> bool {
        self.intervals.len() < MAX_INTERVALS
            || !(range.start.checked_sub(1).is_some_and(|before| self.holds(before)) && self.holds(range.end))
    }

    /// The parts of `range` that are missing, ascending.
    pub(crate) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.intervals.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        self.intervals.range(first..range.end.max(first)).filter_map(move |(start, end)| {
            let part = range.start.max(*start)..range.end.min(*end);
            (part.start < part.end).then_some(part)
        })
    }

    /// Those of `range` are not missing any more: which there were, ascending.
    pub(crate) fn remove(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let parts: Vec<Range<u64>> = self.within(range).collect();
        for part in &parts {
            let Some((start, end)) = self.intervals.range(..=part.start).next_back().map(|(s, e)| (*s, *e)) else {
                continue;
            };
            self.intervals.remove(&start);
            if start < part.start {
                self.intervals.insert(start, part.start);
            }
            if part.end < end {
                self.intervals.insert(part.end, end);
            }
            self.frames -= part.end - part.start;
        }
        parts
    }
}

/// Page frames of a chunk of [`Had`].
const CHUNK: u64 = 4096;
/// Chunks of one client, 64 MiB: those of 2 TiB of memory, whichever pages come.
const MAX_CHUNKS: usize = 1 << 17;

/// A set of page frames that lie anywhere: a bit for each frame of the chunks that have any.
#[derive(Debug, Clone, Default)]
pub(crate) struct Had {
    chunks: BTreeMap<u64, Box<[u64; CHUNK as usize / 64]>>,
}

impl Had {
    /// Bytes that it takes.
    pub(crate) fn held(&self) -> usize {
        self.chunks.len() * (size_of::<[u64; CHUNK as usize / 64]>() + 32)
    }

    /// Adds frames. Where there is no room for them, they may be handed over twice, and count as left out the second time.
    pub(crate) fn add(&mut self, frames: Range<u64>) {
        let mut from = frames.start;
        while from < frames.end {
            // The last frame of its word, or of all.
            let to = (from | 63).min(frames.end - 1);
            let chunk = from / CHUNK;
            if self.chunks.len() < MAX_CHUNKS || self.chunks.contains_key(&chunk) {
                let words = self.chunks.entry(chunk).or_insert_with(|| Box::new([0; CHUNK as usize / 64]));
                words[(from % CHUNK) as usize / 64] |= u64::MAX >> (63 - (to - from)) << (from % 64);
            }
            let Some(next) = to.checked_add(1) else { return };
            from = next;
        }
    }

    /// Whether it was added.
    pub(crate) fn holds(&self, pfn: u64) -> bool {
        self.chunks.get(&(pfn / CHUNK)).is_some_and(|chunk| chunk[(pfn % CHUNK) as usize / 64] & 1 << (pfn % 64) != 0)
    }

    /// How many of these were.
    pub(crate) fn count(&self, range: Range<u64>) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let chunks = self.chunks.range(range.start / CHUNK..=(range.end - 1) / CHUNK);
        let mut count = 0;
        for (number, chunk) in chunks {
            let first = number * CHUNK;
            let (from, to) = (range.start.max(first) - first, range.end.min(first.saturating_add(CHUNK)) - first);
            for (n, word) in chunk.iter().enumerate().take(to.div_ceil(64) as usize).skip(from as usize / 64) {
                let at = n as u64 * 64;
                let low = from.saturating_sub(at).min(64);
                let high = (to - at).min(64);
                let mask = u64::MAX.checked_shr(64 - (high - low) as u32).unwrap_or(0) << low.min(63);
                count += u64::from((word & mask).count_ones());
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_can_make_it_hold_is_bounded() {
        let all = 4 * MAX_INTERVALS as u64;
        let mut missing = Missing::new(std::slice::from_ref(&(0..all)));
        let alone = |pfn| pfn..pfn + 1;
        for pfn in (1..all).step_by(2).map(alone).filter(|range| range.end < all) {
            if missing.may_remove(pfn.clone()) {
                missing.remove(pfn);
            }
        }
        assert_eq!(missing.intervals.len(), MAX_INTERVALS);
        // What makes no hole can always go, until nothing is left.
        for range in (0..all).map(alone) {
            assert!(missing.may_remove(range.clone()));
            missing.remove(range);
        }
        assert_eq!((missing.frames(), missing.intervals.len()), (0, 0));
    }

    #[test]
    fn intervals_are_cut_and_counted() {
        let mut missing = Missing::new(&[10..20, 30..40, 50..51]);
        let count = |parts: Vec<Range<u64>>| parts.iter().map(|part| part.end - part.start).sum::<u64>();
        assert_eq!(missing.frames(), 21);
        assert!(
            missing.holds(10) && missing.holds(50) && !missing.holds(20) && !missing.holds(9) && !missing.holds(51)
        );
        assert_eq!(missing.within(15..35).collect::<Vec<_>>(), [15..20, 30..35]);
        assert_eq!(missing.within(20..30).count(), 0);
        assert_eq!(count(missing.remove(12..32)), 10);
        assert_eq!(missing.within(0..100).collect::<Vec<_>>(), [10..12, 32..40, 50..51]);
        assert_eq!(count(missing.remove(12..32)), 0);
        assert_eq!(count(missing.remove(33..34)), 1);
        assert_eq!(missing.within(0..100).collect::<Vec<_>>(), [10..12, 32..33, 34..40, 50..51]);
        assert_eq!(count(missing.remove(0..u64::MAX)), 10);
        assert_eq!(missing.frames(), 0);
    }

    #[test]
    fn bits_are_counted_across_words_and_chunks() {
        let mut had = Had::default();
        let all = [0, 1, 63, 64, 100, CHUNK - 1, CHUNK, CHUNK + 64, 9 * CHUNK + 5, u64::MAX - 1];
        all.iter().for_each(|pfn| had.add(*pfn..pfn.saturating_add(1)));
        assert!(all.iter().all(|pfn| had.holds(*pfn)) && !had.holds(2) && !had.holds(8 * CHUNK));
        for start in [0, 1, 2, 63, 64, 65, CHUNK - 1, CHUNK, CHUNK + 1, u64::MAX - 1] {
            for end in [0, 1, 63, 64, 65, 101, CHUNK, CHUNK + 65, 20 * CHUNK, u64::MAX] {
                let expected = all.iter().filter(|pfn| (start..end).contains(*pfn)).count() as u64;
                assert_eq!(had.count(start..end), expected, "{start}..{end}");
            }
        }
        for (start, end) in [(0, 1), (3, 64), (63, 65), (10, 200), (CHUNK - 70, CHUNK + 70), (64, 128), (5, 5)] {
            let mut had = Had::default();
            had.add(start..end);
            assert_eq!(had.count(0..10 * CHUNK), end - start, "{start}..{end}");
            assert!((start..end).all(|pfn| had.holds(pfn)) && !had.holds(end));
        }
    }
}
