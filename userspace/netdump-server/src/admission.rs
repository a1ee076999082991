// SPDX-License-Identifier: GPL-2.0-or-later
//! Who may dump now, who waits, who has had enough. No I/O; time is passed in.
//!
//! Only addresses that have answered a probe come here, so a forged packet takes nothing.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Addresses whose dumps of the last hour are remembered. Beyond it the longest idle one is forgotten.
pub const MAX_REMEMBERED: usize = 16_384;

/// Logs without a dump that one address may leave in an hour: a machine that crashes at every boot says nothing new.
const LOGS_PER_HOUR: usize = 10;
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
    /// Another dump of its address waits already.
    AddressBusy,
}

/// One attempt to dump. An address may have several: behind a translator, or crashed anew before the last is over. One
/// of them runs and one waits for its end, so that no address takes the slots and the queue of all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DumpId(pub u64);

/// Slots, queue and history.
#[derive(Debug)]
pub struct Admission {
    limits: Limits,
    running: HashMap<DumpId, IpAddr>,
    waiting: VecDeque<(DumpId, IpAddr)>,
    /// Somebody has left the queue.
    moved: bool,
    dumps: History,
    logs: History,
}

/// What addresses had in the last hour, and when.
#[derive(Debug, Default)]
struct History(HashMap<IpAddr, VecDeque<Instant>>);

impl Admission {
    /// All slots free.
    pub fn new(limits: Limits) -> Self {
        Admission {
            limits,
            running: HashMap::new(),
            waiting: VecDeque::new(),
            moved: false,
            dumps: History::default(),
            logs: History::default(),
        }
    }

    /// Other limits from now on. Running dumps go on even if they are more than the new limit.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A proven client asks for a slot. Asking again changes nothing.
    pub fn request(&mut self, id: DumpId, client: IpAddr, now: Instant) -> Decision {
        if self.running.contains_key(&id) {
            return Decision::Start;
        }
        if let Some(place) = self.waiting.iter().position(|waiting| waiting.0 == id) {
            return Decision::Wait(place);
        }
        if self.over_limit(client, now) {
            return Decision::LogOnly;
        }
        if self.waiting.iter().any(|waiting| waiting.1 == client) {
            return Decision::AddressBusy;
        }
        if self.has_room() && !self.runs(client) && self.first_ready().is_none() {
            self.start(id, client, now);
            return Decision::Start;
        }
        if self.waiting.len() >= self.limits.waiting {
            return Decision::Full;
        }
        self.waiting.push_back((id, client));
        Decision::Wait(self.waiting.len() - 1)
    }

    /// The next client in the queue that can be told now: it has a slot, or has had its dumps meanwhile.
    pub fn next(&mut self, now: Instant) -> Option<(DumpId, Decision)> {
        if !self.has_room() {
            return None;
        }
        let (id, client) = self.first_ready().and_then(|place| self.waiting.remove(place))?;
        self.moved = true;
        if self.over_limit(client, now) {
            return Some((id, Decision::LogOnly));
        }
        self.start(id, client, now);
        Some((id, Decision::Start))
    }

    /// The dump is over, or has left the queue.
    pub fn leave(&mut self, id: DumpId) {
        self.running.remove(&id);
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.0 != id);
        self.moved |= self.waiting.len() < before;
    }

    /// Whether somebody has left the queue since this was asked last, so that others have moved up.
    pub fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Those who wait, the first one first.
    pub fn queue(&self) -> impl Iterator<Item = DumpId> + '_ {
        self.waiting.iter().map(|(id, _)| *id)
    }

    /// Dumps running.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Clients waiting.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// A client without a dump leaves its log: whether it may, in this hour. It is counted.
    pub fn may_leave_log(&mut self, client: IpAddr, now: Instant) -> bool {
        let may = self.logs.in_the_last_hour(client, now) < LOGS_PER_HOUR;
        if may {
            self.logs.add(client, now);
        }
        may
    }

    fn runs(&self, client: IpAddr) -> bool {
        self.running.values().any(|running| *running == client)
    }

    /// The place of the first in the queue that does not wait for a dump of its own address.
    fn first_ready(&self) -> Option<usize> {
        self.waiting.iter().position(|(_, client)| !self.runs(*client))
    }

    fn has_room(&self) -> bool {
        self.running.len() < self.limits.concurrent
    }

    fn start(&mut self, id: DumpId, client: IpAddr, now: Instant) {
        self.running.insert(id, client);
        self.dumps.add(client, now);
    }

    fn over_limit(&mut self, client: IpAddr, now: Instant) -> bool {
        let dumps = self.dumps.in_the_last_hour(client, now);
        self.limits.per_hour != 0 && dumps >= self.limits.per_hour
    }
}

impl History {
    fn in_the_last_hour(&mut self, client: IpAddr, now: Instant) -> usize {
        let Some(times) = self.0.get_mut(&client) else { return 0 };
        while times.front().is_some_and(|at| now.saturating_duration_since(*at) >= HOUR) {
            times.pop_front();
        }
        let count = times.len();
        if count == 0 {
            self.0.remove(&client);
        }
        count
    }

    fn add(&mut self, client: IpAddr, now: Instant) {
        if self.0.len() >= MAX_REMEMBERED && !self.0.contains_key(&client) {
            self.forget(now);
        }
        self.0.entry(client).or_default().push_back(now);
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, times| times.back().is_some_and(|at| now.saturating_duration_since(*at) < HOUR));
        if self.0.len() >= MAX_REMEMBERED {
            let oldest = self.0.iter().min_by_key(|(_, times)| times.back().copied()).map(|(client, _)| *client);
            if let Some(client) = oldest {
                self.0.remove(&client);
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
        let ask = |a: &mut Admission, n| a.request(DumpId(n), ip(n as u8), now);
        assert_eq!(ask(&mut a, 1), Decision::Start);
        assert_eq!(ask(&mut a, 2), Decision::Start);
        assert_eq!(ask(&mut a, 3), Decision::Wait(0));
        assert_eq!(ask(&mut a, 4), Decision::Wait(1));
        assert_eq!(ask(&mut a, 5), Decision::Full);
        assert_eq!(ask(&mut a, 4), Decision::Wait(1), "asking again changes nothing");
        assert_eq!(a.next(now), None);
        a.leave(DumpId(1));
        assert_eq!(ask(&mut a, 5), Decision::Full, "nobody jumps the queue");
        assert!(!a.has_moved(), "a slot is free, and nobody has it yet");
        assert_eq!(a.next(now), Some((DumpId(3), Decision::Start)));
        assert_eq!(a.queue().collect::<Vec<_>>(), [DumpId(4)]);
        assert!(a.has_moved() && !a.has_moved());
        assert_eq!(a.next(now), None);
        a.leave(DumpId(4));
        assert!(a.has_moved());
        a.leave(DumpId(2));
        assert_eq!(a.next(now), None);
        assert_eq!((a.running(), a.waiting()), (1, 0));
    }

    #[test]
    fn an_hour_has_so_many_dumps() {
        let (mut a, now) = (admission(4, 4, 2), Instant::now());
        for n in 0..2 {
            assert_eq!(a.request(DumpId(n), ip(1), now), Decision::Start);
            assert_eq!(a.request(DumpId(n), ip(1), now), Decision::Start, "asking again is not counted");
            a.leave(DumpId(n));
        }
        assert_eq!(a.request(DumpId(7), ip(1), now), Decision::LogOnly);
        assert_eq!(a.request(DumpId(8), ip(2), now), Decision::Start);
        assert_eq!(a.request(DumpId(9), ip(1), now + HOUR - Duration::from_secs(1)), Decision::LogOnly);
        assert_eq!(a.request(DumpId(10), ip(1), now + HOUR), Decision::Start);
    }

    #[test]
    fn the_hour_counts_for_those_who_wait_too() {
        let (mut a, now) = (admission(1, 4, 2), Instant::now());
        assert_eq!(a.request(DumpId(1), ip(1), now), Decision::Start);
        assert_eq!(a.request(DumpId(2), ip(1), now), Decision::Wait(0));
        a.set_limits(Limits { per_hour: 1, ..a.limits });
        a.leave(DumpId(1));
        assert_eq!(a.next(now), Some((DumpId(2), Decision::LogOnly)));
        assert_eq!(a.running(), 0);
    }

    #[test]
    fn an_address_has_one_slot_and_one_place_in_the_queue() {
        let (mut a, now) = (admission(3, 4, 0), Instant::now());
        assert_eq!(a.request(DumpId(1), ip(1), now), Decision::Start);
        assert_eq!(a.request(DumpId(2), ip(1), now), Decision::Wait(0), "it crashed anew, or is another behind a NAT");
        for n in 3..10 {
            assert_eq!(a.request(DumpId(n), ip(1), now), Decision::AddressBusy);
        }
        assert_eq!(a.next(now), None, "there is room, but not for that address");
        assert_eq!(a.request(DumpId(10), ip(2), now), Decision::Start, "nobody else waits behind it");
        assert_eq!(a.request(DumpId(11), ip(3), now), Decision::Start);
        assert_eq!(a.request(DumpId(12), ip(4), now), Decision::Wait(1));
        a.leave(DumpId(10));
        assert_eq!(a.next(now), Some((DumpId(12), Decision::Start)));
        a.leave(DumpId(1));
        assert_eq!(a.next(now), Some((DumpId(2), Decision::Start)));
        assert_eq!((a.running(), a.waiting()), (3, 0));
    }

    #[test]
    fn an_hour_has_so_many_logs_without_a_dump() {
        let (mut a, now) = (admission(1, 1, 1), Instant::now());
        assert!((0..LOGS_PER_HOUR).all(|_| a.may_leave_log(ip(1), now)));
        assert!(!a.may_leave_log(ip(1), now + HOUR - Duration::from_secs(1)));
        assert!(a.may_leave_log(ip(2), now));
        assert!(a.may_leave_log(ip(1), now + HOUR));
    }

    #[test]
    fn history_is_bounded() {
        let (mut a, now) = (admission(usize::MAX, 0, 1), Instant::now());
        for n in 0..MAX_REMEMBERED as u32 + 100 {
            a.request(DumpId(n.into()), IpAddr::from(n.to_be_bytes()), now + Duration::from_millis(u64::from(n)));
        }
        assert_eq!(a.dumps.0.len(), MAX_REMEMBERED);
    }
}
