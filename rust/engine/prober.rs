// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Whether the server hears us and we hear it, asked from time to time while all is well (docs/protocol.md, "Probes"), without
//! I/O: what is due comes out, what came and the time go in.

use super::super::wire::v6::handshake::KeyName;
use super::super::wire::v6::probe::{Probe, ProbeAck, ProbeKey, PROBE_LEN};
use super::super::wire::v6::secure::Crypto;
use super::super::wire::v6::{Counter, SessionId};
use super::super::wire::Result;
use super::Time;

/// An answer is waited for so long, ns.
const PATIENCE: u64 = 1_000_000_000;
/// And so often.
pub const TRIES: u32 = 3;
/// Without an answer it is asked again after this at the latest, ns.
const RETRY: u64 = 30_000_000_000;
/// Before the first question, ns: a key comes soon after the module, and who asks without one would be taken for somebody else.
const SETTLE: u64 = 1_000_000_000;

/// What was found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody is asked.
    Off,
    /// Nothing yet.
    Unknown,
    /// The server heard us, and we heard it.
    Answered {
        /// When.
        at: Time,
        /// How long after the question, ns.
        after: u64,
    },
    /// No question was answered.
    Silent {
        /// From when on.
        since: Time,
    },
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Send what [`Prober::question`] writes, and listen.
    Ask,
    /// Go on listening.
    Listen,
    /// Listen no more.
    Rest,
}

/// Asks, one question at a time.
#[derive(Debug)]
pub struct Prober {
    interval: u64,
    id: SessionId,
    serial: u64,
    question: [u8; PROBE_LEN],
    sent_at: Time,
    /// Questions without an answer; 0 while none waits for one.
    tries: u32,
    due: Time,
    verdict: Verdict,
}

impl Prober {
    /// Asks every `interval` nanoseconds, and nobody if that is 0. `id` is random: who has not seen a question cannot answer it.
    pub const fn new(interval: u64, id: SessionId) -> Self {
        Prober {
            interval,
            id,
            serial: 0,
            question: [0; PROBE_LEN],
            sent_at: Time(0),
            tries: 0,
            due: Time(0),
            verdict: Verdict::Off,
        }
    }

    /// What is known.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// Of the question that waits for an answer.
    pub fn awaited(&self) -> (SessionId, Counter) {
        (self.id, Counter(self.serial))
    }

    /// There is another way, or another key, or neither: what was found out says nothing of that.
    pub fn begin(&mut self, now: Time) {
        self.tries = 0;
        self.due = now.plus(SETTLE);
        self.verdict = if self.interval == 0 { Verdict::Off } else { Verdict::Unknown };
    }

    /// There is nobody to ask.
    pub fn stop(&mut self) {
        self.tries = 0;
        self.verdict = Verdict::Off;
    }

    /// What is due.
    pub fn poll(&mut self, now: Time) -> Step {
        if self.verdict == Verdict::Off {
            return Step::Rest;
        }
        if self.tries == 0 {
            return if now >= self.due { Step::Ask } else { Step::Rest };
        }
        if now < self.sent_at.plus(PATIENCE) {
            return Step::Listen;
        }
        if self.tries < TRIES {
            return Step::Ask;
        }
        self.tries = 0;
        self.due = now.plus(self.interval.min(RETRY));
        if !matches!(self.verdict, Verdict::Silent { .. }) {
            self.verdict = Verdict::Silent { since: now };
        }
        Step::Rest
    }

    /// When to come back if nothing is heard before; never if nobody is asked.
    pub fn deadline(&self) -> Option<Time> {
        match self.verdict {
            Verdict::Off => None,
            _ if self.tries == 0 => Some(self.due),
            _ => Some(self.sent_at.plus(PATIENCE)),
        }
    }

    /// The next question. It counts as sent.
    pub fn question(&mut self, now: Time, key: Option<&(KeyName, ProbeKey)>, crypto: &impl Crypto) -> Result<&[u8]> {
        self.serial = self.serial.wrapping_add(1);
        self.tries = self.tries.saturating_add(1);
        self.sent_at = now;
        let probe = Probe { id: self.id, serial: Counter(self.serial), key: key.map(|(name, _)| *name) };
        probe.emit(crypto, key.map(|(_, key)| key), &mut self.question)?;
        Ok(&self.question)
    }

    /// Takes a UDP payload that came from the server's address at `at`. Whether it is the answer.
    pub fn handle(
        &mut self,
        at: Time,
        datagram: &[u8],
        key: Option<&(KeyName, ProbeKey)>,
        crypto: &impl Crypto,
    ) -> bool {
        let Ok(ack) = ProbeAck::parse(datagram) else { return false };
        let awaited = self.tries > 0 && (ack.id, ack.serial) == self.awaited();
        if !awaited || key.is_some_and(|(_, key)| !ProbeAck::is_authentic(crypto, key, &self.question, datagram)) {
            return false;
        }
        self.tries = 0;
        self.due = at.plus(self.interval);
        self.verdict = Verdict::Answered { at, after: at.0.saturating_sub(self.sent_at.0) };
        true
    }
}
