// SPDX-License-Identifier: GPL-2.0-only

//! Whether the server hears us and we hear it, found out while all is well (docs/protocol.md, "Probes"): what goes out and
//! comes in takes the ways that a dump would take. Process context, under the mutex of arming, but for [`look`].

use super::sys::ask::{self, Heard, Listening};
use super::sys::clock::monotonic;
use super::sys::crypto::{self, Kernel};
use super::sys::tx::Checksum;
use super::wire::frame::{self, Fill, Frame, Path, UdpChecksum, UdpHeaders, MAX_HEADERS_LEN};
use super::wire::v6::handshake::KeyName;
use super::wire::v6::probe::{Probe, ProbeAck, ProbeKey, PROBE_LEN};
use super::wire::v6::{Counter, SessionId};
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;

/// An answer is waited for so long, ns.
const PATIENCE: u64 = 1_000_000_000;
/// And so often.
const TRIES: u32 = 3;
/// Without an answer it is asked again after this at the latest, ns.
const RETRY: u64 = 30_000_000_000;
/// A key comes soon after the module: who asks without one would be taken for somebody else, ns.
const SETTLE: u64 = 1_000_000_000;
const MILLISECOND: u64 = 1_000_000;

/// What [`look`] looks for: of the question that was sent last.
static ID: AtomicU64 = AtomicU64::new(0);
static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Who asks.
#[derive(Clone, Copy)]
pub struct Asker {
    /// The device's number.
    pub ifindex: i32,
    /// To the server.
    pub path: Path,
    /// The key that it was armed with.
    pub key: Option<(KeyName, ProbeKey)>,
    /// For MACs.
    pub crypto: Kernel,
}

/// What was found out.
pub struct Prober {
    /// Time between two questions, ns; 0: none is asked.
    interval: u64,
    id: SessionId,
    serial: u64,
    question: [u8; PROBE_LEN],
    sent_at: u64,
    /// Questions without an answer.
    tries: u32,
    due: u64,
    listening: Option<Listening>,
    verdict: Verdict,
    /// Of whom it is the verdict.
    asked: Option<(i32, Path, Option<KeyName>)>,
}

#[derive(Clone, Copy)]
enum Verdict {
    Off,
    Unknown,
    Answered { at: u64, after: u64 },
    Silent { since: u64 },
}

impl Prober {
    /// Asks at once, and then every `interval` nanoseconds; not at all if that is 0.
    pub fn new(interval: u64) -> Self {
        let mut id = [0; 6];
        crypto::random(&mut id);
        Self {
            interval,
            id: SessionId(id),
            serial: 0,
            question: [0; PROBE_LEN],
            sent_at: 0,
            tries: 0,
            due: 0,
            listening: None,
            verdict: Verdict::Unknown,
            asked: None,
        }
    }

    /// Asks nobody. After how many milliseconds to come back.
    pub fn rest(&mut self) -> u32 {
        self.forget();
        self.verdict = Verdict::Off;
        u32::MAX
    }

    /// There is no way to the server.
    pub fn forget(&mut self) {
        self.listening = None;
        self.asked = None;
        self.verdict = Verdict::Unknown;
    }

    /// Does what is due; `heard` is called when there is something to look at. After how many milliseconds to come back.
    pub fn step(&mut self, asker: &Asker, heard: fn()) -> u32 {
        if self.interval == 0 {
            return self.rest();
        }
        let asked = Some((asker.ifindex, asker.path, asker.key.as_ref().map(|(name, _)| *name)));
        if self.asked != asked {
            self.forget();
            (self.asked, self.due) = (asked, monotonic().saturating_add(SETTLE));
        }
        while let Some(answer) = self.listening.as_mut().and_then(Listening::take) {
            if self.is_answer(asker, &answer) {
                self.answered(answer.at);
            }
        }
        let now = monotonic();
        if self.listening.is_some() {
            if now.saturating_sub(self.sent_at) >= PATIENCE {
                if self.tries < TRIES {
                    self.ask(asker);
                } else {
                    self.silent(now);
                }
            }
        } else if now >= self.due {
            self.listening = Some(Listening::start(asker.path.local.is_ipv6(), look, heard));
            self.tries = 0;
            self.ask(asker);
        }
        let next = if self.listening.is_some() { self.sent_at.saturating_add(PATIENCE) } else { self.due };
        u32::try_from(next.saturating_sub(monotonic()) / MILLISECOND).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn ask(&mut self, asker: &Asker) {
        self.serial = self.serial.wrapping_add(1);
        self.tries = self.tries.saturating_add(1);
        let probe = Probe { id: self.id, serial: Counter(self.serial), key: asker.key.as_ref().map(|(name, _)| *name) };
        let key = asker.key.as_ref().map(|(_, key)| key);
        if probe.emit(&asker.crypto, key, &mut self.question).is_err() {
            return; // its length is that of the buffer
        }
        let [a, b, c, d, e, g] = self.id.0;
        ID.store(u64::from_be_bytes([0, 0, a, b, c, d, e, g]), Ordering::Release);
        SERIAL.store(self.serial, Ordering::Release);
        self.sent_at = monotonic();
        let question = &self.question;
        let path = &asker.path;
        let sent = ask::send(asker.ifindex, MAX_HEADERS_LEN + PROBE_LEN, path.local.is_ipv6(), |mut slot, offload| {
            let room = slot.frame();
            let Some(payload) = room.get_mut(path.headers_len()..).and_then(|room| room.get_mut(..PROBE_LEN)) else {
                return false;
            };
            payload.copy_from_slice(question);
            let fill = if offload { Fill::Offload } else { Fill::Full };
            let Some(emitted) = UdpHeaders::new(*path).emit(room, PROBE_LEN, self.serial as u16, fill) else {
                return false;
            };
            let checksum = if offload { Checksum::Offload(emitted.udp) } else { Checksum::Done };
            slot.commit(emitted.len, emitted.ip, emitted.udp, path.local.is_ipv6(), checksum);
            true
        });
        if sent != Ok(true) {
            pr_debug!("a probe was not sent: {sent:?}\n");
        }
    }

    fn is_answer(&self, asker: &Asker, heard: &Heard) -> bool {
        let checksum = if heard.checksum_trusted { UdpChecksum::Trusted } else { UdpChecksum::Verify };
        let Ok(Frame::Udp(udp)) = frame::parse(heard.frame(), checksum) else { return false };
        let path = &asker.path;
        if (udp.src, udp.dst, udp.dst_port) != (path.peer, path.local, path.local_port) {
            return false;
        }
        let Ok(ack) = ProbeAck::parse(udp.payload) else { return false };
        let key = asker.key.as_ref().map(|(_, key)| key);
        (ack.id, ack.serial) == (self.id, Counter(self.serial))
            && key.is_none_or(|key| ProbeAck::is_authentic(&asker.crypto, key, &self.question, udp.payload))
    }

    fn answered(&mut self, at: u64) {
        if !matches!(self.verdict, Verdict::Answered { .. }) {
            pr_info!("the server answers\n");
        }
        self.verdict = Verdict::Answered { at, after: at.saturating_sub(self.sent_at) };
        self.listening = None;
        self.due = at.saturating_add(self.interval);
    }

    fn silent(&mut self, now: u64) {
        if !matches!(self.verdict, Verdict::Silent { .. }) {
            pr_warn!("the server does not answer {TRIES} probes; a panic now might not be dumped\n");
            self.verdict = Verdict::Silent { since: now };
        }
        self.listening = None;
        self.due = now.saturating_add(self.interval.min(RETRY));
    }
}

impl fmt::Display for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |since: u64| monotonic().saturating_sub(since) / 1_000_000_000;
        match self.verdict {
            Verdict::Off => f.write_str("off"),
            Verdict::Unknown => f.write_str("not answered yet"),
            Verdict::Answered { at, after } => {
                write!(f, "answered {} s ago after {} us", seconds(at), after / 1000)
            }
            Verdict::Silent { since } => write!(f, "no answer for {} s", seconds(since)),
        }
    }
}

/// A first look at all packets that come while an answer is waited for: only who has seen the question knows its numbers.
/// Softirq context.
fn look(frame: &[u8], checksum_trusted: bool) -> bool {
    let checksum = if checksum_trusted { UdpChecksum::Trusted } else { UdpChecksum::Verify };
    let Ok(Frame::Udp(udp)) = frame::parse(frame, checksum) else { return false };
    let Ok(ack) = ProbeAck::parse(udp.payload) else { return false };
    let [a, b, c, d, e, g] = ack.id.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, g]) == ID.load(Ordering::Acquire)
        && ack.serial.0 == SERIAL.load(Ordering::Acquire)
}
