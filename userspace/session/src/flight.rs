// SPDX-License-Identifier: GPL-2.0-or-later
//! Requests on their way: which number belongs to what, and which are lost.
//!
//! A *unit* is what is wanted (a page, a block of an item); a *transmission* is one request for it, with
//! a number of its own. Transmissions stand in one queue in the order of sending. The client answers in
//! that order too, so a transmission is lost when one sent well after it has been answered, or when its
//! time is up; the oldest open one is always the first to be either. Every operation is O(1) amortized.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use netdump_core::wire::RequestId;

use crate::number::{BuildNumberHasher, Numbers};

/// Answers may overtake each other by so many transmissions before one is taken for lost; grows when that was wrong.
const INITIAL_REORDER: u64 = 8;
const MAX_REORDER: u64 = 128;

/// A number that the client may answer to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Live {
    /// What was asked for.
    pub(crate) unit: u32,
    /// Place among all transmissions.
    pub(crate) seq: u64,
    /// When it was sent.
    pub(crate) at: Instant,
    /// Neither answered nor lost.
    open: bool,
    /// Why it was taken for lost, until an answer proves that wrong.
    lost: Option<Cause>,
}

/// When nothing comes, so many of the oldest requests are repeated: their answers, or those of the others, then
/// show by their order what is lost. Repeating all would double the work of a client that only stood still.
pub(crate) const PROBES: usize = 2;

/// Why a transmission is taken for lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Later ones were answered.
    Order,
    /// No answer in time.
    Time,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    seq: u64,
    nr: RequestId,
}

/// All live numbers of the present phase.
#[derive(Debug)]
pub(crate) struct Flight {
    live: HashMap<u32, Live, BuildNumberHasher>,
    order: VecDeque<Sent>,
    open: usize,
    next_seq: u64,
    newest_answered: u64,
    reorder: u64,
}

impl Flight {
    pub(crate) fn new() -> Self {
        Flight {
            live: HashMap::default(),
            order: VecDeque::new(),
            open: 0,
            next_seq: 1,
            newest_answered: 0,
            reorder: INITIAL_REORDER,
        }
    }

    /// Transmissions that are neither answered nor lost.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Number of the next transmission.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// A transmission for `unit` leaves now.
    pub(crate) fn send(&mut self, now: Instant, unit: u32, numbers: &mut Numbers) -> RequestId {
        let mut nr = numbers.next();
        while self.live.contains_key(&nr.0) {
            nr = numbers.next();
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        self.live.insert(nr.0, Live { unit, seq, at: now, open: true, lost: None });
        self.order.push_back(Sent { seq, nr });
        self.open += 1;
        nr
    }

    /// What a number stands for, if it is live.
    pub(crate) fn get(&self, nr: RequestId) -> Option<Live> {
        self.live.get(&nr.0).copied()
    }

    /// The first or a further answer to `nr` came. If it had been taken for lost, wrongly: why, and when it was sent.
    pub(crate) fn saw(&mut self, nr: RequestId) -> Option<(Cause, Instant)> {
        let live = self.live.get_mut(&nr.0)?;
        self.newest_answered = self.newest_answered.max(live.seq);
        let lost = live.lost.take()?;
        if lost == Cause::Order {
            self.reorder = (self.reorder * 2).min(MAX_REORDER);
        }
        Some((lost, live.at))
    }

    /// Nothing more is expected for `nr`, but late copies are still known.
    pub(crate) fn settle(&mut self, nr: RequestId) {
        if let Some(live) = self.live.get_mut(&nr.0) {
            if live.open {
                live.open = false;
                self.open -= 1;
            }
        }
        self.trim();
    }

    /// Answers to `nr` are unknown from now on.
    pub(crate) fn forget(&mut self, nr: RequestId) {
        if let Some(live) = self.live.remove(&nr.0) {
            if live.open {
                self.open -= 1;
            }
        }
        self.trim();
    }

    /// Drops what is no longer open from the front of the queue.
    fn trim(&mut self) {
        while let Some(front) = self.order.front() {
            match self.live.get(&front.nr.0) {
                Some(live) if live.open && live.seq == front.seq => break,
                _ => self.order.pop_front(),
            };
        }
    }

    /// The oldest open transmission, if others that were sent well after it have been answered and it is at least
    /// `age` old: it is lost. Ask until `None`.
    ///
    /// With a small `window` there are not many later answers to be had, so fewer have to do.
    pub(crate) fn take_overtaken(&mut self, now: Instant, age: Duration, window: usize) -> Option<u32> {
        let overtaken = self.reorder.min(window.max(6) as u64 / 2);
        let newest = self.newest_answered;
        self.take_oldest(Cause::Order, |live| newest >= live.seq.saturating_add(overtaken) && now >= live.at + age)
    }

    /// The oldest open transmission, if its time is up: it is taken for lost.
    pub(crate) fn take_late(&mut self, now: Instant, wait: Duration) -> Option<u32> {
        self.take_oldest(Cause::Time, |live| now >= live.at + wait)
    }

    fn take_oldest(&mut self, cause: Cause, is_lost: impl FnOnce(&Live) -> bool) -> Option<u32> {
        let front = self.order.front()?;
        let live = self.live.get_mut(&front.nr.0).filter(|live| is_lost(live))?;
        live.open = false;
        live.lost = Some(cause);
        let unit = live.unit;
        self.open -= 1;
        self.trim();
        Some(unit)
    }

    /// When the oldest open transmission times out.
    pub(crate) fn deadline(&self, wait: Duration) -> Option<Instant> {
        let front = self.order.front()?;
        Some(self.live.get(&front.nr.0)?.at + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(100);

    struct Test {
        flight: Flight,
        numbers: Numbers,
        now: Instant,
    }

    impl Test {
        fn new() -> Self {
            Test { flight: Flight::new(), numbers: Numbers::new([7; 32]), now: Instant::now() }
        }

        fn send(&mut self, unit: u32) -> RequestId {
            self.flight.send(self.now, unit, &mut self.numbers)
        }

        fn answer(&mut self, nr: RequestId) {
            assert_eq!(self.flight.saw(nr), None);
            self.flight.settle(nr);
        }
    }

    #[test]
    fn time_takes_the_oldest_first() {
        let mut t = Test::new();
        let first = t.send(1);
        t.now += Duration::from_millis(10);
        t.send(2);
        assert_eq!(t.flight.deadline(WAIT), Some(t.now + Duration::from_millis(90)));
        let late = t.now + Duration::from_millis(95);
        assert_eq!(t.flight.take_late(late, WAIT), Some(1));
        assert_eq!(t.flight.take_late(late, WAIT), None);
        assert_eq!(t.flight.open(), 1);
        // A late answer is still known.
        assert!(t.flight.get(first).is_some());
        assert_eq!(t.flight.saw(first).map(|(cause, _)| cause), Some(Cause::Time));
    }

    #[test]
    fn order_takes_what_was_overtaken_by_far() {
        let mut t = Test::new();
        let nrs: Vec<_> = (0..20).map(|unit| t.send(unit)).collect();
        t.answer(nrs[7]);
        assert_eq!(t.flight.take_overtaken(t.now, Duration::ZERO, 64), None);
        t.answer(nrs[9]);
        assert_eq!(t.flight.take_overtaken(t.now, WAIT, 64), None); // not old enough
        assert_eq!(t.flight.take_overtaken(t.now, Duration::ZERO, 64), Some(0));
        assert_eq!(t.flight.take_overtaken(t.now, Duration::ZERO, 64), Some(1));
        assert_eq!(t.flight.take_overtaken(t.now, Duration::ZERO, 64), None);
        assert_eq!(t.flight.open(), 16);
        assert_eq!(t.flight.saw(nrs[0]), Some((Cause::Order, t.now))); // too early: from now on 16 must have overtaken
        assert_eq!(t.flight.saw(nrs[0]), None);
        t.answer(nrs[19]);
        assert_eq!(t.flight.take_overtaken(t.now, Duration::ZERO, 64), Some(2));
        assert_eq!(t.flight.take_overtaken(t.now, Duration::ZERO, 64), Some(3));
        assert_eq!(t.flight.take_overtaken(t.now, Duration::ZERO, 64), None);
        assert_eq!(t.flight.take_overtaken(t.now, Duration::ZERO, 2), Some(4));
    }

    #[test]
    fn settled_and_forgotten_numbers_time_out_no_more() {
        let mut t = Test::new();
        let (a, b) = (t.send(1), t.send(2));
        t.answer(a);
        t.flight.forget(b);
        assert_eq!(t.flight.open(), 0);
        assert_eq!(t.flight.deadline(WAIT), None);
        assert!(t.flight.get(a).is_some());
        assert!(t.flight.get(b).is_none());
    }
}
