// SPDX-License-Identifier: GPL-2.0-only

//! The engine's prober on a real network: what goes out and comes in takes the ways that a dump would take. Process context,
//! under the mutex of arming, but for [`look`].

use super::engine::prober::{Prober, Step, Verdict, TRIES};
use super::engine::Time;
use super::sys::ask::{self, Heard, Listening};
use super::sys::clock::monotonic;
use super::sys::crypto::{self, Kernel};
use super::sys::tx::{Checksum, Slot};
use super::wire::frame::{self, Fill, Frame, Path, UdpChecksum, UdpHeaders, MAX_HEADERS_LEN};
use super::wire::v6::handshake::KeyName;
use super::wire::v6::probe::{ProbeAck, ProbeKey, PROBE_LEN};
use super::wire::v6::SessionId;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;

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

/// Asks the server, and remembers what it said.
pub struct Probes {
    prober: Prober,
    listening: Option<Listening>,
    /// Whom and as whom.
    asked: Option<(i32, Path, Option<KeyName>)>,
    /// What the console was told last.
    said: Option<bool>,
}

impl Probes {
    /// Every `interval` nanoseconds; none if that is 0.
    pub fn new(interval: u64) -> Self {
        let mut id = [0; 6];
        crypto::random(&mut id);
        Self { prober: Prober::new(interval, SessionId(id)), listening: None, asked: None, said: None }
    }

    /// There is nobody to ask, or no way to him.
    pub fn stop(&mut self) {
        self.listening = None;
        self.asked = None;
        self.prober.stop();
    }

    /// Does what is due; `heard` is called when there is something to look at. After how many milliseconds to come back.
    pub fn step(&mut self, asker: &Asker, heard: fn()) -> u32 {
        let asked = Some((asker.ifindex, asker.path, asker.key.as_ref().map(|(name, _)| *name)));
        if self.asked != asked {
            self.listening = None;
            self.asked = asked;
            self.prober.begin(Time(monotonic()));
        }
        while let Some(answer) = self.listening.as_mut().and_then(Listening::take) {
            if self.take(asker, &answer) {
                break;
            }
        }
        match self.prober.poll(Time(monotonic())) {
            Step::Ask => {
                if self.listening.is_none() {
                    self.listening = Some(Listening::start(asker.path.local.is_ipv6(), look, heard));
                }
                self.ask(asker);
            }
            Step::Listen => {}
            Step::Rest => self.listening = None,
        }
        self.say();
        let Some(next) = self.prober.deadline() else { return u32::MAX };
        let left = next.0.saturating_sub(monotonic()) / MILLISECOND;
        u32::try_from(left).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn ask(&mut self, asker: &Asker) {
        let path = &asker.path;
        let ipv6 = path.local.is_ipv6();
        let Ok(question) = self.prober.question(Time(monotonic()), asker.key.as_ref(), &asker.crypto) else {
            return; // its length is that of the buffer
        };
        let mut frame = [0; MAX_HEADERS_LEN + PROBE_LEN];
        let Some(payload) = frame.get_mut(path.headers_len()..).and_then(|room| room.get_mut(..question.len())) else {
            return;
        };
        payload.copy_from_slice(question);
        let (id, serial) = self.prober.awaited();
        ID.store(number(id), Ordering::Release);
        SERIAL.store(serial.0, Ordering::Release);
        let write = |mut slot: Slot<'_>, offload: bool| {
            let fill = if offload { Fill::Offload } else { Fill::Full };
            let emitted = UdpHeaders::new(*path).emit(&mut frame, PROBE_LEN, serial.0 as u16, fill);
            let room = emitted.as_ref().and_then(|emitted| slot.frame().get_mut(..emitted.len));
            let (Some(emitted), Some(room)) = (&emitted, room) else { return false };
            let Some(from) = frame.get(..room.len()) else { return false };
            room.copy_from_slice(from);
            let checksum = if offload { Checksum::Offload(emitted.udp) } else { Checksum::Done };
            slot.commit(emitted.len, emitted.ip, emitted.udp, ipv6, checksum);
            true
        };
        let sent = ask::send(asker.ifindex, MAX_HEADERS_LEN + PROBE_LEN, ipv6, write);
        if sent != Ok(true) {
            pr_debug!("a probe was not sent: {sent:?}\n");
        }
    }

    fn take(&mut self, asker: &Asker, heard: &Heard) -> bool {
        let checksum = UdpChecksum::new(heard.checksum_trusted);
        let Ok(Frame::Udp(udp)) = frame::parse(heard.frame(), checksum) else { return false };
        let path = &asker.path;
        (udp.src, udp.dst, udp.dst_port) == (path.peer, path.local, path.local_port)
            && self.prober.handle(Time(heard.at), udp.payload, asker.key.as_ref(), &asker.crypto)
    }

    /// Tells the console what has changed.
    fn say(&mut self) {
        let answered = match self.prober.verdict() {
            Verdict::Answered { .. } => true,
            Verdict::Silent { .. } => false,
            Verdict::Off | Verdict::Unknown => return,
        };
        if self.said.replace(answered) == Some(answered) {
            return;
        }
        if answered {
            pr_info!("the server answers\n");
        } else {
            pr_warn!("the server does not answer {TRIES} probes; a panic now might not be dumped\n");
        }
    }
}

impl fmt::Display for Probes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |since: Time| monotonic().saturating_sub(since.0) / 1_000_000_000;
        match self.prober.verdict() {
            Verdict::Off => f.write_str("off"),
            Verdict::Unknown => f.write_str("not answered yet"),
            Verdict::Answered { at, after } => write!(f, "answered {} s ago after {} us", seconds(at), after / 1000),
            Verdict::Silent { since } => write!(f, "no answer for {} s", seconds(since)),
        }
    }
}

fn number(id: SessionId) -> u64 {
    let [a, b, c, d, e, g] = id.0;
    u64::from_be_bytes([0, 0, a, b, c, d, e, g])
}

/// A first look at all packets that come while an answer is waited for: only who has seen the question knows its numbers.
/// Softirq context.
fn look(frame: &[u8], checksum_trusted: bool) -> bool {
    let Ok(Frame::Udp(udp)) = frame::parse(frame, UdpChecksum::new(checksum_trusted)) else { return false };
    let Ok(ack) = ProbeAck::parse(udp.payload) else { return false };
    number(ack.id) == ID.load(Ordering::Acquire) && ack.serial.0 == SERIAL.load(Ordering::Acquire)
}
