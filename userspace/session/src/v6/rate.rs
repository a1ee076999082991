// SPDX-License-Identifier: GPL-2.0-or-later
//! How many datagrams may be on their way: what the path carries in two round trips, measured, not guessed from loss.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The first window, and the smallest.
const FIRST: u64 = 64;
const LEAST: u64 = 8;
/// Delivery rates that are remembered, one a round.
const ROUNDS: usize = 8;
/// A round of start-up that brings less than a quarter more …
const GROWTH: f64 = 1.25;
/// … so often in a row ends it.
const STALLS: u32 = 3;
/// On a path that is shorter than this, what fits it is less than either end takes in at a time: the one would wait for the
/// other again and again. What is more waits in a receive buffer, for no longer than this; with much more of it what waits would
/// no longer fit the processor's caches, which costs a fast path a third of its speed.
const SHORTEST: Duration = Duration::from_micros(300);
/// Beyond so much more than the least round-trip time there is a queue.
const SLACK: Duration = Duration::from_millis(2);
/// A path that loses more than this …
const TOO_LOSSY: f64 = 0.3;
/// … for so long is overloaded, whatever it carries.
const LOSSY_FOR: Duration = Duration::from_secs(3);
/// The least round-trip time is forgotten after so long: a path may change.
const MIN_FOR: Duration = Duration::from_secs(10);

/// The window.
#[derive(Debug)]
pub(crate) struct Rate {
    window: u64,
    cap: u64,
    startup: bool,
    stalls: u32,
    /// Datagrams per second of the last rounds.
    rates: VecDeque<f64>,
    min_rtt: Option<(Duration, Instant)>,
    smoothed: Option<Duration>,
    latest: Option<Duration>,
    round: Round,
    lossy_since: Option<Instant>,
    /// Halvings because of loss.
    divided: u32,
}

#[derive(Debug, Clone, Copy)]
struct Round {
    since: Instant,
    /// It ends with this counter.
    until: u64,
    /// Where it began.
    from: u64,
    received: u64,
}

impl Rate {
    pub(crate) fn new(now: Instant, cap: u64) -> Self {
        let cap = cap.max(LEAST);
        Rate {
            window: FIRST.min(cap),
            cap,
            startup: true,
            stalls: 0,
            rates: VecDeque::with_capacity(ROUNDS),
            min_rtt: None,
            smoothed: None,
            latest: None,
            round: Round { since: now, until: FIRST, from: 0, received: 0 },
            lossy_since: None,
            divided: 0,
        }
    }

    /// From here on the path is filled: what was measured with a question at a time says nothing about it.
    pub(crate) fn begin(&mut self, now: Instant, next: u64) {
        self.window = FIRST.min(self.cap);
        (self.startup, self.stalls) = (true, 0);
        self.rates.clear();
        self.round = Round { since: now, until: next.saturating_add(self.window), from: next, received: 0 };
    }

    /// Datagrams that may be on their way.
    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    /// Round-trip time, smoothed.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.smoothed
    }

    /// How long to wait for what was asked for.
    pub(crate) fn patience(&self) -> Duration {
        self.smoothed.map_or(Duration::from_millis(200), |rtt| rtt * 2 + Duration::from_millis(15))
    }

    /// How long one datagram may come after one that was sent later.
    pub(crate) fn reordering(&self) -> Duration {
        self.smoothed.map_or(Duration::from_millis(2), |rtt| rtt / 8 + Duration::from_micros(500))
    }

    /// A grant was answered.
    pub(crate) fn measured(&mut self, now: Instant, sample: Duration) {
        self.smoothed = Some(self.smoothed.map_or(sample, |smoothed| (smoothed * 7 + sample) / 8));
        self.latest = Some(sample);
        let stale = self.min_rtt.is_none_or(|(min, at)| sample <= min || now.saturating_duration_since(at) > MIN_FOR);
        if stale {
            self.min_rtt = Some((sample, now));
        }
    }

    /// A datagram came; `next` is the highest counter so far plus 1, `credit` what was granted.
    pub(crate) fn received(&mut self, now: Instant, next: u64, credit: u64) {
        self.round.received += 1;
        if next < self.round.until {
            return;
        }
        let elapsed = now.saturating_duration_since(self.round.since);
        let round = self.round;
        self.round = Round { since: now, until: credit.max(next.saturating_add(1)), from: next, received: 0 };
        if elapsed.is_zero() {
            return;
        }
        self.end_round(now, round, next, elapsed);
    }

    fn end_round(&mut self, now: Instant, round: Round, next: u64, elapsed: Duration) {
        let rate = round.received as f64 / elapsed.as_secs_f64();
        let before = self.best();
        if self.rates.len() == ROUNDS {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
        self.note_loss(now, 1.0 - round.received as f64 / (next - round.from).max(1) as f64);
        if self.startup {
            self.stalls = if rate > before * GROWTH { 0 } else { self.stalls + 1 };
            // A queue that does not make it faster is the end of the path's room.
            let full = self.stalls > 0 && self.is_queueing();
            self.startup = self.stalls < STALLS && self.divided == 0 && !full;
        }
        let carried = self.min_rtt.map_or(0.0, |(rtt, _)| self.best() * rtt.max(SHORTEST).as_secs_f64());
        let window = if self.startup {
            // What was measured lags a doubling behind.
            (self.window * 2).min(((carried * 4.0) as u64).saturating_add(FIRST))
        } else if self.is_queueing() {
            (carried * 1.25) as u64
        } else {
            ((carried * 2.0) as u64).saturating_add(4)
        };
        self.window = (window >> self.divided.min(32)).clamp(LEAST, self.cap);
    }

    fn best(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    fn is_queueing(&self) -> bool {
        // In start-up an average would be late.
        let now = if self.startup { self.latest } else { self.smoothed };
        matches!((now, self.min_rtt), (Some(now), Some((min, _))) if now > min + min / 4 + SLACK)
    }

    fn note_loss(&mut self, now: Instant, loss: f64) {
        if loss <= TOO_LOSSY {
            self.lossy_since = None;
            self.divided = self.divided.saturating_sub(1);
            return;
        }
        let since = *self.lossy_since.get_or_insert(now);
        if now.saturating_duration_since(since) > LOSSY_FOR {
            self.divided = (self.divided + 1).min(16);
            // The next second counts anew.
            self.lossy_since = Some(since + Duration::from_secs(1));
        }
    }

    /// The socket had no room for some.
    pub(crate) fn overflowed(&mut self) {
        self.startup = false;
        self.window = (self.window / 2).max(LEAST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that carries `rate` datagrams a second, `rtt` long: the window after some rounds.
    fn settled(rate: f64, rtt: Duration, cap: u64) -> u64 {
        let mut now = Instant::now();
        let mut it = Rate::new(now, cap);
        let (mut next, mut credit) = (0, it.window());
        for _ in 0..40 {
            let sent = credit - next;
            let took = rtt.max(Duration::from_secs_f64(sent as f64 / rate));
            it.measured(now, took);
            for n in 0..sent {
                it.received(now + took * (n as u32 + 1) / sent as u32, next + n + 1, credit);
            }
            now += took;
            next += sent;
            credit = next + it.window();
        }
        it.window()
    }

    #[test]
    fn the_window_is_about_what_the_path_holds() {
        let ms = Duration::from_millis(1);
        for (rate, rtt) in [(100_000.0, ms), (800_000.0, ms / 5), (10_000.0, 50 * ms), (80_000.0, 10 * ms)] {
            let holds = rate * rtt.max(SHORTEST).as_secs_f64();
            let window = settled(rate, rtt, 1 << 20) as f64;
            assert!(window >= holds * 0.99 && window <= holds * 3.0 + 8.0, "{window} where {holds} would do");
        }
        assert_eq!(settled(1e6, 50 * ms, 1000), 1000, "no more than the receiver has room for");
    }
}
