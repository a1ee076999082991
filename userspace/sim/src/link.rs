// SPDX-License-Identifier: GPL-2.0-or-later
//! One direction of a bad network, without a clock: frames go in with the time, and come out when they are due.
//!
//! The same model serves tests in virtual time and the relay between virtual machines. All chance comes from one
//! seeded generator, so a run is repeated by its seed and its input.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use serde::Serialize;

/// What is done to frames. All zero is a perfect wire.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkParams {
    /// Share of frames lost.
    pub loss: f64,
    /// Share of frames delivered twice.
    pub duplicate: f64,
    /// Share of frames held back by up to `reorder_by`, so that later ones overtake them.
    pub reorder: f64,
    /// Longest time that a frame is held back, ns.
    pub reorder_by: u64,
    /// Share of frames in which one byte is changed.
    pub tamper: f64,
    /// Bytes at the front of a frame that are never changed, such as an Ethernet header.
    pub tamper_from: usize,
    /// Time on the wire, ns.
    pub delay: u64,
    /// Extra time of 0 to this, ns. It does not reorder: a slow frame delays those behind it.
    pub jitter: u64,
    /// Bits per second; `None` is no limit.
    pub rate: Option<u64>,
    /// Longer frames are dropped, bytes; `None` is no limit.
    pub longest: Option<usize>,
    /// Bytes that wait at most, for their turn at `rate` or for their time; more are dropped.
    pub queue: usize,
}

impl Default for LinkParams {
    fn default() -> Self {
        LinkParams {
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: 2_000_000,
            tamper: 0.0,
            tamper_from: 0,
            delay: 0,
            jitter: 0,
            rate: None,
            longest: None,
            queue: 16 << 20,
        }
    }
}

/// What was done to frames. `offered + duplicated = lost + too_long + overrun + delivered + (still in flight)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LinkStats {
    /// Frames that went in.
    pub offered: u64,
    /// Bytes in them.
    pub offered_bytes: u64,
    /// Dropped on purpose.
    pub lost: u64,
    /// Dropped because they were too long.
    pub too_long: u64,
    /// Dropped because too much was waiting.
    pub overrun: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Frames that came out after one that went in later.
    pub reordered: u64,
    /// Frames with a changed byte.
    pub tampered: u64,
    /// Frames that came out, copies included.
    pub delivered: u64,
    /// Bytes in them.
    pub delivered_bytes: u64,
}

#[derive(Debug)]
struct InFlight<T> {
    due: u64,
    /// Keeps frames due at the same time in order.
    place: u64,
    /// Which offered frame it is; two copies share it.
    seq: u64,
    frame: T,
}

impl<T> PartialEq for InFlight<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.place) == (other.due, other.place)
    }
}

impl<T> Eq for InFlight<T> {}

impl<T> PartialOrd for InFlight<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for InFlight<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.place).cmp(&(other.due, other.place))
    }
}

/// One direction of a network.
#[derive(Debug)]
pub struct Link<T> {
    params: LinkParams,
    rng: fastrand::Rng,
    in_flight: BinaryHeap<Reverse<InFlight<T>>>,
    waiting_bytes: usize,
    next_place: u64,
    next_seq: u64,
    /// The highest `seq` that came out.
    newest_out: Option<u64>,
    /// When the wire is free for the next frame.
    free_at: u64,
    /// When the last frame that was not held back is due; none overtakes it by chance.
    last_due: u64,
    stats: LinkStats,
}

impl<T: AsRef<[u8]> + AsMut<[u8]> + Clone> Link<T> {
    /// A link with nothing on it.
    pub fn new(params: LinkParams, seed: u64) -> Self {
        Link {
            params,
            rng: fastrand::Rng::with_seed(seed),
            in_flight: BinaryHeap::new(),
            waiting_bytes: 0,
            next_place: 0,
            next_seq: 0,
            newest_out: None,
            free_at: 0,
            last_due: 0,
            stats: LinkStats::default(),
        }
    }

    /// Changes what is done to frames that go in from now on.
    pub fn set_params(&mut self, params: LinkParams) {
        self.params = params;
    }

    /// What was done so far.
    pub fn stats(&self) -> &LinkStats {
        &self.stats
    }

    /// Frames that have not come out yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Puts a frame in at the time `now`, ns. A frame that is dropped is handed back, for its buffer.
    pub fn offer(&mut self, now: u64, mut frame: T) -> Option<T> {
        let len = frame.as_ref().len();
        self.stats.offered += 1;
        self.stats.offered_bytes += len as u64;
        let seq = self.next_seq;
        self.next_seq += 1;
        if self.chance(self.params.loss) {
            self.stats.lost += 1;
            // It is lost at the far end: the wire was busy with it. Where there is a queue it has waited in it, if there was room.
            if self.waiting_bytes + len <= self.params.queue {
                self.occupy(now, len);
            }
            return Some(frame);
        }
        if self.params.longest.is_some_and(|longest| len > longest) {
            self.stats.too_long += 1;
            return Some(frame);
        }
        if self.waiting_bytes + len > self.params.queue {
            self.stats.overrun += 1;
            return Some(frame);
        }
        if len > self.params.tamper_from && self.chance(self.params.tamper) {
            let at = self.rng.usize(self.params.tamper_from..len);
            frame.as_mut()[at] ^= self.rng.u8(1..);
            self.stats.tampered += 1;
        }
        let due = self.due(now, len);
        if self.waiting_bytes + 2 * len <= self.params.queue && self.chance(self.params.duplicate) {
            self.stats.duplicated += 1;
            let copy = frame.clone();
            let due = self.due(now, len);
            self.insert(due, seq, copy);
        }
        self.insert(due, seq, frame);
        None
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.rng.f64() < probability
    }

    /// When the wire is done with a frame of `len` bytes that goes in now.
    fn occupy(&mut self, now: u64, len: usize) -> u64 {
        let Some(rate) = self.params.rate else { return now };
        let nanos = u128::from(len as u64) * 8 * 1_000_000_000 / u128::from(rate);
        self.free_at = now.max(self.free_at).saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.free_at
    }

    /// When a frame of `len` bytes that goes in now comes out.
    fn due(&mut self, now: u64, len: usize) -> u64 {
        let mut at = self.occupy(now, len).saturating_add(self.params.delay);
        if self.params.jitter > 0 {
            at = at.saturating_add(self.rng.u64(0..=self.params.jitter));
        }
        if self.chance(self.params.reorder) {
            return at.saturating_add(self.rng.u64(1..=self.params.reorder_by.max(1)));
        }
        self.last_due = self.last_due.max(at);
        self.last_due
    }

    fn insert(&mut self, due: u64, seq: u64, frame: T) {
        self.waiting_bytes += frame.as_ref().len();
        let place = self.next_place;
        self.next_place += 1;
        self.in_flight.push(Reverse(InFlight { due, place, seq, frame }));
    }

    /// When the next frame comes out.
    pub fn next_due(&self) -> Option<u64> {
        self.in_flight.peek().map(|next| next.0.due)
    }

    /// The next frame that is due at the time `now`.
    pub fn take_due(&mut self, now: u64) -> Option<T> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(out) = self.in_flight.pop()?;
        let len = out.frame.as_ref().len();
        self.waiting_bytes -= len;
        self.stats.delivered += 1;
        self.stats.delivered_bytes += len as u64;
        match self.newest_out {
            Some(newest) if newest > out.seq => self.stats.reordered += 1,
            _ => self.newest_out = Some(out.seq),
        }
        Some(out.frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends frames 0, 1, 2 … a microsecond apart and returns what came out, with the time.
    fn run(params: LinkParams, count: u32, seed: u64) -> (Vec<(u64, u32)>, LinkStats) {
        let mut link = Link::new(params, seed);
        let mut out = Vec::new();
        let mut take = |link: &mut Link<Vec<u8>>, now: u64| {
            while let Some(frame) = link.take_due(now) {
                out.push((now, u32::from_be_bytes(frame[..4].try_into().unwrap())));
            }
        };
        for n in 0..count {
            let now = u64::from(n) * 1000;
            let mut frame = vec![0u8; 125]; // 1000 bits
            frame[..4].copy_from_slice(&n.to_be_bytes());
            link.offer(now, frame);
            take(&mut link, now);
        }
        while let Some(due) = link.next_due() {
            take(&mut link, due);
        }
        assert_eq!((link.in_flight(), link.waiting_bytes), (0, 0));
        (out, *link.stats())
    }

    fn share(part: u64, of: u64) -> f64 {
        part as f64 / of as f64
    }

    #[test]
    fn a_perfect_wire_changes_nothing() {
        let (out, stats) = run(LinkParams::default(), 1000, 1);
        assert!(out.iter().enumerate().all(|(n, (at, frame))| *frame == n as u32 && *at == n as u64 * 1000));
        assert_eq!((stats.lost, stats.reordered, stats.delivered), (0, 0, 1000));
    }

    #[test]
    fn shares_are_those_asked_for() {
        let params = LinkParams { loss: 0.1, duplicate: 0.05, reorder: 0.02, tamper: 0.01, ..Default::default() };
        let (out, stats) = run(params, 100_000, 2);
        assert!((0.09..0.11).contains(&share(stats.lost, stats.offered)), "{stats:?}");
        assert!((0.04..0.05).contains(&share(stats.duplicated, stats.offered)), "of those not lost: {stats:?}");
        assert!((0.01..0.02).contains(&share(stats.reordered, stats.offered)), "{stats:?}");
        assert!((0.007..0.011).contains(&share(stats.tampered, stats.offered)), "{stats:?}");
        assert_eq!(stats.offered + stats.duplicated, stats.lost + stats.delivered);
        assert_eq!(out.len() as u64, stats.delivered);
    }

    #[test]
    fn the_same_seed_does_the_same() {
        let params = LinkParams { loss: 0.2, duplicate: 0.1, reorder: 0.1, jitter: 5000, ..Default::default() };
        assert_eq!(run(params.clone(), 5000, 3), run(params.clone(), 5000, 3));
        assert_ne!(run(params.clone(), 5000, 3), run(params, 5000, 4));
    }

    #[test]
    fn delay_and_jitter_keep_the_order() {
        let (out, stats) = run(LinkParams { delay: 10_000, jitter: 50_000, ..Default::default() }, 5000, 5);
        assert!(out.windows(2).all(|pair| pair[0].1 < pair[1].1));
        assert!(out.iter().all(|(at, n)| *at >= u64::from(*n) * 1000 + 10_000));
        assert_eq!(stats.reordered, 0);
    }

    #[test]
    fn rate_spaces_frames_and_a_full_queue_drops() {
        // 1000 bits a microsecond are offered, 100 go through.
        let params = LinkParams { rate: Some(100_000_000), queue: 12_500, ..Default::default() };
        let (out, stats) = run(params, 10_000, 6);
        assert!(out.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 9_000), "10 us apart");
        assert!((0.89..0.91).contains(&share(stats.overrun, stats.offered)), "{stats:?}");
    }

    #[test]
    fn what_is_too_long_is_dropped() {
        for (longest, lost) in [(125, 0), (124, 100)] {
            let (out, stats) = run(LinkParams { longest: Some(longest), ..Default::default() }, 100, 9);
            assert_eq!((out.len() as u64, stats.too_long), (100 - lost, lost));
        }
    }

    #[test]
    fn tampering_spares_the_front() {
        let params = LinkParams { tamper: 1.0, tamper_from: 4, ..Default::default() };
        let (out, stats) = run(params, 1000, 7);
        assert!(out.iter().enumerate().all(|(n, (_, frame))| *frame == n as u32));
        assert_eq!(stats.tampered, 1000);
        let mut link = Link::new(LinkParams { tamper: 1.0, ..Default::default() }, 8);
        link.offer(0, vec![0u8; 100]);
        assert_eq!(link.take_due(0).unwrap().iter().filter(|b| **b != 0).count(), 1);
    }
}
