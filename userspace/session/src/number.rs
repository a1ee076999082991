// SPDX-License-Identifier: GPL-2.0-or-later
//! Request numbers. In the classic protocol they are all that tells the client's answers from those of
//! somebody who can forge its address but not see our requests, so they come from a CSPRNG.

use std::hash::{BuildHasherDefault, Hasher};

use netdump_core::wire::RequestId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// An endless supply of numbers that nobody can guess.
pub(crate) struct Numbers {
    rng: StdRng,
}

impl std::fmt::Debug for Numbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Numbers(..)")
    }
}

impl Numbers {
    pub(crate) fn new(seed: [u8; 32]) -> Self {
        Numbers { rng: StdRng::from_seed(seed) }
    }

    /// Never 0, which unsolicited replies carry.
    pub(crate) fn next(&mut self) -> RequestId {
        loop {
            let nr = self.rng.next_u32();
            if nr != 0 {
                return RequestId(nr);
            }
        }
    }

    /// A key for things that must not be predictable either.
    pub(crate) fn next_key(&mut self) -> u64 {
        self.rng.next_u64()
    }
}

/// Hashes request numbers. They are random and ours, so one multiplication spreads them well enough.
#[derive(Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0 ^ u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// For `HashMap<u32, _>` with request numbers as keys.
pub(crate) type BuildNumberHasher = BuildHasherDefault<NumberHasher>;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn numbers_differ_and_depend_on_the_seed() {
        let mut a = Numbers::new([1; 32]);
        let mut b = Numbers::new([2; 32]);
        let first: HashSet<_> = (0..1000).map(|_| a.next().0).collect();
        assert!(first.len() > 990);
        assert!(!first.contains(&0));
        let other = (0..1000).filter(|_| first.contains(&b.next().0)).count();
        assert!(other < 10);
    }
}
