// SPDX-License-Identifier: GPL-2.0-or-later
//! Which page frames are still missing: disjoint intervals.

use std::collections::BTreeMap;
use std::ops::Range;

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

    /// Whether this one is.
    pub(crate) fn holds(&self, pfn: u64) -> bool {
        self.intervals.range(..=pfn).next_back().is_some_and(|(_, end)| pfn < *end)
    }

    /// The parts of `range` that are missing, ascending.
    pub(crate) fn within(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.intervals.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        self.intervals.range(first..range.end.max(first)).filter_map(move |(start, end)| {
            let part = range.start.max(*start)..range.end.min(*end);
            (part.start < part.end).then_some(part)
        })
    }

    /// Those of `range` are not missing any more: how many there were.
    pub(crate) fn remove(&mut self, range: Range<u64>) -> u64 {
        let parts: Vec<Range<u64>> = self.within(range).collect();
        let mut removed = 0;
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
            removed += part.end - part.start;
        }
        self.frames -= removed;
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_cut_and_counted() {
        let mut missing = Missing::new(&[10..20, 30..40, 50..51]);
        assert_eq!(missing.frames(), 21);
        assert!(
            missing.holds(10) && missing.holds(50) && !missing.holds(20) && !missing.holds(9) && !missing.holds(51)
        );
        assert_eq!(missing.within(15..35).collect::<Vec<_>>(), [15..20, 30..35]);
        assert_eq!(missing.within(20..30).count(), 0);
        assert_eq!(missing.remove(12..32), 10);
        assert_eq!(missing.within(0..100).collect::<Vec<_>>(), [10..12, 32..40, 50..51]);
        assert_eq!(missing.remove(12..32), 0);
        assert_eq!(missing.remove(33..34), 1);
        assert_eq!(missing.within(0..100).collect::<Vec<_>>(), [10..12, 32..33, 34..40, 50..51]);
        assert_eq!(missing.remove(0..u64::MAX), 10);
        assert_eq!(missing.frames(), 0);
    }
}
