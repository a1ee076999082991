// SPDX-License-Identifier: GPL-2.0-or-later
//! How many requests may be unanswered at a time.
//!
//! The window is judged once per round: from a request being sent until it or a later one is answered.
//! A page costs one small datagram one way and four large ones back to back the other way, so what gives
//! way first is the client's receive ring, a switch's queue towards us, or our own socket buffer. All of
//! them show as loss *with* requests queueing up; loss while answers come as fast as they ever did is the
//! cable's, and a smaller window would not make it less.

use crate::rtt::Rtt;

const INITIAL: usize = 16;
/// Fewer than this, and there are no later answers to tell by that one is missing: each loss would cost a timeout.
/// So few small requests burden nobody.
pub(crate) const MIN: usize = 8;
/// Where requests queue up and little is lost: less would leave the client idle while our process waits for its turn.
const MIN_QUEUEING: usize = 32;

/// The window and what happened in the round.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    size: usize,
    max: usize,
    /// Doubles each round up to this size, and grows slowly beyond it.
    threshold: usize,
    /// The round ends when this or a later transmission is answered.
    round_end: u64,
    /// Datagrams of answers that came.
    arrived: usize,
    /// Datagrams of answers that should have come.
    missing: usize,
    /// Our own socket dropped datagrams in this round.
    overflowed: bool,
    /// The window was what held us back in this round.
    was_full: bool,
}

impl Window {
    pub(crate) fn new(max: usize) -> Self {
        let max = max.max(MIN);
        Window {
            size: INITIAL.min(max),
            max,
            threshold: max,
            round_end: 0,
            arrived: 0,
            missing: 0,
            overflowed: false,
            was_full: false,
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// There was more to ask for than the window allowed.
    pub(crate) fn note_full(&mut self) {
        self.was_full = true;
    }

    /// A datagram of an answer came.
    pub(crate) fn arrived(&mut self) {
        self.arrived += 1;
    }

    /// A transmission was taken for lost, and with it so many datagrams of answers.
    pub(crate) fn lost(&mut self, datagrams: usize) {
        self.missing += datagrams;
    }

    /// The answer to a transmission that was taken for lost came after all.
    pub(crate) fn found(&mut self, datagrams: usize) {
        self.missing = self.missing.saturating_sub(datagrams);
    }

    /// Transmission `seq` was answered in full; `next` will be the number of the next one.
    pub(crate) fn answered(&mut self, seq: u64, next: u64, rtt: &Rtt) {
        if seq >= self.round_end {
            self.judge(rtt);
            self.round_end = next;
        }
    }

    /// Nothing at all came for longer than an answer takes: start over, gently.
    pub(crate) fn silent(&mut self) {
        // Silence that lasts must not take away more and more.
        if self.size > MIN {
            self.threshold = self.size / 2;
        }
        self.size = MIN;
        self.start_round();
    }

    /// Our own socket dropped datagrams.
    pub(crate) fn overflowed(&mut self) {
        self.overflowed = true;
    }

    fn judge(&mut self, rtt: &Rtt) {
        let before = self.size;
        let shrunk = |size: usize, floor: usize| size.max(floor).min(before);
        if self.missing > self.arrived * 3 {
            self.size = shrunk(before / 2, MIN);
            self.threshold = self.size;
        } else if self.overflowed || (self.missing > 0 && rtt.is_inflated()) {
            let much = self.missing > self.arrived * 2;
            self.size = shrunk(before * 3 / 4, if much { MIN } else { MIN_QUEUEING });
            self.threshold = self.size;
        } else if self.missing == 0 && self.was_full {
            let quick = self.threshold.max(MIN_QUEUEING);
            self.size = if before < quick { (before * 2).min(quick) } else { before + 1 + before / 16 };
        }
        self.size = self.size.clamp(MIN, self.max);
        self.start_round();
    }

    fn start_round(&mut self) {
        self.arrived = 0;
        self.missing = 0;
        self.overflowed = false;
        self.was_full = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    struct Test {
        window: Window,
        seq: u64,
        rtt: Rtt,
    }

    impl Test {
        fn new() -> Self {
            let mut window = Window::new(256);
            window.answered(0, 1, &Rtt::default()); // opens the first round
            Test { window, seq: 1, rtt: Rtt::default() }
        }

        /// A round with a full window, in which so many datagrams came and so many did not.
        fn round(&mut self, arrived: usize, missing: usize) -> usize {
            self.window.note_full();
            for _ in 0..arrived {
                self.window.arrived();
            }
            self.window.lost(missing);
            self.seq += 10;
            self.window.answered(self.seq, self.seq + 1, &self.rtt);
            self.window.size()
        }

        fn queueing(&mut self) {
            self.rtt.measured(Duration::from_millis(1));
            for _ in 0..50 {
                self.rtt.measured(Duration::from_millis(20));
            }
        }
    }

    #[test]
    fn doubles_until_the_limit_without_loss() {
        let mut t = Test::new();
        let sizes: Vec<_> = (0..6).map(|_| t.round(64, 0)).collect();
        assert_eq!(sizes, [32, 64, 128, 256, 256, 256]);
    }

    #[test]
    fn loss_on_an_idle_path_does_not_shrink_it() {
        let mut t = Test::new();
        t.rtt.measured(Duration::from_millis(1));
        t.round(64, 0);
        assert_eq!(t.round(60, 40), 32);
    }

    #[test]
    fn loss_with_queueing_shrinks_it_and_growth_is_then_slow() {
        let mut t = Test::new();
        for _ in 0..3 {
            t.round(64, 0);
        }
        t.queueing();
        assert_eq!(t.round(120, 2), 96);
        assert_eq!(t.round(96, 0), 103);
        for _ in 0..20 {
            t.round(96, 2);
        }
        assert_eq!(t.window.size(), 32);
    }

    #[test]
    fn heavy_loss_halves_it_down_to_the_floor() {
        let mut t = Test::new();
        t.round(64, 0);
        assert_eq!(t.round(10, 90), 16);
        for _ in 0..10 {
            t.round(10, 90);
        }
        assert_eq!(t.window.size(), 8);
    }

    #[test]
    fn own_drops_and_silence_shrink_it() {
        let mut t = Test::new();
        for _ in 0..3 {
            t.round(64, 0);
        }
        t.window.overflowed();
        assert_eq!(t.round(128, 0), 96);
        t.window.silent();
        assert_eq!(t.window.size(), 8);
        assert_eq!(t.round(32, 0), 16);
    }

    #[test]
    fn an_unused_window_does_not_grow() {
        let mut t = Test::new();
        for seq in 10..100 {
            t.window.answered(seq, seq + 1, &t.rtt);
        }
        assert_eq!(t.window.size(), 16);
    }
}
