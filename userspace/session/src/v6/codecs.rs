// SPDX-License-Identifier: GPL-2.0-or-later
//! Which codec a client is to use: all that it has are tried, again from time to time, and what counts is what comes of it.
//!
//! What is best depends on the client's CPU, on what else it has to do to each byte (sealing, copying), on the path, and on
//! the memory itself. None of that need be known: pages per second, as they arrive, have it all.

use std::time::{Duration, Instant};

use netdump_core::wire::v6::Codec;

/// A codec is tried for so many pages …
const TRIAL_PAGES: u64 = 256;
/// … or for so long.
const TRIAL_TIME: Duration = Duration::from_millis(500);
/// Tries of each codec before one is settled upon: memory differs from place to place.
const ROUNDS: u32 = 2;
/// What is slower than the best so far by this is not tried again in the first rounds.
const HOPELESS: f64 = 4.0;
/// A codec is used for so long until the others have another try.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// What was measured before counts so much when it is measured again.
const OLD: f64 = 0.5;
/// Fewer bytes are worth so much more time: path, server and disk are shared with others.
const WORTH: f64 = 2.0;
/// What differs by no more than this is the same number of bytes.
const SAME: f64 = 1.05;

/// How memory is to be encoded on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// With this codec, if the client has it.
    Fixed(Codec),
    /// With the one that does best.
    Best,
}

/// What was seen of a codec.
#[derive(Debug, Clone, Copy)]
struct Trial {
    codec: Codec,
    pages: f64,
    seconds: f64,
    bytes: f64,
    rounds: u32,
}

impl Trial {
    /// Pages a second.
    fn rate(&self) -> f64 {
        self.pages / self.seconds.max(1e-9)
    }

    fn bytes_per_page(&self) -> f64 {
        self.bytes / self.pages.max(1.0)
    }
}

/// What comes while a codec is tried.
#[derive(Debug, Clone, Copy)]
struct Sample {
    since: Instant,
    pages: u64,
    bytes: u64,
}

/// The choice, and what it rests on.
#[derive(Debug)]
pub(crate) struct Codecs {
    trials: Vec<Trial>,
    current: usize,
    /// Trials that are still to be made, the next one last.
    left: Vec<usize>,
    /// What was sent before the client heard of the codec has come by then.
    settled: Option<Instant>,
    sample: Option<Sample>,
    look_again: Option<Instant>,
}

impl Codecs {
    /// `has`: bits of the codecs that the client has.
    pub(crate) fn new(encoding: Encoding, has: u32) -> Self {
        let wanted: &[Codec] = match &encoding {
            Encoding::Fixed(codec) => std::slice::from_ref(codec),
            Encoding::Best => &[Codec::Lz4, Codec::Zstd, Codec::Raw],
        };
        let trial = |codec| Trial { codec, pages: 0.0, seconds: 0.0, bytes: 0.0, rounds: 0 };
        let mut trials: Vec<Trial> = wanted.iter().filter(|codec| has & codec.bit() != 0).map(|c| trial(*c)).collect();
        if trials.is_empty() {
            trials.push(trial(Codec::Raw));
        }
        let left = (1..trials.len()).rev().collect();
        Codecs { trials, current: 0, left, settled: None, sample: None, look_again: None }
    }

    /// The codec to ask for.
    pub(crate) fn current(&self) -> Codec {
        self.trials[self.current].codec
    }

    /// Pages came, in so many bytes of datagrams. `settle` is how long a grant takes to have an effect. Whether another codec
    /// is to be asked for.
    pub(crate) fn came(&mut self, now: Instant, pages: u64, bytes: usize, settle: Duration) -> bool {
        if self.trials.len() == 1 {
            return false;
        }
        if let Some(due) = self.look_again {
            if now < due {
                return false;
            }
            self.look_again = None;
            self.left = (0..self.trials.len()).filter(|n| *n != self.current).collect();
            for trial in &mut self.trials {
                (trial.pages, trial.seconds, trial.bytes) = (trial.pages * OLD, trial.seconds * OLD, trial.bytes * OLD);
            }
        }
        let settled = *self.settled.get_or_insert(now + settle);
        if now < settled {
            return false;
        }
        let sample = self.sample.get_or_insert(Sample { since: now, pages: 0, bytes: 0 });
        sample.pages += pages;
        sample.bytes += bytes as u64;
        let took = now.saturating_duration_since(sample.since);
        if took.is_zero() || (sample.pages < TRIAL_PAGES && took < TRIAL_TIME) {
            return false;
        }
        let trial = &mut self.trials[self.current];
        trial.pages += sample.pages as f64;
        trial.bytes += sample.bytes as f64;
        trial.seconds += took.as_secs_f64();
        trial.rounds += 1;
        self.sample = None;
        self.settled = None;
        self.next(now)
    }

    /// Goes on to the next trial, or settles. Whether that is another codec.
    fn next(&mut self, now: Instant) -> bool {
        let before = self.current;
        if self.left.is_empty() {
            let best = self.trials.iter().map(Trial::rate).fold(0.0, f64::max);
            let again = |trial: &Trial| trial.rounds < ROUNDS && trial.rate() * HOPELESS > best;
            self.left = (0..self.trials.len()).rev().filter(|n| again(&self.trials[*n])).collect();
        }
        match self.left.pop() {
            Some(next) => self.current = next,
            None => {
                self.current = self.best();
                self.look_again = Some(now + LOOK_AGAIN);
            }
        }
        self.current != before
    }

    /// Of those that are not much slower than the fastest the one with the fewest bytes; the fastest of those.
    fn best(&self) -> usize {
        let fastest = self.trials.iter().map(Trial::rate).fold(0.0, f64::max);
        let near = || self.trials.iter().enumerate().filter(|(_, trial)| trial.rate() * WORTH >= fastest);
        let least = near().map(|(_, trial)| trial.bytes_per_page()).fold(f64::INFINITY, f64::min);
        near()
            .filter(|(_, trial)| trial.bytes_per_page() <= least * SAME)
            .max_by(|(_, a), (_, b)| a.rate().total_cmp(&b.rate()))
            .map_or(0, |(n, _)| n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = 7;

    /// What a client needs for a page: time of its own, and bytes, of which the path carries so many a second.
    #[derive(Clone, Copy)]
    struct Cost {
        us: f64,
        bytes: f64,
    }

    /// Dumps so many pages; the codec in the end, and the share of pages that were encoded with it.
    fn dump(pages: u64, path: f64, cost: impl Fn(Codec, u64) -> Cost) -> (Codec, f64) {
        let mut now = Instant::now();
        let mut codecs = Codecs::new(Encoding::Best, ALL);
        let mut used = [0u64; 3];
        for page in (0..pages).step_by(16) {
            let codec = codecs.current();
            let Cost { us, bytes } = cost(codec, page);
            let seconds = (us / 1e6).max(bytes / path);
            now += Duration::from_secs_f64(16.0 * seconds);
            used[codec as usize] += 16;
            codecs.came(now, 16, (16.0 * bytes) as usize, Duration::from_millis(1));
        }
        let last = codecs.current();
        (last, used[last as usize] as f64 / pages as f64)
    }

    /// LZ4 makes a third, zstd a sixth.
    fn usual(codec: Codec, _: u64) -> Cost {
        match codec {
            Codec::Raw => Cost { us: 3.0, bytes: 4096.0 },
            Codec::Lz4 => Cost { us: 6.0, bytes: 1300.0 },
            Codec::Zstd => Cost { us: 15.0, bytes: 700.0 },
        }
    }

    #[test]
    fn what_is_fastest_on_the_path_is_used_and_what_is_smallest_if_it_costs_little() {
        // 10 Gbit/s: zstd takes more than twice as long. 1 Gbit/s: LZ4 fills the path, zstd the CPU. 100 Mbit/s: the path is all.
        for (path, codec) in [(1.2e9, Codec::Lz4), (118e6, Codec::Zstd), (11.8e6, Codec::Zstd)] {
            let (last, share) = dump(1 << 18, path, usual);
            assert_eq!(last, codec, "at {path} bytes/s");
            assert!(share > 0.95, "{codec:?} for {share} of all pages at {path} bytes/s");
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_as_it_is() {
        let cost = |codec, _| Cost { us: usual(codec, 0).us, bytes: 4096.0 };
        assert_eq!(dump(1 << 16, 1.2e9, cost).0, Codec::Raw);
    }

    #[test]
    fn memory_that_becomes_another_is_noticed() {
        let cost = |codec, page| {
            let bytes = if page < 1 << 17 { usual(codec, 0).bytes } else { 4096.0 };
            Cost { us: usual(codec, 0).us, bytes }
        };
        assert_eq!(dump(1 << 17, 1.2e9, cost).0, Codec::Lz4);
        assert_eq!(dump(1 << 22, 1.2e9, cost).0, Codec::Raw);
    }

    #[test]
    fn a_client_has_what_it_has() {
        for (encoding, has, codec) in [
            (Encoding::Fixed(Codec::Zstd), 7, Codec::Zstd),
            (Encoding::Fixed(Codec::Zstd), 3, Codec::Raw),
            (Encoding::Best, 1, Codec::Raw),
            (Encoding::Best, 0, Codec::Raw),
        ] {
            let mut codecs = Codecs::new(encoding, has);
            let now = Instant::now();
            assert!((0..4096).all(|n| !codecs.came(now + Duration::from_millis(n), 16, 9000, Duration::ZERO)));
            assert_eq!(codecs.current(), codec, "{encoding:?} of {has}");
        }
    }
}
