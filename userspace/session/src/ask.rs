// SPDX-License-Identifier: GPL-2.0-or-later
//! One command at a time, repeated with fresh numbers until it is answered.

use std::time::{Duration, Instant};

use netdump_core::wire::classic::Command;
use netdump_core::wire::RequestId;

use crate::number::Numbers;
use crate::rtt::Rtt;

/// So many of its last numbers are still accepted.
const LIVE: usize = 4;
/// One command is not worth a fast retry: the client may be busy with its handshake.
const MIN_WAIT: Duration = Duration::from_millis(100);
const MAX_WAIT: Duration = Duration::from_secs(2);

/// A command and the numbers it was sent with.
#[derive(Debug)]
pub(crate) struct Ask {
    command: Command,
    live: [Option<RequestId>; LIVE],
    tries: u32,
    sent_at: Instant,
    due: Instant,
}

impl Ask {
    /// To be sent from `due` on.
    pub(crate) fn new(command: Command, due: Instant) -> Self {
        Ask { command, live: [None; LIVE], tries: 0, sent_at: due, due }
    }

    pub(crate) fn command(&self) -> Command {
        self.command
    }

    /// How often it was sent.
    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }

    /// When it is due to be sent (again).
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Sends it at `due`, if that is sooner than planned.
    pub(crate) fn hasten(&mut self, due: Instant) {
        self.due = self.due.min(due);
    }

    /// The number to send it with, if it is due.
    pub(crate) fn poll(&mut self, now: Instant, numbers: &mut Numbers, rtt: &Rtt) -> Option<RequestId> {
        if now < self.due {
            return None;
        }
        let nr = numbers.next();
        let at = self.tries as usize % LIVE;
        self.live[at] = Some(nr);
        let doublings = self.tries.saturating_sub(1).min(4);
        self.tries += 1;
        self.sent_at = now;
        self.due = now + (rtt.wait().max(MIN_WAIT) * (1 << doublings)).min(MAX_WAIT);
        Some(nr)
    }

    /// Whether `nr` is one of its last numbers.
    pub(crate) fn matches(&self, nr: RequestId) -> bool {
        self.live.contains(&Some(nr))
    }

    /// Time from request to answer, when there is no doubt which request was answered.
    pub(crate) fn sample(&self, now: Instant) -> Option<Duration> {
        (self.tries == 1).then(|| now.saturating_duration_since(self.sent_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_with_other_numbers_and_longer_waits() {
        let mut now = Instant::now();
        let mut numbers = Numbers::new([3; 32]);
        let rtt = Rtt::default();
        let mut ask = Ask::new(Command::Hello, now);
        let mut sent = Vec::new();
        let mut waits = Vec::new();
        for _ in 0..6 {
            sent.push(ask.poll(now, &mut numbers, &rtt).unwrap());
            assert_eq!(ask.poll(now, &mut numbers, &rtt), None);
            waits.push((ask.due() - now).as_millis());
            now = ask.due();
        }
        assert_eq!(waits, [400, 400, 800, 1600, 2000, 2000]);
        assert!(!ask.matches(sent[1]));
        assert!(sent[2..].iter().all(|nr| ask.matches(*nr)));
        assert_eq!(ask.sample(now), None);
    }
}
