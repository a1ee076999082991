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
/// … for so long may be overloaded. Whether it is shows when less is sent: if it loses as much as before it is a bad path, and
/// sending less would only be slower; otherwise what it carries is the limit.
const LOSSY_FOR: Duration = Duration::from_secs(3);
/// After a bad path was found to be one it is not tried again for so long.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Datagrams over which a trial looks at the loss, and rounds before, which say nothing: they were sent earlier.
const TRIAL: u64 = 400;
const TRIAL_LAG: u32 = 2;
/// Loss that the window makes up for, at most: what is lost on a path that is full is not to be made up for.
const MADE_UP: f64 = 0.35;
/// Loss of a path on which two copies of each datagram of ours are sent.
const COPIES: f64 = 0.02;
/// Datagrams over which loss is averaged.
const LOSS_OVER: f64 = 1000.0;
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
    /// How far samples are from `smoothed`, smoothed.
    deviation: Duration,
    latest: Option<Duration>,
    round: Round,
    /// Share of datagrams lost, averaged.
    loss: f64,
    lossy_since: Option<Instant>,
    trial: Option<Trial>,
    /// The window is no larger, because the path was found to be full.
    ceiling: Option<(u64, Instant)>,
}

/// Less is sent, to see whether less is lost then.
#[derive(Debug, Clone, Copy)]
struct Trial {
    /// Loss before.
    before: f64,
    window: u64,
    rounds: u32,
    sent: u64,
    received: u64,
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
            deviation: Duration::ZERO,
            latest: None,
            round: Round { since: now, until: FIRST, from: 0, received: 0 },
            loss: 0.0,
            lossy_since: None,
            trial: None,
            ceiling: None,
        }
    }

    /// The receiver has room for so many.
    pub(crate) fn set_cap(&mut self, cap: u64) {
        self.cap = cap.max(LEAST);
        self.window = self.window.min(self.cap);
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

    /// How long to wait for what was asked for, where the client may have work with it.
    pub(crate) fn patience(&self) -> Duration {
        self.smoothed.map_or(Duration::from_millis(200), |rtt| rtt * 2 + Duration::from_millis(15))
    }

    /// How long to wait for memory that was asked for, if nothing else is to come before it.
    pub(crate) fn repair_patience(&self) -> Duration {
        self.smoothed.map_or(Duration::from_millis(200), |rtt| rtt + rtt / 4 + self.deviation * 4 + SLACK)
    }

    /// How long so many datagrams take.
    pub(crate) fn time_of(&self, datagrams: u64) -> Duration {
        // Not before something was measured, and no longer than anybody waits.
        let seconds = if self.rates.is_empty() { 0.0 } else { datagrams as f64 / self.best().max(1.0) };
        Duration::from_secs_f64(seconds.min(1.0))
    }

    /// Whether so much is lost that what is sent to the client is sent twice: there are few of them and they are small, and
    /// it is their loss that makes everybody wait.
    pub(crate) fn is_lossy(&self) -> bool {
        self.loss > COPIES
    }

    /// How long one datagram may come after one that was sent later.
    pub(crate) fn reordering(&self) -> Duration {
        self.smoothed.map_or(Duration::from_millis(2), |rtt| rtt / 8 + Duration::from_micros(500))
    }

    /// A grant was answered.
    pub(crate) fn measured(&mut self, now: Instant, sample: Duration) {
        let off = self.smoothed.map_or(sample / 2, |smoothed| smoothed.abs_diff(sample));
        self.deviation = if self.smoothed.is_none() { off } else { (self.deviation * 3 + off) / 4 };
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
        self.note_loss(now, round.received, (next - round.from).max(1));
        if self.startup {
            self.stalls = if rate > before * GROWTH { 0 } else { self.stalls + 1 };
            // A queue that does not make it faster is the end of the path's room.
            let full = self.stalls > 0 && self.is_queueing();
            self.startup = self.stalls < STALLS && self.ceiling.is_none() && !full;
        }
        let carried = self.carried();
        let window = if self.startup {
            // What was measured lags a doubling behind.
            (self.window * 2).min(((carried * 4.0) as u64).saturating_add(FIRST))
        } else if self.is_queueing() {
            (carried * 1.25) as u64
        } else {
            // What is lost takes room on the way as well.
            ((carried * 2.0 / (1.0 - self.loss.min(MADE_UP))) as u64).saturating_add(4)
        };
        let trial = self.trial.map_or(u64::MAX, |trial| trial.window);
        let ceiling = self.ceiling.map_or(u64::MAX, |(ceiling, _)| ceiling);
        self.window = window.min(trial).min(ceiling).clamp(LEAST, self.cap);
    }

    /// Datagrams that arrive in the least round-trip time.
    fn carried(&self) -> f64 {
        self.min_rtt.map_or(0.0, |(rtt, _)| self.best() * rtt.max(SHORTEST).as_secs_f64())
    }

    fn best(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    fn is_queueing(&self) -> bool {
        // In start-up an average would be late.
        let now = if self.startup { self.latest } else { self.smoothed };
        matches!((now, self.min_rtt), (Some(now), Some((min, _))) if now > min + min / 4 + SLACK)
    }

    /// Of `sent` datagrams so many came.
    fn note_loss(&mut self, now: Instant, received: u64, sent: u64) {
        // Copies can make it more than all.
        let loss = 1.0 - (received as f64 / sent as f64).min(1.0);
        self.loss += (loss - self.loss) * (sent as f64 / LOSS_OVER).min(1.0);
        if let Some((ceiling, since)) = &mut self.ceiling {
            // A path may get wider.
            if now.saturating_duration_since(*since) > Duration::from_secs(1) {
                (*ceiling, *since) = (*ceiling + *ceiling / 8 + 1, now);
            }
        }
        if let Some(trial) = &mut self.trial {
            trial.rounds += 1;
            if trial.rounds > TRIAL_LAG {
                // A client may count as it likes.
                trial.sent = trial.sent.saturating_add(sent);
                trial.received += received;
            }
            if trial.sent < TRIAL {
                return;
            }
            let after = 1.0 - (trial.received as f64 / trial.sent as f64).min(1.0);
            if after < trial.before * 0.75 {
                self.ceiling = Some((trial.window, now));
                self.lossy_since = None;
            } else {
                self.lossy_since = Some(now + TRY_AGAIN);
            }
            self.trial = None;
            return;
        }
        if self.loss <= TOO_LOSSY {
            // While it is known for a bad path, less loss for a moment is chance.
            self.lossy_since = self.lossy_since.filter(|since| *since > now);
            return;
        }
        let since = *self.lossy_since.get_or_insert(now);
        if now.saturating_duration_since(since) > LOSSY_FOR {
            // No more than arrives.
            let window = (self.carried() as u64).min(self.window / 2).max(LEAST);
            self.trial = Some(Trial { before: self.loss, window, rounds: 0, sent: 0, received: 0 });
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

    /// A path that carries `rate` datagrams a second and loses the share `loss` of them, 1 ms long. What is more waits, or is lost
    /// if there is no room to wait: the window after 20 s, and the share that came in the second half of them.
    fn lossy(rate: f64, loss: f64, waits: bool) -> (u64, f64) {
        let rtt = Duration::from_millis(1);
        let mut now = Instant::now();
        let mut it = Rate::new(now, 1 << 16);
        let mut chance = fastrand(1);
        let (mut next, mut credit) = (0, it.window());
        let (mut all, mut came) = (0, 0);
        let end = now + Duration::from_secs(20);
        while now < end {
            let sent = credit - next;
            let room = (rate * rtt.as_secs_f64()) as u64;
            let took = if waits { rtt.max(Duration::from_secs_f64(sent as f64 / rate)) } else { rtt };
            it.measured(now, took);
            for n in 0..sent {
                let fits = waits || n * room.min(sent) / sent != (n + 1) * room.min(sent) / sent;
                if fits && chance() >= loss {
                    it.received(now + took * (n as u32 + 1) / sent as u32, next + n + 1, credit);
                    came += u64::from(now + Duration::from_secs(10) > end);
                }
            }
            all += if now + Duration::from_secs(10) > end { sent } else { 0 };
            now += took;
            next += sent;
            credit = next + it.window();
        }
        (it.window(), came as f64 / all as f64)
    }

    /// Numbers from 0 to 1.
    fn fastrand(mut seed: u64) -> impl FnMut() -> f64 {
        move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    #[test]
    fn a_bad_path_is_no_full_one() {
        let rate = 1e5;
        for loss in [0.05, 0.2, 0.29, 0.31, 0.35, 0.5] {
            let (window, came) = lossy(rate, loss, true);
            println!("{loss}: {window} {came}");
            // 100 fill it, and some wait.
            assert!((100..1000).contains(&window), "{loss}: {window}: it was taken for a full one");
        }
        let (window, came) = lossy(rate, 0.0, false);
        println!("full: {window} {came}");
        assert!(
            (80..200).contains(&window) && came > 0.7,
            "{window} {came}: most of it is lost because of what we send"
        );
    }
}
