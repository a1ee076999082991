// SPDX-License-Identifier: GPL-2.0-or-later
//! Who may dump now, who waits, who has had enough. No I/O; time is passed in.
//!
//! Only addresses that have answered a probe come here, so a forged packet takes nothing.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses whose dumps of the last hour are remembered. Beyond it the longest idle one is forgotten.
pub const MAX_REMEMBERED: usize = 16_384;

const HOUR: Duration = Duration::from_secs(3600);

/// The limits, which may change while the server runs.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Dumps at once.
    pub concurrent: usize,
    /// Clients that may wait.
    pub waiting: usize,
    /// Dumps of one address in an hour; 0 is no limit.
    pub per_hour: usize,
}

/// The answer to a client that wants to dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// It has a slot.
    Start,
    /// It has to wait; so many are before it.
    Wait(usize),
    /// It has had its dumps for this hour: take the log, and no memory.
    LogOnly,
    /// The queue is full.
    Full,
}

/// Slots, queue and history.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    running: HashSet<IpAddr>,
    waiting: VecDeque<IpAddr>,
    history: HashMap<IpAddr, VecDeque<Instant>>,
}

impl Admission {
    /// All slots free.
    pub fn new(limits: Limits) -> Self {
        Admission { limits, running: HashSet::new(), waiting: VecDeque::new(), history: HashMap::new() }
    }

    /// Other limits from now on. Running dumps go on even if they are more than the new limit.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A proven client asks for a slot. Asking again changes nothing.
    pub fn request(&mut self, client: IpAddr, now: Instant) -> Decision {
        if self.running.contains(&client) {
            return Decision::Start;
        }
        if self.over_limit(client, now) {
            self.waiting.retain(|waiting| *waiting != client);
            return Decision::LogOnly;
        }
        if let Some(place) = self.waiting.iter().position(|waiting| *waiting == client) {
            return if place == 0 && self.has_room() { self.start(client, now) } else { Decision::Wait(place) };
        }
        if self.waiting.is_empty() && self.has_room() {
            return self.start(client, now);
        }
        if self.waiting.len() >= self.limits.waiting {
            return Decision::Full;
        }
        self.waiting.push_back(client);
        Decision::Wait(self.waiting.len() - 1)
    }

    /// The next client in the queue that gets a slot now; it counts as running from here on.
    pub fn next(&mut self, now: Instant) -> Option<IpAddr> {
        if !self.has_room() {
            return None;
        }
        let client = *self.waiting.front()?;
        self.start(client, now);
        Some(client)
    }

    /// The client's dump is over, or it has left the queue.
    pub fn leave(&mut self, client: IpAddr) {
        self.running.remove(&client);
        self.waiting.retain(|waiting| *waiting != client);
    }

    /// Dumps running.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Clients waiting.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.limits.concurrent
    }

    fn start(&mut self, client: IpAddr, now: Instant) -> Decision {
        self.waiting.retain(|waiting| *waiting != client);
        self.running.insert(client);
        if self.history.len() >= MAX_REMEMBERED && !self.history.contains_key(&client) {
            self.forget(now);
        }
        self.history.entry(client).or_default().push_back(now);
        Decision::Start
    }

    fn over_limit(&mut self, client: IpAddr, now: Instant) -> bool {
        let Some(dumps) = self.history.get_mut(&client) else { return false };
        while dumps.front().is_some_and(|at| now.saturating_duration_since(*at) >= HOUR) {
            dumps.pop_front();
        }
        if dumps.is_empty() {
            self.history.remove(&client);
            return false;
        }
        self.limits.per_hour != 0 && dumps.len() >= self.limits.per_hour
    }

    fn forget(&mut self, now: Instant) {
        self.history.retain(|_, dumps| dumps.back().is_some_and(|at| now.saturating_duration_since(*at) < HOUR));
        if self.history.len() >= MAX_REMEMBERED {
            let oldest = self.history.iter().min_by_key(|(_, dumps)| dumps.back().copied()).map(|(client, _)| *client);
            if let Some(client) = oldest {
                self.history.remove(&client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn admission(concurrent: usize, waiting: usize, per_hour: usize) -> Admission {
        Admission::new(Limits { concurrent, waiting, per_hour })
    }

    #[test]
    fn the_limit_is_exact_and_the_queue_is_in_order() {
        let (mut a, now) = (admission(2, 2, 0), Instant::now());
        assert_eq!(a.request(ip(1), now), Decision::Start);
        assert_eq!(a.request(ip(2), now), Decision::Start);
        assert_eq!(a.request(ip(3), now), Decision::Wait(0));
        assert_eq!(a.request(ip(4), now), Decision::Wait(1));
        assert_eq!(a.request(ip(5), now), Decision::Full);
        assert_eq!(a.request(ip(4), now), Decision::Wait(1), "asking again changes nothing");
        assert_eq!(a.next(now), None);
        a.leave(ip(1));
        assert_eq!(a.request(ip(4), now), Decision::Wait(1), "nobody jumps the queue");
        assert_eq!(a.next(now), Some(ip(3)));
        assert_eq!(a.next(now), None);
        a.leave(ip(4));
        a.leave(ip(2));
        assert_eq!(a.next(now), None);
        assert_eq!((a.running(), a.waiting()), (1, 0));
    }

    #[test]
    fn an_hour_has_so_many_dumps() {
        let (mut a, now) = (admission(4, 4, 2), Instant::now());
        for _ in 0..2 {
            assert_eq!(a.request(ip(1), now), Decision::Start);
            a.leave(ip(1));
        }
        assert_eq!(a.request(ip(1), now), Decision::LogOnly);
        assert_eq!(a.request(ip(2), now), Decision::Start);
        assert_eq!(a.request(ip(1), now + HOUR - Duration::from_secs(1)), Decision::LogOnly);
        assert_eq!(a.request(ip(1), now + HOUR), Decision::Start);
    }

    #[test]
    fn a_running_client_that_asks_again_is_not_counted_again() {
        let (mut a, now) = (admission(1, 1, 1), Instant::now());
        assert_eq!(a.request(ip(1), now), Decision::Start);
        assert_eq!(a.request(ip(1), now), Decision::Start);
        assert_eq!(a.running(), 1);
    }

    #[test]
    fn history_is_bounded() {
        let (mut a, now) = (admission(usize::MAX, 0, 1), Instant::now());
        for n in 0..MAX_REMEMBERED as u32 + 100 {
            a.request(IpAddr::from(n.to_be_bytes()), now + Duration::from_millis(u64::from(n)));
        }
        assert_eq!(a.history.len(), MAX_REMEMBERED);
    }
}
