// SPDX-License-Identifier: GPL-2.0-or-later
//! Which page frames are still to be asked for.

use std::collections::VecDeque;
use std::ops::Range;

/// Page frames in ascending order, and those to be fetched again.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Ascending, disjoint, none empty.
    todo: VecDeque<Range<u64>>,
    /// Fetched (then `true`) or passed over before, on an answer that is now in doubt.
    again: VecDeque<(Range<u64>, bool)>,
}

impl Work {
    /// `ranges` ascending and disjoint.
    pub(crate) fn new(ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        Work { todo: ranges.into_iter().filter(|r| !r.is_empty()).collect(), again: VecDeque::new() }
    }

    /// Page frames that were not yet taken.
    pub(crate) fn len(&self) -> u64 {
        self.todo.iter().chain(self.again.iter().map(|(range, _)| range)).map(|r| r.end - r.start).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.todo.is_empty() && self.again.is_empty()
    }

    /// The next page frame, and whether it was handed over before.
    pub(crate) fn take(&mut self) -> Option<(u64, bool)> {
        if let Some((range, handed_over)) = self.again.front_mut() {
            let (pfn, handed_over) = (range.start, *handed_over);
            range.start += 1;
            if range.is_empty() {
                self.again.pop_front();
            }
            return Some((pfn, handed_over));
        }
        let front = self.todo.front_mut()?;
        let pfn = front.start;
        front.start += 1;
        if front.is_empty() {
            self.todo.pop_front();
        }
        Some((pfn, false))
    }

    /// Passes over every page frame below `to`, and says which those were.
    pub(crate) fn skip(&mut self, to: u64) -> Vec<Range<u64>> {
        let mut skipped = Vec::new();
        while let Some(front) = self.todo.front_mut() {
            if front.start >= to {
                break;
            }
            skipped.push(front.start..front.end.min(to));
            front.start = front.end.min(to);
            if front.is_empty() {
                self.todo.pop_front();
            }
        }
        skipped
    }

    /// These are to be fetched after all, or again if they were handed over before.
    pub(crate) fn put_back(&mut self, pfns: Range<u64>, handed_over: bool) {
        if !pfns.is_empty() {
            self.again.push_back((pfns, handed_over));
        }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // ranges are meant
mod tests {
    use super::*;

    #[test]
    fn takes_in_order_and_skips() {
        let mut work = Work::new([1..3, 5..5, 10..20, 30..31]);
        assert_eq!(work.len(), 13);
        assert_eq!([1, 2, 10].map(|_| work.take().unwrap().0), [1, 2, 10]);
        assert_eq!(work.skip(15), [11..15]);
        assert_eq!(work.skip(11), []);
        assert_eq!(work.take(), Some((15, false)));
        assert_eq!(work.skip(u64::MAX), [16..20, 30..31]);
        assert!(work.is_empty());
        assert_eq!(work.take(), None);
    }

    #[test]
    fn what_is_put_back_comes_first() {
        let mut work = Work::new([10..12]);
        work.take();
        work.put_back(3..5, true);
        work.put_back(7..7, true);
        assert_eq!(work.len(), 3);
        let rest: Vec<_> = std::iter::from_fn(|| work.take()).collect();
        assert_eq!(rest, [(3, true), (4, true), (11, false)]);
    }
}
