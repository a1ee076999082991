// SPDX-License-Identifier: GPL-2.0-or-later
//! Round-trip time: how long to wait for an answer (after RFC 6298, without TCP's one-second floor).

use std::time::Duration;

/// Before anything was measured.
const INITIAL: Duration = Duration::from_millis(400);
/// The server's own scheduling and the client's polling make shorter waits pointless.
const MIN_WAIT: Duration = Duration::from_millis(15);
/// A client that now and then stands still (a virtual machine whose host is busy) makes us wait longer, up to this.
const MAX_MIN_WAIT: Duration = Duration::from_millis(240);
/// A client that comes back is noticed within this time.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// What is known of the round-trip time.
#[derive(Debug, Clone)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    min: Option<Duration>,
    /// Waits that ended without any answer, since the last answer.
    backoff: u32,
    /// The shortest wait.
    floor: Duration,
    /// How much later than usual an answer can be only because others overtook it.
    straggle: Duration,
}

impl Default for Rtt {
    fn default() -> Self {
        Rtt {
            smoothed: None,
            variation: Duration::ZERO,
            min: None,
            backoff: 0,
            floor: MIN_WAIT,
            straggle: Duration::ZERO,
        }
    }
}

impl Rtt {
    /// A transmission was answered after `sample`.
    pub(crate) fn measured(&mut self, sample: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.variation = sample / 2;
            }
            Some(smoothed) => {
                self.variation = (self.variation * 3 + smoothed.abs_diff(sample)) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
        self.min = Some(self.min.map_or(sample, |min| min.min(sample)));
        // What was hasty once need not be for ever.
        self.floor = (self.floor - self.floor / 128).max(MIN_WAIT);
    }

    /// Some answer came.
    pub(crate) fn answered(&mut self) {
        self.backoff = 0;
    }

    /// A wait ended without an answer: wait twice as long. Whether that is the second time or more without any.
    pub(crate) fn timed_out(&mut self) -> bool {
        self.backoff = (self.backoff + 1).min(8);
        self.backoff > 1
    }

    /// An answer came after all for which the wait had been too short.
    pub(crate) fn was_hasty(&mut self) {
        self.floor = (self.floor * 2).min(MAX_MIN_WAIT);
    }

    /// An answer came after `age` that had been given up because later requests were answered before.
    pub(crate) fn was_overtaken(&mut self, age: Duration) {
        let smoothed = self.smoothed.unwrap_or(age);
        // Beyond twice the usual time it is as good as lost.
        self.straggle = self.straggle.max(age.saturating_sub(smoothed).min(smoothed));
    }

    /// A request younger than this is not lost, however many later ones have been answered.
    pub(crate) fn overtaking_age(&self) -> Duration {
        match self.smoothed {
            // Without reordering there is nothing to wait for.
            Some(smoothed) if !self.straggle.is_zero() => smoothed + self.straggle.min(smoothed),
            _ => Duration::ZERO,
        }
    }

    /// How long to wait for an answer now.
    pub(crate) fn wait(&self) -> Duration {
        let base = match self.smoothed {
            None => INITIAL,
            Some(smoothed) => smoothed + self.variation * 4,
        };
        (base.clamp(self.floor, MAX_WAIT) * (1 << self.backoff)).min(MAX_WAIT)
    }

    pub(crate) fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Requests queue up on the way, rather than being answered as fast as the path allows.
    pub(crate) fn is_inflated(&self) -> bool {
        matches!((self.smoothed, self.min), (Some(smoothed), Some(min)) if smoothed > min * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn wait_follows_the_samples() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.wait(), INITIAL);
        rtt.measured(100 * MS);
        assert_eq!(rtt.wait(), 300 * MS); // 100 + 4 * 50
        for _ in 0..100 {
            rtt.measured(100 * MS);
        }
        assert_eq!(rtt.wait(), 100 * MS);
        for _ in 0..100 {
            rtt.measured(MS);
        }
        assert_eq!(rtt.wait(), MIN_WAIT);
        rtt.was_hasty();
        assert_eq!(rtt.wait(), MIN_WAIT * 2);
        for _ in 0..10 {
            rtt.was_hasty();
        }
        assert_eq!(rtt.wait(), MAX_MIN_WAIT);
        for _ in 0..1000 {
            rtt.measured(MS);
        }
        assert_eq!(rtt.wait(), MIN_WAIT);
    }

    #[test]
    fn silence_doubles_the_wait_up_to_the_limit() {
        let mut rtt = Rtt::default();
        rtt.timed_out();
        assert_eq!(rtt.wait(), INITIAL * 2);
        for _ in 0..100 {
            rtt.timed_out();
        }
        assert_eq!(rtt.wait(), MAX_WAIT);
        rtt.answered();
        assert_eq!(rtt.wait(), INITIAL);
    }

    #[test]
    fn reordering_buys_time() {
        let mut rtt = Rtt::default();
        rtt.measured(10 * MS);
        assert_eq!(rtt.overtaking_age(), Duration::ZERO);
        rtt.was_overtaken(13 * MS);
        rtt.was_overtaken(12 * MS);
        assert_eq!(rtt.overtaking_age(), 13 * MS);
        rtt.was_overtaken(100 * MS);
        assert_eq!(rtt.overtaking_age(), 20 * MS);
    }

    #[test]
    fn inflation_is_seen_against_the_best_sample() {
        let mut rtt = Rtt::default();
        rtt.measured(10 * MS);
        assert!(!rtt.is_inflated());
        for _ in 0..50 {
            rtt.measured(30 * MS);
        }
        assert!(rtt.is_inflated());
    }
}
