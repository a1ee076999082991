// SPDX-License-Identifier: GPL-2.0-or-later
//! Who is told that we do not know his session, and how often.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netdump_core::wire::v6::hint::{ResetHint, HINT_LEN};

/// One address is told no more often.
const INTERVAL: Duration = Duration::from_secs(1);
/// Addresses that are remembered. Others are not told until one of them is old enough to be forgotten.
const MAX_TOLD: usize = 4096;

/// Addresses that were told in the last second. No more is known of any of them: they may be anybody's.
#[derive(Debug, Default)]
pub struct Hints {
    told: HashMap<IpAddr, Instant>,
    /// When one of a full table is old enough.
    full_until: Option<Instant>,
}

impl Hints {
    /// The answer to a datagram from `source` of a session that is not known; `None` if it gets none.
    pub fn answer(&mut self, now: Instant, source: IpAddr, datagram: &[u8]) -> Option<[u8; HINT_LEN]> {
        let hint = ResetHint::answer(datagram)?;
        let is_fresh = |at: &Instant| now.saturating_duration_since(*at) < INTERVAL;
        if self.told.get(&source).is_some_and(is_fresh) {
            return None;
        }
        if self.told.len() >= MAX_TOLD && !self.told.contains_key(&source) {
            // The table is not searched for each of a flood's datagrams.
            if self.full_until.is_some_and(|until| now < until) {
                return None;
            }
            self.told.retain(|_, at| is_fresh(at));
            if self.told.len() >= MAX_TOLD {
                self.full_until = self.told.values().min().map(|oldest| *oldest + INTERVAL);
                return None;
            }
        }
        self.told.insert(source, now);
        Some(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netdump_core::wire::v6::message::kind;
    use netdump_core::wire::v6::{Counter, Header, SessionId};

    #[test]
    fn once_a_second_and_source_and_a_bounded_table() {
        let mut datagram = [0; 256];
        Header { kind: kind::PIECE, session: SessionId([1; 6]), counter: Counter(9) }.emit(&mut datagram).unwrap();
        let (mut hints, began) = (Hints::default(), Instant::now());
        let ip = |n: usize| IpAddr::from((n as u32).to_be_bytes());
        let answered = |hints: &mut Hints, millis, n| {
            hints.answer(began + Duration::from_millis(millis), ip(n), &datagram).is_some()
        };
        assert!(answered(&mut hints, 0, 1) && !answered(&mut hints, 999, 1) && answered(&mut hints, 1000, 1));
        assert_eq!(hints.answer(began, ip(2), &datagram[..255]), None);
        let told = (2..100_000).filter(|n| answered(&mut hints, 1500, *n)).count();
        assert_eq!((told, hints.told.len()), (MAX_TOLD - 1, MAX_TOLD));
        assert!(!answered(&mut hints, 1999, 100_000), "all of them are fresh");
        assert!(answered(&mut hints, 2000, 100_000), "the first one is not");
        assert!(!answered(&mut hints, 2000, 100_001));
        assert!(answered(&mut hints, 2500, 100_001));
        assert_eq!(hints.told.len(), 2);
    }
}
