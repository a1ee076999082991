// SPDX-License-Identifier: GPL-2.0-or-later
//! Round-trip time: how long to wait for an answer (after RFC 6298, without TCP's one-second floor).

use std::time::Duration;

/// Before anything was measured.
const INITIAL: Duration = Duration::from_millis(400);
/// The server's own scheduling and the client's polling make shorter waits pointless.
const MIN_WAIT: Duration = Duration::from_millis(15);
/// A client that comes back is noticed within this time.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// What is known of the round-trip time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rtt {
    smoothed: Option<Duration>,
    variation: Duration,
    min: Option<Duration>,
    /// Waits that ended without any answer, since the last answer.
    backoff: u32,
}

impl Rtt {
    /// A request that was sent once was answered in full after `sample`.
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

    /// How long to wait for an answer now.
    pub(crate) fn wait(&self) -> Duration {
        let base = match self.smoothed {
            None => INITIAL,
            Some(smoothed) => smoothed + self.variation * 4,
        };
        (base.clamp(MIN_WAIT, MAX_WAIT) * (1 << self.backoff)).min(MAX_WAIT)
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
